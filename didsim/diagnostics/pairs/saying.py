"""What findings from pairs share: numbers from resamples, and how numbers are said."""

import numpy as np

from didsim.diagnostics.findings import Number
from didsim.diagnostics.pairs.measures import Measured
from didsim.diagnostics.resampling import number


def said(number: Number, digits: int = 3) -> str:
    """A number with its unit and interval, as text.

    >>> said(Number(value=-11.84, unit="nats", low=-12.31, high=-11.2))
    '−11.8 nats (95%: −12.3 to −11.2)'
    """

    def text(value: float) -> str:
        shown = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
        return shown.replace("-", "−")

    unit = "" if number.unit in ("", "share") else f" {number.unit}"
    if number.low is None or number.high is None:
        return f"{text(number.value)}{unit} (no interval: {number.no_interval})"
    return f"{text(number.value)}{unit} (95%: {text(number.low)} to {text(number.high)})"


def percent(share: Number) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.1%}"
    return f"{share.value:.1%} (95%: {share.low:.1%} to {share.high:.1%})"


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


def judged_losses(measured: Measured) -> np.ndarray:
    return measured.judged.get("loss", measured.judged["best loss"])
