import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import kendalltau, linregress

from didsim import check_order, fit_power_law, log_margin, normal_logits, optimal_rejected, pair_exponent
from tests.strategies import betas, tuples

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

REFERENCE = np.log([0.5, 0.3, 0.2])
TARGET = np.log([0.2, 0.3, 0.5])

CHECK = jax.jit(check_order)
FIT = jax.jit(fit_power_law)
EXPONENT = jax.jit(pair_exponent)
MARGIN = jax.jit(log_margin)


def rejected_by_power_law(reference: np.ndarray, target: np.ndarray, beta: float) -> np.ndarray:
    return log_softmax(reference - beta * (target - reference))


def largest(*triple: np.ndarray) -> float:
    target, reference, rejected = (np.abs(p).max() for p in triple)
    return float(target + 2 * reference + rejected)


def count_by_pairs(
    target: np.ndarray,
    reference: np.ndarray,
    rejected: np.ndarray,
    atol: float,
    unexplained: float | None = None,
) -> tuple[float, float]:
    """The share of ordered pairs and the worst violation, pair by pair; 1 and 0 if there are no pairs.

    A step of size up to `atol` is zero. Beside a zero, a step up to `unexplained` is let pass.
    """
    unexplained = atol if unexplained is None else unexplained
    up, down = target - reference, reference - rejected
    ordered, worst = [], 0.0
    for i, j in itertools.combinations(range(len(up)), 2):
        steps = (up[i] - up[j], down[i] - down[j])
        signs = [0.0 if abs(step) <= atol else float(np.sign(step)) for step in steps]
        let_pass = 0.0 in signs and max(abs(step) for step in steps) <= unexplained
        ordered.append(signs[0] == signs[1] or let_pass)
        if signs[0] * signs[1] < 0:
            worst = max(worst, min(abs(step) for step in steps))
    return (float(np.mean(ordered)) if ordered else 1.0), worst


@given(tuples(1))
def test_log_margin_is_a_difference(drawn: tuple[np.ndarray, ...]) -> None:
    (p,) = drawn
    for i, j in itertools.product(range(min(len(p), 3)), repeat=2):
        assert float(MARGIN(p, i, j)) == p[i] - p[j]


def test_log_margin_takes_arrays_of_indices() -> None:
    i, j = np.array([0, 1]), np.array([2, 1])
    margins = log_margin(np.stack([REFERENCE, TARGET, REFERENCE]), i, j)
    assert margins.shape == (3, 2)
    expected = [[p[0] - p[2], 0] for p in (REFERENCE, TARGET, REFERENCE)]
    np.testing.assert_allclose(margins, expected, rtol=1e-15)


@pytest.mark.parametrize("first", [np.array([[0], [1]]), np.array([[0]]), np.array(1)])
def test_indices_of_any_shapes_broadcast_apart_from_the_batch(first: np.ndarray) -> None:
    batch, j = np.stack([REFERENCE, TARGET]), np.array([0, 1, 2])
    whole = np.broadcast_to(first, np.broadcast_shapes(first.shape, j.shape))
    expected = np.stack([p[whole] - p[np.broadcast_to(j, whole.shape)] for p in batch])
    margins = log_margin(batch, first, j)
    assert margins.shape == expected.shape
    np.testing.assert_allclose(margins, expected, rtol=1e-15)


def test_log_margin_of_float32_stays_float32() -> None:
    assert log_margin(REFERENCE.astype(np.float32), 0, 1).dtype == jnp.float32


def test_gradient_of_a_margin() -> None:
    gradient = jax.grad(lambda p: log_margin(p, 0, 2))(jnp.asarray(REFERENCE))
    assert gradient.tolist() == [1, 0, -1]


@given(tuples(3), st.sampled_from((0.0, 1e-9, 1.0)))
def test_order_agrees_with_counting_pairs(drawn: tuple[np.ndarray, ...], atol: float) -> None:
    target, reference, rejected = drawn
    report = CHECK(target, reference, rejected, atol)
    fraction, worst = count_by_pairs(target, reference, rejected, atol)
    assert float(report.fraction) == pytest.approx(fraction, rel=1e-14)
    assert bool(report.ordered) == (fraction == 1)
    assert float(report.worst_violation) == pytest.approx(worst, rel=1e-12, abs=0)


