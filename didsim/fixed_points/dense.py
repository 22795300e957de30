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
        g: Array,
        idle: Array,
        size: Array | None,
        positive: Callable[[], "Dense"] | None,
        is_far: Bool[Array, ""],
        was_safe: Bool[Array, ""],
    ) -> Decomposed:
        """As in `Hessian`. `positive` is not used for a few numbers.

        Where it is, `flat` and `lowest` are those of the matrix that took its place.
        """
        replaces = None if len(self.matrix) <= FEW else positive

        def replaced_if(is_meant: Bool[Array, ""]) -> Array:
            if replaces is None:
                return self.matrix
            return jax.lax.cond(is_meant, lambda: replaces().matrix, lambda: self.matrix)

        is_replaced = is_far & ~was_safe & (replaces is not None)
        own = _into_triangle(replaced_if(is_replaced), idle, size)

        def by_triangle(factors: _Factors) -> tuple[_Factors, Array]:
            return factors, factors.step_of_triangle(g)

        def by_eigenvectors(matrix: Array) -> tuple[_Factors, Array]:
            factors = _into_eigenvectors(matrix, size)
            return factors, factors.step_of_eigenvectors(g)

        def otherwise() -> tuple[_Factors, Array]:
            if replaces is None:
                return by_eigenvectors(self.matrix)
            # A triangle may be tried again in vain: that costs little beside eigenvectors.
            matrix = replaced_if(is_far)
            tried = _into_triangle(matrix, idle, size)
            return jax.lax.cond(tried.is_safe, lambda: by_triangle(tried), lambda: by_eigenvectors(matrix))

        # The step is taken in here: if it is all that is asked for, no factor leaves its branch as a copy.
        factors, step = jax.lax.cond(own.is_safe, lambda: by_triangle(own), otherwise)
        flat = jnp.where(factors.is_safe, 0, jnp.sum(~factors.counts()) - len(idle))
        lowest = jnp.where(factors.is_safe, 0, jnp.min(factors.values))
        return Decomposed(step, factors.step_for, flat, lowest, own.is_safe & ~is_replaced)

    def level_directions(self, last: "Dense", size: Array | None) -> tuple[Array, Array]:
        ends = self.diagonal(), last.diagonal()
        scale = _scale(jnp.maximum(*(jnp.abs(diagonal) for diagonal in ends)), size)
        values, vectors = _eigen(_magnitude(self.matrix, scale) + _magnitude(last.matrix, scale))
        level = values <= flat_share(values) * jnp.max(values)
        mixture = scale * (vectors @ jnp.where(level, jnp.cos(jnp.arange(len(values), dtype=scale.dtype)), 0))
        longest = jnp.max(jnp.abs(mixture))
        return jnp.sum(level), mixture / jnp.where(longest > 0, longest, 1)


class _Factors(NamedTuple):
    """A matrix scaled to a unit diagonal, and decomposed.

    Attributes:
        scale: the factors of rows and columns.
        factor: the triangle of the scaled matrix, with the curvature 1 added along the idle directions; or
            the eigenvectors of the scaled matrix, one in each column.
        values: their eigenvalues; 1 for a triangle.
        is_safe: whether `factor` is a triangle that is there, and far from singular.
    """

    scale: Float[Array, " n"]
    factor: Float[Array, "n n"]
    values: Float[Array, " n"]
    is_safe: Bool[Array, ""]

    def step_for(self, g: Array) -> Array:
        """Newton's step for a gradient."""
        return jax.lax.cond(self.is_safe, self.step_of_triangle, self.step_of_eigenvectors, g)

    def step_of_triangle(self, g: Array) -> Array:
        return -self.scale * cho_solve((self.factor, True), self.scale * g)

    def step_of_eigenvectors(self, g: Array) -> Array:
        # Along directions that do not count the gradient is rounding.
        magnitudes = jnp.maximum(jnp.abs(self.values), flat_share(g))
        along = jnp.where(self.counts(), (self.scale * g) @ self.factor / magnitudes, 0)
        return -self.scale * (self.factor @ along)

    def counts(self) -> Bool[Array, " n"]:
        """The eigenvectors along which the Hessian curves."""
        magnitudes = jnp.abs(self.values)
        return magnitudes > flat_share(magnitudes) * jnp.max(magnitudes)


def _into_triangle(hessian: Array, idle: Array, size: Array | None) -> _Factors:
    scale, matrix = _scaled(hessian, size)
    held = idle / scale
    held = held / jnp.linalg.norm(held, axis=-1, keepdims=True)
    # XLA computes the product of one row in the pass that scales the matrix.
    held = held.T * held if len(held) == 1 else held.T @ held
    # LAPACK wants a matrix column by column. A symmetric one, transposed, is stored so without a copy.
    lower = jnp.linalg.cholesky((matrix + held).T, symmetrize_input=False)  # NaN if it is not positive
    return _Factors(scale, lower, jnp.ones_like(scale), jnp.all(jnp.diag(lower) ** 2 > _SAFE))


def _into_eigenvectors(hessian: Array, size: Array | None) -> _Factors:
    scale, matrix = _scaled(hessian, size)
    values, vectors = _eigen(matrix)
    return _Factors(scale, vectors, values, jnp.zeros((), bool))


def _scaled(hessian: Array, size: Array | None) -> tuple[Array, Array]:
    """The factors that scale a matrix to a unit diagonal, and the scaled matrix."""
    scale = _scale(jnp.abs(jnp.diag(hessian)), size)
    return scale, hessian * (scale[:, None] * scale)


def _magnitude(hessian: Array, scale: Array) -> Array:
    """The scaled Hessian with its eigenvalues taken by magnitude."""
    values, vectors = _eigen(hessian * (scale[:, None] * scale))
    return (vectors * jnp.abs(values)) @ vectors.T


def _eigen(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """The eigenvalues, in ascending order, and the eigenvectors of a symmetric matrix. O(n³).

    The matrix is taken for symmetric: JAX takes the mean of it and its transpose.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _scale(diagonal: Array, size: Array | None) -> Array:
    """Factors of rows and columns that give a matrix of this diagonal a unit diagonal, but for rounding."""
    if size is not None:
        diagonal = jnp.where(is_rounding(diagonal, size), size, diagonal)
    return jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
