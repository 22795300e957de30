import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy.special import expit, log_softmax
from scipy.stats import kstest, norm

from didsim import REJECTED, optimal_rejected
from tests.strategies import betas, tuples

KEY = jax.random.key(0)
EPS32 = float(np.finfo(np.float32).eps)
REFERENCE = np.log([0.5, 0.3, 0.2])
TARGET = np.log([0.1, 0.3, 0.6])
ZERO = np.array([0.0, -np.inf, -np.inf])

OPTIMAL = jax.jit(optimal_rejected)

# Every one with arguments for which its value is known otherwise.
CALLS: dict[str, tuple[tuple[Any, ...], np.ndarray]] = {
    "optimal": ((REFERENCE, TARGET, 0.5), log_softmax(1.5 * REFERENCE - 0.5 * TARGET)),
    "uniform": ((REFERENCE,), np.full(3, -np.log(3))),
    "reference": ((REFERENCE,), REFERENCE),
    "target": ((TARGET,), TARGET),
    "tempered": ((REFERENCE, 3.0), log_softmax(3 * REFERENCE)),
    "reversed": ((REFERENCE, TARGET, 0.5), log_softmax(0.5 * REFERENCE + 0.5 * TARGET)),
    "geodesic": ((REFERENCE, TARGET, -2.0), log_softmax(3 * REFERENCE - 2 * TARGET)),
    "perturbed": ((KEY, REFERENCE, TARGET, 0.5, 0.0), log_softmax(1.5 * REFERENCE - 0.5 * TARGET)),
    # The worst of 2 by these scores is 2 unless both draws are in {0, 1}, and 0 only if both are 0.
    "worst_of_n": ((REFERENCE, np.array([2.0, 1.0, 0.0]), 2), np.log([0.25, 0.64 - 0.25, 1 - 0.64])),
}


def test_every_formula_is_that_of_a_distribution_by_name() -> None:
    assert set(CALLS) <= set(REJECTED)


@pytest.mark.parametrize("name", CALLS)
def test_values_agree_with_their_formula(name: str) -> None:
    arguments, expected = CALLS[name]
    np.testing.assert_allclose(REJECTED[name](*arguments), expected, rtol=1e-12, atol=1e-13)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    known = ", ".join(sorted(REJECTED))
    with pytest.raises(
        ValueError, match=f"^unknown rejected-sampling distribution 'best'; there are {known}$"
    ):
        REJECTED["best"]


