"""A Hessian as a matrix of all its entries."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float

from didsim.fixed_points.hessians import FEW, Decomposed, flat_share, is_rounding

# A Hessian of unit diagonal whose Cholesky decomposition has no smaller pivot is far from singular.
_SAFE = 1e-7


class Dense(NamedTuple):
    """A Hessian as a matrix. A step is a Cholesky decomposition, O(n³/3), or one into eigenvalues.

    Attributes:
        matrix: the Hessian.
    """

    matrix: Float[Array, "n n"]

    def product(self, step: Array) -> Array:
        return self.matrix @ step

    def diagonal(self) -> Array:
        return jnp.diag(self.matrix)

    def decomposed(
        self,
        idle: Array,
        size: Array | None,
        positive: Callable[[], "Dense"] | None,
        is_far: Bool[Array, ""],
    ) -> Decomposed:
        """As in `Hessian`. `positive` is not used for a few numbers.

        Where it is, `flat` and `lowest` are those of the matrix that took its place.
        """
        scaled = _scaled(self.matrix, idle, size)
        is_own = scaled.is_safe
        if positive is not None and len(self.matrix) > FEW:
            scaled = jax.lax.cond(
                is_far & ~scaled.is_safe, lambda: _scaled(positive().matrix, idle, size), lambda: scaled
            )
        scale, matrix, lower, is_safe = scaled
        least = flat_share(scale)

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

    def level_directions(self, last: "Dense", size: Array | None) -> tuple[Array, Array]:
        ends = self.diagonal(), last.diagonal()
        scale = _scale(jnp.maximum(*(jnp.abs(diagonal) for diagonal in ends)), size)
        values, vectors = _eigen(_symmetric(_magnitude(self.matrix, scale) + _magnitude(last.matrix, scale)))
        level = values <= flat_share(values) * jnp.max(values)
        mixture = scale * (vectors @ jnp.where(level, jnp.cos(jnp.arange(len(values), dtype=scale.dtype)), 0))
        longest = jnp.max(jnp.abs(mixture))
        return jnp.sum(level), mixture / jnp.where(longest > 0, longest, 1)


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
    return _Scaled(scale, matrix, lower, jnp.all(jnp.diag(lower) ** 2 > _SAFE))


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


def _scale(diagonal: Array, size: Array | None) -> Array:
    """Factors of rows and columns that give a matrix of this diagonal a unit diagonal, but for rounding."""
    if size is not None:
        diagonal = jnp.where(is_rounding(diagonal, size), size, diagonal)
    return jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
