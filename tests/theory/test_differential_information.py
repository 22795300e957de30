"""Section 1 of the theory: the Differential Information Distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy as scipy_entropy

import didsim
from tests.strategies import policies, sizes, tuples


def rounding(*arrays: np.ndarray) -> float:
    """The size of float64 rounding in log space: a few units in the last place of the largest entry."""
    return 16 * np.finfo(np.float64).eps * (1 + max(float(np.abs(a).max()) for a in arrays))


@given(tuples(2))
def test_did_is_the_posterior_of_a_uniform_prior(pair: tuple[np.ndarray, ...]) -> None:
    policy, reference = pair
    expected = (policy - reference) - logsumexp(policy - reference)
    np.testing.assert_allclose(
        didsim.did(policy, reference), expected, rtol=1e-12, atol=rounding(policy, reference)
    )


@given(tuples(2))
def test_did_is_the_evidence_that_turns_reference_into_policy(pair: tuple[np.ndarray, ...]) -> None:
    policy, reference = pair
    updated = didsim.bayes_update(reference, didsim.did(policy, reference))
    np.testing.assert_allclose(updated, policy, rtol=1e-12, atol=rounding(policy, reference))


@given(tuples(2))
def test_an_event_with_the_largest_constant_is_a_likelihood_whose_posterior_is_the_policy(
    pair: tuple[np.ndarray, ...],
) -> None:
    policy, reference = pair
    log_c = np.min(reference - policy)
    log_likelihood = log_c + policy - reference
    assert log_likelihood.max() <= rounding(policy, reference)
    # By Bayes' rule in log space; P(X) is the constant itself.
    log_evidence = logsumexp(reference + log_likelihood)
    assert log_evidence == pytest.approx(log_c, rel=1e-12, abs=rounding(policy, reference))
    posterior = reference + log_likelihood - log_evidence
    np.testing.assert_allclose(
        didsim.bayes_update(reference, log_likelihood),
        posterior,
        rtol=1e-12,
        atol=rounding(policy, reference),
    )
    np.testing.assert_allclose(posterior, policy, rtol=1e-12, atol=rounding(policy, reference))


@given(tuples(2))
def test_inverse(pair: tuple[np.ndarray, ...]) -> None:
    a, b = pair
    forward = np.asarray(didsim.did(a, b))
    np.testing.assert_allclose(
        didsim.did(b, a), log_softmax(-forward), rtol=1e-12, atol=rounding(forward, a, b)
    )


@given(tuples(3))
def test_chain(triple: tuple[np.ndarray, ...]) -> None:
    a, b, c = triple
    one, two = np.asarray(didsim.did(c, b)), np.asarray(didsim.did(b, a))
    np.testing.assert_allclose(
        didsim.did(c, a), log_softmax(one + two), rtol=1e-12, atol=2 * rounding(one, two)
    )


@given(sizes.flatmap(policies))
def test_no_update_has_a_uniform_did_of_maximal_entropy(policy: np.ndarray) -> None:
    size = len(policy)
    np.testing.assert_allclose(didsim.did(policy, policy), -np.log(size), rtol=1e-14, atol=1e-15)
    assert float(didsim.did_entropy(policy, policy)) == pytest.approx(np.log(size), rel=1e-14, abs=1e-15)


@given(sizes.flatmap(policies))
def test_did_against_a_uniform_reference_is_the_policy(policy: np.ndarray) -> None:
    uniform = np.full(len(policy), -np.log(len(policy)))
    np.testing.assert_allclose(didsim.did(policy, uniform), policy, rtol=1e-12, atol=rounding(policy))


@given(sizes.flatmap(policies), st.floats(-3, 3, width=16))
def test_tempering_by_t_has_the_did_of_tempering_by_t_less_1(b: np.ndarray, t: float) -> None:
    a = didsim.temper(b, t)
    np.testing.assert_allclose(didsim.did(a, b), log_softmax((t - 1) * b), rtol=1e-12, atol=8 * rounding(b))


@given(tuples(2))
def test_did_entropy_lies_between_0_and_log_n(pair: tuple[np.ndarray, ...]) -> None:
    policy, reference = pair
    value = float(didsim.did_entropy(policy, reference))
    assert -1e-15 <= value <= np.log(len(policy)) + 1e-14
    assert value == pytest.approx(
        scipy_entropy(softmax(policy - reference)), rel=1e-10, abs=rounding(policy, reference)
    )


@given(tuples(2), st.sampled_from((-2.0, -0.5, 0.0, 0.25, 1.0, 3.0)))
def test_the_geodesic_tempers_the_did(pair: tuple[np.ndarray, ...], s: float) -> None:
    target, reference = pair
    log_q = np.asarray(didsim.did(target, reference))
    at_s = didsim.geodesic(reference, log_q, s)
    np.testing.assert_allclose(
        didsim.did(at_s, reference), log_softmax(s * log_q), rtol=1e-11, atol=8 * rounding(reference, log_q)
    )
    if s == 1.0:
        np.testing.assert_allclose(at_s, target, rtol=1e-12, atol=rounding(reference, target))
