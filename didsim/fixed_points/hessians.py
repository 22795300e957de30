"""Hessians, decomposed for a step of Newton's method, and the directions along which they do not curve."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

# So few numbers have eigenvalues that cost little.
_FEW = 64
# A Hessian of unit diagonal whose Cholesky decomposition has no smaller pivot is far from singular.
_SAFE = 1e-7


class Curvature(NamedTuple):
    """The derivatives of a loss at some numbers.

    Attributes:
        gradient: the gradient.
        hessian: the Hessian.
        by_magnitude: a function that returns a positive Hessian of about the same curvatures; None if there
            is none that is cheap.
    """

    gradient: Float[Array, " numbers"]
    hessian: Float[Array, "numbers numbers"]
    by_magnitude: Callable[[], Array] | None = None


def _flat(like: Array) -> float:
    """The share of the largest curvature below which a curvature counts as zero."""
    return 5e3 * float(jnp.finfo(like.dtype).eps)


class Decomposed(NamedTuple):
    """A Hessian, decomposed.

    Attributes:
        step: Newton's step for a gradient.
        flat: the number of directions along which the Hessian does not curve, without the idle ones.
        lowest: the smallest eigenvalue of the scaled Hessian; 0 if all are known to be positive.
        is_safe: whether it was the Hessian's own Cholesky decomposition that was taken.
    """

    step: Callable[[Array], Array]
    flat: Int[Array, ""]
    lowest: Float[Array, ""]
    is_safe: Bool[Array, ""]


class _Scaled(NamedTuple):
    """A matrix scaled to a unit diagonal, with its Cholesky decomposition.

    Attributes:
        scale: the factors of rows and columns.
        matrix: the scaled matrix.
        lower: the triangle of this matrix, with the curvature 1 added along the idle directions.
        is_safe: whether the triangle is there, and far from singular.
    """

    scale: Float[Array, " n"]
    matrix: Float[Array, "n n"]
    lower: Float[Array, "n n"]
    is_safe: Bool[Array, ""]


def _scaled(hessian: Array, idle: Array, size: Array | None) -> _Scaled:
    scale = _scale(jnp.abs(jnp.diag(hessian)), size)
    matrix = _symmetric(hessian * scale[:, None] * scale)
    held = idle / scale
    held = held / jnp.linalg.norm(held, axis=-1, keepdims=True)
    lower = jnp.linalg.cholesky(matrix + held.T @ held)  # NaN if it is not positive
    return _Scaled(scale, matrix, lower, jnp.min(jnp.diag(lower)) ** 2 > _SAFE)


def decomposed(at: Curvature, idle: Array, size: Array | None, is_far: Bool[Array, ""]) -> Decomposed:
    """A Hessian, decomposed; far from the end, one that is not safe has its curvatures by magnitude.

    In the latter case `flat` and `lowest` are those of the matrix that took its place.
    """
    scaled = _scaled(at.hessian, idle, size)
    is_own, positive = scaled.is_safe, at.by_magnitude
    if positive is not None and len(at.hessian) > _FEW:
        scaled = jax.lax.cond(
            is_far & ~scaled.is_safe, lambda: _scaled(positive(), idle, size), lambda: scaled
        )
    scale, matrix, lower, is_safe = scaled
    least = _flat(scale)

    def by_eigenvalues(_: None) -> tuple[Array, Array]:
        return _eigen(matrix)

    def unused(_: None) -> tuple[Array, Array]:
        return jnp.ones_like(scale), jnp.zeros_like(matrix)

    values, vectors = jax.lax.cond(is_safe, unused, by_eigenvalues, None)
    magnitudes = jnp.abs(values)
    counts = magnitudes > least * jnp.max(magnitudes)

    def step(g: Array) -> Array:
        # Along directions that do not count the gradient is rounding.
        along = (scale * g) @ vectors
        by_values = vectors @ jnp.where(counts, along / jnp.maximum(magnitudes, least), 0)
        triangle = jnp.where(is_safe, lower, jnp.eye(len(lower), dtype=lower.dtype))
        by_triangle = cho_solve((triangle, True), scale * g)
        return -scale * jnp.where(is_safe, by_triangle, by_values)

    flat = jnp.where(is_safe, 0, jnp.sum(~counts) - len(idle))
    return Decomposed(step, flat, jnp.where(is_safe, 0, jnp.min(values)), is_own)


def level_directions(first: Array, last: Array, size: Array | None) -> tuple[Array, Array]:
    """The number of directions along which neither of two Hessians curves, and one mixture of them.

    The largest entry of the mixture is 1.
    """
    scale = _scale(jnp.maximum(jnp.abs(jnp.diag(first)), jnp.abs(jnp.diag(last))), size)
    values, vectors = _eigen(_symmetric(_magnitude(first, scale) + _magnitude(last, scale)))
    level = values <= _flat(values) * jnp.max(values)
    mixture = scale * (vectors @ jnp.where(level, jnp.cos(jnp.arange(len(values), dtype=scale.dtype)), 0))
    longest = jnp.max(jnp.abs(mixture))
    return jnp.sum(level), mixture / jnp.where(longest > 0, longest, 1)


def _magnitude(hessian: Array, scale: Array) -> Array:
    """The scaled Hessian with its eigenvalues taken by magnitude."""
    values, vectors = _eigen(_symmetric(hessian * scale[:, None] * scale))
    return (vectors * jnp.abs(values)) @ vectors.T


def _eigen(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """The eigenvalues, in ascending order, and the eigenvectors of a symmetric matrix. O(n³)."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def is_rounding(number: Array, size: Array) -> Array:
    """Whether a number is no more than the rounding of terms of some size."""
    return jnp.abs(number) <= 64 * jnp.finfo(size.dtype).eps * size


def _scale(diagonal: Array, size: Array | None) -> Array:
    """Factors of rows and columns that give a matrix of this diagonal a unit diagonal, but for rounding."""
    if size is not None:
        diagonal = jnp.where(is_rounding(diagonal, size), size, diagonal)
    return jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
