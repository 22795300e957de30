"""Training: a batch of runs inside one compiled program, and what is recorded of them.

train          the call: its checks, the arrays it prepares, its result
loop           the compiled program: all steps and records of all runs
step           one run: its loss, one step, one record
record         when and what to record
gradient_flow  the path of gradient descent with a rate of zero
inner_steps    several steps of an optimiser for one policy that is held fixed
metrics        the functions that are recorded
run            the result, and the error for a run that diverges
progress       progress bars
"""

from didsim.training.gradient_flow import gradient_flow
from didsim.training.inner_steps import inner_steps
from didsim.training.metrics import METRICS, Metric, Snapshot
from didsim.training.record import Record
from didsim.training.run import DivergenceError, Run
from didsim.training.train import train

__all__ = [
    "METRICS",
    "DivergenceError",
    "Metric",
    "Record",
    "Run",
    "Snapshot",
    "gradient_flow",
    "inner_steps",
    "train",
]
