"""Newton's method for convex functions of many numbers, with steps by conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

from didsim.fixed_points.newton import SHORTEST_SHARE, Found, falls_enough
from didsim.fixed_points.roots import LONGEST_STEP
from didsim.objectives.curvature import Expansion
from didsim.pairwise.primitive import is_at_few_nodes

_STEPS = 100
_PRODUCTS = 400
# A step is solved for until this share of the gradient is left: then the next gradient is about as small.
_LEFT = 1e-3
_ENOUGH = 1e-12


class _State(NamedTuple):
    """Where the search is, and where it looks next: at `z + share · step`.

    Attributes:
        z: the last point that was accepted.
        value: the loss there; infinite before the first point.
        gradient: the gradient there.
        step: Newton's step from there, at most `LONGEST_STEP` long.
        left: the largest entry of Newton's step.
        share: the share of it that is tried next.
        steps: the number of steps that were taken.
        lost: whether the loss needs more nodes.
    """

    z: Array
    value: Array
    gradient: Array
    step: Array
    left: Array
    share: Array
    steps: Array
    lost: Array


def minimise_convex(around: Callable[[Array], Expansion], start: Array) -> Found:
    """The minimum of a convex function that no shift of all numbers changes, from one start.

    A step solves `H s = −g` by conjugate gradients, with `H` scaled to a unit diagonal. For a loss of
    differences the scaled `H` is `I − D^(−1/2) W D^(−1/2)`, with the weights `W` of a graph and their row
    sums `D`. The better the pairs connect the sequences, the fewer products with `H` a step takes: about ten
    for a population, more for few pairs. `H` is never formed. A product costs about a gradient, and memory
    is that of a gradient.

    A point is looked at once, for the loss and its derivatives together: nearly every step is taken whole. So
    the program holds few sums over pairs, which take long to compile.

    Args:
        around: the function around a point. Entries of the diagonal that are off by a factor cost time alone.
            Where sums over pairs are taken `at_few_nodes`, and the value is NaN somewhere, the search stops,
            and the value found is NaN.
        start: where to start.
    """

    def newton_step(at: Expansion) -> Array:
        d = at.diagonal()
        scale = jax.lax.rsqrt(jnp.where(d <= 0, 1, d))
        # A shift of all numbers gets the curvature 1.
        shift = 1 / (scale * jnp.linalg.norm(1 / scale))

        def scaled(u: Array) -> Array:
            return scale * at.product(scale * u) + shift * jnp.vdot(shift, u)

        u, _ = cg(scaled, -scale * at.gradient, tol=_LEFT, maxiter=_PRODUCTS)
        return scale * u

    def look(state: _State) -> _State:
        z = state.z + state.share * state.step
        at = around(z)
        slope = jnp.vdot(state.gradient, state.step)

        def accept() -> _State:
            step = newton_step(at)
            left = jnp.max(jnp.abs(step))
            step = step * jnp.where(left > LONGEST_STEP, LONGEST_STEP / left, 1)
            is_start = jnp.isinf(state.value)
            steps = state.steps + jnp.where(is_start, 0, 1)
            return _State(z, at.value, at.gradient, step, left, jnp.ones_like(left), steps, state.lost)

        def shorten() -> _State:
            return state._replace(share=state.share / 2, lost=jnp.isnan(at.value) & is_at_few_nodes())

        return jax.lax.cond(falls_enough(state.value, at.value, state.share, slope), accept, shorten)

    def going(state: _State) -> Array:
        return (state.left > _ENOUGH) & (state.share > SHORTEST_SHARE) & (state.steps < _STEPS) & ~state.lost

    nothing = jnp.zeros_like(start)
    endless, one, counted = jnp.full((), jnp.inf, start.dtype), jnp.ones((), start.dtype), jnp.zeros((), int)
    is_false = jnp.zeros((), bool)
    first = _State(start, endless, nothing, nothing, endless, one, counted, is_false)
    last = jax.lax.while_loop(going, look, first)
    value = jnp.where(last.lost, jnp.nan, last.value)
    size = jnp.max(jnp.abs(last.gradient))
    return Found(last.z, value, size, last.left, counted, counted, is_false, last.steps)
