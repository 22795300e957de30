"""Calibration: the slope `c` at which `P(chosen is preferred) = σ(c · h)`, by maximum likelihood.

`h` is the difference of the implicit rewards of a pair, or the margin that they are beta times. At DPO's
population optimum `c = 1`. The likelihood is concave in `c`, and its maximum is the root of

    f(c) = Σ_i w_i h_i σ(−c h_i).

Pairs that are all ranked rightly (`h > 0`), or all wrongly, are separable: `c` is infinite.

A bracket, derived here. Let `S` be the sum of `w |h|` over wrong pairs, and `W` that of `w` over right ones.
For `c > 0` a wrong pair gives `f` at most `−w |h| / 2`. A right pair gives at most
`w h e^(−c h) ≤ w / (e c)`. So `f(c) ≤ W / (e c) − S / 2`, and the root is at most `2 W / (e S)`. The other
side is the mirror image.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.special import expit

from didsim.diagnostics.resampling import Bootstrap, ratio

_CELLS = 128
"""Pairs of nearly the same margin share a cell when the slope is resampled."""

_BINS = 10

_ITERATIONS = 200

_STEEPEST = 1e12
"""The largest slope, in units of one over the largest margin, that counts as finite."""


def fit_slopes(
    margin: Float[np.ndarray, "cells #fits"], weights: Float[np.ndarray, "cells fits"]
) -> Float[np.ndarray, " fits"]:
    """The slope of maximum likelihood under each of several weightings of the same pairs.

    Args:
        margin: `h` of each pair, or the mean of a cell of pairs.
        weights: how often each pair counts, in each fit.

    Returns:
        The slopes. `inf` or `−inf` if the weighted pairs are separable, NaN if no pair has both a weight and
        a margin other than zero.
    """
    scale = np.abs(margin).max(initial=0.0)
    if scale == 0:
        return np.full(weights.shape[1], np.nan)
    h = margin / scale
    right_count, wrong_count = (np.sum(weights, 0, where=one) for one in (h > 0, h < 0))
    right_sum, wrong_sum = _sum(np.maximum(h, 0), weights), _sum(np.maximum(-h, 0), weights)
    slopes = np.where(right_count > 0, np.inf, np.where(wrong_count > 0, -np.inf, np.nan))
    finite = (right_count > 0) & (wrong_count > 0)
    if not finite.any():
        return slopes
    with np.errstate(divide="ignore", over="ignore"):
        low = -2 * wrong_count[finite] / (np.e * right_sum[finite])
        high = 2 * right_count[finite] / (np.e * wrong_sum[finite])
    if h.shape[1] > 1:
        h = h[:, finite]
    # A hair wider, so that rounding leaves the signs at both ends.
    found = _root(h, weights[:, finite], 1.01 * low, np.minimum(1.01 * high, _STEEPEST))
    slopes[finite] = np.where(np.abs(found) < 0.99 * _STEEPEST, found, np.copysign(np.inf, found))
    return slopes / scale


def _sum(values: Float[np.ndarray, "cells #fits"], weights: Float[np.ndarray, "cells fits"]) -> np.ndarray:
    """`Σ w v` for each fit."""
    return np.einsum("cf,cf->f", np.broadcast_to(values, weights.shape), weights)


def _root(
    h: Float[np.ndarray, "cells #fits"],
    weights: Float[np.ndarray, "cells fits"],
    low: Float[np.ndarray, " fits"],
    high: Float[np.ndarray, " fits"],
) -> Float[np.ndarray, " fits"]:
    """Where `f` is zero: Newton's method for all fits at once; a bisection where it leaves the bracket."""
    low, high = np.maximum(low, -_STEEPEST), high.copy()
    slope = np.zeros_like(low)
    for _ in range(_ITERATIONS):
        wrong = expit(-h * slope)
        weighted = weights * wrong
        value = _sum(h, weighted)
        weighted *= 1 - wrong
        fall = _sum(h * h, weighted)
        low, high = np.where(value > 0, slope, low), np.where(value < 0, slope, high)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = np.where(value == 0, slope, slope + value / fall)
        step = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        done = np.abs(step - slope) <= 1e-12 * np.abs(slope)
        slope = step
        if done.all():
            break
    return slope


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
