"""The result of training: the policy and its records, or an error that holds both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from didsim import _checks
from didsim.policies import HasLogProbs, partition

if TYPE_CHECKING:
    import xarray


class Run(eqx.Module):
    """The result of `train`.

    Attributes:
        policy: the trained policy, with the batch axes of the runs.
        steps: the number of steps taken before each record. The first is 0.
        metrics: for each metric, by name, an array `[*batch, records, …]`.
        diverged_at: for each run, the number of steps that it took before it diverged; −1 if it did not.
        state: the state of the optimiser after the last step, with the batch axes of the runs first in every
            array.
        evaluated: the policy that `Record.evaluate` makes of the last state and parameters; None without it.
        attributes: for each metric its name, its long name and its units. They are words, so that a run can
            be pickled, and combined with another run by `jax.tree.map`.
    """

    policy: HasLogProbs
    steps: Int[np.ndarray, " records"]
    metrics: dict[str, Array]
    diverged_at: Int[np.ndarray, "*batch"]
    state: PyTree
    evaluated: HasLogProbs | None
    attributes: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = eqx.field(static=True)

    def to_dataset(self, batch_dims: Sequence[str] = ()) -> "xarray.Dataset":
        """The metrics as a labelled dataset with dimensions `(*batch_dims, "step")`.

        Raises:
            ValueError: `batch_dims` does not name every batch axis, or a metric has more than one number for
                each record.
        """
        import xarray  # here, as the import takes longer than many a run

        batch_dims = _checks.words("batch_dims", batch_dims)
        variables = {}
        attributes = dict(self.attributes)
        for name, values in self.metrics.items():
            if values.ndim != len(batch_dims) + 1:
                raise ValueError(
                    f"`batch_dims` must name every batch axis of scalar metrics; got {tuple(batch_dims)} for "
                    f"metric {name!r} of shape {values.shape}"
                )
            dims = (*batch_dims, "step")
            variables[name] = (dims, np.asarray(values), dict(attributes[name]))
        return xarray.Dataset(variables, coords={"step": ("step", self.steps, {"long_name": "Step"})})


class DivergenceError(FloatingPointError):
    """A loss or a gradient became NaN or infinite during training.

    Attributes:
        run: the result of training until then: all records, and the last policy with finite parameters.
        step: the number of steps taken before the first run diverged.
        failed: a boolean array of the batch's shape, true for the runs that diverged.
    """

    def __init__(self, message: str, run: Run, step: int, failed: np.ndarray):
        super().__init__(message)
        self.run = run
        self.step = step
        self.failed = failed


def divergence_of(run: Run, step: int, failed: np.ndarray) -> DivergenceError:
    """The error for runs that diverged. Its message names them, the step, and possible reasons."""
    where = f"{failed.sum()} of {failed.size} runs" if failed.ndim else "the run"
    first = tuple(int(k) for k in np.argwhere(failed)[0]) if failed.ndim else ()
    parameters = jax.tree.leaves(partition(run.policy)[0])
    largest = max(float(np.abs(np.asarray(leaf)[first]).max()) for leaf in parameters)
    until = f"until step {run.steps[-1]}" if len(run.steps) else "nothing"
    return DivergenceError(
        f"the loss or its gradient is not finite at step {step} in {where}"
        + (f", first at batch index {first}" if first else "")
        + f". Its largest parameter is {largest:.3g}. Possible reasons: the learning rate is too large, "
        "the objective has no finite minimiser (parameters then grow without bound), or a difference of "
        "implicit rewards is too large for the dtype (the exponential loss overflows at 88 nats in float32). "
        "Try a smaller learning rate, then float64. "
        f"Recorded {until}; the attribute `run` of this error has the records.",
        run,
        step,
        failed,
    )
