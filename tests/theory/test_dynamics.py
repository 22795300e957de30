"""Section 5 of the theory: displacement and entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import didsim
from tests.strategies import tuples


@given(tuples(2))
def test_chosen_likelihood_falls_by_the_divergence_of_target_from_reference(
    pair: tuple[np.ndarray, ...],
) -> None:
    reference, target = pair
    p = np.exp(reference)
    change = np.sum(p * target) - np.sum(p * reference)
    size = 1 + np.abs(reference).max() + np.abs(target).max()
    divergence = float(didsim.kl(reference, target))
    assert change == pytest.approx(-divergence, rel=1e-10, abs=16 * np.finfo(float).eps * size)
    assert divergence >= 0


@given(tuples(2), st.sampled_from((0.1, 1.0)))
def test_the_same_as_displacement_at_the_limit_of_dpo(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = pair
    rejected = didsim.optimal_rejected(reference, target, beta)
    size = (1 + 1 / beta) * (1 + np.abs(reference).max() + np.abs(target).max())
    tolerance = {"rel": 1e-10, "abs": 64 * np.finfo(float).eps * size}
    learned = np.asarray(
        didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(reference, rejected))
    )
    fall = -np.sum(np.exp(reference) * (target - reference))
    assert -np.sum(np.exp(reference) * (learned - reference)) == pytest.approx(fall, **tolerance)
    # With the reference in the rejected place, and the chosen where the same power law puts them.
    chosen = didsim.geodesic(reference, target - reference, beta)
    learned = np.asarray(
        didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(chosen, reference))
    )
    assert -np.sum(np.exp(reference) * (learned - reference)) == pytest.approx(fall, **tolerance)


@given(tuples(2, hostile=False), st.sampled_from((-0.5, 0.0, 0.5, 1.0)))
def test_slope_of_entropy_along_the_geodesic(pair: tuple[np.ndarray, ...], s: float) -> None:
    """`dH/ds = −Cov(log π_s, log q)`, against a five-point difference of entropies summed in NumPy."""
    reference, target = pair
    log_q = np.asarray(didsim.did(target, reference))

    def policy(at: float) -> np.ndarray:
        return np.asarray(didsim.geodesic(reference, log_q, at))

    def entropy(at: float) -> float:
        return float(-np.sum(np.exp(policy(at)) * policy(at)))

    step = 1e-3
    slope = (
        -entropy(s + 2 * step) + 8 * entropy(s + step) - 8 * entropy(s - step) + entropy(s - 2 * step)
    ) / (12 * step)
    p, log_p = np.exp(policy(s)), policy(s)
    covariance = np.sum(p * log_p * log_q) - np.sum(p * log_p) * np.sum(p * log_q)
    # Truncation is of order step⁴ times the fifth derivative, with log-ratios of up to 12 nats.
    assert slope == pytest.approx(-covariance, rel=1e-6, abs=1e-6)


@given(tuples(2, hostile=False))
def test_an_update_reinforces_at_first_if_and_only_if_it_correlates_with_the_reference(
    pair: tuple[np.ndarray, ...],
) -> None:
    reference, target = pair
    log_q = np.asarray(didsim.did(target, reference))
    p = np.exp(reference)
    covariance = np.sum(p * reference * log_q) - np.sum(p * reference) * np.sum(p * log_q)
    s = 1e-5
    change = float(didsim.entropy(didsim.geodesic(reference, log_q, s)) - didsim.entropy(reference))
    # Second-order terms are of size s² times squared log-ratios; a smaller slope is not told from them.
    if abs(covariance) > 1e-2:
        assert np.sign(change) == -np.sign(covariance)


@pytest.mark.parametrize(("beta", "factor"), [(2.0, 0.5), (1.0, 0.0), (0.5, -1.0), (0.4, -1.5)])
def test_a_round_against_the_last_policy_multiplies_the_error(beta: float, factor: float) -> None:
    """Of two responses the teacher has 3 : 1, and the policy 1 : 1. So the odds are off by log 3."""
    policy, teacher = np.log([0.5, 0.5]), np.log([0.75, 0.25])
    after = didsim.fixed_point(didsim.dpo(beta), policy, didsim.Contrastive(teacher, policy))
    error = float(after[0] - after[1]) - np.log(3)
    assert error == pytest.approx(-factor * np.log(3), abs=1e-12)


def test_the_chosen_likelihood_turns_at_one_beta() -> None:
    """Uniform reference, chosen (3, 1)/4, rejected uniform: D(s) = 3/4 s log 3 − log((3^s + 1)/2).

    Its slope at 0 is (3/4 − 1/2) log 3. It is zero where (3^s + 1)/2 = 3^(3s/4), near s = 2.
    """
    reference, chosen = np.log([0.5, 0.5]), np.log([0.75, 0.25])
    slope = float(didsim.kl(chosen, reference) + didsim.kl(reference, chosen))
    assert slope == pytest.approx(np.log(3) / 4)
    found = []
    for s in (1.0, 1.9, 3.0):
        limit = didsim.fixed_point(didsim.dpo(1 / s), reference, didsim.Contrastive(chosen, reference))
        change = float(np.exp(chosen) @ (np.asarray(limit) - reference))
        assert change == pytest.approx(0.75 * s * np.log(3) - np.log((3**s + 1) / 2), rel=1e-9, abs=1e-12)
        assert change <= slope * s
        found.append(change)
    assert found[0] > 0 > found[2]