@given(tuples(3))
def test_order_by_default_counts_steps_beyond_rounding(drawn: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = drawn
    report = CHECK(target, reference, rejected)
    atol = 4 * EPS * largest(target, reference, rejected)
    fraction, worst = count_by_pairs(target, reference, rejected, atol, atol / EPS**0.5)
    assert float(report.fraction) == pytest.approx(fraction, rel=1e-14)
    assert float(report.worst_violation) == pytest.approx(worst, rel=1e-12, abs=0)


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.5, 10.0, 1e3])
def test_a_power_law_is_ordered_on_every_pair_in_float32(beta: float) -> None:
    keys = jax.random.split(jax.random.key(0), (2, 16))
    reference, target = normal_logits(keys, 256).astype(jnp.float32)
    report = check_order(target, reference, optimal_rejected(reference, target, beta))
    assert report.fraction.dtype == jnp.float32
    assert bool(report.ordered.all())
    assert float(report.fraction.min()) == 1
    assert float(report.worst_violation.max()) == 0


@given(tuples(2), betas)
def test_a_power_law_is_ordered(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    target, reference = drawn
    rejected = rejected_by_power_law(reference, target, beta)
    report = CHECK(target, reference, rejected)
    assert float(report.worst_violation) == 0


@given(tuples(2, hostile=False))
def test_equal_policies_are_ordered(drawn: tuple[np.ndarray, ...]) -> None:
    (p, other) = drawn
    assert bool(CHECK(p, p, p).ordered)
    assert float(CHECK(p, p, other).worst_violation) == 0


@given(tuples(3))
def test_expected_margins_agree_with_a_double_sum(drawn: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = drawn
    report = CHECK(target, reference, rejected)
    for name, p in (("target", target), ("reference", reference), ("rejected", rejected)):
        terms = [
            np.exp(reference[i] + rejected[j]) * (p[i] - p[j])
            for i, j in itertools.product(range(len(p)), repeat=2)
        ]
        expected = float(getattr(report, f"expected_{name}"))
        # Two expectations, each good to N + 4 eps of the largest size of what is averaged.
        error = 2 * (len(p) + 4) * EPS * np.abs(p).max()
        assert expected == pytest.approx(sum(terms), rel=1e-13, abs=error)


def test_expected_margins_use_the_chosen_distribution() -> None:
    rejected, chosen = np.log([0.6, 0.3, 0.1]), np.array([-np.inf, 0.0, -np.inf])
    report = check_order(TARGET, REFERENCE, rejected, chosen=chosen)
    expected = TARGET[1] - np.exp(rejected) @ TARGET
    assert float(report.expected_target) == pytest.approx(expected, rel=1e-13)


def test_a_violation_is_measured_by_the_smaller_step() -> None:
    # Margins of the pair: reference 0, target log 3, rejected log 2. The nearer move is log 2.
    reference = np.log([0.5, 0.5])
    report = check_order(np.log([0.75, 0.25]), reference, np.log([2 / 3, 1 / 3]))
    assert not bool(report.ordered)
    assert float(report.fraction) == 0
    assert float(report.worst_violation) == pytest.approx(np.log(2), rel=1e-14)


def test_one_sequence_is_ordered() -> None:
    report = check_order(np.zeros(1), np.zeros(1), np.zeros(1))
    assert bool(report.ordered)
    assert float(report.fraction) == 1


@pytest.mark.slow
def test_one_pair_out_of_order_among_many_is_not_rounded_away() -> None:
    # In float32 the share of ordered pairs, 1 − 2/N², rounds to 1 at this N: `ordered` must not.
    size = 8500
    up = np.linspace(-1, 1, size)
    swapped = up.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    uniform = np.full(size, -np.log(size), np.float32)
    target = log_softmax(up).astype(np.float32)
    rejected = log_softmax(-swapped).astype(np.float32)
    fraction_out = 2 / (size * (size - 1))
    assert np.float32(1 - fraction_out) == 1
    report = check_order(target, uniform, rejected, atol=1e-6)
    assert float(report.worst_violation) > 1e-4
    assert not bool(report.ordered)


def test_more_pairs_than_32_bits_can_count_keep_their_share() -> None:
    size = 10**5
    up, down = np.random.default_rng(1).normal(size=(2, size))
    uniform = np.full(size, -np.log(size))
    target = log_softmax(up).astype(np.float32)
    rejected = log_softmax(-down).astype(np.float32)
    report = check_order(target, uniform.astype(np.float32), rejected, atol=0.0)
    reference = target[0] * 0 + np.float32(-np.log(size))
    concordant = (1 + kendalltau(target - reference, reference - rejected, variant="c").statistic) / 2
    # Float32 log-probabilities tie now and then, and a pair that ties in one step alone is unordered.
    assert float(report.fraction) == pytest.approx(concordant, abs=1e-5)


def test_reports_broadcast_over_batches() -> None:
    rng = np.random.default_rng(0)
    target, rejected = (log_softmax(rng.normal(size=shape), -1) for shape in ((2, 1, 4), (3, 4)))
    reference = log_softmax(rng.normal(size=4))
    batch = CHECK(target, reference, rejected)
    law = FIT(target, reference, rejected)
    assert batch.fraction.shape == law.exponent.shape == (2, 3)
    one = CHECK(target[1, 0], reference, rejected[2])
    for leaf, single in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
        whole = np.broadcast_to(leaf, (2, 3))
        np.testing.assert_allclose(whole[1, 2], single, rtol=1e-13)
    single_law = FIT(target[1, 0], reference, rejected[2])
    assert float(law.exponent[1, 2]) == pytest.approx(float(single_law.exponent), rel=1e-13)
    mapped = jax.vmap(lambda t: CHECK(t, reference, rejected[0]))(jnp.asarray(target[:, 0]))
    np.testing.assert_allclose(mapped.fraction, batch.fraction[:, 0], rtol=1e-14)


@given(tuples(3, hostile=False))
def test_pair_exponent_agrees_with_its_ratio(drawn: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = drawn
    size = len(target)
    i, j = np.divmod(np.arange(size * size), size)
    exponents = np.asarray(EXPONENT(target, reference, rejected, i, j))
    for exponent, a, b in zip(exponents, i, j, strict=True):
        up = (target[a] - target[b]) - (reference[a] - reference[b])
        down = (reference[a] - reference[b]) - (rejected[a] - rejected[b])
        if up == 0:
            assert np.isnan(exponent) if down == 0 else np.isinf(exponent)
        else:
            assert exponent == pytest.approx(down / up, rel=1e-15, abs=0)


def test_pair_exponents_of_a_power_law_are_all_beta() -> None:
    rejected = rejected_by_power_law(REFERENCE, TARGET, 0.3)
    for i, j in itertools.permutations(range(3), 2):
        assert float(pair_exponent(TARGET, REFERENCE, rejected, i, j)) == pytest.approx(0.3, rel=1e-13)


@given(tuples(2, hostile=False), betas)
def test_fit_recovers_the_exponent_of_a_power_law(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    target, reference = drawn
    rejected = rejected_by_power_law(reference, target, beta)
    law = FIT(target, reference, rejected)
    assert bool(law.holds)
    # Rounding of the log-ratios, carried to the slope: a few eps of the sizes over their spread.
    spread = np.std(target - reference)
    error = 8 * EPS * (largest(target, reference, rejected) + beta * largest(target, reference, target))
    if spread > 1e-6:
        assert abs(float(law.exponent) - beta) <= error / spread
    assert float(law.residual) <= error


@given(tuples(2), betas)
def test_a_power_law_of_hostile_policies_holds(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    target, reference = drawn
    assert bool(FIT(target, reference, rejected_by_power_law(reference, target, beta)).holds)


@given(tuples(3, hostile=False))
def test_fit_agrees_with_linear_regression(drawn: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = drawn
    up, down = target - reference, reference - rejected
    law = FIT(target, reference, rejected)
    if np.ptp(up) < 1e-3:
        return
    line = linregress(up, down)
    residuals = down - line.intercept - line.slope * up
    assert float(law.exponent) == pytest.approx(line.slope, rel=1e-9, abs=1e-9)
    assert float(law.residual) == pytest.approx(np.sqrt(np.mean(residuals**2)), rel=1e-9, abs=1e-12)
    if np.abs(residuals).max() > 1e-9 or line.slope < -1e-9:
        assert not bool(law.holds)


def test_the_opposite_of_a_power_law_does_not_hold() -> None:
    rejected = rejected_by_power_law(REFERENCE, TARGET, -0.5)
    law = fit_power_law(TARGET, REFERENCE, rejected)
    assert float(law.exponent) == pytest.approx(-0.5, rel=1e-13)
    assert not bool(law.holds)


def test_no_update_has_no_exponent() -> None:
    same = fit_power_law(REFERENCE, REFERENCE, REFERENCE)
    assert np.isnan(same.exponent)
    assert bool(same.holds)
    other = fit_power_law(REFERENCE, REFERENCE, TARGET)
    assert np.isnan(other.exponent)
    assert not bool(other.holds)


def test_rejecting_the_reference_is_no_power_law_of_a_real_update() -> None:
    law = fit_power_law(TARGET, REFERENCE, REFERENCE)
    assert float(law.exponent) == 0
    assert not bool(law.holds)


def test_gradient_of_the_exponent_agrees_with_differences() -> None:
    def exponent(logits: jax.Array) -> jax.Array:
        return fit_power_law(jax.nn.log_softmax(logits), REFERENCE, np.log([0.6, 0.3, 0.1])).exponent

    value = jnp.array([0.3, -0.4, 1.0])
    gradient = jax.jit(jax.grad(exponent))(value)
    for place, step in enumerate(1e-6 * np.eye(3)):
        difference = (float(exponent(value + step)) - float(exponent(value - step))) / 2e-6
        assert float(gradient[place]) == pytest.approx(difference, rel=1e-7, abs=1e-8)


def test_float32_reports_stay_float32() -> None:
    exact = rejected_by_power_law(REFERENCE, TARGET, 0.5)
    target, reference, rejected = (p.astype(np.float32) for p in (TARGET, REFERENCE, exact))
    order, law = check_order(target, reference, rejected), fit_power_law(target, reference, rejected)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((order, law))}
    assert dtypes == {jnp.dtype(jnp.float32), jnp.dtype(bool)}
    assert pair_exponent(target, reference, rejected, 0, 2).dtype == jnp.float32
    assert bool(order.ordered)
    assert bool(law.holds)
    # Inputs rounded by half an eps of sizes up to log 10: 4 of them in a numerator and a denominator above 1.
    assert abs(float(law.exponent) - 0.5) <= 8 * EPS32 * np.log(10)


def exponent_of_a_pair(target: np.ndarray, reference: np.ndarray, rejected: np.ndarray) -> jax.Array:
    return pair_exponent(target, reference, rejected, 0, 1)


TRIPLE: tuple[Callable[..., object], ...] = (check_order, fit_power_law, exponent_of_a_pair)
NAMES = ("target", "reference", "rejected")


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("function", TRIPLE)
def test_wrong_distributions_are_named(function: Callable[..., object], place: int) -> None:
    for expected, bad in {
        "be log-probabilities normalised over the last axis": REFERENCE + 1,
        "be log-probabilities; got NaN": REFERENCE * np.nan,
        "give every sequence a positive probability": np.array([0.0, -np.inf, -np.inf]),
        "be a floating-point array": np.zeros(3, int),
    }.items():
        triple = [TARGET, REFERENCE, REFERENCE]
        triple[place] = bad
        with pytest.raises(ValueError, match=f"`{NAMES[place]}` must {expected}"):
            function(*triple)
    triple = [TARGET, REFERENCE, REFERENCE]
    triple[place] = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match="must agree in their last axis, sequences; got"):
        function(*triple)


def test_indices_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"`i` must index one of 3 sequences \(0 to 2\); got 3"):
        log_margin(REFERENCE, 3, 0)
    with pytest.raises(ValueError, match=r"`j` must index one of 3 sequences \(0 to 2\); got -1"):
        log_margin(REFERENCE, 0, -1)
    with pytest.raises(ValueError, match=r"`i`, `j` must broadcast together; got i of shape \(2,\)"):
        log_margin(REFERENCE, np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="`j` must index one of 3 sequences"):
        pair_exponent(TARGET, REFERENCE, REFERENCE, 0, 5)
    with pytest.raises(ValueError, match="`p` must be log-probabilities normalised"):
        log_margin(REFERENCE + 1, 0, 1)


def test_a_tolerance_must_not_be_negative() -> None:
    for bad in (-1e-9, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`atol` must be zero or more and finite; got {bad}"):
            check_order(TARGET, REFERENCE, REFERENCE, atol=bad)


def test_the_chosen_distribution_is_checked() -> None:
    with pytest.raises(ValueError, match="`chosen` must be log-probabilities normalised"):
        check_order(TARGET, REFERENCE, REFERENCE, chosen=REFERENCE + 1)
    with pytest.raises(ValueError, match="`chosen` must agree in their last axis"):
        check_order(TARGET, REFERENCE, REFERENCE, chosen=np.log([0.5, 0.5]))


def test_an_exponent_that_means_nothing_is_computed_nowhere() -> None:
    p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    with jax.debug_nans(True):
        law = fit_power_law(p, p, q)
        assert float(fit_power_law(p, q, p).exponent) == pytest.approx(-1)
    assert np.isnan(law.exponent)
