import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didsim.pairwise.forms import Analytic
from didsim.pairwise.sums import pair_sum
from tests.pairwise.pair_sum_cases import ALL, CASES, GRADIENTS, HALF_RANGES, PAIR_SUM, Pairs, weights

ANALYTIC = ("narrow", "sigmoid", "softplus")


def scalars(layout: str, half: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Points over a range of `2 half`."""
    if layout == "equal":
        return np.full(size, half)
    if layout == "outlier":
        x = 0.01 * rng.uniform(-1, 1, size)
        x[rng.integers(size)] = 2
        return half * x
    x = rng.uniform(-1, 1, size)
    x[:2] = (-1, 1)[:size]
    return half * x


WEIGHTS = ("random", "softmax", "separated", "signed", "zero")


@st.composite
def problems(draw: st.DrawFn, names: tuple[str, ...], dtype: str, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    name = draw(st.sampled_from(names))
    size, half = draw(st.sampled_from(sizes)), draw(st.sampled_from(HALF_RANGES))
    layout = draw(st.sampled_from(("uniform", "equal", "outlier")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = scalars(layout, half, size, rng)
    if name not in ANALYTIC:
        # On a grid on which differences are exact, and often at a knot.
        x = np.round(8 * x) / 8
    offset = draw(st.sampled_from((0.0, 0.25, -1.5)))
    a = weights(draw(st.sampled_from(WEIGHTS)), x, rng, first=True)
    b = weights(draw(st.sampled_from(WEIGHTS)), x, rng, first=False)
    return name, *(array.astype(dtype) for array in (a, b, x)), offset, rng.normal(size=size).astype(dtype)


def check_everything(name: str, a: Any, b: Any, x: Any, offset: float, v: Any) -> None:
    (value, gradients), forward, reverse = ALL[name](a, b, x, np.asarray(offset, x.dtype), v)
    assert value.dtype == forward.dtype == reverse.dtype == x.dtype
    pairs = Pairs(name, a, b, x, offset)
    pairs.check_value(value)
    pairs.check_gradients(gradients)
    pairs.check_product(forward, v)
    pairs.check_product(reverse, v)


@pytest.mark.core
@pytest.mark.slow
@given(problems(ANALYTIC, "float64", (65,)))
def test_analytic_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.slow
@given(problems(("softplus",), "float64", (2, 300)))
def test_higher_degrees_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.core
@pytest.mark.slow
@given(problems(("narrow", "softplus"), "float32", (65,)))
def test_analytic_sums_and_derivatives_agree_in_float32(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.core
@pytest.mark.slow
@given(problems(("constant", "line", "square", "cube", "quartic"), "float64", (65,)))
def test_polynomial_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.core
@given(problems(("square", "quartic"), "float32", (65,)))
def test_polynomial_sums_and_derivatives_agree_in_float32(
    problem: tuple[Any, ...],
) -> None:
    check_everything(*problem)


@pytest.mark.core
@pytest.mark.slow
@given(problems(("hinge", "absolute value", "wins", "knots"), "float64", (65,)))
def test_piecewise_linear_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.core
@given(problems(("hinge", "wins"), "float32", (65,)))
def test_piecewise_linear_sums_and_derivatives_agree_in_float32(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 63, 64, 100, 1000])
@pytest.mark.parametrize("name", ["softplus", "hinge"])
def test_every_half_range_at_every_size(name: str, size: int) -> None:
    rng = np.random.default_rng(size)
    for half in HALF_RANGES if size < 1000 else (1.0, 10.0, 1400.0):
        x = scalars("uniform", half, size, rng)
        x = x if name == "softplus" else np.round(8 * x) / 8
        a, b = rng.random((2, size))
        pairs = Pairs(name, a, b, x, 0.25)
        pairs.check_value(PAIR_SUM[name](a, b, x, 0.25))
        pairs.check_gradients(GRADIENTS[name](a, b, x, 0.25))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softplus", "hinge", "square"])
def test_separated_weights_keep_the_relative_bound(name: str) -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([20 + rng.random(150), -20 - rng.random(150)])
    a, b = rng.random((2, 300)) * np.stack([x > 0, x < 0])
    a[0] = b[-1] = 1
    value = float(PAIR_SUM[name](a, b, x, 0.0))
    expected = float(a @ Pairs(name, a, b, x, 0.0).table(0) @ b)
    # No two terms cancel: the sum of 5600 terms e^−41 or so is itself what the error is relative to.
    assert abs(value - expected) <= 1e-12 * abs(expected)
    if name == "softplus":
        assert 0 < expected < 1e-13
    Pairs(name, a, b, x, 0.0).check_gradients(GRADIENTS[name](a, b, x, 0.0))


def test_a_float32_scalar_with_float64_weights_gives_float64() -> None:
    x = np.linspace(-1, 1, 65).astype(np.float32)
    assert PAIR_SUM["softplus"](np.ones(65), np.ones(65), x, 0.0).dtype == jnp.float64


def test_half_precision_is_refused() -> None:
    ones = jnp.ones(65, jnp.bfloat16)
    with pytest.raises(ValueError, match="`weights_first` must have dtype float32 or float64; got bfloat16"):
        pair_sum(CASES["softplus"].kernel, ones, ones, ones)


# What any of these kernels costs, and what it is told of itself.


@pytest.mark.parametrize("strip", [2 * math.pi, 4 * math.pi, 10 * math.pi])
def test_a_strip_that_is_somewhat_too_large_still_gives_a_right_number(strip: float) -> None:
    function = jax.jit(lambda a, b, x: pair_sum(Analytic(CASES["softplus"].kernel.function, strip), a, b, x))
    rng = np.random.default_rng(8)
    for half in HALF_RANGES:
        a, b, x = *rng.random((2, 300)), half * rng.uniform(-1, 1, 300)
        Pairs("softplus", a, b, x, 0.0).check_value(function(a, b, x))


def test_a_strip_that_is_too_small_still_gives_a_right_number() -> None:
    function = jax.jit(lambda a, b, x: pair_sum(Analytic(CASES["softplus"].kernel.function, 0.1), a, b, x))
    rng = np.random.default_rng(9)
    for half in HALF_RANGES:
        a, b, x = *rng.random((2, 300)), half * rng.uniform(-1, 1, 300)
        Pairs("softplus", a, b, x, 0.0).check_value(function(a, b, x))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-8, 1e-12])
def test_a_looser_tolerance_is_kept(tolerance: float) -> None:
    function = jax.jit(lambda a, b, x: pair_sum(CASES["narrow"].kernel, a, b, x, tolerance=tolerance))
    rng = np.random.default_rng(10)
    for half in HALF_RANGES:
        a, b, x = *rng.random((2, 300)), half * rng.uniform(-1, 1, 300)
        expected = a @ Pairs("narrow", a, b, x, 0.0).table(0) @ b
        assert abs(float(function(a, b, x)) - expected) <= tolerance * expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softplus", "square", "hinge"])
def test_batch_axes_of_a_pair_sum_broadcast(name: str) -> None:
    rng = np.random.default_rng(11)
    a, b, x = rng.random((2, 1, 65)), rng.random((3, 65)), np.round(8 * rng.normal(size=65)) / 8
    offset = np.array([[0.0], [0.25]])
    batch = PAIR_SUM[name](a, b, x, offset)
    assert batch.shape == (2, 3)
    in_a, in_b, in_x, in_offset = jax.grad(lambda *args: jnp.sum(PAIR_SUM[name](*args)), (0, 1, 2, 3))(
        a, b, x, offset
    )
    assert (in_a.shape, in_b.shape, in_x.shape, in_offset.shape) == (a.shape, b.shape, x.shape, offset.shape)
    expected = np.zeros(65)
    for i in range(2):
        for j in range(3):
            pairs = Pairs(name, a[i, 0], b[j], x, offset[i, 0])
            pairs.check_value(batch[i, j])
            flow = pairs.a[:, None] * pairs.table(1) * pairs.b
            expected += (flow.sum(1) - flow.sum(0)).astype(float)
    np.testing.assert_allclose(in_x, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


# Errors.


def test_a_plain_function_is_no_kernel_of_a_pair_sum() -> None:
    ones: Any = jnp.ones(3)
    function: Any = jnp.square
    with pytest.raises(
        ValueError, match=r"Analytic\(function, strip\).*use tiled_pair_sum, which takes O\(N²\)"
    ):
        pair_sum(function, ones, ones, ones)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_error_at_the_call_and_under_jit(bad: float) -> None:
    ones = np.ones(65)
    x = np.linspace(-1, 1, 65)
    x[3] = bad
    with pytest.raises(ValueError, match=r"`x` must be finite everywhere; got .* at index \(3,\)"):
        pair_sum(CASES["softplus"].kernel, ones, ones, x)
    with pytest.raises(Exception, match="`x` must be finite everywhere"):
        jax.block_until_ready(PAIR_SUM["softplus"](ones, ones, x, 0.0))
    with pytest.raises(ValueError, match="`offset` must be finite"):
        pair_sum(CASES["softplus"].kernel, ones, ones, ones, bad)
    with pytest.raises(Exception, match="`offset` must be finite"):
        jax.block_until_ready(PAIR_SUM["softplus"](ones, ones, ones, bad))


def test_a_tolerance_that_cannot_be_met_is_named() -> None:
    ones: Any = jnp.ones(3)
    kernel = CASES["softplus"].kernel
    wrong: Any
    for wrong in (0.0, -1e-3, 1e-16, 1.0, 2.0):
        with pytest.raises(
            ValueError, match=r"`tolerance` must be at least 3.6e-15, the smallest that float64 can"
        ):
            pair_sum(kernel, ones, ones, ones, tolerance=wrong)
    for wrong, expected in ((math.nan, "finite"), ("small", "a real number")):
        with pytest.raises(ValueError, match=f"`tolerance` must be {expected}"):
            pair_sum(kernel, ones, ones, ones, tolerance=wrong)
    single = ones.astype(jnp.float32)
    with pytest.raises(
        ValueError, match=r"`tolerance` must be at least 1.9e-06, the smallest that float32 can"
    ):
        pair_sum(kernel, single, single, single, tolerance=1e-6)
    pair_sum(kernel, single, single, single, tolerance=2e-6)
    pair_sum(kernel, ones, ones, single, tolerance=1e-6)


def test_wrong_arguments_of_a_pair_sum_are_named() -> None:
    ones, kernel = jnp.ones(3), CASES["square"].kernel
    for place, name in enumerate(("weights_first", "weights_second", "x")):

        def call(value: Any, place: int = place) -> Any:
            arrays: list[Any] = [ones, ones, ones]
            arrays[place] = value
            return pair_sum(kernel, *arrays)

        with pytest.raises(ValueError, match=f"`{name}` must be a floating-point array; got dtype int"):
            call(jnp.ones(3, int))
        with pytest.raises(ValueError, match=rf"`{name}` must not be empty; got shape \(0,\)"):
            call(jnp.ones(0))
        with pytest.raises(ValueError, match=rf"`{name}` must have at least 1 axis .* got shape \(\)"):
            call(jnp.array(1.0))
        with pytest.raises(ValueError, match=rf"must agree in their last axis, .*{name} of shape \(4,\)"):
            call(jnp.ones(4))
    with pytest.raises(ValueError, match=r"must broadcast together; got .*\(2,\).*\(3,\)"):
        pair_sum(kernel, jnp.ones((2, 3)), jnp.ones((3, 3)), ones)
    with pytest.raises(ValueError, match=r"must broadcast together; got .*offset of shape \(3,\)"):
        pair_sum(kernel, jnp.ones((2, 3)), ones, ones, jnp.zeros(3))
