from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from didsim.pairwise.sums import tiled_pair_sum
from tests.pairwise.pair_sum_cases import FUNCTIONS, TILED, TILED_HESSIAN_PRODUCT

EPS32 = float(np.finfo(np.float32).eps)
TILED_SIZES = (1, 2, 7)
TILED_GRADIENT = {name: jax.jit(jax.grad(function, argnums=(0, 1, 2))) for name, function in TILED.items()}


@st.composite
def weights_and_scalars(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    size = draw(st.sampled_from(TILED_SIZES))
    values = hnp.arrays(np.float64, size, elements=st.floats(-3, 3, width=32))
    weights = hnp.arrays(np.float64, size, elements=st.floats(0, 1, width=32))
    return draw(weights), draw(weights), draw(values), draw(values)


def table(x: np.ndarray, function: Callable[..., Any]) -> np.ndarray:
    """`k(x_i − x_j)`, entry by entry."""
    return np.array([[function(a - b) for b in x] for a in x])


@given(st.sampled_from(sorted(FUNCTIONS)), weights_and_scalars())
def test_tiled_value_agrees_with_a_double_loop(name: str, drawn: tuple[np.ndarray, ...]) -> None:
    a, b, x, _ = drawn
    expected = a @ table(x, FUNCTIONS[name][1]) @ b
    np.testing.assert_allclose(TILED[name](a, b, x), expected, rtol=1e-13, atol=1e-300)


@given(st.sampled_from(sorted(FUNCTIONS)), weights_and_scalars())
def test_tiled_gradient_agrees_with_a_double_loop(name: str, drawn: tuple[np.ndarray, ...]) -> None:
    a, b, x, _ = drawn
    values, slopes = (table(x, kernel) for kernel in FUNCTIONS[name][1:3])
    flow = a[:, None] * slopes * b
    in_a, in_b, in_x = TILED_GRADIENT[name](a, b, x)
    np.testing.assert_allclose(in_a, values @ b, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(in_b, a @ values, rtol=1e-13, atol=1e-300)
    # Terms of either sign: rounding to eps of the sum of their sizes.
    np.testing.assert_allclose(in_x, flow.sum(1) - flow.sum(0), rtol=1e-12, atol=1e-14 * np.abs(flow).sum())


@given(st.sampled_from(sorted(FUNCTIONS)), weights_and_scalars())
def test_tiled_hessian_vector_product_agrees_with_a_double_loop(
    name: str, drawn: tuple[np.ndarray, ...]
) -> None:
    a, b, x, v = drawn
    curvature = a[:, None] * table(x, FUNCTIONS[name][3]) * b
    both = curvature + curvature.T
    expected = both.sum(1) * v - both @ v
    product = TILED_HESSIAN_PRODUCT[name](a, b, x, v)
    np.testing.assert_allclose(product, expected, rtol=1e-12, atol=3e-14 * both.sum())


@pytest.mark.parametrize("size", [129, 2049])
def test_sizes_that_are_no_multiple_of_the_tile(size: int) -> None:
    rng = np.random.default_rng(size)
    a, b, x = rng.random(size), rng.random(size), rng.normal(size=size)
    expected = a @ np.logaddexp(0, x[:, None] - x) @ b
    assert float(TILED["softplus"](a, b, x)) == pytest.approx(expected, rel=1e-12)
    flow = a[:, None] * b / (1 + np.exp(x - x[:, None]))
    np.testing.assert_allclose(
        TILED_GRADIENT["softplus"](a, b, x)[2], flow.sum(1) - flow.sum(0), rtol=1e-10, atol=1e-14 * flow.sum()
    )


def test_zero_weights_give_zero() -> None:
    zeros, x = jnp.zeros(3), jnp.array([0.0, 1.0, 5.0])
    assert float(tiled_pair_sum(jnp.exp, zeros, jnp.ones(3), x)) == 0
    assert float(tiled_pair_sum(jnp.exp, jnp.ones(3), zeros, x)) == 0
    assert np.array_equal(TILED_GRADIENT["exp"](zeros, zeros, x)[2], np.zeros(3))


def test_equal_scalars_count_the_kernel_at_zero() -> None:
    a, b = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 0.25, 0.25])
    assert float(TILED["softplus"](a, b, jnp.full(3, 700.0))) == pytest.approx(7 * np.log(2), rel=1e-15)
    in_a, in_b, in_x = TILED_GRADIENT["softplus"](a, b, jnp.full(3, 700.0))
    # A row's slope is σ(0) times its own weight against the rest, and back.
    np.testing.assert_allclose(in_x, 0.5 * (np.asarray(a) - 7 * np.asarray(b)), rtol=1e-14)
    np.testing.assert_allclose(in_a, np.log(2), rtol=1e-14)
    np.testing.assert_allclose(in_b, 7 * np.log(2), rtol=1e-14)


