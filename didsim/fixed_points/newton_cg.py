"""Newton's method for convex functions of many numbers, with steps by conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

from didsim.fixed_points.newton import LONGEST_STEP, Found, share_of_step

_STEPS = 100
_PRODUCTS = 400
# A step is solved for until this share of the gradient is left: then the next gradient is about as small.
_LEFT = 1e-3
_ENOUGH = 1e-12


class _State(NamedTuple):
    z: Array
    iteration: Array
    step: Array
    stuck: Array


def minimise_convex(
    loss: Callable[[Array], Array], start: Array, diagonal: Callable[[Array], Array]
) -> Found:
    """The minimum of a convex function that no shift of all numbers changes, from one start.

    A step solves `H s = −g` by conjugate gradients, with `H` scaled to a unit diagonal. For a loss of
    differences the scaled `H` is `I − D^(−1/2) W D^(−1/2)`, with the weights `W` of a graph and their row
    sums `D`. The better the pairs connect the sequences, the fewer products with `H` a step takes: about ten
    for a population, more for few pairs. `H` is never formed. A product costs about two gradients, and memory
    is that of a gradient.

    Args:
        loss: the function.
        start: where to start.
        diagonal: the diagonal of the Hessian. Entries that are off by a factor cost time alone.
    """
    gradient = jax.grad(loss)

    def newton_step(z: Array) -> tuple[Array, Array]:
        g, product = jax.linearize(gradient, z)
        d = diagonal(z)
        scale = jax.lax.rsqrt(jnp.where(d > 0, d, 1))
        # A shift of all numbers gets the curvature 1.
        shift = 1 / (scale * jnp.linalg.norm(1 / scale))

        def scaled(u: Array) -> Array:
            return scale * product(scale * u) + shift * jnp.vdot(shift, u)

        u, _ = cg(scaled, -scale * g, tol=_LEFT, maxiter=_PRODUCTS)
        return g, scale * u

    def advance(state: _State) -> _State:
        z = state.z
        g, step = newton_step(z)
        longest = jnp.max(jnp.abs(step))
        step = step * jnp.minimum(1, LONGEST_STEP / longest)
        share = share_of_step(loss, z, step, jnp.vdot(g, step))
        new = jnp.where(share > 0, z + share * step, z)
        return _State(new, state.iteration + 1, longest, share == 0)

    def going(state: _State) -> Array:
        return (state.iteration < _STEPS) & (state.step > _ENOUGH) & ~state.stuck

    first = _State(start, jnp.zeros((), int), jnp.full((), jnp.inf, start.dtype), jnp.zeros((), bool))
    z = jax.lax.while_loop(going, advance, first).z
    g, step = newton_step(z)
    none = jnp.zeros((), int)
    return Found(z, loss(z), jnp.max(jnp.abs(g)), jnp.max(jnp.abs(step)), none, none, jnp.zeros((), bool))
