"""Decompositions of matrices that stay safe under `vmap`: a batch is worked off one matrix at a time.

jaxlib 0.10 hands a batch of matrices to the threads that run the compiled program, and waits for them in one
of these threads. Two batches at once can therefore occupy all threads, and wait for each other for ever.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_batching.sequential_vmap
def eigen(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """The eigenvalues, in ascending order, and the eigenvectors of a symmetric matrix. O(n³)."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@jax.custom_batching.sequential_vmap
def least_squares(matrix: Float[Array, "m n"], right: Float[Array, " m"]) -> Float[Array, " n"]:
    """The shortest of the vectors `x` that make `|matrix · x − right|` least. O(m n²)."""
    return jnp.linalg.lstsq(matrix, right)[0]


@jax.custom_batching.sequential_vmap
def triangle(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lower triangle `L` with `L Lᵀ = matrix`; NaN if the matrix is not positive definite. O(n³)."""
    return jnp.linalg.cholesky(matrix)


@jax.custom_batching.sequential_vmap
def solved(lower: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The vector `x` with `L Lᵀ x = right`, for a lower triangle `L`. O(n²)."""
    return jax.scipy.linalg.cho_solve((lower, True), right)


@jax.custom_batching.sequential_vmap
def linear(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The vector `x` with `matrix · x = right`; not finite if the matrix is singular. O(n³)."""
    return jnp.linalg.solve(matrix, right)
