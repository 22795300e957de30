"""Sums over all pairs of a piecewise linear kernel, by a sort: O(N log N) time, O(N) memory."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim.pairwise.exact import Sums, Wanted


class Piece(NamedTuple):
    """A function that is one line below its knot and another line above it.

    Attributes:
        knot: the position of the knot.
        below: the value just below the knot.
        left: below the knot, the growth per unit of distance from it.
        above: the value just above the knot.
        right: above the knot, the growth per unit of distance from it.
        at: the value at the knot; None is the mean of `below` and `above`.
    """

    knot: float
    below: float = 0.0
    left: float = 0.0
    above: float = 0.0
    right: float = 0.0
    at: float | None = None

    def __call__(self, d: Array) -> Array:
        far = d - self.knot
        below, above = self.below - self.left * far, self.above + self.right * far
        return jnp.where(
            far < 0, below, jnp.where(far > 0, above, self.value_at_knot + self.slope_at_knot * far)
        )

    @property
    def value_at_knot(self) -> float:
        return (self.below + self.above) / 2 if self.at is None else self.at

    @property
    def slope_at_knot(self) -> float:
        """The derivative at the knot: the number nearest to 0 between the slopes on either side."""
        low, high = sorted((-self.left, self.right))
        return min(max(0.0, low), high)

    def derivative(self) -> "Piece":
        """The slope, which is constant on either side."""
        return Piece(self.knot, below=-self.left, above=self.right, at=self.slope_at_knot)

    def reflected(self) -> "Piece":
        """The function of `−d`."""
        return Piece(-self.knot, self.above, self.right, self.below, self.left, self.at)


Pieces = tuple[Piece, ...]


def sorted_sums(
    wanted: Wanted[Pieces],
    first: Float[Array, " n"],
    second: Float[Array, " n"],
    x: Float[Array, " n"],
    offset: Float[Array, ""],
) -> Sums:
    """Sums over all pairs of kernels given as sums of pieces.

    Terms of one sign are only added, never subtracted from each other, so no accuracy is lost.
    """
    order = jnp.argsort(x)
    x_sorted = x[order]
    spread = _Spread.of(x_sorted, second[order]), _Spread.of(x_sorted, first[order])

    def at_rows(pieces: Pieces) -> Array:
        return sum((_one_sided(piece, spread[0], x - offset) for piece in pieces), jnp.zeros_like(x))

    def at_columns(pieces: Pieces) -> Array:
        reflected = [piece.reflected() for piece in pieces]
        return sum((_one_sided(piece, spread[1], x + offset) for piece in reflected), jnp.zeros_like(x))

    return Sums(
        [jnp.sum(first * at_rows(pieces)) for pieces in wanted.totals],
        [at_rows(pieces) for pieces in wanted.rows],
        [at_columns(pieces) for pieces in wanted.columns],
    )


class _Spread(NamedTuple):
    """Running sums of weights along sorted points.

    Attributes:
        points: the sorted points.
        mass_from: entry `k` is the total weight of the points from `k` on.
        reach_from: entry `k` sums weight times distance from point `k`, over the points from `k` on.
        mass_before: entry `k` is the total weight of the points before `k`.
        reach_before: entry `k` sums weight times distance from point `k − 1`, over the points before `k`.
        mass_at: entry `k` is the total weight of all points equal to point `k`.
    """

    points: Array
    mass_from: Array
    reach_from: Array
    mass_before: Array
    reach_before: Array
    mass_at: Array

    @classmethod
    def of(cls, points: Array, weights: Array) -> "_Spread":
        mass_before, reach_before = _running(points, weights)
        mass_from, reach_from = _running(-points[::-1], weights[::-1])
        run = jnp.cumsum(jnp.diff(points, prepend=points[0]) > 0)
        mass_at = jnp.zeros_like(weights).at[run].add(weights)[run]
        return cls(points, mass_from[::-1], reach_from[::-1], mass_before, reach_before, mass_at)


def _running(points: Array, weights: Array) -> tuple[Array, Array]:
    """`mass_before` and `reach_before` of `_Spread`, for `k = 0 … n`.

    A distance is a sum of gaps between neighbours. So the reach is a running sum of each gap times the
    weight before it.
    """
    mass = jnp.concatenate([jnp.zeros_like(weights, shape=1), jnp.cumsum(weights)])
    steps = mass[1:-1] * jnp.diff(points)
    reach = jnp.concatenate([jnp.zeros_like(weights, shape=2), jnp.cumsum(steps)])
    return mass, reach


def _one_sided(piece: Piece, spread: _Spread, x: Array) -> Array:
    """`Σ_j w_j piece(x_i − point_j)`."""
    points, last = spread.points, spread.points.shape[0] - 1
    place = x - piece.knot  # a point at this place has a difference x − point equal to the knot
    begin = jnp.searchsorted(points, place, side="left")
    end = jnp.searchsorted(points, place, side="right")
    value = jnp.zeros_like(x)
    if piece.below or piece.left:  # for the points from `end` on, the difference is below the knot
        distance = jnp.where(end > last, 0, points[jnp.minimum(end, last)] - place)
        mass = spread.mass_from[end]
        value += piece.below * mass + piece.left * (spread.reach_from[end] + mass * distance)
    if piece.above or piece.right:
        distance = jnp.where(begin < 1, 0, place - points[jnp.maximum(begin - 1, 0)])
        mass = spread.mass_before[begin]
        value += piece.above * mass + piece.right * (spread.reach_before[begin] + mass * distance)
    if piece.value_at_knot:
        at_knot = spread.mass_at[jnp.minimum(begin, last)]
        value += piece.value_at_knot * jnp.where(begin < end, at_knot, 0)
    return value
