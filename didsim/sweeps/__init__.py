"""Grids of runs: described in one file, computed in blocks, stored as they come, opened in xarray.

catalogue what tables may name: families, targets, distributions, policies, optimisers
study     one run, described by plain tables
grid      a study and its axes: the cells of a sweep, and the blocks that are computed together
cells     the computation of a block
store     results on disk
running   from a grid to a full store
results   what can be read from a store
"""

from didsim.sweeps.axes import Range
from didsim.sweeps.grid import Sweep
from didsim.sweeps.results import export, open_results
from didsim.sweeps.running import Outcome, run_sweep
from didsim.sweeps.store import StoreError
from didsim.sweeps.study import Study

__all__ = ["Outcome", "Range", "StoreError", "Study", "Sweep", "export", "open_results", "run_sweep"]
