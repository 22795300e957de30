"""The largest number of an array, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from didsim import _extremes, _log_space
from didsim.theory import checks


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4), (64, 64), (3, 5000), (1000, 8)])
def test_nan_is_the_largest_of_arrays_of_any_size(shape: tuple[int, int], dtype: str) -> None:
    """XLA alone loses it in the three larger ones."""
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    some, row = x.copy(), x.copy()
    some[1, 2], row[1] = np.nan, np.nan
    for array in (x, some, row):
        np.testing.assert_array_equal(jax.jit(_extremes.largest)(array), array.max())
        np.testing.assert_array_equal(jax.jit(lambda a: _extremes.largest(a, -1))(array), array.max(-1))
        np.testing.assert_array_equal(_extremes.largest_magnitude(array), np.abs(array).max())


@pytest.mark.core
def test_a_deviation_that_is_not_a_number_passes_no_check() -> None:
    """Of many instances at once, as `didsim check` measures them."""
    x = jnp.zeros((1000, 8)).at[3].set(jnp.nan)
    of_differences = jax.jit(jax.vmap(lambda one: checks.off(one, jnp.zeros(8))))(x)
    of_sizes = jax.jit(jax.vmap(lambda one: checks.off(jnp.zeros(8), one)))(x)
    of_several = jax.jit(jax.vmap(lambda one: checks.largest(one, one[0], jnp.zeros(()))))(x)
    for found in (of_differences, of_sizes, of_several):
        assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.core
@pytest.mark.parametrize("size", [4, 5000])
def test_logarithms_of_nan_are_nan(size: int) -> None:
    broken = jnp.zeros((2, size)).at[0, 1].set(jnp.nan)
    assert np.isnan(_log_space.log(broken)).sum() == 1
    assert np.isnan(_log_space.logsumexp(broken)).tolist() == [True, False]
    assert np.isnan(_log_space.logaddexp(broken, broken)).sum() == 1


@pytest.mark.core
@pytest.mark.parametrize("size", [4, 5000])
def test_no_law_holds_for_policies_that_are_not_numbers(size: int) -> None:
    uniform = jnp.full(size, -jnp.log(size))
    law = jax.jit(didsim.fit_power_law)(uniform.at[1].set(jnp.nan), uniform, uniform)
    assert not bool(law.holds)
