"""Calibration of a real run's pairs: slopes of resamples, and the reliability curve.

The slope is that of `didsim._calibration`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.special import expit

from didsim._calibration import fit_slopes
from didsim.diagnostics.resampling import Bootstrap, ratio

_CELLS = 128
"""Pairs of nearly the same margin share a cell when the slope is resampled."""

_BINS = 10


def resampled_slopes(
    margin: Float[np.ndarray, " pairs"], cluster: Int[np.ndarray, " pairs"], bootstrap: Bootstrap
) -> Float[np.ndarray, " draws"]:
    """The slope of all pairs, and then that of each resample.

    Pairs of nearly the same margin share a cell, unless they are few. In each resample the margin of a cell
    is the mean of the pairs drawn from it. So cells change the slope to second order in their width only. The
    slope of all pairs is exact, and resamples are in proportion to it.
    """
    cell, cells = _cells(margin)
    shape = (cells, len(bootstrap.counts))
    count = sparse.coo_matrix((np.ones(len(margin)), (cell, cluster)), shape).tocsr() @ bootstrap.counts
    total = sparse.coo_matrix((margin, (cell, cluster)), shape).tocsr() @ bootstrap.counts
    means = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    slopes = fit_slopes(means, count)
    if cells < len(margin) and np.isfinite(slopes[0]) and slopes[0]:
        slopes *= fit_slopes(margin[:, None], np.ones((len(margin), 1)))[0] / slopes[0]
    return slopes


def _cells(margin: Float[np.ndarray, " pairs"]) -> tuple[Int[np.ndarray, " pairs"], int]:
    """The cell of each pair, and the number of cells. They hold about equally many; none mixes signs."""
    if len(margin) <= 2 * _CELLS:
        return np.arange(len(margin)), len(margin)
    some = margin[:: max(1, len(margin) // 100_000)]
    edges = np.unique(np.append(np.quantile(some, np.linspace(0, 1, _CELLS + 1)[1:-1]), 0.0))
    return np.searchsorted(edges, margin, side="right"), len(edges) + 1


class Reliability(NamedTuple):
    """How often pairs are ranked as labelled, against how surely the policy ranks them.

    Attributes:
        predicted: mean of `σ(|h|)` in each bin.
        observed: share of pairs with `h > 0`, and then of each resample; a pair with `h = 0` counts half.
        pairs: the number of pairs in each bin.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, "bins draws"]
    pairs: Int[np.ndarray, " bins"]


def reliability(
    h: Float[np.ndarray, " pairs"], cluster: Int[np.ndarray, " pairs"], bootstrap: Bootstrap
) -> Reliability:
    """The reliability curve, with bins of equally many pairs in the order of `|h|`."""
    edges = np.quantile(np.abs(h), np.linspace(0, 1, _BINS + 1)[1:-1])
    in_bin = np.searchsorted(np.unique(edges), np.abs(h), side="right")
    predicted, observed, pairs = [], [], []
    for place in np.unique(in_bin):
        here = in_bin == place
        right = np.where(h[here] == 0, 0.5, h[here] > 0)
        predicted.append(expit(np.abs(h[here])).mean())
        totals = bootstrap.totals(cluster[here], [("right", right), ("pairs", None)])
        observed.append(ratio(totals["right"], totals["pairs"]))
        pairs.append(int(here.sum()))
    return Reliability(np.array(predicted), np.array(observed), np.array(pairs))
