"""Estimates with standard errors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from didsim import _checks


class Estimates(NamedTuple):
    """Numbers that were estimated, with their standard errors.

    Attributes:
        value: the estimates.
        standard_error: their standard errors.
    """

    value: Float[np.ndarray, " numbers"]
    standard_error: Float[np.ndarray, " numbers"]

    def interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " numbers"], Float[np.ndarray, " numbers"]]:
        """The ends of intervals that cover the truth with a probability, if estimates are about normal.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        half = self.standard_error * stats.norm.ppf((1 + check_level(level)) / 2)
        return self.value - half, self.value + half


def check_level(level: float) -> float:
    """The value as a probability of coverage, strictly between 0 and 1."""
    number = _checks.real("level", level, _checks.positive)
    if number >= 1:
        raise ValueError(f"`level` must be between 0 and 1; got {level}")
    return number
