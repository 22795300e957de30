import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from didsim.pairwise import primitive as pairwise
from didsim.pairwise.exact import Sums
from didsim.pairwise.forms import Analytic, PiecewiseLinear, Polynomial
from didsim.pairwise.sums import pair_sum, tiled_pair_sum

Wide = np.longdouble
EPS32 = float(np.finfo(np.float32).eps)

# Kernels with their first and second derivatives, in NumPy.
FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "square": (jnp.square, np.square, lambda d: 2 * d, lambda d: 2 * np.ones_like(d)),
    "softplus": (
        jax.nn.softplus,
        lambda d: np.logaddexp(0, d),
        lambda d: (1 + np.tanh(d / 2)) / 2,
        lambda d: 1 / (2 * np.cosh(d / 2)) ** 2,
    ),
    "exp": (jnp.exp, np.exp, np.exp, np.exp),
}
TILED_SIZES = (1, 2, 7)

TILED = {
    name: jax.jit(lambda a, b, x, kernel=kernels[0]: tiled_pair_sum(kernel, a, b, x))
    for name, kernels in FUNCTIONS.items()
}
TILED_GRADIENT = {name: jax.jit(jax.grad(function, argnums=(0, 1, 2))) for name, function in TILED.items()}
TILED_HESSIAN_PRODUCT = {
    name: jax.jit(lambda a, b, x, v, f=function: jax.jvp(jax.grad(lambda x: f(a, b, x)), (x,), (v,))[1])
    for name, function in TILED.items()
}


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


# pair_sum. References are double loops in extended precision.


def logistic(d: Any) -> Any:
    tail = np.exp(-np.abs(d))
    return np.where(d >= 0, 1, tail) / (1 + tail)


def bell(d: Any) -> Any:
    return logistic(d) * logistic(-d)


class Case(NamedTuple):
    """A kernel; it and two derivatives in NumPy; their magnitudes; and those of what they are made of."""

    kernel: Any
    orders: tuple[Callable[..., Any], ...]
    sizes: tuple[Callable[..., Any], ...]
    parts: tuple[Callable[..., Any], ...]


def smooth(
    function: Callable[..., Any],
    strip: float,
    *orders: Callable[..., Any],
    parts: tuple[Callable[..., Any], ...] = (),
) -> Case:
    sizes = tuple(lambda d, order=order: np.abs(order(d)) for order in orders)
    return Case(Analytic(function, strip), orders, sizes, parts or sizes)


def polynomial(*coefficients: float) -> Case:
    orders: list[np.polynomial.Polynomial] = [np.polynomial.Polynomial(np.array(coefficients, Wide))]
    orders += [orders[0].deriv(), orders[0].deriv(2)]
    without_signs = [np.polynomial.Polynomial(np.abs(order.coef)) for order in orders]
    sizes = tuple(lambda d, p=p: p(np.abs(d)) for p in without_signs)
    return Case(Polynomial(coefficients), tuple(orders), sizes, sizes)


def lines(**fields: tuple[float, ...]) -> Case:
    kernel = PiecewiseLinear(**fields)

    def added(kernel: PiecewiseLinear, fold: Callable[..., Any]) -> Callable[..., Any]:
        def value(d: Any) -> Any:
            total = np.zeros_like(d)
            for knot, below, left, above, right, at in kernel.pieces:
                under, over = below + left * (knot - d), above + right * (d - knot)
                total += fold(np.where(d < knot, under, np.where(d > knot, over, at)))
            return total

        return value

    def of_order(order: int) -> PiecewiseLinear:
        return kernel if order == 0 else of_order(order - 1).derivative()

    orders = tuple(added(of_order(order), lambda v: v) for order in range(3))
    sizes = tuple(added(of_order(order), np.abs) for order in range(3))
    return Case(kernel, orders, sizes, sizes)


