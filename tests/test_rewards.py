from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

import didsim
from didsim.rewards import LogOdds, LogProb, LogRatio
from tests.strategies import betas, ordinary_logits

EPS = float(np.finfo(np.float64).eps)
few_sizes = st.sampled_from((1, 2, 5))
LENGTHS = {1: np.array([3]), 2: np.array([1, 2]), 3: np.array([1, 2, 4]), 5: np.array([1, 2, 2, 3, 3])}


@given(st.data(), betas)
def test_rewards_invert_to_policies(data: st.DataObject, beta: float) -> None:
    size = data.draw(few_sizes)
    h = data.draw(ordinary_logits(size))
    r = log_softmax(data.draw(ordinary_logits(size)))
    n = LENGTHS[size]
    rewards: list[tuple[Any, np.ndarray | None]] = [
        (didsim.dpo(beta).reward, None),
        (didsim.reference_free(beta).reward, None),
        (didsim.simpo(beta).reward, n),
    ]
    for reward, lengths in rewards:
        p = np.asarray(INVERT(reward, h, r, lengths))
        assert abs(logsumexp(p)) < 1e-11
        back = np.asarray(reward(jnp.asarray(p), jnp.asarray(r), lengths)) - h
        # The reward is beta times logs of size A, and the logs are h/beta: rounding by a few eps of both.
        error = 32 * EPS * (np.abs(h).max() + beta * (np.abs(p).max() + np.abs(r).max()))
        assert np.ptp(back) <= error


INVERT = eqx.filter_jit(lambda reward, h, r, n: reward.policy(h, r, None if n is None else jnp.asarray(n)))


def test_the_inverse_with_lengths_is_found_from_afar() -> None:
    h = np.array([0.0, 700.0, -700.0, 3.0, 2.0])
    n = np.array([1, 500, 2, 30, 7])
    for beta in (1e-3, 1.0, 1e3):
        reward = didsim.simpo(beta).reward
        p = np.asarray(INVERT(reward, h, np.full(5, -np.log(5)), n))
        assert abs(logsumexp(p)) < 1e-9
        back = beta * p / n
        assert np.ptp(back - h) <= 1e-9 * 700 * max(beta, 1)


def test_log_odds_have_no_closed_inverse() -> None:
    with pytest.raises(NotImplementedError, match="LogOdds has no closed-form inverse"):
        LogOdds().policy(jnp.zeros(2), jnp.zeros(2), None)


def test_log_odds_agree_with_probabilities() -> None:
    p = np.array([0.999, 0.5, 1e-6])
    result = LogOdds()(jnp.log(p), None, jnp.ones(3, int))
    np.testing.assert_allclose(result, np.log(p / (1 - p)), rtol=1e-12, atol=1e-15)


def test_rewards_say_what_they_need() -> None:
    assert LogRatio.needs_reference
    assert not LogProb.needs_reference
    assert not LogOdds.needs_reference
    assert LogOdds().needs_lengths
