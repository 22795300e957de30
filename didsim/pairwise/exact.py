"""Sums over all pairs, taken pair by pair: O(N²) time. A tile of rows at a time keeps memory at O(N)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim._differences import difference

Elementwise = Callable[[Array], Array]

# Elements of a tile: small enough that a batch of them stays in a processor's cache.
_TILE_ELEMENTS = 2**14
_ALL_AT_ONCE = 2**18  # a loop over tiles costs more than it saves, up to here


def map_rows(row: Callable[..., Array], *columns: Float[Array, " n"]) -> Array:
    """`row(x_i, y_i, …)` for every `i`, computed for a tile of `i` at a time.

    A call of `row` may take O(N) memory. Tiles keep the memory of all calls together at O(N).

    Args:
        row: function of one entry of each column. A backward pass recomputes its intermediate values, so
            they are not stored.
        columns: arrays of one length.

    Returns:
        The results, stacked along a new first axis.
    """
    size = columns[0].shape[0]
    tile = min(size, max(8, _TILE_ELEMENTS // size))
    return jax.lax.map(lambda entries: jax.checkpoint(row)(*entries), columns, batch_size=tile)


T = TypeVar("T")


@dataclass(frozen=True)
class Wanted(Generic[T]):
    """The kernels to sum over all pairs: one sequence of kernels for each field of `Sums`.

    `T` is what a method takes as a kernel: a function, polynomial coefficients, or pieces.
    """

    totals: Sequence[T]
    rows: Sequence[T]
    columns: Sequence[T]


class Sums(NamedTuple):
    """Sums over all pairs, with `d_ij = x_i − x_j − offset`. Each list has one sum for each kernel `k`.

    Attributes:
        totals: `Σ_ij A_i B_j k(d_ij)`.
        rows: `Σ_j B_j k(d_ij)` for every `i`.
        columns: `Σ_i A_i k(d_ij)` for every `j`.
    """

    totals: list[Array]
    rows: list[Array]
    columns: list[Array]


class Estimate(NamedTuple):
    """Approximate sums, a bound on the error of each, and the size that the error is compared with.

    A sum is good enough if its error is at most the tolerance times its size.

    Attributes:
        sums: the sums.
        errors: bounds on their absolute errors. All entries of a row sum share one bound, and so do all
            entries of a column sum.
        sizes: the magnitude of the sum if all its terms have one sign. Otherwise terms can cancel, and the
            size is approximately the sum of the magnitudes of the terms.
    """

    sums: Sums
    errors: Sums
    sizes: Sums


def tiled_sums(
    wanted: Wanted[Elementwise],
    first: Float[Array, "batch n"],
    second: Float[Array, "batch n"],
    x: Float[Array, "batch n"],
    offset: Float[Array, " batch"],
) -> Sums:
    """Sums over all pairs, for each entry of a batch."""
    batch, size = x.shape
    tile = min(size, max(1, _TILE_ELEMENTS // (batch * size)))
    if batch * size * size <= _ALL_AT_ONCE:
        tile = size
    tiles = -(-size // tile)

    def in_tiles(array: Array, mode: str) -> Array:
        padded = jnp.pad(array, ((0, 0), (0, tiles * tile - size)), mode=mode)
        return jnp.moveaxis(padded.reshape(batch, tiles, tile), 1, 0)

    def one_tile(
        carry: tuple[list[Array], list[Array]], entries: tuple[Array, Array]
    ) -> tuple[tuple[list[Array], list[Array]], list[Array]]:
        totals, columns = carry
        first_rows, x_rows = entries
        differences = difference(x_rows[:, :, None], x[:, None, :]) - offset[:, None, None]

        def rows(kernel: Elementwise) -> Array:
            return jnp.sum(second[:, None, :] * kernel(differences), axis=2)

        totals = [
            total + jnp.sum(first_rows * rows(kernel), axis=1)
            for total, kernel in zip(totals, wanted.totals, strict=True)
        ]
        columns = [
            column + jnp.sum(first_rows[:, :, None] * kernel(differences), axis=1)
            for column, kernel in zip(columns, wanted.columns, strict=True)
        ]
        return (totals, columns), [rows(kernel) for kernel in wanted.rows]

    blank = (
        [jnp.zeros(batch, x.dtype) for _ in wanted.totals],
        [jnp.zeros_like(x) for _ in wanted.columns],
    )
    (totals, columns), rows = jax.lax.scan(
        one_tile, blank, (in_tiles(first, "constant"), in_tiles(x, "edge"))
    )
    joined = [jnp.moveaxis(row, 0, 1).reshape(batch, -1)[:, :size] for row in rows]
    return Sums(totals, joined, columns)
