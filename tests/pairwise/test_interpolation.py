import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didsim.pairwise.exact import Estimate, Wanted
from didsim.pairwise.forms import Analytic
from didsim.pairwise.interpolation import convergence_rate, half_range, interpolated_sums
from didsim.pairwise.sums import pair_sum

SIZE = 100
DEGREES = (16, 32, 64, 128, 512)
HALF_RANGES = (0.0, 1e-8, 0.1, 1.0, 5.0, 10.0, 20.0, 40.0, 200.0, 1400.0)


def logistic(d: Any) -> Any:
    return np.where(d >= 0, 1 / (1 + np.exp(-np.abs(d))), np.exp(-np.abs(d)) / (1 + np.exp(-np.abs(d))))


# Kernels in JAX and in NumPy, and the strip in which they are analytic.
KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], float]] = {
    "softplus": (lambda d: jax.nn.softplus(-d), lambda d: np.logaddexp(np.longdouble(0), -d), np.pi),
    "slope": (lambda d: -jax.nn.sigmoid(-d), lambda d: -logistic(-d), np.pi),
    "narrow": (
        lambda d: jax.nn.sigmoid(d / 0.3),
        lambda d: logistic(d / np.longdouble(0.3)),
        0.3 * np.pi,
    ),
}


def estimate(name: str, degree: int) -> Callable[..., Estimate]:
    kernel, _, strip = KERNELS[name]
    compiled = jax.jit(partial(interpolated_sums, Wanted([kernel], [kernel], [kernel]), degree, strip))
    return lambda *arrays: jax.tree.map(np.asarray, compiled(*arrays))


ESTIMATES = {(name, degree): estimate(name, degree) for name in KERNELS for degree in DEGREES}


