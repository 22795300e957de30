"""Newton's method for convex functions of many numbers, with steps by conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

from didsim.fixed_points.newton import Found, share_of_step
from didsim.fixed_points.roots import LONGEST_STEP

_STEPS = 100
_PRODUCTS = 400
# A step is solved for until this share of the gradient is left: then the next gradient is about as small.
_LEFT = 1e-3
_ENOUGH = 1e-12


class _State(NamedTuple):
    """Where the search is, with the value, the gradient and Newton's step there.

    Before it starts, they are those of a step of zero, so that all is computed in one place, inside the loop.
    The value is the one that the line search found, and infinite before it starts.
    """

    z: Array
    value: Array
    gradient: Array
    step: Array
    iteration: Array
    stuck: Array


def minimise_convex(
    loss: Callable[[Array], Array], start: Array, diagonal: Callable[[Array], Array]
) -> Found:
    """The minimum of a convex function that no shift of all numbers changes, from one start.

    A step solves `H s = −g` by conjugate gradients, with `H` scaled to a unit diagonal. For a loss of
    differences the scaled `H` is `I − D^(−1/2) W D^(−1/2)`, with the weights `W` of a graph and their row
    sums `D`. The better the pairs connect the sequences, the fewer products with `H` a step takes: about ten
    for a population, more for few pairs. `H` is never formed. A product costs about a gradient, and memory
    is that of a gradient.

    Args:
        loss: the function.
        start: where to start.
        diagonal: the diagonal of the Hessian. Entries that are off by a factor cost time alone.
    """

    def at(z: Array) -> tuple[Array, Array]:
        g, product = jax.linearize(jax.grad(loss), z)
        d = diagonal(z)
        scale = jax.lax.rsqrt(jnp.where(d > 0, d, 1))
        # A shift of all numbers gets the curvature 1.
        shift = 1 / (scale * jnp.linalg.norm(1 / scale))

        def scaled(u: Array) -> Array:
            return scale * product(scale * u) + shift * jnp.vdot(shift, u)

        u, _ = cg(scaled, -scale * g, tol=_LEFT, maxiter=_PRODUCTS)
        return g, scale * u

    def advance(state: _State) -> _State:
        longest = jnp.max(jnp.abs(state.step))
        step = state.step * jnp.where(longest > LONGEST_STEP, LONGEST_STEP / longest, 1)
        slope = jnp.vdot(state.gradient, step)
        share, _, value = share_of_step(loss, state.z, step, slope, before=state.value)
        z = jnp.where(share > 0, state.z + share * step, state.z)
        return _State(z, value, *at(z), state.iteration + 1, share == 0)

    def going(state: _State) -> Array:
        is_far = jnp.max(jnp.abs(state.step)) > _ENOUGH
        return (state.iteration <= _STEPS) & (is_far | (state.iteration == 0)) & ~state.stuck

    nothing = jnp.zeros_like(start)
    endless, counted = jnp.full((), jnp.inf, start.dtype), jnp.zeros((), int)
    first = _State(start, endless, nothing, nothing, counted, jnp.zeros((), bool))
    last = jax.lax.while_loop(going, advance, first)
    size, step = (jnp.max(jnp.abs(one)) for one in (last.gradient, last.step))
    is_false = jnp.zeros((), bool)
    return Found(last.z, last.value, size, step, counted, counted, is_false, last.iteration)
