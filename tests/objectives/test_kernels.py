import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax

import didsim
from didsim import Contrastive, Joint, Labelled, Mixture, Pairs, Problem
from didsim.objectives.kernels import (
    Exponential,
    Hinge,
    Kernel,
    Linear,
    Logistic,
    LogRatioModulated,
    ReverseCrossEntropy,
    Sigmoid,
    Squared,
)
from didsim.objectives.rewards import LogRatio
from didsim.objectives.terms import Pair
from tests.strategies import hostile_logits
from tests.tables import expectation, table

EPS = float(np.finfo(np.float64).eps)

POINTS = np.array([-1400.0, -30.0, -1.0, 0.0, 1e-9, 0.5, 30.0, 1400.0])
D = jnp.asarray(POINTS)


def test_the_logistic_kernel_with_and_without_smoothing_and_margin() -> None:
    np.testing.assert_allclose(Logistic()(D), -log_expit(POINTS), rtol=1e-14)
    shifted = Logistic(margin=jnp.array(0.7))(D)
    np.testing.assert_allclose(shifted, -log_expit(POINTS - 0.7), rtol=1e-14)
    both = Logistic(smoothing=jnp.array(0.2), margin=jnp.array(0.7))(D)
    np.testing.assert_allclose(
        both, -0.8 * log_expit(POINTS - 0.7) - 0.2 * log_expit(0.7 - POINTS), rtol=1e-13
    )