def test_several_scalars_give_several_differences() -> None:
    a, b, x, y = np.random.default_rng(0).random((4, 5))
    expected = sum(a[i] * b[j] * np.exp(x[i] - x[j]) * (y[i] - y[j]) ** 2 for i in range(5) for j in range(5))
    result = tiled_pair_sum(lambda d, e: jnp.exp(d) * e**2, *(jnp.asarray(v) for v in (a, b, x, y)))
    assert float(result) == pytest.approx(expected, rel=1e-13)


def test_batch_axes_broadcast() -> None:
    rng = np.random.default_rng(1)
    a, b, x = (jnp.asarray(v) for v in (rng.random((2, 1, 4)), rng.random((3, 4)), rng.normal(size=4)))
    batch = tiled_pair_sum(jnp.square, a, b, x)
    assert batch.shape == (2, 3)
    differences = np.square(x[:, None] - x)
    expected = [[a[i, 0] @ differences @ b[j] for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(batch, expected, rtol=1e-13)
    mapped = jax.vmap(lambda b: tiled_pair_sum(jnp.square, a[0, 0], b, x))(jnp.asarray(b))
    np.testing.assert_allclose(mapped, batch[0], rtol=1e-14)


def test_derivatives_agree_with_finite_differences_to_third_order() -> None:
    rng = np.random.default_rng(2)
    a, b, x = (jnp.asarray(v) for v in rng.random((3, 4)))
    product = TILED_HESSIAN_PRODUCT["softplus"]
    check_grads(lambda x: product(a, b, x, a), (x,), 1, atol=1e-7, rtol=1e-7)
    # The products of a Hessian of differences add up to zero, so they are weighted.
    third = jax.jit(jax.grad(lambda x: b @ product(a, b, x, a)))(x)
    step = 1e-5 * np.eye(4)
    difference = [b @ (product(a, b, x + e, a) - product(a, b, x - e, a)) / 2e-5 for e in step]
    assert (np.abs(third) > 1e-3).all()
    np.testing.assert_allclose(third, difference, rtol=1e-6)


@given(weights_and_scalars())
def test_float32_in_and_out(drawn: tuple[np.ndarray, ...]) -> None:
    a, b, x, _ = (v.astype(np.float32) for v in drawn)
    result = TILED["softplus"](a, b, x)
    assert result.dtype == jnp.float32
    assert all(gradient.dtype == jnp.float32 for gradient in TILED_GRADIENT["softplus"](a, b, x))
    exact = a.astype(float) @ table(x.astype(float), FUNCTIONS["softplus"][1]) @ b.astype(float)
    # All terms are positive. The kernel is good to a few eps of itself and, by a difference d rounded by
    # eps |d| at a slope below 1, of |d|; the sums of N and N terms are to N eps each.
    size = (
        np.abs(a).astype(float) @ (table(x.astype(float), lambda d: np.logaddexp(0, d) + abs(d))) @ np.abs(b)
    )
    assert abs(float(result) - exact) <= (2 * len(x) + 8) * EPS32 * size + 1e-37


def test_float32_scalars_with_float64_weights_give_float64() -> None:
    result = tiled_pair_sum(jnp.square, jnp.ones(2), jnp.ones(2), jnp.array([0.0, 1.0], jnp.float32))
    assert result.dtype == jnp.float64


def test_wrong_arguments_are_named() -> None:
    ones = jnp.ones(3)
    with pytest.raises(ValueError, match="`x` must be at least one array; got none"):
        tiled_pair_sum(jnp.square, ones, ones)
    with pytest.raises(ValueError, match="`weights_first` must be a floating-point array; got dtype int"):
        tiled_pair_sum(jnp.square, jnp.ones(3, int), ones, ones)
    with pytest.raises(ValueError, match=r"`weights_second` must not be empty; got shape \(0,\)"):
        tiled_pair_sum(jnp.square, ones, jnp.ones(0), ones)
    with pytest.raises(ValueError, match=r"`x\[1\]` must be a floating-point array; got dtype int"):
        tiled_pair_sum(jnp.square, ones, ones, ones, jnp.ones(3, int))
    with pytest.raises(ValueError, match=r"`x\[0\]` must have at least 1 axis .* got shape \(\)"):
        tiled_pair_sum(jnp.square, ones, ones, jnp.array(1.0))
    with pytest.raises(ValueError, match=r"must agree in their last axis, .* x\[0\] of shape \(4,\)"):
        tiled_pair_sum(jnp.square, ones, ones, jnp.ones(4))
    with pytest.raises(ValueError, match=r"must broadcast together; got .*\(2,\).*\(3,\)"):
        tiled_pair_sum(jnp.square, jnp.ones((2, 3)), jnp.ones((3, 3)), ones)
