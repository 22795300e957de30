from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didsim.pairwise.exact import Estimate, Wanted
from didsim.pairwise.moments import moment_sums

SIZE = 60
POLYNOMIALS: tuple[tuple[float, ...], ...] = (
    (2.0,),
    (0.0, 1.0),
    (1.0, -2.0, 1.0),
    (0.5, 0.0, -3.0, 2.0),
    (1.0, 2.0, 0.0, -1.0, 0.25),
)


def compiled(polynomial: tuple[float, ...]) -> Callable[..., Estimate]:
    function = jax.jit(partial(moment_sums, Wanted([polynomial], [polynomial], [polynomial])))
    return lambda *arrays: jax.tree.map(np.asarray, function(*arrays))


ESTIMATES = {polynomial: compiled(polynomial) for polynomial in POLYNOMIALS}


def exact(
    polynomial: tuple[float, ...], first: np.ndarray, second: np.ndarray, x: np.ndarray, offset: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The total, the rows and the columns, in extended precision."""
    first, second, x = (array.astype(np.longdouble) for array in (first, second, x))
    d = x[:, None] - x - np.longdouble(offset)
    table = sum(np.longdouble(a) * d**n for n, a in enumerate(polynomial))
    return first @ table @ second, table @ second, first @ table


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(
    polynomial=st.sampled_from(POLYNOMIALS),
    half=st.sampled_from((0.0, 1e-8, 0.1, 1.0, 10.0, 200.0, 1400.0)),
    signed=st.booleans(),
    outlier=st.booleans(),
    far=st.sampled_from((0.0, 1e3)),
    offset=st.sampled_from((0.0, 0.25, -1.5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_reported_errors_bound_the_true_ones(
    dtype: str,
    polynomial: tuple[float, ...],
    half: float,
    signed: bool,
    outlier: bool,
    far: float,
    offset: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = half * rng.uniform(-1, 1, SIZE)
    if outlier:
        x[0] = 100 * half
    x = (x + far).astype(dtype)
    first, second = (rng.normal(size=(2, SIZE)) if signed else rng.random((2, SIZE))).astype(dtype)
    result = ESTIMATES[polynomial](first, second, x, np.asarray(offset, dtype))
    total, rows, columns = exact(polynomial, first, second, x, offset)
    assert abs(result.sums.totals[0] - total) <= result.errors.totals[0]
    assert np.max(np.abs(result.sums.rows[0] - rows)) <= result.errors.rows[0]
    assert np.max(np.abs(result.sums.columns[0] - columns)) <= result.errors.columns[0]


@given(polynomial=st.sampled_from(POLYNOMIALS), seed=st.integers(0, 2**32 - 1))
def test_errors_are_small_beside_sizes_and_sizes_are_those_of_the_terms(
    polynomial: tuple[float, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second, x = rng.normal(size=(3, SIZE))
    result = ESTIMATES[polynomial](first, second, x, np.zeros(()))
    assert result.errors.totals[0] <= 1e-14 * result.sizes.totals[0]
    # Sizes are of the terms of the expansion about the means: not below the magnitude of the sums, and not
    # far above that of all terms of all powers.
    magnitudes = tuple(abs(a) for a in polynomial)
    d = np.abs(x[:, None] - x)
    table = sum(a * d**n for n, a in enumerate(magnitudes))
    assert abs(result.sums.totals[0]) <= result.sizes.totals[0]
    assert result.sizes.totals[0] <= 10 * (np.abs(first) @ table @ np.abs(second))
    assert np.all(np.abs(result.sums.rows[0]) <= result.sizes.rows[0])
    assert np.all(np.abs(result.sums.columns[0]) <= result.sizes.columns[0])


def test_weights_of_zero_give_zero() -> None:
    zeros, x = np.zeros(SIZE), np.linspace(-3, 5, SIZE)
    result = ESTIMATES[1.0, -2.0, 1.0](zeros, zeros, x, np.zeros(()))
    assert result.sums.totals[0] == 0
    assert not result.sums.rows[0].any()
    assert not result.sums.columns[0].any()


@pytest.mark.parametrize("seed", range(10))
def test_equal_points_have_no_differences(seed: int) -> None:
    # A weighted mean of 65 fives, left as it is, rounds to 5 ± 1e-15 for most of these weights.
    first, second = np.random.default_rng(seed).random((2, 65))
    result = ESTIMATES[0.0, 1.0](first, second, np.full(65, 5.0), np.zeros(()))
    for sums in (result.sums, result.sizes, result.errors):
        assert sums.totals[0] == 0
        assert not sums.rows[0].any()
        assert not sums.columns[0].any()


def test_a_square_of_points_far_from_zero_does_not_cancel() -> None:
    # 1e8 ± 1: moments about zero would leave no digit of the variance.
    x = 1e8 + np.linspace(-1, 1, SIZE)
    weights = np.full(SIZE, 1 / SIZE)
    result = compiled((0.0, 0.0, 1.0))(weights, weights, x, np.zeros(()))
    expected, _, _ = exact((0.0, 0.0, 1.0), weights, weights, x, 0.0)
    assert float(result.sums.totals[0]) == pytest.approx(float(expected), rel=1e-13)
