"""Newton's method for the likelihoods of many weightings of the same data at once.

`didsim.fixed_points.newton_cg` minimises one function at a time, and differentiates it. Here each column of
an array is a problem of its own, and all columns share each pass over the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_STEPS = 100
_PRODUCTS = 500
_LONGEST = 8.0
_SHRUNK = 1e-2
_SHORTEST = 1e-9
# The share of the gradient that a step leaves: the length of the last step, within these bounds.
_LEAST, _MOST = 1e-4, 1e-2
EXACT = 1e-11
"""A distance to the minimum, in nats of reward, that is about what rounding leaves."""


class Convex(NamedTuple):
    """A convex function of `[numbers, draws]`, each column by itself.

    Attributes:
        gradient: the gradients, and about the diagonals of the Hessians; a factor there costs time alone.
        curvature: what `product` needs to know of a point.
        product: the products of the Hessians at a point, of which this is known, with vectors.
        length: how far a step goes, as the largest change of a reward, for each column.
    """

    gradient: Callable[[Array], tuple[Array, Array]]
    curvature: Callable[[Array], Any]
    product: Callable[[Any, Array], Array]
    length: Callable[[Array], Array]


class Minimum(NamedTuple):
    """Where the search stopped.

    Attributes:
        z: the numbers.
        gradient: the function's gradient there.
        diagonal: about the diagonal of its Hessian there.
        length: how far the last step went.
        left: about how far the minimum was after it.
        stuck: whether no share of the last step brought it nearer.
        steps: the number of steps that were taken.
    """

    z: Float[Array, "numbers draws"]
    gradient: Float[Array, "numbers draws"]
    diagonal: Float[Array, "numbers draws"]
    length: Float[Array, " draws"]
    left: Float[Array, " draws"]
    stuck: Bool[Array, " draws"]
    steps: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, " draws"]:
        """Whether steps have shrunk. Where there is no minimum, they stay about one nat long for ever."""
        return self.length < _SHRUNK


class _Trial(NamedTuple):
    share: Array
    z: Array
    gradient: Array
    diagonal: Array
    fits: Array


class _Search(NamedTuple):
    x: Array
    left: Array
    along: Array
    size: Array
    products: Array


def minimise(function: Convex, start: Float[Array, "numbers draws"], enough: float = EXACT) -> Minimum:
    """The minimum of each column, by Newton's method with steps from conjugate gradients.

    A step solves `H s = −g`, with `H` scaled by its diagonal, until a share of the gradient is left that is
    about the length of the last step. So no matrix is formed, and the number of digits doubles near the
    minimum. A step is cut to a quarter until the slope along it is at most half of what it was, in the other
    direction. No value is needed: where the slope along a step is still negative, a convex function has
    fallen. The search ends when what a step leaves, its length times that share, is at most `enough`.
    """

    def advance(state: Minimum) -> Minimum:
        z, gradient, diagonal, length, left, stuck, steps = state
        goes = (left > enough) & ~stuck
        share = jnp.clip(length, _LEAST, _MOST)
        known = function.curvature(z)
        step = _conjugate(
            lambda u: function.product(known, u), -gradient, diagonal, jnp.where(goes, share, 1)
        )
        step = step * jnp.minimum(1, _LONGEST / jnp.maximum(function.length(step), _LONGEST))
        slope = jnp.sum(gradient * step, axis=0)

        def shorten(trial: _Trial) -> _Trial:
            part = jnp.where(trial.fits, trial.share, trial.share / 4)
            moved = z + part * step
            pull, bend = function.gradient(moved)
            fits = (jnp.sum(pull * step, axis=0) <= jnp.abs(slope) / 2) | ~goes
            return _Trial(part, moved, pull, bend, fits)

        def is_open(trial: _Trial) -> Array:
            return jnp.any(~trial.fits & (trial.share > _SHORTEST))

        first = _Trial(jnp.full_like(length, 4), z, gradient, diagonal, jnp.zeros_like(goes))
        last = jax.lax.while_loop(is_open, shorten, first)
        taken = last.fits & goes
        length = jnp.where(goes, function.length(step), length)
        return Minimum(
            jnp.where(taken, last.z, z),
            jnp.where(taken, last.gradient, gradient),
            jnp.where(taken, last.diagonal, diagonal),
            length,
            jnp.where(goes, length * jnp.maximum(share, length), left),
            stuck | ~last.fits,
            steps + 1,
        )

    def going(state: Minimum) -> Array:
        return (state.steps < _STEPS) & jnp.any((state.left > enough) & ~state.stuck)

    gradient, diagonal = function.gradient(start)
    endless = jnp.full(start.shape[1], jnp.inf)
    is_stuck = jnp.isnan(gradient).any(axis=0)
    first = Minimum(start, gradient, diagonal, endless, endless, is_stuck, jnp.zeros((), int))
    found: Minimum = jax.lax.while_loop(going, advance, first)
    return found


def _conjugate(
    product: Callable[[Array], Array], right: Array, diagonal: Array, share: Float[Array, " draws"]
) -> Array:
    """About the solution of one positive semidefinite system for each column, by conjugate gradients.

    Columns end when a share of the right side is left, measured in the scaled system.
    """
    inverse = 1 / jnp.where(diagonal > 0, diagonal, 1)

    def advance(state: _Search) -> _Search:
        x, left, along, size, count = state
        image = product(along)
        bend = jnp.sum(along * image, axis=0)
        # NaN goes on, so that no step is made of what is left without it.
        goes = is_open(size) & ~(bend <= 0)
        part = jnp.where(goes, size / jnp.where(goes, bend, 1), 0)
        x, left = x + part * along, left - part * image
        scaled = inverse * left
        new = jnp.sum(left * scaled, axis=0)
        along = scaled + jnp.where(goes, new / jnp.where(goes, size, 1), 0) * along
        # A column without curvature along its direction is done.
        return _Search(x, left, along, jnp.where(goes, new, 0), count + 1)

    def is_open(size: Array) -> Array:
        return size > share**2 * first_size

    def going(state: _Search) -> Array:
        return (state.products < _PRODUCTS) & jnp.any(is_open(state.size))

    scaled = inverse * right
    first_size = jnp.sum(right * scaled, axis=0)
    first = _Search(jnp.zeros_like(right), right, scaled, first_size, jnp.zeros((), int))
    found: _Search = jax.lax.while_loop(going, advance, first)
    return found.x
