"""Differences that are exactly zero for equal numbers, in compiled programs as well.

A compiled program may compute `a · x − b · y` in one step that rounds only one of the two products. If both
products are equal, their difference is then the rounding of one. An implicit reward can be 1e12, or 1e300,
and so can this rounding; a loss of the difference is then wrong altogether.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array


@jax.custom_jvp
def difference(a: Array, b: Array) -> Array:
    """`a − b`, and exactly 0 where `a` and `b` round to one finite number. The derivative is that of `a − b`.

    A comparison takes both numbers as rounded, however a program computes them.
    """
    return jnp.where((a == b) & jnp.isfinite(a), 0, a - b)


@difference.defjvp
def _difference_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return difference(*primals), tangents[0] - tangents[1]
