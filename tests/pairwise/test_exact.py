from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didsim.pairwise.exact import Wanted, map_rows, tiled_sums


@pytest.mark.parametrize("size", [1, 8, 9, 300])
def test_map_rows_stacks_the_rows(size: int) -> None:
    x, y = np.random.default_rng(3).normal(size=(2, size))
    rows = map_rows(lambda a, b: jnp.stack([a + b, jnp.max(a - x)]), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(rows, np.stack([x + y, x - x.min()], axis=1), rtol=1e-15)


def test_map_rows_is_differentiable() -> None:
    x = jnp.asarray(np.random.default_rng(4).normal(size=300))
    gradient = jax.grad(lambda x: jnp.sum(map_rows(lambda entry: jnp.sum((entry - x) ** 2), x)))(x)
    np.testing.assert_allclose(gradient, 4 * (300 * x - jnp.sum(x)), rtol=1e-12, atol=1e-10)


# Sizes with one tile, a last tile that is full, one that is not, and tiles of a single row.
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (3, 7), (1, 128), (2, 129), (5, 300), (100, 200)])
def test_tiled_sums_are_those_of_a_double_loop(batch: int, size: int) -> None:
    rng = np.random.default_rng(size)
    first, second, x = rng.normal(size=(3, batch, size))
    offset = rng.normal(size=batch)
    wanted: Any = Wanted([jnp.square, jnp.exp], [jnp.exp], [jnp.tanh])
    sums = jax.jit(lambda *arrays: tiled_sums(wanted, *arrays))(first, second, x, offset)
    d = x[:, :, None] - x[:, None, :] - offset[:, None, None]
    for total, kernel in zip(sums.totals, (np.square, np.exp), strict=True):
        terms = first[:, :, None] * kernel(d) * second[:, None, :]
        assert np.all(np.abs(total - terms.sum((1, 2))) <= 1e-14 * np.abs(terms).sum((1, 2)))
    terms = np.exp(d) * second[:, None, :]
    assert np.all(np.abs(sums.rows[0] - terms.sum(2)) <= 1e-14 * np.abs(terms).sum(2))
    terms = np.tanh(d) * first[:, :, None]
    assert np.all(np.abs(sums.columns[0] - terms.sum(1)) <= 1e-14 * np.abs(terms).sum(1))


def test_what_pads_the_last_tile_counts_for_nothing() -> None:
    # 129 rows in tiles of 127. A kernel that is 1 everywhere would count every row of padding.
    ones = jnp.ones((1, 129))
    wanted: Any = Wanted([jnp.ones_like], [], [jnp.ones_like])
    sums = tiled_sums(wanted, ones, ones, ones, jnp.zeros(1))
    assert float(sums.totals[0][0]) == 129**2
    assert np.array_equal(sums.columns[0], np.full((1, 129), 129.0))