@given(tuples(2), betas)
def test_optimal_agrees_with_its_formula(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = drawn
    expected = log_softmax(reference + beta * (reference - target))
    result = np.asarray(OPTIMAL(reference, target, beta))
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@given(tuples(2, hostile=False), betas)
def test_preferences_over_the_optimal_one_encode_the_update(
    drawn: tuple[np.ndarray, ...], beta: float
) -> None:
    reference, target = drawn
    rejected = np.asarray(OPTIMAL(reference, target, beta))
    q = target - reference
    for i, j in itertools.product(range(min(len(q), 3)), repeat=2):
        with np.errstate(over="ignore"):
            swapped = np.exp(rejected[i] + reference[j] - rejected[j] - reference[i])
        # Exponents are up to 1e3 times 12 nats, rounded by a few eps of that: 1e-11.
        assert 1 / (1 + swapped) == pytest.approx(expit(beta * (q[i] - q[j])), rel=1e-10, abs=1e-300)


def test_reversed_is_optimal_with_the_other_sign() -> None:
    reversed_one = REJECTED["reversed"](REFERENCE, TARGET, 0.7)
    ratio = np.asarray(reversed_one) - REFERENCE
    opposite = np.asarray(optimal_rejected(REFERENCE, TARGET, 0.7)) - REFERENCE
    np.testing.assert_allclose(ratio - ratio[0], opposite[0] - opposite, rtol=1e-13)


def test_the_geodesic_passes_reference_target_and_optimal() -> None:
    at = lambda s: REJECTED["geodesic"](REFERENCE, TARGET, s)  # noqa: E731
    np.testing.assert_allclose(at(0.0), REFERENCE, rtol=1e-14)
    np.testing.assert_allclose(at(1.0), TARGET, rtol=1e-14)
    np.testing.assert_allclose(at(-0.3), optimal_rejected(REFERENCE, TARGET, 0.3), rtol=1e-14)


def test_noise_in_log_space_is_normal() -> None:
    size, noise = 2000, 0.3
    rng = np.random.default_rng(0)
    reference, target = (log_softmax(rng.normal(size=size)) for _ in range(2))
    perturbed = REJECTED["perturbed"](KEY, reference, target, 0.5, noise)
    difference = np.asarray(perturbed) - log_softmax(1.5 * reference - 0.5 * target)
    # Up to a constant: the mean, which costs one of 2000 degrees of freedom.
    assert kstest((difference - difference.mean()) / noise, norm.cdf).pvalue > 1e-6


def test_noise_depends_on_the_key_alone() -> None:
    first, again, other = (
        REJECTED["perturbed"](jax.random.key(seed), REFERENCE, TARGET, 0.5) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_broadcast() -> None:
    references = np.stack([REFERENCE, TARGET])
    exponents = jnp.array([[0.1], [1.0], [3.0]])
    for name in ("optimal", "reversed", "geodesic"):
        batch = REJECTED[name](references, TARGET, exponents)
        assert batch.shape == (3, 2, 3)
        np.testing.assert_allclose(batch[2, 0], REJECTED[name](REFERENCE, TARGET, 3.0), rtol=1e-13)
    assert REJECTED["uniform"](references).shape == (2, 3)
    assert REJECTED["perturbed"](KEY, references, TARGET, exponents, 0.1).shape == (3, 2, 3)
    assert REJECTED["perturbed"](KEY, REFERENCE, TARGET, 0.5, jnp.array([0.1, 0.2])).shape == (2, 3)


def test_jit_and_vmap_agree_with_eager() -> None:
    eager = optimal_rejected(REFERENCE, TARGET, 0.5)
    np.testing.assert_allclose(OPTIMAL(REFERENCE, TARGET, 0.5), eager, rtol=1e-14)
    mapped = jax.vmap(optimal_rejected, in_axes=(None, None, 0))(REFERENCE, TARGET, jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(mapped[0], eager, rtol=1e-14)


GRADIENT = jax.jit(
    jax.grad(
        lambda logits, target, beta: optimal_rejected(jax.nn.log_softmax(logits), target, beta)[0], (0, 2)
    )
)


@given(tuples(2), betas)
def test_gradients_are_finite_at_hostile_policies(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    for gradient in GRADIENT(*drawn, beta):
        assert np.isfinite(gradient).all()


def test_gradients_agree_with_their_formula() -> None:
    # d log π_l(0)/dβ = log(reference/target)(0) − E_{π_l}[log(reference/target)].
    beta = 0.5
    rejected = np.exp(log_softmax(REFERENCE + beta * (REFERENCE - TARGET)))
    ratio = REFERENCE - TARGET
    in_logits, in_beta = GRADIENT(REFERENCE, TARGET, beta)
    assert float(in_beta) == pytest.approx(ratio[0] - rejected @ ratio, rel=1e-13)
    np.testing.assert_allclose(in_logits, (1 + beta) * (np.eye(3)[0] - rejected), rtol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_float32_stays_float32(name: str) -> None:
    arguments, _ = CALLS[name]
    single = [one.astype(np.float32) if isinstance(one, np.ndarray) else one for one in arguments]
    assert REJECTED[name](*single).dtype == jnp.float32


@given(tuples(2), betas)
def test_optimal_in_float32(drawn: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = (p.astype(np.float32) for p in drawn)
    result = np.asarray(OPTIMAL(reference, target, np.float32(beta)), float)
    wide_reference, wide_target = reference.astype(float), target.astype(float)
    logits = wide_reference + float(np.float32(beta)) * (wide_reference - wide_target)
    # The difference, its product, the sum and two subtractions of the softmax: half an eps of the largest
    # size each, once for the sequence and once for the one shifted by; and the sum of N exps.
    size = np.abs(wide_reference).max() + beta * np.abs(wide_reference - wide_target).max()
    bound = EPS32 * (6 * size + len(logits) + 8 + np.log(len(logits)))
    assert np.abs(result - log_softmax(logits)).max() <= bound


@pytest.mark.parametrize("name", ["optimal", "reversed", "geodesic", "perturbed"])
def test_reference_and_target_are_checked(name: str) -> None:
    def call(reference: np.ndarray, target: np.ndarray, exponent: object = 0.5) -> jax.Array:
        key = (KEY,) if name == "perturbed" else ()
        return REJECTED[name](*key, reference, target, exponent)

    for expected, bad in {
        "be log-probabilities normalised": REFERENCE + 1,
        "be log-probabilities; got NaN": REFERENCE * np.nan,
        r"give every sequence a positive probability; got zero at index \(1,\)": ZERO,
        "not be empty": np.zeros(0),
    }.items():
        with pytest.raises(ValueError, match=f"`reference` must {expected}"):
            call(bad, TARGET)
        with pytest.raises(ValueError, match=f"`target` must {expected}"):
            call(REFERENCE, bad)
    with pytest.raises(ValueError, match="`reference`, `target` must agree in their last axis"):
        call(REFERENCE, np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"must broadcast together; .*\(2,\).*\(3,\)"):
        call(np.stack([REFERENCE] * 2), TARGET, jnp.ones(3))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_beta_must_be_positive(bad: float) -> None:
    for name in ("optimal", "reversed"):
        with pytest.raises(ValueError, match=f"`beta` must be positive and finite; got {bad}"):
            REJECTED[name](REFERENCE, TARGET, bad)
    with pytest.raises(ValueError, match=f"`beta` must be positive and finite; got {bad}"):
        REJECTED["perturbed"](KEY, REFERENCE, TARGET, bad)
    with pytest.raises(Exception, match="`beta` must be positive and finite"):
        jax.jit(lambda beta: optimal_rejected(REFERENCE, TARGET, beta))(bad)


def test_the_other_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`noise` must be zero or more and finite; got -1"):
        REJECTED["perturbed"](KEY, REFERENCE, TARGET, 0.5, -1.0)
    with pytest.raises(ValueError, match="`key` must be a typed random key"):
        REJECTED["perturbed"](0, REFERENCE, TARGET, 0.5)
    with pytest.raises(ValueError, match="`exponent` must be finite; got nan"):
        REJECTED["tempered"](REFERENCE, np.nan)
    with pytest.raises(ValueError, match="`n` must be at least 1 and finite; got 0"):
        REJECTED["worst_of_n"](REFERENCE, np.arange(3.0), 0)
    with pytest.raises(ValueError, match="must be finite; got inf"):
        REJECTED["geodesic"](REFERENCE, TARGET, np.inf)
    for name in ("uniform", "reference", "tempered"):
        with pytest.raises(ValueError, match=r"`\w+` must be log-probabilities normalised"):
            REJECTED[name](REFERENCE + 1)
    with pytest.raises(ValueError, match="`target` must be log-probabilities normalised"):
        REJECTED["target"](TARGET + 1)


def test_noise_must_broadcast() -> None:
    with pytest.raises(ValueError, match=r"`noise`.* must broadcast together; .*\(3,\).*\(2,\)"):
        REJECTED["perturbed"](KEY, np.stack([REFERENCE] * 3), TARGET, 0.5, jnp.array([0.1, 0.2]))


def test_errors_name_the_arguments_of_the_function_that_was_called() -> None:
    with pytest.raises(ValueError, match="`reference` must be log-probabilities normalised"):
        REJECTED["tempered"](REFERENCE + 1)
    with pytest.raises(ValueError, match="`reference` must be log-probabilities normalised"):
        REJECTED["worst_of_n"](REFERENCE + 1, np.arange(3.0))
    with pytest.raises(ValueError, match="`position` must be finite; got nan"):
        REJECTED["geodesic"](REFERENCE, TARGET, np.nan)