def test_the_other_kernels() -> None:
    np.testing.assert_allclose(Squared(jnp.array(2.5))(D), (POINTS - 2.5) ** 2, rtol=1e-15)
    np.testing.assert_allclose(Hinge(jnp.array(2.5))(D), [max(0, 2.5 - d) for d in POINTS], rtol=1e-15)
    np.testing.assert_allclose(Exponential()(D[1:]), np.exp(-POINTS[1:]), rtol=1e-14)
    assert np.array_equal(Linear()(D), -POINTS)
    np.testing.assert_allclose(Sigmoid()(D), 1 - expit(POINTS), rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(Sigmoid()(D), expit(-POINTS), rtol=1e-14)


@pytest.mark.parametrize("smoothing", [1e-30, 1e-3, 0.3, 0.49])
def test_reverse_cross_entropy_is_a_divergence_of_labels(smoothing: float) -> None:
    kernel = ReverseCrossEntropy(jnp.array(smoothing))
    loss = expit(POINTS) * (log_expit(POINTS) - np.log1p(-smoothing))
    loss += expit(-POINTS) * (log_expit(-POINTS) - np.log(smoothing))
    # Both parts are rounded by eps of the logarithms, and nearly cancel at the minimum.
    error = 8 * EPS * (1 - np.log(smoothing))
    np.testing.assert_allclose(kernel(D), loss, rtol=1e-13, atol=error)
    least = jnp.log1p(-smoothing) - jnp.log(smoothing)
    assert abs(float(kernel(least))) <= error
    assert (kernel(D) >= -error).all()
    # It is bounded by its limits.
    np.testing.assert_allclose(kernel(D)[0], -np.log(smoothing), rtol=1e-14)
    np.testing.assert_allclose(kernel(D)[-1], -np.log1p(-smoothing), rtol=1e-13, atol=error)
    slopes = jax.vmap(jax.grad(lambda d: kernel(d)))(D)
    expected = expit(POINTS) * expit(-POINTS) * (POINTS - float(least))
    np.testing.assert_allclose(slopes, expected, rtol=1e-12, atol=error)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_the_modulated_kernel_blends_two_losses(temperature: float) -> None:
    points = np.array([-1e4, -800.0, -30.0, -1.0, -1e-9, 0.0, 0.5, 30.0, 300.0, 800.0, 1e4])
    kernel = LogRatioModulated(jnp.array(temperature))
    blend = expit(points / temperature)
    expected = -log_expit(points) * expit(-points / temperature)
    expected += np.exp(-points + log_expit(points / temperature))
    found = kernel(jnp.asarray(points))
    assert np.isfinite(found).all()
    # An exponent of size A is off by eps of it.
    sizes = np.abs(points) * (1 + 1 / temperature) + 1
    np.testing.assert_array_less(np.abs(found - expected), 8 * EPS * sizes * expected + 1e-300)
    slopes = jax.vmap(jax.grad(lambda d: kernel(d)))(jnp.asarray(points))
    assert np.isfinite(slopes).all()
    change = blend * expit(-points / temperature) / temperature
    exponential = np.exp(-points + log_expit(points / temperature))
    rate = -expit(-points) * (1 - blend) + log_expit(points) * change
    rate += exponential * (expit(-points / temperature) / temperature - 1)
    gross = 1 + np.abs(exponential) / temperature
    np.testing.assert_array_less(np.abs(slopes - rate), 16 * EPS * sizes * gross + 1e-300)


def test_the_modulated_kernel_in_float32_neither_overflows_nor_vanishes() -> None:
    kernel = LogRatioModulated(jnp.array(0.05, jnp.float32))
    d = jnp.array([-1e4, -100.0, 0.0, 100.0, 1e4], jnp.float32)
    loss, slopes = kernel(d), jax.vmap(jax.grad(lambda d: kernel(d)))(d)
    assert loss.dtype == slopes.dtype == jnp.float32
    np.testing.assert_allclose(loss, [1e4, 100, (np.log(2) + 1) / 2, 0, 0], rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(slopes[jnp.array([0, 1, 3, 4])], [-1, -1, 0, 0], rtol=1e-6, atol=1e-37)


KERNELS: dict[str, tuple[Kernel, Callable[[np.ndarray], np.ndarray], Callable[[float], float]]] = {
    # With its formula, and its steepest slope between rewards of a size.
    "logistic": (Logistic(), lambda d: -log_expit(d), lambda _: 1.0),
    "smoothed": (
        Logistic(smoothing=jnp.array(0.2)),
        lambda d: -0.8 * log_expit(d) - 0.2 * log_expit(-d),
        lambda _: 1.0,
    ),
    "margin": (Logistic(margin=jnp.array(0.7)), lambda d: -log_expit(d - 0.7), lambda _: 1.0),
    "both": (
        Logistic(smoothing=jnp.array(0.2), margin=jnp.array(0.7)),
        lambda d: -0.8 * log_expit(d - 0.7) - 0.2 * log_expit(0.7 - d),
        lambda _: 1.0,
    ),
    "squared": (Squared(jnp.array(2.5)), lambda d: (d - 2.5) ** 2, lambda size: 2 * (2 * size + 2.5)),
    "hinge": (Hinge(jnp.array(2.5)), lambda d: np.maximum(0, 2.5 - d), lambda _: 1.0),
    "exponential": (Exponential(), lambda d: np.exp(-d), lambda size: np.exp(2 * size)),
    "linear": (Linear(), lambda d: -d, lambda _: 1.0),
    "sigmoid": (Sigmoid(), lambda d: expit(-d), lambda _: 0.25),
    "reverse": (
        ReverseCrossEntropy(jnp.array(0.05)),
        lambda d: expit(d) * (log_expit(d) - np.log(0.95)) + expit(-d) * (log_expit(-d) - np.log(0.05)),
        lambda _: 2.0,
    ),
    # (−log σ)(1 − m) has a slope of 1 + log 2/(4τ) at most, e^−d m one of 1/τ where τ < 1.
    "modulated": (
        LogRatioModulated(jnp.array(0.3)),
        lambda d: -log_expit(d) * expit(-d / 0.3) + np.exp(-d + log_expit(d / 0.3)),
        lambda _: 2 / 0.3 + 2,
    ),
}


@eqx.filter_jit
def expectations(problem: Problem, x: jax.Array, y: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    return {
        name: (kernel.expect(problem, x), kernel.expect_across(problem, x, y))
        for name, (kernel, _, _) in KERNELS.items()
    }


@st.composite
def instances(draw: st.DrawFn, kind: str) -> tuple[Problem, np.ndarray, np.ndarray]:
    size = 5
    logits = hostile_logits(size)
    one = logits.map(log_softmax)
    parts = Contrastive(draw(one), draw(one)), Labelled(draw(logits), draw(one), draw(one))
    indices = st.lists(st.integers(0, size - 1), min_size=4, max_size=4).map(np.array)
    problem: Problem = {
        "contrastive": lambda: parts[0],
        "labelled": lambda: parts[1],
        "pairs": lambda: Pairs(draw(indices), draw(indices), np.array([1.0, 0.5, 3.0, 0.0])),
        "joint": lambda: Joint(log_softmax(np.stack([draw(logits) for _ in range(size)]))),
        "mixture": lambda: Mixture(parts, np.log([0.25, 0.75])),
    }[kind]()
    return problem, draw(logits), draw(logits)


def compare(problem: Problem, x: np.ndarray, y: np.ndarray, tolerance: float) -> None:
    log_table = table(problem, len(x))
    found = expectations(problem, jnp.asarray(x), jnp.asarray(y))
    size = float(max(np.abs(x).max(), np.abs(y).max()))
    for name, (_, formula, steepest) in KERNELS.items():
        if name == "exponential" and size > 30:
            continue
        for result, d in zip(found[name], (x[:, None] - x, x[:, None] - y), strict=True):
            values = formula(d)
            expected, gross = expectation(log_table, values), expectation(log_table, np.abs(values))
            # Differences of rewards of size A are off by 2 eps A or so, and moments by as much.
            error = 16 * EPS * steepest(size) * (size + 3)
            assert abs(float(result) - expected) <= tolerance * (gross + 1e-3) + error, name


@pytest.mark.parametrize("kind", ["contrastive", "labelled", "pairs", "joint", "mixture"])
@given(data=st.data())
def test_expectations_agree_with_all_pairs(kind: str, data: st.DataObject) -> None:
    compare(*data.draw(instances(kind)), 1e-12)


@pytest.mark.parametrize("kind", ["contrastive", "labelled"])
def test_expectations_over_many_sequences_agree_with_all_pairs(kind: str) -> None:
    """From 64 sequences on, in near-linear time where a kernel says how."""
    rng = np.random.default_rng(0)
    for scale in (0.3, 5.0):
        w, y, first, second = (log_softmax(rng.normal(size=90)) for _ in range(4))
        parts = Contrastive(w, y), Labelled(rng.normal(size=90), first, second)
        problem: Problem = {
            "contrastive": parts[0],
            "labelled": parts[1],
        }[kind]
        x, y = scale * rng.normal(size=(2, 90))
        compare(problem, x, y, 1e-11)


@pytest.mark.parametrize(
    "kernel", [Logistic(), Logistic(smoothing=jnp.array(0.1)), Squared(jnp.array(1.0)), Hinge(jnp.array(1.0))]
)
def test_slopes_are_finite_and_do_not_fall(kernel: Kernel) -> None:
    slopes = jax.vmap(jax.grad(lambda d: kernel(d)))(D)
    assert np.isfinite(slopes).all()
    assert (np.diff(slopes) >= 0).all()


def test_derivatives_of_the_logistic_kernel_of_any_order() -> None:
    kernel = Logistic()
    p, q = expit(-POINTS[1:]), expit(POINTS[1:])
    first = jax.vmap(jax.grad(lambda d: kernel(d)))(D[1:])
    second = jax.vmap(jax.grad(jax.grad(lambda d: kernel(d))))(D[1:])
    third = jax.vmap(jax.jacfwd(jax.grad(jax.grad(lambda d: kernel(d)))))(D[1:])
    np.testing.assert_allclose(first, -p, rtol=1e-14)
    np.testing.assert_allclose(second, p * q, rtol=1e-14)
    np.testing.assert_allclose(third, p * q * (p - q), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("d", [-30.0, -0.2, 0.0, 1e-9, 0.1, 2.0, 25.0, 700.0])
def test_derivatives_of_discopop_agree_with_mpmath(d: float, temperature: float) -> None:
    def loss(d: Any, temperature: Any) -> Any:
        modulation = 1 / (1 + mpmath.exp(-d / temperature))
        return mpmath.log(1 + mpmath.exp(-d)) * (1 - modulation) + mpmath.exp(-d) * modulation

    at = mpmath.mpf(d), mpmath.mpf(temperature)
    function: Any = LogRatioModulated(jnp.asarray(temperature)).__call__
    with mpmath.workdps(60):
        for order in range(4):
            expected = float(mpmath.diff(loss, at, (order, 0)))
            assert float(function(jnp.asarray(d))) == pytest.approx(expected, rel=1e-12, abs=1e-300), order
            function = jax.grad(function)

    # Farther out the slope in the temperature is a difference of two numbers that are nearly equal.
    if d > 2:
        return
    slope = jax.grad(lambda temperature: LogRatioModulated(temperature)(jnp.asarray(d)))(temperature)
    with mpmath.workdps(700):
        expected = float(mpmath.diff(loss, at, (0, 1)))
    assert float(slope) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("far", [0.0, 1e-9, 1.0, 30.0, 300.0])
def test_derivatives_keep_their_digits_on_both_sides_of_zero(far: float) -> None:
    """Each has a symmetry, and on one side a tail in which no digit is lost."""
    p, q = expit(far), expit(-far)
    bell = np.array([p * q, p * q * (q - p), p * q * (1 - 6 * p * q)])  # σσ(−·) and its derivatives at `far`

    def found(kernel: Kernel, d: float) -> np.ndarray:
        derivatives, function = [], kernel.__call__
        for _ in range(4):
            function = jax.grad(function)
            derivatives.append(float(function(jnp.asarray(d))))
        return np.array(derivatives)

    near: Any = {"rtol": 1e-12, "atol": 1e-15 * bell[0]}
    for sign in (1, -1):
        powers = np.array([1, sign, 1])
        np.testing.assert_allclose(found(Logistic(), sign * far)[1:], bell * powers, **near)
        np.testing.assert_allclose(found(Sigmoid(), sign * far)[:3], -bell * powers, **near)
        # Of Σ σ log σ, plus a multiple of the sigmoid.
        entropy = np.array([far * bell[0], bell[0] + far * bell[1], 2 * bell[1] + far * bell[2]])
        against = -np.log(0.1) + np.log(0.9)
        expected = entropy * np.array([sign, 1, sign]) - against * bell * powers
        np.testing.assert_allclose(
            found(ReverseCrossEntropy(jnp.array(0.1)), sign * far)[:3], expected, **near
        )


def test_an_expectation_of_the_exponential_survives_what_would_overflow_in_a_product() -> None:
    """Probabilities of e^−1400, which are 0 in float64, meet exponentials of e^+1400, which are infinite."""
    chosen, rejected = (log_softmax(logits) for logits in ([700.0, -700.0, 0.0], [-700.0, 700.0, 0.0]))
    problem = didsim.Contrastive(chosen, rejected)
    h = (chosen - rejected) / 2
    expected = sum(
        np.exp(chosen[i] + rejected[j] - (h[i] - h[j])) for i, j in itertools.product(range(3), repeat=2)
    )
    assert np.isfinite(expected)
    assert float(Exponential().expect(problem, jnp.asarray(h))) == pytest.approx(expected, rel=1e-11)


NUMBER = jnp.array(0.3)
ONE_OF_EACH: list[Kernel] = [
    Logistic(),
    Logistic(smoothing=NUMBER),
    Logistic(smoothing=-NUMBER),
    Logistic(margin=NUMBER),
    Squared(NUMBER),
    Hinge(NUMBER),
    Exponential(),
    Linear(),
    Sigmoid(),
    ReverseCrossEntropy(NUMBER),
    LogRatioModulated(NUMBER),
]


@pytest.mark.parametrize("kernel", ONE_OF_EACH, ids=repr)
def test_stated_facts_are_true(kernel: Kernel) -> None:
    grid = np.linspace(-20, 20, 4001)
    loss = np.asarray(kernel(jnp.asarray(grid)))
    error = 1e-12 * np.abs(loss).max()
    if kernel.convex:
        assert np.diff(loss, 2).min() >= -error
    if kernel.falling:
        assert np.diff(loss).max() <= error
    # Where the loss is still above rounding of its limit, it falls at the far end.
    assert bool(kernel.falls_for_ever) == bool(loss[-1] < loss[-100] - 1e-14 * abs(loss[-1]))
    if kernel.falls_for_ever:
        assert loss.min() >= loss[-1] - error
    if kernel.linear:
        np.testing.assert_allclose(loss, -grid, rtol=1e-15)
    if kernel.bounded:
        np.testing.assert_allclose(loss, expit(-grid), rtol=1e-13)
    if kernel.hinge_margin is not None:
        np.testing.assert_allclose(loss, np.maximum(0, float(kernel.hinge_margin) - grid), atol=1e-15)
    if kernel.calibrated:
        preference = 0.8
        expected = preference * loss + (1 - preference) * loss[::-1]
        assert expit(grid[np.argmin(expected)]) == pytest.approx(preference, abs=2e-3)
    # Over a step of 1e-4 a slope changes by 1e-4 at a corner, and by some 1e-7 elsewhere.
    fine = np.asarray(kernel(jnp.linspace(-2, 2, 40_001)))
    assert kernel.kinked == bool(np.abs(np.diff(fine, 2)).max() > 1e-5)


@pytest.mark.parametrize("kernel", ONE_OF_EACH, ids=repr)
def test_unstated_facts_are_false_of_the_library_s_kernels(kernel: Kernel) -> None:
    """A kernel that has a property says so: a solver would else take the long way."""
    grid = np.linspace(-20, 20, 4001)
    loss = np.asarray(kernel(jnp.asarray(grid)))
    assert kernel.convex == bool(np.diff(loss, 2).min() >= -1e-12 * np.abs(loss).max())
    assert kernel.linear == bool(np.allclose(loss, -grid))
    assert kernel.bounded == bool(np.allclose(loss, expit(-grid)))


def test_a_batch_of_kernels_falls_for_ever_entry_by_entry() -> None:
    batch = Logistic(smoothing=jnp.array([-0.1, 0.0, 0.1]))
    assert np.asarray(batch.falls_for_ever).tolist() == [True, True, False]


class Cosh(Kernel):
    """`cosh(d − 1)`: convex, and rises on both sides. It states nothing but what a subclass adds."""

    def __call__(self, difference: Array) -> Array:
        return jnp.cosh(difference - 1)


class StatedCosh(Cosh):
    convex: ClassVar[bool] = True


def test_a_kernel_of_one_s_own_that_states_its_facts_is_solved_like_the_library_s() -> None:
    chosen, rejected = log_softmax(np.random.default_rng(0).normal(size=(2, 5)), axis=-1)
    problem = Contrastive(chosen, rejected)
    unstated, stated = (
        didsim.solve(didsim.Objective(Pair(LogRatio(jnp.array(0.5)), kernel)), chosen, problem)
        for kernel in (Cosh(), StatedCosh())
    )
    assert unstated.certificate.starts == 8
    assert not bool(unstated.certificate.unique)
    assert stated.certificate.starts == 1
    assert bool(stated.certificate.unique)
    np.testing.assert_allclose(stated.log_probs, unstated.log_probs, atol=1e-10)

    def loss(h: np.ndarray) -> float:
        weights = np.exp(chosen)[:, None] * np.exp(rejected)
        return float(np.sum(weights * np.cosh(h[:, None] - h - 1)))

    best = minimize(loss, np.zeros(5), tol=1e-14).x
    expected = log_softmax(chosen + best / 0.5)
    np.testing.assert_allclose(stated.log_probs, expected, atol=1e-5)
