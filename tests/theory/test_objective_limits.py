"""Section 3 of the theory: convexity, and where objectives converge."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

import didsim
from tests.strategies import betas, ordinary_logits, policies, sizes, tuples


def logistic_slope(d: np.ndarray) -> np.ndarray:
    return -1 / (1 + np.exp(d))


def brute_gradient(
    h: np.ndarray, weights: np.ndarray, slope: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """d/dh of `Σ_ij weights_ij φ(h_i − h_j)` by the full matrix."""
    terms = weights * slope(h[:, None] - h[None, :])
    return terms.sum(axis=1) - terms.sum(axis=0)


@given(tuples(2), betas)
def test_dpo_under_the_power_law_learns_the_target(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = pair
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta))
    learned = didsim.fixed_point(didsim.dpo(beta), reference, problem)
    size = np.abs(reference).max() + (1 + 1 / beta) * (
        np.abs(reference).max() + beta * np.abs(target - reference).max()
    )
    np.testing.assert_allclose(learned, target, rtol=1e-10, atol=32 * np.finfo(float).eps * (1 + size))


@given(tuples(2, hostile=False), betas, betas)
def test_dpo_with_another_beta_than_the_data_tempers_the_did(
    pair: tuple[np.ndarray, ...], beta_data: float, beta_train: float
) -> None:
    reference, target = pair
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta_data))
    learned = didsim.fixed_point(didsim.dpo(beta_train), reference, problem)
    expected = log_softmax(reference + beta_data / beta_train * (target - reference))
    size = 10 + (beta_data * 10 + 10) / beta_train
    np.testing.assert_allclose(learned, expected, rtol=1e-10, atol=64 * np.finfo(float).eps * size)


@given(tuples(2), betas)
def test_nothing_is_learned_from_equal_distributions(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, chosen = pair
    problem = didsim.Contrastive(chosen, chosen)
    for objective in (didsim.dpo(beta), didsim.ipo(beta), didsim.exponential(beta)):
        learned = didsim.fixed_point(objective, reference, problem)
        np.testing.assert_allclose(learned, reference, rtol=1e-13, atol=1e-13)


@given(tuples(3, hostile=False), st.sampled_from((0.1, 0.5, 1.0, 3.0)))
def test_closed_forms_are_stationary_and_lower_than_their_neighbours(
    triple: tuple[np.ndarray, ...], beta: float
) -> None:
    """By the full matrix of pairs in NumPy, an oracle apart from both the sums and the closed forms."""
    reference, chosen, rejected = triple
    problem = didsim.Contrastive(chosen, rejected)
    weights = np.exp(chosen)[:, None] * np.exp(rejected)[None, :]
    centre = 1 / (2 * beta)
    cases: dict[str, tuple[didsim.Objective, np.ndarray, float, Callable[..., np.ndarray]]] = {
        "dpo": (didsim.dpo(beta), reference, beta, logistic_slope),
        "simpo": (didsim.simpo(beta, gamma=0), np.zeros_like(reference), beta, logistic_slope),
        "reference_free": (
            didsim.reference_free(beta),
            np.zeros_like(reference),
            beta,
            logistic_slope,
        ),
        "ipo": (didsim.ipo(beta), reference, 1.0, lambda d: 2 * (d - centre)),
        "exponential": (didsim.exponential(beta), reference, beta, lambda d: -np.exp(-d)),
    }
    for name, (objective, base, scale, slope) in cases.items():
        learned = np.asarray(didsim.fixed_point(objective, reference, problem))
        gradient = brute_gradient(scale * (learned - base), weights, slope)
        # Terms of the gradient are at most their weight times the slope; what is left is rounding.
        largest = np.abs(weights * slope(scale * (learned - base)[:, None] - scale * (learned - base))).sum()
        assert np.abs(gradient).max() <= 1e-12 * (1 + largest), name


@given(tuples(3, hostile=False), st.sampled_from((0.1, 0.5, 1.0, 3.0)))
def test_ipo_limit_is_bounded(triple: tuple[np.ndarray, ...], tau: float) -> None:
    reference, chosen, rejected = triple
    learned = np.asarray(didsim.fixed_point(didsim.ipo(tau), reference, didsim.Contrastive(chosen, rejected)))
    w, el = np.exp(chosen), np.exp(rejected)
    b = 1 / (2 * tau) / (1 + np.sum((w - el) ** 2 / (w + el)) / 2)
    log_ratio = learned - reference
    assert np.ptp(log_ratio) <= 2 * b * (1 + 1e-12) + 1e-12
    expected = b * (w - el) / (w + el)
    np.testing.assert_allclose(
        log_ratio - log_ratio.mean(), expected - expected.mean(), rtol=1e-10, atol=1e-12 * (1 + b)
    )


@given(tuples(2, hostile=False), st.sampled_from((0.1, 0.5, 1.0, 3.0)))
def test_simpo_without_margin_learns_the_did_under_the_power_law(
    pair: tuple[np.ndarray, ...], beta: float
) -> None:
    reference, target = pair
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta))
    learned = didsim.fixed_point(didsim.simpo(beta, gamma=0), reference, problem)
    np.testing.assert_allclose(learned, log_softmax(target - reference), rtol=1e-10, atol=1e-11)


@given(tuples(3, hostile=False), st.sampled_from((0.5, 2.0)), st.integers(0, 2**31 - 1))
def test_simpo_with_lengths_is_stationary_at_its_limit(
    triple: tuple[np.ndarray, ...], beta: float, seed: int
) -> None:
    reference, chosen, rejected = triple
    lengths = np.random.default_rng(seed).integers(1, 6, len(reference))
    problem = didsim.Contrastive(chosen, rejected)
    learned = np.asarray(didsim.fixed_point(didsim.simpo(beta, gamma=0), reference, problem, lengths))
    assert np.exp(learned).sum() == pytest.approx(1, rel=1e-12)
    weights = np.exp(chosen)[:, None] * np.exp(rejected)[None, :]
    assert np.abs(brute_gradient(beta * learned / lengths, weights, logistic_slope)).max() <= 1e-13


@given(tuples(4, hostile=False), st.sampled_from((0.1, 0.5, 1.0, 3.0)))
def test_labelled_limits_are_stationary_whatever_the_samplers(
    four: tuple[np.ndarray, ...], beta: float
) -> None:
    reference, reward, first, second = four
    problem = didsim.Labelled(reward, first, second)
    drawn = np.exp(first)[:, None] * np.exp(second)[None, :]
    wins = 1 / (1 + np.exp(-(reward[:, None] - reward[None, :])))
    weights = drawn * wins + (drawn * (1 - wins)).T
    centre = 1 / (2 * beta)
    np.testing.assert_allclose(
        didsim.fixed_point(didsim.dpo(beta), reference, problem),
        log_softmax(reference + reward / beta),
        rtol=1e-11,
        atol=1e-11 / beta,
    )
    cases: tuple[tuple[didsim.Objective, float, Callable[..., np.ndarray]], ...] = (
        (didsim.dpo(beta), beta, logistic_slope),
        (didsim.exponential(beta), beta, lambda d: -np.exp(-d)),
        (didsim.ipo(beta), 1.0, lambda d: 2 * (d - centre)),
    )
    for objective, scale, slope in cases:
        h = scale * (np.asarray(didsim.fixed_point(objective, reference, problem)) - reference)
        largest = np.abs(weights * slope(h[:, None] - h)).sum()
        assert np.abs(brute_gradient(h, weights, slope)).max() <= 1e-12 * (1 + largest)


@settings(max_examples=10)
@given(tuples(3, hostile=False), st.sampled_from((0.5, 1.0)))
def test_scipy_finds_the_same_minimisers(triple: tuple[np.ndarray, ...], beta: float) -> None:
    """Minimise the loss over all pairs with a general-purpose solver that knows no theory."""
    reference, chosen, rejected = triple
    weights = np.exp(chosen)[:, None] * np.exp(rejected)[None, :]
    losses: dict[Callable[..., didsim.Objective], tuple[np.ndarray, Callable[..., np.ndarray]]] = {
        didsim.dpo: (reference, lambda d: np.logaddexp(0, -beta * d)),
        didsim.ipo: (reference, lambda d: (d - 1 / (2 * beta)) ** 2),
        didsim.exponential: (reference, lambda d: np.exp(-beta * d)),
        didsim.reference_free: (np.zeros_like(reference), lambda d: np.logaddexp(0, -beta * d)),
    }
    for make, (base, kernel) in losses.items():

        def loss(logits: np.ndarray, base: np.ndarray = base, kernel: Callable = kernel) -> float:
            h = logits - base
            return float(np.sum(weights * kernel(h[:, None] - h[None, :])))

        found = scipy.optimize.minimize(loss, reference, method="BFGS", options={"gtol": 1e-9})
        limit = didsim.fixed_point(make(beta), reference, didsim.Contrastive(chosen, rejected))
        # The solver's finite differences leave about 1e-8 in the gradient.
        np.testing.assert_allclose(softmax(found.x), np.exp(limit), atol=2e-4)
        assert loss(np.asarray(limit)) <= found.fun + 1e-12


@given(
    st.sampled_from(("dpo", "cdpo", "ipo", "slic", "exponential", "reference_free", "simpo")),
    sizes.flatmap(lambda n: st.tuples(*(ordinary_logits(n),) * 2, *(policies(n),) * 3)),
    st.sampled_from((0.25, 0.5, 0.9)),
)
def test_losses_of_differences_are_convex_in_logits(
    name: str, arrays: tuple[np.ndarray, ...], weight: float
) -> None:
    one, two, reference, chosen, rejected = arrays
    objective = didsim.OBJECTIVES[name]()
    problem = didsim.Contrastive(chosen, rejected)

    def loss(logits: np.ndarray) -> float:
        return float(objective.loss(log_softmax(logits), reference, problem))

    mixed = loss(weight * one + (1 - weight) * two)
    bound = weight * loss(one) + (1 - weight) * loss(two)
    if np.isfinite(bound):
        assert mixed <= bound + 1e-11 * (1 + abs(bound))


@given(tuples(3, hostile=False), betas)
def test_displacement_at_the_limit_of_dpo(triple: tuple[np.ndarray, ...], beta: float) -> None:
    """`E_w[log(π_∞/ref)] = KL(w ‖ l)/beta − log Σ ref (w/l)^(1/beta)`, by sums in probability space."""
    reference, chosen, rejected = triple
    learned = np.asarray(
        didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(chosen, rejected))
    )
    measured = np.sum(np.exp(chosen) * (learned - reference))
    log_ratio = chosen - rejected
    divergence = np.sum(np.exp(chosen) * log_ratio)
    log_total = np.log(np.sum(np.exp(reference + (log_ratio - log_ratio.max()) / beta))) + (
        log_ratio.max() / beta
    )
    size = 1 + np.abs(log_ratio).max() / beta
    assert measured == pytest.approx(divergence / beta - log_total, rel=1e-10, abs=1e-13 * size)


@pytest.mark.parametrize("name", ["ipo", "exponential", "reference_free"])
def test_other_objectives_miss_the_target_of_random_instances(name: str) -> None:
    """Uniqueness made executable: N = 32, beta = 0.5, standard normal logits, 200 instances."""
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, 200)), 32)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
    missed = didsim.js(didsim.fixed_point(didsim.OBJECTIVES[name](0.5), reference, problem), target)
    reached = didsim.js(didsim.fixed_point(didsim.dpo(0.5), reference, problem), target)
    assert float(missed.min()) > 0.01
    assert float(reached.max()) < 1e-28


def test_a_symmetric_selection_of_pairs_changes_no_limit_and_another_one_does() -> None:
    """Pairs are kept by a random table, and the minimiser is SciPy's; the closed form knows no selection."""
    numbers = np.random.default_rng(0)
    reference, chosen, rejected = log_softmax(numbers.normal(size=(3, 4)), axis=-1)
    kept = numbers.uniform(0.1, 1, (4, 4))
    limit = didsim.fixed_point(didsim.dpo(0.5), reference, didsim.Contrastive(chosen, rejected))
    ends = []
    for selection in ((kept + kept.T) / 2, kept):
        weights = np.exp(chosen)[:, None] * np.exp(rejected)[None, :] * selection
        weights /= weights.sum()

        def loss(h: np.ndarray, weights: np.ndarray = weights) -> tuple[float, np.ndarray]:
            value = np.sum(weights * np.logaddexp(0, h[None, :] - h[:, None]))
            return float(value), brute_gradient(h, weights, logistic_slope)

        best = scipy.optimize.minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-10}).x
        ends.append(np.abs(log_softmax(reference + best / 0.5) - limit).max())
    assert ends[0] < 1e-6
    assert ends[1] > 0.1


def test_the_best_and_the_worst_of_two_draws_teach_the_odds_of_a_win() -> None:
    """Four equally likely responses, of rewards 0, 1, 1 and 5: they win 1/8, 1/2, 1/2 and 7/8 of the time."""
    reference, score = np.log(np.full(4, 1 / 4)), np.array([0.0, 1.0, 1.0, 5.0])
    problem = didsim.Contrastive(
        didsim.best_of_n(reference, score, 2), didsim.worst_of_n(reference, score, 2)
    )
    learned = np.exp(didsim.fixed_point(didsim.dpo(1.0), reference, problem))
    odds = np.array([1 / 7, 1, 1, 7])
    np.testing.assert_allclose(learned, odds / odds.sum(), rtol=1e-12)
