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

import numpy as np
from jaxtyping import Float
from scipy.special import expit

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
    # In units of the largest margin of each fit.
    scale = np.abs(margin).max(axis=0, initial=0.0)
    if not scale.any():
        return np.full(weights.shape[1], np.nan)
    h = margin / np.where(scale > 0, scale, 1)
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
    return slopes / np.where(scale > 0, scale, 1)


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