def exact(
    kernel: Callable[..., Any], first: np.ndarray, second: np.ndarray, x: np.ndarray, offset: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The total, the rows and the columns, in extended precision."""
    first, second, x = (array.astype(np.longdouble) for array in (first, second, x))
    table = kernel(x[:, None] - x - np.longdouble(offset))
    return first @ table @ second, table @ second, first @ table


def scalars(kind: str, half: float, rng: np.random.Generator) -> np.ndarray:
    if kind == "outlier":
        x = rng.uniform(-0.01, 0.01, SIZE)
        x[0] = 1
    elif kind == "clusters":
        x = rng.choice([-1.0, -0.3, 0.0, 1.0], SIZE) * (1 + 1e-3 * rng.random(SIZE))
    else:
        x = rng.uniform(-1, 1, SIZE)
    return half * (x - (x.max() + x.min()) / 2) / ((x.max() - x.min()) / 2)


def weights(kind: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = np.argsort(x)
    array = rng.random(SIZE)
    if kind == "lowest":
        array[order[3:]] = 0
    elif kind == "highest":
        array[order[:-3]] = 0
    elif kind == "middle":
        array[np.abs(x) > 0.1 * np.abs(x).max()] = 0
    elif kind == "one":
        array = np.eye(SIZE)[rng.integers(SIZE)]
    elif kind == "signed":
        array = rng.normal(size=SIZE)
    return array


kinds = st.sampled_from(("random", "lowest", "highest", "middle", "one", "signed"))


TOLERANCE = 1e-12


@pytest.mark.slow
@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from(DEGREES),
    st.sampled_from(HALF_RANGES),
    st.sampled_from(("uniform", "outlier", "clusters")),
    kinds,
    kinds,
    st.sampled_from((0.0, 0.3, -1.5)),
    st.integers(0, 2**32 - 1),
)
def test_a_degree_that_the_range_asks_for_keeps_an_accepted_tolerance(
    name: str, degree: int, half: float, layout: str, kind: str, other: str, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = scalars(layout, half, rng)
    first, second = weights(kind, x, rng), weights(other, x, rng)
    result = ESTIMATES[name, degree](first, second, x, offset)
    total, rows, columns = exact(KERNELS[name][1], first, second, x, offset)
    rate = np.inf if half == 0 else float(convergence_rate(jnp.asarray(half), KERNELS[name][2]))
    if degree * np.log(rate) < np.log(1e3 / TOLERANCE):
        return
    for error, reported, size in (
        (abs(result.sums.totals[0] - total), result.errors.totals[0], result.sizes.totals[0]),
        (np.max(np.abs(result.sums.rows[0] - rows)), result.errors.rows[0], np.max(result.sizes.rows[0])),
        (
            np.max(np.abs(result.sums.columns[0] - columns)),
            result.errors.columns[0],
            np.max(result.sizes.columns[0]),
        ),
    ):
        assert np.isfinite(reported)
        if reported <= TOLERANCE * size:
            assert error <= TOLERANCE * size


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_degree_that_is_far_too_low_says_so(name: str) -> None:
    rng = np.random.default_rng(0)
    x = scalars("uniform", 200.0, rng)
    first, second = rng.random((2, SIZE))
    result = ESTIMATES[name, 16](first, second, x, 0.0)
    assert result.errors.totals[0] > 1e-4 * result.sizes.totals[0]
    assert result.errors.rows[0] > 1e-4 * np.max(result.sizes.rows[0])
    assert result.errors.columns[0] > 1e-4 * np.max(result.sizes.columns[0])


def test_points_that_are_all_equal_are_exact() -> None:
    result = ESTIMATES["softplus", 16](np.ones(SIZE), np.ones(SIZE), np.full(SIZE, 700.0), 0.25)
    expected = SIZE**2 * np.logaddexp(0, 0.25)
    assert float(result.sums.totals[0]) == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(result.sums.rows[0], expected / SIZE, rtol=1e-14)


def test_weights_of_zero_give_zero() -> None:
    x = np.linspace(-3, 3, SIZE)
    result = ESTIMATES["softplus", 32](np.zeros(SIZE), np.zeros(SIZE), x, 0.0)
    assert result.sums.totals[0] == 0
    assert result.errors.totals[0] == 0
    assert not result.sums.rows[0].any()
    assert not result.sums.columns[0].any()


def test_the_half_range_and_the_rate_of_convergence() -> None:
    assert np.array_equal(half_range(jnp.array([[1.0, 5.0, 2.0], [3.0, 3.0, 3.0]])), [2.0, 0.0])
    # The Bernstein ellipse through i: its axes 1 and √2 add up to 1 + √2.
    assert float(convergence_rate(jnp.asarray(2.0), 2.0)) == pytest.approx(1 + np.sqrt(2), rel=1e-15)
    assert np.isinf(convergence_rate(jnp.asarray(0.0), 2.0))


def gaussian(width: float, d: jax.Array) -> jax.Array:
    return jnp.exp(-((d / width) ** 2))


@pytest.mark.parametrize("strip", [1e3, 1e6, 1e100])
def test_a_claim_of_a_huge_strip_hides_no_error(strip: float) -> None:
    """A Gaussian is analytic everywhere, so that no strip is wrong, and a narrow one needs many nodes."""
    rng = np.random.default_rng(0)
    x, ones = rng.uniform(-1, 1, 300), np.ones(300)
    for width in (0.5, 0.32, 0.1, 0.058, 0.05):
        kernel = Analytic(partial(gaussian, width), strip)
        expected = np.exp(-(((x[:, None] - x) / width) ** 2)).sum()
        assert float(pair_sum(kernel, ones, ones, x)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("dtype", "away", "bound"), [("float32", 1e6, 3e-5), ("float64", 1e8, 1e-12)])
def test_points_far_from_zero_lose_nothing(dtype: str, away: float, bound: float) -> None:
    rng = np.random.default_rng(1)
    x = (away + rng.normal(size=300)).astype(dtype)
    weights = np.full(300, 1 / 300, dtype)
    kernel = Analytic(jax.nn.softplus, math.pi)
    differences = x.astype(float)[:, None] - x.astype(float)
    expected = np.logaddexp(0, differences).mean()
    assert float(pair_sum(kernel, weights, weights, x)) == pytest.approx(expected, rel=bound)


@pytest.mark.parametrize("layout", ["uniform", "outlier"])
@pytest.mark.parametrize("first", ["random", "lowest", "middle", "signed"])
@pytest.mark.parametrize("second", ["random", "highest", "middle", "one"])
def test_reported_errors_bound_the_true_ones(layout: str, first: str, second: str) -> None:
    """Whatever the degree, and wherever the weights lie."""
    rng = np.random.default_rng(0)
    for (name, degree), estimate in ESTIMATES.items():
        if degree in (64, 512):
            continue
        for half in HALF_RANGES:
            x = scalars(layout, half, rng)
            a, b = weights(first, x, rng), weights(second, x, rng)
            found = estimate(a, b, x, 0.0)
            true = exact(KERNELS[name][1], a, b, x, 0.0)
            for values, errors, expected in zip(found.sums, found.errors, true, strict=True):
                where = f"{name}, degree {degree}, half-range {half}"
                assert float(np.max(np.abs(values[0] - expected))) <= float(errors[0]) + 1e-300, where
