"""Intervals from the resamples of a bootstrap."""

import numpy as np
from jaxtyping import Float
from scipy import stats

FEWEST_CLUSTERS = 8
"""An interval from fewer independent clusters is not given."""


def tail(clusters: int, level: float) -> float:
    """The share of resamples below the lower end of a central interval, and above its upper end.

    Percentiles of a bootstrap are too narrow by `√((n − 1)/n)`, and take the normal distribution's tails for
    Student's. So the levels are those at which a normal distribution has the ends of Student's interval
    (Hesterberg, 2015, "expanded percentile").

    Args:
        clusters: the number of clusters that the estimate rests on, at least 2.
        level: the probability that the interval covers the truth.
    """
    wide = stats.t.ppf((1 - level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    return float(stats.norm.cdf(wide))


def interval(draws: Float[np.ndarray, " draws"], clusters: int, level: float = 0.95) -> tuple[float, float]:
    """The central interval of the resamples, widened for a small number of clusters (`tail`).

    Args:
        draws: the estimate, and then its resamples. Resamples that are NaN had nothing to estimate it from.
        clusters: the number of clusters that the estimate rests on, at least 2.
        level: the probability that the interval covers the truth.
    """
    below = tail(clusters, level)
    kept = draws[1:][~np.isnan(draws[1:])]
    # Infinite resamples (a slope of separable pairs) are ends like any other, so nothing is interpolated.
    low, high = np.quantile(kept, [below, 1 - below], method="inverted_cdf")
    return float(low), float(high)