NARROW = Wide(0.3)
CASES: dict[str, Case] = {
    "softplus": smooth(
        lambda d: jax.nn.softplus(-d),
        math.pi,
        lambda d: np.logaddexp(Wide(0), -d),
        lambda d: -logistic(-d),
        bell,
    ),
    # JAX takes σ' = σ (1 − σ) and σ'' = σ' (1 − 2 σ), in which 1 − σ is good to eps and not to eps of itself.
    "sigmoid": smooth(
        jax.nn.sigmoid,
        math.pi,
        logistic,
        bell,
        lambda d: bell(d) * (logistic(-d) - logistic(d)),
        parts=(logistic, logistic, logistic),
    ),
    "narrow": smooth(
        lambda d: jax.nn.sigmoid(d / 0.3),
        0.3 * math.pi,
        lambda d: logistic(d / NARROW),
        lambda d: bell(d / NARROW) / NARROW,
        lambda d: bell(d / NARROW) * (logistic(-d / NARROW) - logistic(d / NARROW)) / NARROW**2,
        parts=(
            lambda d: logistic(d / NARROW),
            lambda d: logistic(d / NARROW) / NARROW,
            lambda d: logistic(d / NARROW) / NARROW**2,
        ),
    ),
    "constant": polynomial(2.0),
    "line": polynomial(0.5, -1.0),
    "square": polynomial(0.0, 0.0, 1.0),
    "cube": polynomial(1.0, 0.0, -3.0, 2.0),
    "quartic": polynomial(1.0, -2.0, 0.5, 0.0, 0.25),
    "hinge": lines(knots=(1.0,), left=(1.0,)),
    "absolute value": lines(knots=(0.0,), left=(1.0,), right=(1.0,)),
    "wins": lines(knots=(0.0,), above=(1.0,)),
    "knots": lines(
        knots=(-1.5, 0.25, 2.0),
        below=(1.0, 0.0, -2.0),
        left=(0.0, 3.0, 1.0),
        above=(0.5, 0.0, 2.0),
        right=(1.0, 2.0, 0.0),
    ),
}
ANALYTIC = ("narrow", "sigmoid", "softplus")
HALF_RANGES = (0.0, 1e-8, 0.1, 1.0, 5.0, 10.0, 20.0, 40.0, 200.0, 1400.0)
TOLERANCES = {"float32": 3e-5, "float64": 1e-12}
SLOPE_TOLERANCES = {"float32": 3e-5, "float64": 1e-10}


def all_derivatives(kernel: Any) -> Callable[..., Any]:
    """The value, the gradients, and two Hessian-vector products in x: forward over reverse, reverse twice."""

    def function(a: Any, b: Any, x: Any, offset: Any, v: Any) -> Any:
        def value(*arguments: Any) -> Any:
            return pair_sum(kernel, *arguments)

        def slope(x: Any) -> Any:
            return jax.grad(value, 2)(a, b, x, offset)

        gradients = jax.value_and_grad(value, (0, 1, 2, 3))(a, b, x, offset)
        forward = jax.jvp(slope, (x,), (v,))[1]
        return gradients, forward, jax.grad(lambda x: slope(x) @ v)(x)

    return jax.jit(function)


PAIR_SUM = {
    name: jax.jit(lambda a, b, x, offset, kernel=case.kernel: pair_sum(kernel, a, b, x, offset))
    for name, case in CASES.items()
}
GRADIENTS = {name: jax.jit(jax.grad(function, argnums=(0, 1, 2, 3))) for name, function in PAIR_SUM.items()}
ALL = {name: all_derivatives(case.kernel) for name, case in CASES.items()}


