"""Newton's method for smooth functions of many numbers, with steps by conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from didsim._extremes import largest_magnitude
from didsim.fixed_points.conjugate_gradients import Direction, conjugate_gradients
from didsim.fixed_points.hessians import flat_share
from didsim.fixed_points.newton import SHORTEST_SHARE, TOLERANCE, Found, falls_enough, levels
from didsim.fixed_points.roots import LONGEST_STEP
from didsim.objectives.curvature import Expansion
from didsim.pairwise.primitive import is_at_few_nodes

_STEPS = 300
_PRODUCTS = 400
_PRODUCTS_AT_THE_END = 4000
# A step is solved for until this share of the gradient is left: then the next gradient is about as small.
_LEFT = 1e-3
# Far from the end of a function that is not convex, where a better step would save none.
_LEFT_FAR = 0.1
# At the end. One direction of a million is a thousandth of a random vector: less than that must be left.
_LEFT_AT_THE_END = 1e-6
_ENOUGH = 1e-12
# Curvatures of both signs may cancel in an entry of the diagonal, which then tells nothing. After a step that
# is longer than the first number, an entry counts as at least the second times its mass; or as its slope, if
# that is less: far out, entry and slope both vanish.
_NEAR = 0.1
_FLOOR = 0.1


class _State(NamedTuple):
    """Where the search is, and where it looks next: at `z + share · step`.

    Attributes:
        z: the last point that was accepted.
        value: the loss there; infinite before the first point.
        gradient: the gradient there.
        step: Newton's step from there, at most `LONGEST_STEP` long.
        left: the largest entry of Newton's step.
        share: the share of it that is tried next; 0 if it is rounding.
        steps: the number of steps that were taken.
        lost: whether the loss needs more nodes.
        is_solved: whether this step solved its system.
        flat: the number of directions along which the function has ceased to curve.
        falls: whether it is not known to curve upwards along all others.
        is_known: whether the end was looked at.
    """

    z: Array
    value: Array
    gradient: Array
    step: Array
    left: Array
    share: Array
    steps: Array
    lost: Array
    is_solved: Array
    flat: Array
    falls: Array
    is_known: Array


def minimise_by_products(
    around: Callable[[Array], Expansion], start: Array, mass: Array | None = None
) -> Found:
    """A minimum of a function that no shift of all numbers changes, from one start.

    A step solves `H s = −g` by conjugate gradients, with `H` scaled to a unit diagonal. For a loss of
    differences the scaled `H` is `I − D^(−1/2) W D^(−1/2)`, with the weights `W` of a graph and their row
    sums `D`. The better the pairs connect the sequences, the fewer products with `H` a step takes: about ten
    for a population, more for few pairs. `H` is never formed. A product costs about a gradient, and memory
    is that of a gradient.

    A point is looked at once, for the loss and its derivatives together: nearly every step is taken whole. So
    the program holds few sums over pairs, which take long to compile.

    If the function is not known to be convex, a step ends at the first direction that curves downwards. At
    the end conjugate gradients run once more, for a random vector. They meet a direction that curves
    downwards or not at all, if there is one. If 4,000 products do not tell, the search has not converged.

    Args:
        around: the function around a point. Entries of the diagonal that are off by a factor cost time alone.
            Where sums over pairs are taken `at_few_nodes`, and the value is NaN somewhere, the search stops,
            and the value found is NaN.
        start: where to start.
        mass: for each sequence, a number that its curvature does not exceed by much; None if the function is
            convex, so that the end needs no further look.
    """
    noise = jax.random.normal(jax.random.key(0), start.shape, start.dtype)

    def look(state: _State) -> _State:
        is_last = ~goes_on(state)
        z = state.z + jnp.where(is_last, 0, state.share) * state.step
        at = around(z)
        slope = jnp.vdot(state.gradient, state.step)

        def accept() -> _State:
            d = jnp.abs(at.diagonal())
            if mass is not None:
                floor = jnp.minimum(_FLOOR * mass, jnp.abs(at.gradient))
                d = jnp.where(state.left > _NEAR, jnp.maximum(d, floor), d)
            scale = jax.lax.rsqrt(jnp.where(d > 0, d, 1))
            # A shift of all numbers gets the curvature 1.
            shift = 1 / (scale * jnp.linalg.norm(1 / scale))

            def scaled(u: Array) -> Array:
                return scale * at.product(scale * u) + shift * jnp.vdot(shift, u)

            right = -scale * at.gradient
            if mass is None:
                return moved(scale, conjugate_gradients(scaled, right, _LEFT, _PRODUCTS))
            # One system for either purpose, so that its product is compiled once.
            right = jnp.where(is_last, noise, right)
            share = jnp.where(state.left > _NEAR, _LEFT_FAR, _LEFT)
            share = jnp.where(is_last, _LEFT_AT_THE_END, share)
            most = jnp.where(is_last, _PRODUCTS_AT_THE_END, _PRODUCTS)
            found = conjugate_gradients(scaled, right, share, most)
            # The solution of a random system is mostly along the direction that curves least.
            least = jnp.minimum(found.lowest, jnp.vdot(noise, found.step) / jnp.vdot(found.step, found.step))
            ended = state._replace(
                flat=levels(d, mass),
                falls=~(found.is_solved & (least > flat_share(d))),
                is_known=jnp.ones((), bool),
                lost=jnp.isnan(least) & is_at_few_nodes(),
            )
            return jax.tree.map(lambda a, b: jnp.where(is_last, a, b), ended, moved(scale, found))

        def moved(scale: Array, found: Direction) -> _State:
            step = scale * found.step
            left = largest_magnitude(step)
            # A step leaves a small part of the gradient near the end, unless rounding is all of it.
            stays = 2 * largest_magnitude(at.gradient) > largest_magnitude(state.gradient)
            is_rounding = (state.left < TOLERANCE) & stays & state.is_solved
            return state._replace(
                z=z,
                value=at.value,
                gradient=at.gradient,
                step=step * jnp.where(left > LONGEST_STEP, LONGEST_STEP / left, 1),
                left=left,
                share=jnp.where(is_rounding, 0, jnp.ones_like(left)),
                steps=state.steps + jnp.where(jnp.isinf(state.value), 0, 1),
                is_solved=found.is_solved,
            )

        def shorten() -> _State:
            return state._replace(share=state.share / 2, lost=jnp.isnan(at.value) & is_at_few_nodes())

        good = falls_enough(state.value, at.value, state.share, slope)
        return jax.lax.cond(good | is_last, accept, shorten)

    def goes_on(state: _State) -> Array:
        return (state.left > _ENOUGH) & (state.share > SHORTEST_SHARE) & (state.steps < _STEPS) & ~state.lost

    def going(state: _State) -> Array:
        return goes_on(state) if mass is None else goes_on(state) | ~(state.is_known | state.lost)

    nothing = jnp.zeros_like(start)
    endless, one, counted = jnp.full((), jnp.inf, start.dtype), jnp.ones((), start.dtype), jnp.zeros((), int)
    no = jnp.zeros((), bool)
    first = _State(start, endless, nothing, nothing, endless, one, counted, no, no, counted, no, no)
    last = jax.lax.while_loop(going, look, first)
    value = jnp.where(last.lost, jnp.nan, last.value)
    size = largest_magnitude(last.gradient)
    return Found(last.z, value, size, last.left, last.flat, counted, last.falls, last.steps)
