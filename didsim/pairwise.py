"""Sums over all pairs of sequences, exact, without an N × N array.

Rows are taken in tiles and each tile is recomputed in the backward pass, so that value and derivatives
cost O(N²) time and O(N) memory.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim import _checks

# Elements of a tile: small enough that a batch of them stays in a processor's cache.
_TILE_ELEMENTS = 2**14


def map_rows(row: Callable[..., Array], *columns: Float[Array, " n"]) -> Array:
    """`row(x_i, y_i, …)` for every `i`, where a row takes O(N) memory, a tile of rows at a time.

    Args:
        row: function of one entry of each column.
        columns: arrays of one length.

    Returns:
        The rows' results, stacked.
    """
    size = columns[0].shape[0]
    tile = min(size, max(8, _TILE_ELEMENTS // size))
    return jax.lax.map(lambda entries: jax.checkpoint(row)(*entries), columns, batch_size=tile)


def pair_sum(
    kernel: Callable[..., Array],
    weights_first: Float[Array, "*batch n"],
    weights_second: Float[Array, "*batch n"],
    *x: Float[Array, "*batch n"],
) -> Float[Array, "*batch"]:
    """The sum `Σ_ij A_i B_j k(x_i − x_j)` over all ordered pairs, `i = j` included.

    With several `x` the kernel takes several differences: `Σ_ij A_i B_j k(x_i − x_j, y_i − y_j)`.
    Differentiable in everything, to any order, forward and backward.

    Args:
        kernel: elementwise function of one difference for each `x`.
        weights_first: `A`.
        weights_second: `B`.
        x: one or more arrays of scalars.

    Returns:
        The sum; O(N²) time, O(N) memory, for the derivatives too.

    Raises:
        ValueError: an argument is not floating-point or is empty, or shapes do not fit.

    >>> ones = jnp.ones(3)
    >>> float(pair_sum(jnp.square, ones, ones, jnp.array([0.0, 1.0, 3.0])))
    28.0
    """
    if not x:
        raise ValueError("`x` must be at least one array; got none")
    arrays = {"weights_first": weights_first, "weights_second": weights_second}
    arrays |= {f"x[{k}]": entry for k, entry in enumerate(x)}
    arrays = {name: _checks.float_array(name, array) for name, array in arrays.items()}
    _checks.same_sequences(**arrays)
    return _pair_sums(kernel, *arrays.values())


@eqx.filter_jit
def _pair_sums(kernel: Callable[..., Array], *arrays: Array) -> Array:
    def one_sum(first: Array, second: Array, *x: Array) -> Array:
        def row(*entries: Array) -> Array:
            differences = [entry - column for entry, column in zip(entries, x, strict=True)]
            return jnp.sum(second * kernel(*differences))

        return jnp.sum(first * map_rows(row, *x))

    signature = ",".join(["(n)"] * len(arrays)) + "->()"
    return jnp.vectorize(one_sum, signature=signature)(*arrays)
