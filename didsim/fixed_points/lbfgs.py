"""Minimisers of smooth functions of many numbers, by L-BFGS."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from didsim._extremes import largest_magnitude
from didsim.fixed_points.newton import Found

_STEPS = 2000


def minimise_large(loss: Callable[[Array], Array], start: Array, mass: Array) -> Found:
    """A minimum of a function of one number per sequence, from one start, by L-BFGS.

    Args:
        loss: the function.
        start: where to start.
        mass: about how much the function curves along each number; only ratios matter.
    """
    scale = jax.lax.rsqrt(mass / jnp.max(mass) + jnp.finfo(start.dtype).eps)
    solver = optax.lbfgs(memory_size=20)

    def scaled(u: Array) -> Array:
        return loss(scale * u)

    value_and_gradient = optax.value_and_grad_from_state(scaled)

    def advance(state: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
        u, memory, iteration, _ = state
        value, gradient = value_and_gradient(u, state=memory)
        updates, memory = solver.update(gradient, memory, u, value=value, grad=gradient, value_fn=scaled)
        return u + updates, memory, iteration + 1, largest_magnitude(scale * updates)

    def going(state: tuple[Array, Any, Array, Array]) -> Array:
        return (state[2] < _STEPS) & (state[3] > 1e-12)

    u = start / scale
    begun = u, solver.init(u), jnp.zeros((), int), jnp.full((), jnp.inf, start.dtype)
    u, _, steps, step = jax.lax.while_loop(going, advance, begun)
    z = scale * u
    value, gradient = jax.value_and_grad(loss)(z)
    # Relative to what the pairs of a sequence could pull.
    size = largest_magnitude(gradient / (mass + jnp.finfo(start.dtype).eps))
    return Found(
        z,
        value,
        largest_magnitude(gradient),
        jnp.maximum(step, size),
        jnp.zeros((), int),
        jnp.zeros((), int),
        jnp.zeros((), bool),
        steps,
    )