class Pairs:
    """A double loop over all pairs, with the errors that the contract of pair_sum permits.

    Besides the tolerance, the rounding that any sum has counts. A term A_i B_j k(d_ij) is good to 8 eps of
    itself, for the kernel and three products, and its difference, rounded twice, to
    eps (|x_i − x_j| + |d_ij|), which moves it by the slope times that. Adding N terms, and N sums of
    them, rounds 2 N times by up to eps / 2 of a partial sum: random as they are, by 4 √N eps of all
    magnitudes, with a margin of several standard deviations.
    """

    def __init__(self, name: str, a: np.ndarray, b: np.ndarray, x: np.ndarray, offset: float):
        self.case, self.dtype = CASES[name], x.dtype.name
        self.a, self.b, self.x = (array.astype(Wide) for array in (a, b, x))
        apart = self.x[:, None] - self.x
        self.d = apart - Wide(offset)
        self.moved = np.abs(apart) + np.abs(self.d)
        self.eps = float(np.finfo(x.dtype).eps)
        self.units = (8 + 4 * math.sqrt(len(x))) * self.eps

    @functools.cache  # noqa: B019
    def table(self, order: int) -> np.ndarray:
        return self.case.orders[order](self.d)

    @functools.cache  # noqa: B019
    def size(self, order: int) -> np.ndarray:
        return self.case.sizes[order](self.d)

    def allowed(self, order: int, tolerance: float) -> np.ndarray:
        """The error that each term of a sum of a derivative of the kernel may add."""
        above = self.size(order + 1) if order < 2 else 4 * self.size(order)
        parts = self.case.parts[order](self.d)
        return tolerance * self.size(order) + self.units * parts + self.eps * self.moved * above

    def check_value(self, value: Any) -> None:
        expected = self.a @ self.table(0) @ self.b
        error = np.abs(Wide(value) - expected)
        assert error <= np.abs(self.a) @ self.allowed(0, TOLERANCES[self.dtype]) @ np.abs(self.b) + 1e-300

    def check_gradients(self, gradients: Any) -> None:
        in_a, in_b, in_x, in_offset = (np.asarray(gradient).astype(Wide) for gradient in gradients)
        values, slopes = self.table(0), self.table(1)
        sides = np.abs(self.a), np.abs(self.b)
        for entries, expected, terms in (
            (in_a, values @ self.b, self.allowed(0, SLOPE_TOLERANCES[self.dtype]) @ sides[1]),
            (in_b, self.a @ values, sides[0] @ self.allowed(0, SLOPE_TOLERANCES[self.dtype])),
        ):
            assert np.max(np.abs(entries - expected)) <= np.max(terms) + 1e-300
        flow = self.a[:, None] * slopes * self.b
        terms = sides[0][:, None] * self.allowed(1, SLOPE_TOLERANCES[self.dtype]) * sides[1]
        largest = np.max(terms.sum(1) + terms.sum(0)) + 1e-300
        assert np.max(np.abs(in_x - (flow.sum(1) - flow.sum(0)))) <= largest
        # The offset's is a sum of N entries, each as good as those of x.
        assert np.abs(in_offset + flow.sum()) <= len(self.x) * largest

    def check_product(self, product: Any, v: np.ndarray) -> None:
        both = self.a[:, None] * self.table(2) * self.b
        both = both + both.T
        expected = both.sum(1) * v - both @ v
        # Made of A_i v_i Σ_j B_j k'' and A_i Σ_j B_j v_j k'', and the same for columns. Each sum is good to
        # the tolerance relative to the largest of its kind.
        terms = self.allowed(2, SLOPE_TOLERANCES[self.dtype])
        rows = np.max(np.abs(self.a)) * np.max(terms @ np.abs(self.b))
        columns = np.max(np.abs(self.b)) * np.max(np.abs(self.a) @ terms)
        largest = 2 * np.max(np.abs(v)) * (rows + columns) + 1e-300
        assert np.max(np.abs(np.asarray(product).astype(Wide) - expected)) <= largest


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


def weights(kind: str, x: np.ndarray, rng: np.random.Generator, *, first: bool) -> np.ndarray:
    if kind == "zero":
        return np.zeros(len(x))
    if kind == "signed":
        return rng.normal(size=len(x))
    if kind == "softmax":
        logits = 4 * rng.normal(size=len(x))
        return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    if kind == "separated":
        threshold = np.quantile(x, 0.75 if first else 0.25)
        return rng.random(len(x)) * (x >= threshold if first else x <= threshold)
    return rng.random(len(x))


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


