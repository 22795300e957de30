"""Roots of the gradient of a loss that moves with its numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from didsim._extremes import largest_magnitude

LONGEST_STEP = 8.0
"""A step changes no number by more than this."""
ROOT_STEPS = 30
"""A search for a root takes no more steps than this."""


def root(field: Callable[[Array], Array], start: Array, idle: Array, wanted: Array) -> tuple[Array, Array]:
    """A root of a field near a start, and the next step from there: Newton's method.

    It goes on until a step no longer shrinks the field. If no root is `wanted`, it returns the start.
    """

    def advance(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        z, _, iteration, _ = state
        jacobian, here = jax.jacfwd(lambda z: (field(z),) * 2, has_aux=True)(z)
        step = root_step(jacobian, here, idle)
        shrinks = largest_magnitude(field(z + step)) < largest_magnitude(here)
        better = shrinks & (iteration < ROOT_STEPS)
        return jnp.where(better, z + step, z), better, iteration + 1, step

    first = start, wanted, jnp.zeros((), int), jnp.zeros_like(start)
    z, _, _, step = jax.lax.while_loop(lambda state: state[1], advance, first)
    return z, step


def root_step(jacobian: Array, field: Array, idle: Array) -> Array:
    """Newton's step to a root of a field with a given Jacobian.

    The Jacobian is zero along the idle directions. With a curvature added there, one linear system is to be
    solved. If its solution is not one of the Jacobian itself, the shortest least-squares step is taken. That
    is a singular value decomposition, at about 10 times the cost.

    Args:
        jacobian: the Jacobian.
        field: the field.
        idle: orthogonal directions along which the loss does not change, one in each row.
    """
    size = largest_magnitude(jacobian)
    along = idle / jnp.linalg.norm(idle, axis=-1, keepdims=True)
    # A gradient is zero along these. Near a root, where rounding is all that is left of it, it may not be.
    field = field - (along @ field) @ along
    held = along * jnp.sqrt(size)
    quick = -jnp.linalg.solve(jacobian + held.T @ held, field)
    left = largest_magnitude(jacobian @ quick + field)
    fits = left <= 1e-8 * largest_magnitude(field)
    return jax.lax.cond(
        fits & (largest_magnitude(quick) < LONGEST_STEP),
        lambda _: quick,
        lambda _: -jnp.linalg.lstsq(jacobian, field)[0],
        None,
    )


def step_with_rank_one(
    field: Callable[[Array], Array],
    z: Array,
    step: Array,
    product: Callable[[Array], Array],
    step_for: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Newton's step to a root of a field whose Jacobian is `H + K`, with `K` of rank one.

    It costs three products with `H`, three with `H⁻¹`, and three gradients.

    Let `s = −H⁻¹ F` be the step without `K`. Then `w = K s` is a multiple of the one direction that `K` maps
    to, and so is `K y = κ w` with `y = H⁻¹ w`. The step `s − α y` solves `(H + K)(s − α y) = −F` if
    `α = 1 / (1 + κ)`. Products with the Jacobian tell `w` and `κ`. The latter is taken one product later,
    where rounding has no part in the direction. (Derived here.)

    For a positive `H` the sign of `1 + κ` is that of the determinant of `H + K`. If it is negative, then so
    is an eigenvalue, and descent leads away from the root.

    Args:
        field: the field `F`.
        z: where to step from.
        step: `s`.
        product: the product with `H`.
        step_for: the step `−H⁻¹ g` for a gradient `g`.

    Returns:
        The step, and whether `1 + κ` is negative.
    """

    def rest(along: Array) -> Array:
        return jax.jvp(field, (z,), (along,))[1] - product(along)

    def advance(along: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        moved = rest(along)
        return -step_for(moved), (moved, along)

    # At a root no step is left to tell `κ`, and any direction that `K` does not map to zero will do.
    some, is_left = jnp.cos(jnp.arange(len(z), dtype=z.dtype)), jnp.any(step != 0)
    _, (moved, along) = jax.lax.scan(advance, jnp.where(is_left, step, some), length=3)
    size = jnp.vdot(moved[1], moved[1])
    kappa = jnp.vdot(moved[1], moved[2]) / jnp.where(size > 0, size, 1)
    return jnp.where(is_left, step - along[1] / (1 + kappa), step), kappa < -1
