"""Section 2 of the theory: what pairs of samples say, and the power law."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import ArrayLike
from scipy.special import expit, log_softmax

import didsim
from tests.strategies import betas, tuples


@given(tuples(2, hostile=False))
def test_preference_is_bayes_on_the_unordered_pair(pair: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = pair
    problem = didsim.Contrastive(chosen, rejected)
    for i, j in itertools.product(range(len(chosen)), repeat=2):
        this, other = (
            np.exp(chosen[i]) * np.exp(rejected[j]),
            np.exp(chosen[j]) * np.exp(rejected[i]),
        )
        assert float(problem.preference(i, j)) == pytest.approx(this / (this + other), rel=1e-12)


@given(tuples(2))
def test_preference_is_bradley_terry_with_the_log_did_for_reward(pair: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = pair
    i, j = np.indices((len(chosen), len(chosen)))
    log_q = np.asarray(didsim.did(chosen, rejected))
    # Both are logistic functions, of slope at most 1/4, of numbers rounded at their own size.
    slack = 16 * np.finfo(float).eps * (1 + np.abs(chosen).max() + np.abs(rejected).max())
    np.testing.assert_allclose(
        didsim.Contrastive(chosen, rejected).preference(i, j),
        expit(log_q[i] - log_q[j]),
        rtol=1e-10,
        atol=slack,
    )


@given(tuples(2), betas)
def test_power_law_makes_preferences_those_of_the_target_at_beta(
    pair: tuple[np.ndarray, ...], beta: float
) -> None:
    reference, target = pair
    rejected = didsim.optimal_rejected(reference, target, beta)
    i, j = np.indices((len(reference), len(reference)))
    log_q = np.asarray(didsim.did(target, reference))
    size = np.abs(reference).max() + (1 + beta) * np.abs(log_q).max()
    np.testing.assert_allclose(
        didsim.Contrastive(reference, rejected).preference(i, j),
        expit(beta * (log_q[i] - log_q[j])),
        rtol=1e-10,
        atol=32 * np.finfo(float).eps * (1 + size),
    )


@given(tuples(2), betas)
def test_optimal_rejected_satisfies_the_power_law(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = pair
    rejected = didsim.optimal_rejected(reference, target, beta)
    encoded = np.asarray(didsim.did(reference, rejected))
    log_q = np.asarray(didsim.did(target, reference))
    size = np.abs(reference).max() + (1 + beta) * np.abs(log_q).max()
    np.testing.assert_allclose(
        encoded, log_softmax(beta * log_q), rtol=1e-10, atol=32 * np.finfo(float).eps * (1 + size)
    )


@given(tuples(2), betas)
def test_the_three_policies_lie_on_one_geodesic(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = pair
    log_q = didsim.did(target, reference)
    places: dict[float, ArrayLike] = {
        -beta: didsim.optimal_rejected(reference, target, beta),
        0.0: reference,
        1.0: target,
    }
    for s, policy in places.items():
        size = np.abs(reference).max() + (1 + abs(s)) * np.abs(log_q).max()
        np.testing.assert_allclose(
            didsim.geodesic(reference, log_q, s),
            policy,
            rtol=1e-10,
            atol=16 * np.finfo(float).eps * (1 + float(size)),
        )


@given(tuples(3, hostile=False))
def test_labelled_pairs_are_bradley_terry_whatever_the_samplers(triple: tuple[np.ndarray, ...]) -> None:
    reward, first, second = triple
    problem = didsim.Labelled(reward, first, second)
    i, j = np.indices((len(reward), len(reward)))
    np.testing.assert_allclose(problem.preference(i, j), expit(reward[i] - reward[j]), rtol=1e-12)


@given(tuples(2, hostile=False), st.integers(1, 3), st.sampled_from(("best", "worst")), st.booleans())
def test_best_and_worst_of_n_by_enumerating_all_draws(
    pair: tuple[np.ndarray, ...], n: int, kind: str, tied: bool
) -> None:
    p, score = pair
    score = np.round(score) if tied else score
    sign = 1 if kind == "best" else -1
    mass = np.zeros(len(p))
    for draws in itertools.product(range(len(p)), repeat=n):
        scores = [sign * score[k] for k in draws]
        top = [k for k, s in zip(draws, scores, strict=True) if s == max(scores)]
        weight = np.exp(sum(p[k] for k in draws))
        for k in top:
            # Draws that tie for the best are alike in distribution, so that each is taken equally often.
            mass[k] += weight / len(top)
    function = didsim.best_of_n if kind == "best" else didsim.worst_of_n
    np.testing.assert_allclose(jnp.exp(function(p, score, n)), mass, rtol=1e-10)