@pytest.mark.slow
@given(problems(ANALYTIC, "float64", (65,)))
def test_analytic_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.slow
@given(problems(("softplus",), "float64", (2, 300)))
def test_higher_degrees_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.slow
@given(problems(("narrow", "softplus"), "float32", (65,)))
def test_analytic_sums_and_derivatives_agree_in_float32(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@pytest.mark.slow
@given(problems(("constant", "line", "square", "cube", "quartic"), "float64", (65,)))
def test_polynomial_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


@given(problems(("square", "quartic"), "float32", (65,)))
def test_polynomial_sums_and_derivatives_agree_in_float32(
    problem: tuple[Any, ...],
) -> None:
    check_everything(*problem)


@pytest.mark.slow
@given(problems(("hinge", "absolute value", "wins", "knots"), "float64", (65,)))
def test_piecewise_linear_sums_and_derivatives_agree_with_a_double_loop(problem: tuple[Any, ...]) -> None:
    check_everything(*problem)


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


def test_half_precision_is_summed_in_its_own_dtype() -> None:
    ones = jnp.ones(65, jnp.bfloat16)
    value = pair_sum(CASES["softplus"].kernel, ones, ones, ones)
    assert value.dtype == jnp.bfloat16
    assert float(value) == pytest.approx(65**2 * math.log(2), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", "quartic"])
def test_third_derivatives_agree_with_finite_differences(name: str) -> None:
    rng = np.random.default_rng(6)
    a, b, x, v = (jnp.asarray(row) for row in rng.random((4, 65)))

    @jax.jit
    def product(x: Any) -> Any:
        return jax.jvp(lambda x: jax.grad(PAIR_SUM[name], 2)(a, b, x, 0.25), (x,), (v,))[1]

    check_grads(product, (x,), 1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softplus", "cube", "knots"])
def test_forward_derivatives_in_everything_agree_with_the_gradient(name: str) -> None:
    rng = np.random.default_rng(7)
    primals = (*rng.random((3, 65)), np.asarray(0.3))
    tangents = (*rng.normal(size=(3, 65)), np.asarray(-0.7))
    _, change = jax.jit(lambda p, t: jax.jvp(PAIR_SUM[name], p, t))(primals, tangents)
    expected = sum(np.sum(g * t) for g, t in zip(GRADIENTS[name](*primals), tangents, strict=True))
    size = sum(np.sum(np.abs(g * t)) for g, t in zip(GRADIENTS[name](*primals), tangents, strict=True))
    assert abs(float(change) - expected) <= 1e-12 * size


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


# Which arrays are mapped over, and one entry too wide for the fast way.
MAPPED = {
    "everything": (0, 0, 0, 0),
    "x": (None, None, 0, None),
    "weights": (0, 0, None, None),
    "first weights": (0, None, None, None),
    "offset": (None, None, None, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("mapped", sorted(MAPPED))
def test_a_mapped_sum_and_its_gradients_are_those_of_each_entry(mapped: str) -> None:
    rng = np.random.default_rng(12)
    half = np.array([[1.0], [1400.0], [0.0]])
    full = (*rng.random((2, 3, 65)), half * rng.uniform(-1, 1, (3, 65)), np.array([0.0, 0.25, -1.5]))
    axes = MAPPED[mapped]
    arguments = [array if axis == 0 else array[0] for array, axis in zip(full, axes, strict=True)]
    function = PAIR_SUM["softplus"]
    values = jax.jit(jax.vmap(function, axes))(*arguments)
    of_grad = jax.jit(jax.vmap(jax.grad(function, (0, 1, 2, 3)), axes))(*arguments)
    for entry in range(3):
        a, b, x, offset = (
            array[entry] if axis == 0 else array[0] for array, axis in zip(full, axes, strict=True)
        )
        pairs = Pairs("softplus", a, b, x, float(offset))
        pairs.check_value(values[entry])
        pairs.check_gradients([gradient[entry] for gradient in of_grad])
    # The gradient of a sum over the batch adds up where an array is shared.
    of_vmap = jax.jit(jax.grad(lambda *args: jnp.sum(jax.vmap(function, axes)(*args)), (0, 1, 2, 3)))(
        *arguments
    )
    for gradient, each, axis in zip(of_vmap, of_grad, axes, strict=True):
        expected = np.asarray(each if axis == 0 else each.sum(0))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10 * np.abs(each).max())


def test_a_hessian_by_mapped_products_is_symmetric_and_right() -> None:
    rng = np.random.default_rng(13)
    a, b, x = *rng.random((2, 65)), rng.normal(size=65)
    hessian = np.asarray(jax.jit(jax.hessian(PAIR_SUM["sigmoid"], 2))(a, b, x, 0.0))
    both = Pairs("sigmoid", a, b, x, 0.0)
    flow = both.a[:, None] * both.table(2) * both.b
    expected = np.diag((flow + flow.T).sum(1)) - flow - flow.T
    np.testing.assert_allclose(
        hessian, expected.astype(float), rtol=0, atol=1e-11 * np.abs(flow).sum(1).max()
    )


def test_a_batch_of_more_points_than_are_worked_on_at_once() -> None:
    rng = np.random.default_rng(14)
    a, b, x = *rng.random((2, 100, 65)), rng.normal(size=(100, 65))
    values = PAIR_SUM["softplus"](a, b, x, 0.0)
    for entry in range(100):
        Pairs("softplus", a[entry], b[entry], x[entry], 0.0).check_value(values[entry])


def test_other_values_do_not_trace_again() -> None:
    traced = 0

    def kernel(d: Any) -> Any:
        nonlocal traced
        traced += 1
        return jnp.exp(-(d**2))

    function = jax.jit(lambda a, b, x, offset: pair_sum(Analytic(kernel, 1.0), a, b, x, offset))
    rng = np.random.default_rng(15)
    function(*rng.random((2, 65)), rng.normal(size=65), 0.0)
    once = traced
    assert once > 0
    for half in HALF_RANGES:
        function(*rng.normal(size=(2, 65)), half * rng.normal(size=65), half)
    assert traced == once


def test_equal_kernels_at_the_call_do_not_trace_again() -> None:
    traced = 0

    def kernel(d: Any) -> Any:
        nonlocal traced
        traced += 1
        return jnp.exp(-(d**2))

    x = jnp.linspace(-1, 1, 65)
    pair_sum(Analytic(kernel, 1.0), x, x, x)
    once = traced
    pair_sum(Analytic(kernel, 1.0), x, x, 2 * x)
    assert traced == once > 0


def programs_within(parameters: Any) -> Iterator[Any]:
    is_program = lambda p: isinstance(p, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)  # noqa: E731
    for leaf in jax.tree.leaves(parameters, is_leaf=is_program):
        if isinstance(leaf, jax.extend.core.ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, jax.extend.core.Jaxpr):
            yield leaf


def shapes_within(program: Any) -> set[tuple[int, ...]]:
    """The shapes of all arrays that a program makes, those of its inner programs and primitives included."""
    shapes: set[tuple[int, ...]] = set()
    for equation in program.eqns:
        shapes |= {tuple(variable.aval.shape) for variable in equation.outvars}
        for inner in programs_within(equation.params):
            shapes |= shapes_within(inner)
        if equation.primitive.name == "pair_sums":
            operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
            inner = jax.make_jaxpr(lambda *args, p=equation.params: pairwise._compute(*args, **p))(*operands)
            shapes |= shapes_within(inner.jaxpr)
    return shapes


def elements(function: Callable[..., Any], *arguments: Any) -> int:
    """The number of elements of the largest array that a program makes."""
    shapes = shapes_within(jax.make_jaxpr(function)(*arguments).jaxpr)
    return max(math.prod(shape) for shape in shapes)


def test_no_array_of_all_pairs_is_made() -> None:
    size = 3000
    ones, batch = jnp.ones(size), jnp.ones((2, size))
    tiled = TILED["softplus"]
    # A tile has 8 rows, and derivatives hold a few numbers for each row: far below the 9 million pairs.
    assert 8 * size <= elements(tiled, ones, ones, ones) <= 16 * size
    assert elements(jax.grad(tiled, argnums=2), ones, ones, ones) <= 16 * size
    assert elements(TILED_HESSIAN_PRODUCT["softplus"], ones, ones, ones, ones) <= 16 * size
    for name in ("softplus", "square", "hinge"):
        value = PAIR_SUM[name]
        # A table of 512 by 512 nodes, and in a batch no more than one of them at once.
        for arguments in ((ones, ones, ones, 0.0), (batch, batch, batch, 0.0)):
            assert size <= elements(value, *arguments) <= 512**2
            of_batch = jax.grad(lambda *args, f=value: jnp.sum(f(*args)), argnums=2)
            assert elements(of_batch, *arguments) <= 512**2
        assert elements(ALL[name], ones, ones, ones, 0.0, ones) <= 512**2
    everything = np.ones((size, size))
    assert elements(lambda x: jnp.sum(jnp.exp(x[:, None] - x) * everything), ones) == size * size


# Errors.


def test_a_plain_function_is_no_kernel_of_a_pair_sum() -> None:
    ones: Any = jnp.ones(3)
    function: Any = jnp.square
    with pytest.raises(ValueError, match=r"Analytic\(function, strip\).*tiled_pair_sum takes any function"):
        pair_sum(function, ones, ones, ones)


def test_an_analytic_kernel_needs_a_function_and_a_strip() -> None:
    build: Any = Analytic
    with pytest.raises(TypeError, match="strip"):
        build(jnp.exp)
    for strip in (0, -1.0, math.inf, math.nan, "wide", None, 1j):
        with pytest.raises(ValueError, match="`strip` must be positive and finite; got"):
            build(jnp.exp, strip)
    with pytest.raises(ValueError, match="`function` must be a function of a difference; got 3"):
        build(3, 1.0)


def test_a_polynomial_needs_finite_coefficients() -> None:
    build: Any = Polynomial
    for coefficients in ((), (1.0, math.nan), (math.inf,), 3.0, ("one",), None):
        with pytest.raises(ValueError, match="`coefficients` must be a sequence of at least one finite"):
            build(coefficients)


def test_a_piecewise_linear_kernel_needs_numbers_for_each_knot() -> None:
    build: Any = PiecewiseLinear
    for knots in ((), (math.nan,), (math.inf,), 1.0):
        with pytest.raises(ValueError, match="`knots` must be a sequence of at least one finite number"):
            build(knots=knots)
    for name in ("below", "left", "above", "right"):
        with pytest.raises(ValueError, match=f"`{name}` must have one number for each of 2 knots; got 1"):
            build(knots=(0.0, 1.0), **{name: (1.0,)})
        with pytest.raises(ValueError, match=f"`{name}` must be a sequence of at least one finite number"):
            build(knots=(0.0,), **{name: (math.nan,)})


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
    for wrong in (0.0, -1e-3, 1e-16, 1.0, 2.0, math.nan, "small"):
        with pytest.raises(ValueError, match=r"`tolerance` must be at least 3.6e-15, which is what float64"):
            pair_sum(kernel, ones, ones, ones, tolerance=wrong)
    single = ones.astype(jnp.float32)
    with pytest.raises(ValueError, match=r"`tolerance` must be at least 1.9e-06, which is what float32 can"):
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


# Which way is taken. Last, as the caches of everything compiled so far are cleared.


@pytest.fixture
def exact_sums_are_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def no_sums(wanted: Any, first: Any, second: Any, x: Any, offset: Any) -> Sums:
        nothing = jnp.full_like(x, jnp.nan)
        return Sums(
            [nothing[:, 0] for _ in wanted.totals],
            [nothing for _ in wanted.rows],
            [nothing for _ in wanted.columns],
        )

    monkeypatch.setattr(pairwise, "tiled_sums", no_sums)
    jax.clear_caches()
    yield
    monkeypatch.undo()
    jax.clear_caches()


def is_fast(name: str, size: int, half: float, dtype: str = "float64", *, separated: bool = False) -> bool:
    """Whether neither the sum nor its gradient is exact, which here is NaN."""
    x = jnp.linspace(-half, half, size, dtype=dtype)
    a, b = jnp.full((2, size), 1 / size, dtype)
    if separated:
        a, b = a * (x > 0.9 * half), b * (x < -0.9 * half)
    offset = jnp.zeros((), dtype)
    value, gradient = PAIR_SUM[name](a, b, x, offset), GRADIENTS[name](a, b, x, offset)[2]
    finite = math.isfinite(value), bool(np.isfinite(gradient).all())
    assert finite[0] == finite[1]
    return finite[0]


@pytest.mark.slow
@pytest.mark.usefixtures("exact_sums_are_nan")
def test_analytic_sums_are_fast_within_their_range_and_exact_beyond() -> None:
    for dtype in ("float64", "float32"):
        for half, fast in (
            (0.0, True),
            (1e-8, True),
            (1.0, True),
            (10.0, True),
            (40.0, True),
            (1400.0, False),
        ):
            assert is_fast("softplus", 1000, half, dtype) == fast
        # All terms are below e^−36, where interpolation of a function of size 40 has no digit left.
        assert not is_fast("softplus", 1000, 20.0, dtype, separated=True)
    assert is_fast("softplus", 64, 1.0)
    assert not is_fast("softplus", 63, 1.0)
    # 64 points carry a degree of 32 at most, good to 1 strip or so.
    assert not is_fast("softplus", 64, 10.0)


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_polynomials_and_lines_are_fast_at_any_range() -> None:
    for name in ("square", "hinge"):
        for half in (0.0, 1.0, 1400.0):
            assert is_fast(name, 64, half)
    assert is_fast("hinge", 64, 20.0, separated=True)
    assert not is_fast("square", 63, 1.0)


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_a_batch_is_exact_for_all_or_for_none() -> None:
    a = jnp.full((2, 300), 1 / 300)
    x = jnp.linspace(-1, 1, 300)
    together = PAIR_SUM["softplus"](a, a, jnp.stack([x, 1400 * x]), 0.0)
    assert np.isnan(together).all()
    assert np.isfinite(PAIR_SUM["softplus"](a, a, jnp.stack([x, 10 * x]), 0.0)).all()


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_a_strip_of_another_kernel_is_noticed() -> None:
    # A step of width 0.01 that claims the strip of one of width 1.
    kernel = Analytic(lambda d: jax.nn.sigmoid(100 * d), math.pi)
    x, a = jnp.linspace(-10, 10, 300), jnp.ones(300)
    assert np.isnan(jax.jit(lambda a, x: pair_sum(kernel, a, a, x))(a, x))
