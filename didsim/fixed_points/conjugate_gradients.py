"""Conjugate gradients that stop where a function curves downwards."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from didsim.fixed_points.hessians import flat_share


class Direction(NamedTuple):
    """Where conjugate gradients led.

    Attributes:
        step: about the solution of the system; or a step on which the function falls, if the matrix is not
            positive.
        lowest: the least curvature that was seen per squared length. That of the matrix may be lower still.
        is_solved: whether the residual is small enough.
    """

    step: Float[Array, " n"]
    lowest: Float[Array, ""]
    is_solved: Bool[Array, ""]


class _State(NamedTuple):
    """A point on the way to the solution.

    Attributes:
        step: as in `Direction`, so far.
        left: the residual `b − A · step`.
        along: the next direction.
        size: the squared length of the residual.
        lowest: as in `Direction`, so far.
        products: the number of products that were taken.
    """

    step: Array
    left: Array
    along: Array
    size: Array
    lowest: Array
    products: Array


def conjugate_gradients(
    product: Callable[[Array], Array],
    right: Float[Array, " n"],
    share: Array | float,
    most: Array | int,
) -> Direction:
    """A step `s` with `A s ≈ b`, as far as the symmetric matrix `A` is positive.

    Where a direction does not curve upwards, its curvature is taken by magnitude, and the step ends there.
    Since `bᵀp = ‖r‖²` for every direction `p` and the residual `r`, the function `sᵀAs/2 − bᵀs` falls along
    the step all the same (Steihaug 1983, without a trust region). Solvers of JAX and Lineax tell nothing of
    such directions. They also hold the product twice, and it is most of what there is to compile.

    Args:
        product: the product of the matrix with a vector. The largest entries of its diagonal are about 1.
        right: the vector `b`. If it holds NaN, so does the step.
        share: the share of `‖b‖` at which a residual is small enough.
        most: the largest number of products.
    """
    noise = flat_share(right)
    enough = share**2 * jnp.vdot(right, right)

    def going(state: _State) -> Array:
        return (state.size > enough) & (state.products < most) & (state.lowest > noise)

    def advance(state: _State) -> _State:
        pushed = product(state.along)
        length = jnp.vdot(state.along, state.along)
        curve = jnp.vdot(state.along, pushed) / length
        far = state.size / (jnp.maximum(jnp.abs(curve), noise) * length)
        left = state.left - far * pushed
        size = jnp.vdot(left, left)
        return _State(
            step=state.step + far * state.along,
            left=left,
            along=left + size / state.size * state.along,
            size=size,
            lowest=jnp.minimum(state.lowest, curve),
            products=state.products + 1,
        )

    endless = jnp.full((), jnp.inf, right.dtype)
    # Zero, or NaN where there is NaN.
    nothing = 0 * right
    first = _State(nothing, right, right, jnp.vdot(right, right), endless, jnp.zeros((), int))
    last = jax.lax.while_loop(going, advance, first)
    return Direction(last.step, last.lowest, last.size <= enough)
