"""The largest number of an array, in which NaN counts as larger than all others, as in NumPy.

`jnp.max` should do this alone. But in arrays of about 2,000 numbers and more XLA loses NaN on a CPU (jaxlib
0.10): it returns the largest of the other numbers, and −inf if there are none. So whatever tells by a largest
number that something went wrong takes it from here.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def largest(x: Float[ArrayLike, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """The largest number along an axis, or of all; NaN if any is NaN."""
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), jnp.nan, jnp.max(x, axis=axis))


def largest_magnitude(x: Float[ArrayLike, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """The largest magnitude along an axis, or of all numbers; NaN if any is NaN."""
    return largest(jnp.abs(x), axis)
