"""The best policy for a reward, against its formula in higher precision and against a search."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import didsim
from tests.strategies import betas, ordinary_logits, policies, sizes


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    size = draw(sizes)
    return draw(ordinary_logits(size)), draw(policies(size)), draw(betas)


@given(problems())
def test_it_is_the_formula_in_fifty_digits(problem: tuple[np.ndarray, np.ndarray, float]) -> None:
    reward, reference, beta = problem
    with mpmath.workdps(50):
        weights = [
            mpmath.exp(mpmath.mpf(q) + mpmath.mpf(r) / beta) for r, q in zip(reward, reference, strict=True)
        ]
        total = mpmath.fsum(weights)
        expected = [float(mpmath.log(one / total)) for one in weights]
    found = didsim.kl_optimum(reward, reference, beta)
    scale = 1 + np.abs(reference).max() + np.ptp(reward) / beta
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=8 * np.finfo(float).eps * scale)


def test_no_policy_that_a_search_finds_is_better() -> None:
    reward, reference, beta = np.array([0.4, -1.0, 2.0]), np.log([0.7, 0.2, 0.1]), 0.6

    def loss(logits: np.ndarray) -> float:
        policy = log_softmax(logits)
        return -float(np.sum(np.exp(policy) * (reward - beta * (policy - reference))))

    found = scipy.optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(log_softmax(found), didsim.kl_optimum(reward, reference, beta), atol=1e-5)


@pytest.mark.parametrize("beta", [1e-300, 1e-12, 1.0, 1e300])
def test_what_the_reference_never_has_stays_out_however_good_it_is(beta: float) -> None:
    """Also where its reward is the largest by so much that it would drown the others."""
    reference = np.array([np.log(0.5), np.log(0.5), -np.inf])
    found = np.exp(didsim.kl_optimum(np.array([1.0, 1.0, 1e9]), reference, beta))
    np.testing.assert_array_equal(found, [0.5, 0.5, 0.0])
    slopes = jax.jacobian(didsim.kl_optimum, (0, 2))(jnp.array([1.0, 0.5, 1e9]), jnp.asarray(reference), 0.5)
    assert all(np.isfinite(np.asarray(one)[:2]).all() for one in slopes)


def test_batch_axes_broadcast_and_dtypes_stay() -> None:
    rewards = np.linspace(-1, 1, 8).reshape(2, 1, 4).astype(np.float32)
    reference = np.log(np.full((3, 4), 0.25, np.float32))
    beta = np.array([[0.1], [1.0]], np.float32)
    found = didsim.kl_optimum(rewards, reference, beta)
    assert found.shape == (2, 3, 4)
    assert found.dtype == np.float32
    expected = log_softmax(rewards[1, 0].astype(float) / 1.0 + np.log(0.25))
    np.testing.assert_allclose(found[1, 2], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "name"), [({"beta": 0.0}, "beta"), ({"reward": [np.nan, 1.0]}, "reward")]
)
def test_wrong_arguments_are_named(changed: dict[str, Any], name: str) -> None:
    valid: dict[str, Any] = {"reward": [0.0, 1.0], "reference": np.log([0.5, 0.5]), "beta": 1.0}
    with pytest.raises(ValueError, match=f"`{name}`"):
        didsim.kl_optimum(**valid | changed)
