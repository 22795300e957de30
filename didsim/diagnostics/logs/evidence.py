"""What the checks of a log share: late means with intervals, rounding, and where rewards put responses."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from didsim.diagnostics.findings import Number
from didsim.diagnostics.logs.log import Rows, TrainingLog
from didsim.diagnostics.wording import nats, short, signed

LOG_2 = math.log(2)
_LATE = 0.1

_REFERENCE_FREE = ("simpo", "cpo", "orpo", "sft")
_MICRO_BATCHES = (2, 4, 8, 16, 32, 64, 128)
_NEAR_ZERO = 0.02
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

    @cached_property
    def may_be_sigmoid(self) -> bool:
        """Whether the loss can be DPO's: nothing that was said or logged contradicts it."""
        columns = self.log.train.columns.keys() | self.log.held_out.columns.keys()
        is_other = bool(columns & {"kl", "odds_ratio_loss"}) or self.reference_free
        return self.loss_type in (None, "sigmoid") and not is_other

    @cached_property
    def reference_free(self) -> bool:
        """Whether rewards are beta times log-probabilities, without a reference, as SimPO's and CPO's are."""
        if self.loss_type is not None:
            return self.loss_type in _REFERENCE_FREE
        slopes = []
        for rows, _ in self.sides():
            if "odds_ratio_loss" in rows:
                return True
            for who in ("chosen", "rejected"):
                _, reward, log_probs = rows.together(f"{who}_reward", f"{who}_logps")
                if len(reward) > 2:
                    slopes += proportion(log_probs, reward) or [0.0]
        return len(slopes) >= 2 and 0 < max(slopes) < 1.03 * min(slopes)

    @cached_property
    def times_log_2(self) -> float | None:
        """The first loss over log 2, which DPO's loss is at a margin of 0; 1 if no such row was logged.

        Micro-batches may have been added, or divided by once too often. Only powers of two are tried, as
        every large number is near a whole multiple: IPO starts at 25 with beta 0.1, which is 36.07 log 2.
        None if the first loss is another one.
        """
        _, loss, margin = self.log.train.together("loss", "margin")
        if not len(loss) or abs(margin[0]) > _NEAR_ZERO:
            return 1
        times = float(loss[0]) / LOG_2
        # Half a step of bfloat16 at log 2 is 0.002, and a margin of 0.02 is worth 0.01.
        if abs(times - 1) < 0.03:
            return 1
        scales = [scale for count in _MICRO_BATCHES for scale in (float(count), 1 / count)]
        return next((scale for scale in scales if abs(times / scale - 1) < 0.005), None)

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
    return float(late(rows.columns[name]).mean()) if name in rows else None


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


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def half_units(column: np.ndarray) -> np.ndarray:
    """How far each logged number may be from the number before it was rounded.

    Loggers round to a number of decimals, or to a number of significant digits. Both are taken from the
    column, and the coarser one counts. At least two decimals are taken for granted.
    """
    finite = np.where(np.isfinite(column), column, 0.0)
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


def proportion(x: np.ndarray, y: np.ndarray) -> list[float]:
    """The slope of a line through 0, if it is positive and two or more numbers are on it to within 2%."""
    square = float(x @ x) if len(x) else 0.0
    if len(x) < 2 or square == 0 or not y.any():
        return []
    slope = float(x @ y) / square
    misses = float(np.sqrt(np.sum((y - slope * x) ** 2) / np.sum(y**2)))
    return [slope] if slope > 0 and misses < 0.02 else []


def softplus(x: np.ndarray | float) -> np.ndarray:
    """log(1 + eˣ); DPO's loss of a pair is `softplus(−margin)`."""
    return np.asarray(np.logaddexp(0.0, x))
