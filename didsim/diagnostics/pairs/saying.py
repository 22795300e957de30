"""What findings from pairs share: numbers from resamples, and names of checkpoints."""

import numpy as np

from didsim.diagnostics.findings import Number
from didsim.diagnostics.pairs.measures import Measured
from didsim.diagnostics.resampling import number


def draws_number(measured: Measured, draws: np.ndarray, unit: str) -> Number:
    return number(draws, measured.clusters, unit)


def is_below(one: Number, bound: float = 0.0) -> bool:
    return one.high is not None and one.high < bound


def is_above(one: Number, bound: float = 0.0) -> bool:
    return one.low is not None and one.low > bound


def checkpoint_text(measured: Measured, place: int) -> str:
    step = measured.steps[place]
    return f"step {step:g}" if measured.has_steps else f"checkpoint {place}"


def judged_text(measured: Measured) -> str:
    return "held-out pairs" if measured.held_out else "pairs (which may be the training pairs)"


def turning_point(measured: Measured, places: np.ndarray) -> Number:
    """The step of a turning point, with its interval over resamples."""
    steps = measured.steps[places].astype(float)
    return number(steps, measured.clusters, "")


def lowest_loss(measured: Measured) -> Number:
    """The step of the lowest held-out loss."""
    return turning_point(measured, np.argmin(judged_losses(measured), axis=0))


def judged_losses(measured: Measured) -> np.ndarray:
    return measured.judged.get("loss", measured.judged["best loss"])
