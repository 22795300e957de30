"""Counts of pairs whose differences of two numbers lie in given ranges: O(N log N) time, O(N) memory.

Each of N points has two numbers, `x` and `y`. The points are sorted by `x`. A bound on the difference of `x`
holds for a run of neighbours in this order, and a bound on the difference of `y` holds for all ranks of `y`
from some rank on. So a count of pairs is a sum of counts of ranks inside a run (`count_from`), as in a count
of inversions (Kendall's tau).

Every bound is tested on the rounded difference itself, `x_i − x_k`. The rounded difference never rises with
`x_k`, so the runs are found by bisection, and they are the same as those of a comparison pair by pair.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Violations(NamedTuple):
    """Pairs of points whose steps in `x` and in `y` disagree; see `violations`.

    Attributes:
        pairs: how many there are among the N² ordered pairs, as a float32 or wider.
        any: whether there are any.
        worst: largest smaller step among the opposite pairs; 0 if there are none.
    """

    pairs: Float[Array, ""]
    any: Bool[Array, ""]
    worst: Float[Array, ""]


def violations(
    x: Float[Array, " n"],
    y: Float[Array, " n"],
    tolerance: Float[Array, ""],
    unexplained: Float[Array, ""],
) -> Violations:
    """Count the pairs `(i, j)` with opposite steps, and those with one step, among all N² ordered pairs.

    The steps of a pair are `a = x_i − x_j` and `b = y_i − y_j`, rounded. The pair is

        opposite     if `min(|a|, |b|) > tolerance`, and `a` and `b` have opposite signs
        one-sided    if `min(|a|, |b|) <= tolerance` and `max(|a|, |b|) > unexplained`.

    A pair and its reverse are alike. Of the two, this function counts the one in the first column:

        opposite     a > tolerance        b < −tolerance
        one-sided    |a| <= tolerance     b < −unexplained
                     a > unexplained      |b| <= tolerance

    If one of the two numbers of a point is not finite, every pair of the point counts, that with itself
    included, and the worst violation is NaN. A NaN for `tolerance` stands for zero tolerances.

    Derivation of the worst violation: let `top_k` be the largest of `y_0 … y_k`, in the order of `x`. The
    largest `min(x_i − x_k, y_k − y_i)` over `k` is the largest `min(x_i − x_k, top_k − y_i)`, since the point
    that attains `top_k` has no larger `x`. The first term falls with `k` and the second rises. So the largest
    minimum stands where they cross, which is found by bisection.

    Args:
        x: first number of each point.
        y: second number of each point.
        tolerance: zero or more.
        unexplained: at least `tolerance`.
    """
    size = x.shape[0]
    tolerance, unexplained = (jnp.where(tolerance >= 0, one, 0) for one in (tolerance, unexplained))
    finite = jnp.isfinite(x) & jnp.isfinite(y)
    x, y = (jnp.where(finite, one, jnp.nan) for one in (x, y))  # a NaN is sorted to the end
    length = jnp.sum(finite, dtype=jnp.int32)
    by_x, by_y = jnp.argsort(x), jnp.argsort(y)
    rank = jnp.zeros(size, jnp.int32).at[by_y].set(jnp.arange(size, dtype=jnp.int32), unique_indices=True)
    rank = rank[by_x]  # of y, in the order of x
    x, y_sorted, y = x[by_x], y[by_y], y[by_x]

    def above(points: Array, bound: Array) -> Array:
        """For each `i`, the number of points `k` with `points_i − points_k > bound`: those before it."""
        return leading(lambda k: points - points[k] > bound, length, size)

    def not_below(points: Array, bound: Array) -> Array:
        """For each `i`, the number of points `k` with `points_i − points_k >= −bound`."""
        return leading(lambda k: points - points[k] >= -bound, length, size)

    start = jnp.zeros(size, jnp.int32)
    x_above, x_not_below = above(x, tolerance), not_below(x, tolerance)
    y_above, y_not_below = above(y_sorted, tolerance)[rank], not_below(y_sorted, tolerance)[rank]
    runs = [
        (start, x_above, y_not_below),
        (x_above, x_not_below, not_below(y_sorted, unexplained)[rank]),
        (start, above(x, unexplained), y_above),
        (start, above(x, unexplained), y_not_below),
    ]
    opposite, x_flat, y_any, y_falls = count_from(rank, *map(jnp.stack, zip(*runs, strict=True)))
    oriented = opposite + x_flat + (y_any - y_falls)
    counts = jnp.where(jnp.arange(size) < length, 2 * oriented + size - length, size)

    top = jax.lax.cummax(y)
    crossing = leading(lambda k: x - x[k] > top[k] - y, length, size)
    nearest = jnp.stack([crossing, crossing - 1])
    smaller = jnp.minimum(x - x[nearest], top[nearest] - y)
    inside = (nearest >= 0) & (nearest < length)
    worst = jnp.max(jnp.where(inside, smaller, 0))
    worst = jnp.where(worst > tolerance, worst, 0)
    return Violations(
        exact_sum(counts, x.dtype), jnp.any(counts > 0), jnp.where(length < size, jnp.nan, worst)
    )


def leading(holds: Callable[[Array], Array], length: Array, size: int) -> Int[Array, " n"]:
    """For each entry, the number of leading `k < length` for which `holds(k)` is true, by bisection.

    Args:
        holds: from an index for each entry to whether it holds. For each entry it is true up to some index,
            and false from there on.
        length: number of indices.
        size: number of entries, and a bound on `length`.
    """

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        further = holds(jnp.minimum(middle, size - 1))
        return jnp.where((low < high) & further, middle + 1, low), jnp.where(further, high, middle)

    ends = jnp.zeros(size, jnp.int32), jnp.broadcast_to(length, size)
    return jax.lax.fori_loop(0, size.bit_length(), halve, ends)[0]


def count_from(
    ranks: Int[Array, " n"],
    start: Int[Array, "queries n"],
    stop: Int[Array, "queries n"],
    least: Int[Array, "queries n"],
) -> Int[Array, "queries n"]:
    """The number of entries of `ranks[start:stop]` that are `least` or more, for many runs at once.

    Ranks are `0 … N − 1`, and `least` is at most `N`. O(log N) time for each run.

    From the highest bit to the lowest, the entries are split into those without and those with the bit, each
    part in its old order. The entries of a run that share all higher bits with `least` stay neighbours. If
    `least` has no such bit, those of them that have it are counted, and the others go on; otherwise those
    that have it go on. (A wavelet matrix: F. Claude, G. Navarro and A. Ordóñez, "The wavelet matrix: An
    efficient wavelet tree for large alphabets", 2015. One level is kept at a time.)
    """
    size = ranks.shape[0]
    bits = size.bit_length()

    def split(level: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        ranks, start, stop, count = state
        bit = bits - 1 - level
        has = (ranks >> bit) & 1
        having = jnp.concatenate([jnp.zeros(1, has.dtype), jnp.cumsum(has)])  # before each place
        lacking = size - having[-1]
        from_having, to_having = having[start], having[stop]
        asked = ((least >> bit) & 1) == 1
        count += jnp.where(asked, 0, to_having - from_having)
        start = jnp.where(asked, lacking + from_having, start - from_having)
        stop = jnp.where(asked, lacking + to_having, stop - to_having)
        before = having[:-1]
        place = jnp.where(has == 1, lacking + before, jnp.arange(size, dtype=before.dtype) - before)
        return ranks.at[place].set(ranks, unique_indices=True), start, stop, count

    _, start, stop, count = jax.lax.fori_loop(0, bits, split, (ranks, start, stop, jnp.zeros_like(start)))
    return count + (stop - start)


def exact_sum(counts: Int[Array, " n"], dtype: jnp.dtype) -> Float[Array, ""]:
    """The sum of counts as a number of `dtype`, or of float32 if that is wider.

    The sum may exceed 32 bits, and integers of 64 bits are not always at hand. So it is taken in two unsigned
    integers of 32 bits, with a carry. Only their conversion rounds.
    """

    def add(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        low = one[0] + other[0]
        return low, one[1] + other[1] + (low < one[0]).astype(low.dtype)

    low = counts.astype(jnp.uint32)
    zero = jnp.zeros((), jnp.uint32)
    low, high = jax.lax.reduce((low, jnp.zeros_like(low)), (zero, zero), add, (0,))
    wide = jnp.promote_types(dtype, jnp.float32)
    return high.astype(wide) * 2.0**32 + low.astype(wide)
