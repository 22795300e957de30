"""Grids of runs: described in one file, computed in blocks, stored as they come, opened in xarray.

tables      nested tables and dotted places
settings    the settings of a function that a study names
optimizers  optimisers and schedules that a study may name
makers      everything else that it may name: families, targets, distributions, policies
study       one run, described by plain tables
completing  the same with every setting filled in and every value checked
axes        the axes of a sweep
grid        a study and its axes: the cells of a sweep, and the blocks that are computed together
plan        what a sweep would compute, as a table
cells       the computation of a block
folder      the files of a store, with their checksums
layout      the arrays of a store
store       results on disk
running     from a grid to a full store
clusters    executors on a Dask cluster
results     what can be read from a store

What a study names is looked up in registries, to which `REFERENCES["spiky"] = spiky` adds an entry.
"""

from didsim.sweeps.axes import Range
from didsim.sweeps.folder import StoreError
from didsim.sweeps.grid import Sweep
from didsim.sweeps.makers import DISTRIBUTIONS, POLICIES, REFERENCES, TARGETS
from didsim.sweeps.optimizers import OPTIMIZERS, SCHEDULES
from didsim.sweeps.results import export, open_results
from didsim.sweeps.running import Outcome, run_sweep
from didsim.sweeps.study import Study

__all__ = [
    "DISTRIBUTIONS",
    "OPTIMIZERS",
    "POLICIES",
    "REFERENCES",
    "SCHEDULES",
    "TARGETS",
    "Outcome",
    "Range",
    "StoreError",
    "Study",
    "Sweep",
    "export",
    "open_results",
    "run_sweep",
]
