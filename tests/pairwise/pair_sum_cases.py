"""What several test files of this folder share."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from didsim.pairwise.forms import Analytic, PiecewiseLinear, Polynomial
from didsim.pairwise.sums import pair_sum, tiled_pair_sum

Wide = np.longdouble

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

TILED = {
    name: jax.jit(lambda a, b, x, kernel=kernels[0]: tiled_pair_sum(kernel, a, b, x))
    for name, kernels in FUNCTIONS.items()
}
TILED_HESSIAN_PRODUCT = {
    name: jax.jit(lambda a, b, x, v, f=function: jax.jvp(jax.grad(lambda x: f(a, b, x)), (x,), (v,))[1])
    for name, function in TILED.items()
}


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
