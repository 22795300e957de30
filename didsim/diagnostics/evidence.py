"""What the checks of a log share: late means with intervals, rounding, the first rows, words for rewards."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from didsim.diagnostics.findings import Number
from didsim.diagnostics.logs import Rows, TrainingLog

LOG_2 = math.log(2)
_LATE = 0.1

_BLOCKS = 20
_LEAST_BLOCKS = 10
_DIGITS = 8


@dataclass(frozen=True)
class Evidence:
    """A log, and what is known of the loss that made it.

    Attributes:
        log: the log.
        beta: the coefficient of the rewards, `beta · log(π/π_ref)`, if it is known.
        beta_source: who says so, such as "--beta" or "the evaluations in the log".
        loss_type: the loss, as TRL names it, if it is known.
    """

    log: TrainingLog
    beta: float | None = None
    beta_source: str = ""
    loss_type: str | None = None

    def sides(self) -> Iterator[tuple[Rows, str]]:
        """Training pairs and held-out pairs, each with its name, if anything was logged of them."""
        for rows, words in ((self.log.train, "training pairs"), (self.log.held_out, "held-out pairs")):
            if len(rows):
                yield rows, words

    def main(self, name: str) -> tuple[Rows, str] | None:
        """The rows that a column is judged by: those of training pairs, if they have it."""
        return next(((rows, words) for rows, words in self.sides() if name in rows), None)

    @property
    def may_be_sigmoid(self) -> bool:
        """Whether the loss can be DPO's: nothing that was said or logged contradicts it."""
        columns = self.log.train.columns.keys() | self.log.held_out.columns.keys()
        return self.loss_type in (None, "sigmoid") and not columns & {"kl", "odds_ratio_loss"}

    @property
    def starts_at_log_2(self) -> bool:
        """Whether the loss was log 2 where the margin was 0; true if no such row was logged."""
        _, loss, margin = self.log.train.together("loss", "margin")
        near = np.abs(margin[:3]) < 0.02
        return not near.any() or bool(np.all(np.abs(loss[:3][near] - LOG_2) < 0.05))

    def placed(self, reward: float) -> str:
        """Where a mean reward puts responses, in words: nats below the reference, if beta is known."""
        if self.beta is None:
            return f"at a reward of {signed(reward)}"
        return f"{nats(reward / self.beta)} {'below' if reward < 0 else 'above'} the reference"

    def moved(self, reward: float) -> str:
        """The size of a mean reward or margin, in nats if beta is known."""
        return f"{short(abs(reward))} of reward" if self.beta is None else nats(reward / self.beta)


def late(column: np.ndarray) -> np.ndarray:
    """The finite numbers at the end of training, so that one noisy batch decides nothing.

    They are the last tenth of the rows; in a short log the last ten, or the last third if that is less.
    """
    finite = column[np.isfinite(column)]
    return finite[-max(1, round(_LATE * len(finite)), min(_LEAST_BLOCKS, len(finite) // 3)) :]


def late_mean(rows: Rows, name: str) -> float | None:
    """The mean of a column at the end of training, or None without the column."""
    return (
        float(late(rows.columns[name]).mean()) if np.isfinite(rows.columns.get(name, np.nan)).any() else None
    )


def mean_number(values: np.ndarray, unit: str = "", scale: float = 1.0) -> Number:
    """The mean of consecutive logged values, with its 95% interval by the method of batch means.

    Neighbouring values may be correlated. So up to 20 blocks of consecutive values are averaged, and the
    block means, nearly independent, give Student's interval. Logs do not say which prompts a value is of, so
    nothing can be resampled by prompt.
    """
    mean = float(values.mean()) * scale
    if len(values) == 1:
        return Number(
            value=mean, unit=unit, no_interval="one logged value; its spread over pairs is not logged"
        )
    if np.ptp(values) == 0:
        return Number(value=mean, unit=unit, no_interval="all logged values are equal")
    if len(values) < _LEAST_BLOCKS:
        return Number(value=mean, unit=unit, no_interval=f"{len(values)} logged values are too few")
    from scipy.special import stdtrit

    blocks = np.array([block.mean() for block in np.array_split(values, min(len(values), _BLOCKS))]) * scale
    reach = float(stdtrit(len(blocks) - 1, 0.975) * blocks.std(ddof=1) / math.sqrt(len(blocks)))
    return Number(value=mean, unit=unit, low=mean - reach, high=mean + reach)


def half_units(column: np.ndarray) -> np.ndarray:
    """How far each logged number may be from the number before it was rounded.

    Loggers round to a number of decimals, or to a number of significant digits. Both are taken from the
    column, and the coarser one counts. At least two decimals are taken for granted.
    """
    finite = np.where(np.isfinite(column), column, 0.0)
    with np.errstate(divide="ignore"):
        exponents = np.where(finite == 0, 0, np.floor(np.log10(np.abs(finite))))
    decimals, significant = 2, 2
    for digits in range(_DIGITS, 0, -1):
        if not np.allclose(np.round(finite, digits - 1), finite, rtol=1e-9, atol=1e-12):
            decimals = max(digits, 2)
            break
    scaled = finite / 10.0**exponents
    for digits in range(_DIGITS, 0, -1):
        if not np.allclose(np.round(scaled, digits - 1), scaled, rtol=1e-9, atol=1e-12):
            significant = digits + 1
            break
    coarse = np.where(finite == 0, 0.0, 10.0 ** (exponents + 1 - significant))
    return 0.5 * np.maximum(10.0**-decimals, coarse)


def softplus(x: np.ndarray | float) -> np.ndarray:
    """log(1 + eˣ); DPO's loss of a pair is `softplus(−margin)`."""
    return np.asarray(np.logaddexp(0.0, x))


def short(x: float) -> str:
    """A number with three digits."""
    return f"{x:,.0f}" if 1000 <= abs(x) < 1e7 else f"{x:.3g}"


def signed(x: float) -> str:
    """A number with three digits and its sign; the sign of zero says nothing."""
    return ("+" if x > 0 else "") + short(x).replace("-", "−")


def nats(x: float) -> str:
    """The size of a number of nats."""
    return f"{short(abs(x))} nats"
