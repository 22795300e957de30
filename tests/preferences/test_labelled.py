import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from didsim import Labelled
from didsim.objectives.kernels import SURPRISE
from tests.preferences.problem_cases import PREFERENCE, P, Q, few_sizes
from tests.strategies import betas, ordinary_logits, policies, tuples


@given(tuples(2))
def test_labelled_preferences_are_bradley_terry_in_the_reward(drawn: tuple[np.ndarray, ...]) -> None:
    reward, sampler = drawn
    size = len(reward)
    i, j = np.divmod(np.arange(size * size), size)
    result = PREFERENCE(Labelled(reward, sampler, sampler), i, j)
    np.testing.assert_allclose(result, expit(reward[i] - reward[j]), rtol=1e-12, atol=1e-300)


def test_an_unlikely_label_counts_with_its_own_probability() -> None:
    # One pair, whose label is wrong with probability e^−40, at a loss of 50 if it is.
    problem = Labelled(np.array([40.0, 0.0]), np.array([0.0, -np.inf]), np.array([-np.inf, 0.0]))
    loss = problem.expect(lambda d: jax.nn.softplus(-d), jnp.array([50.0, 0.0]))
    expected = expit(40) * np.logaddexp(0, -50) + expit(-40) * np.logaddexp(0, 50)
    assert float(loss) == pytest.approx(expected, rel=1e-12, abs=0)


def test_a_vanishing_label_times_a_huge_exponential_is_right() -> None:
    uniform = np.log([0.5, 0.5])
    problem = Labelled(np.array([700.0, -700.0]), uniform, uniform)
    # (0, 0) and (1, 1) give 1 each. (0, 1) either way: e^−1400 if right, σ(−1400) e^1400 = 1 if wrong.
    assert float(problem.expect_exp(jnp.array([-700.0, 700.0]))) == pytest.approx(1, rel=1e-12)


@given(few_sizes, st.data(), betas)
def test_scaling_the_reward_of_labels_sharpens_preferences(
    size: int, data: st.DataObject, beta: float
) -> None:
    reward = data.draw(ordinary_logits(size))
    sampler = data.draw(policies(size))
    place = int(np.argmax(reward))
    result = PREFERENCE(Labelled(beta * reward, sampler, sampler), place, np.arange(size))
    np.testing.assert_allclose(result, expit(beta * (reward[place] - reward)), rtol=1e-12)


def test_the_reward_of_labels_is_checked() -> None:
    with pytest.raises(ValueError, match="`reward` must be finite everywhere; got inf"):
        Labelled(np.array([np.inf, 0.0, 0.0]), P, Q)
    with pytest.raises(ValueError, match="`reward` must be a floating-point array; got dtype int64"):
        Labelled(np.arange(3), P, Q)
    with pytest.raises(ValueError, match="`reward`, `first`, `second` must agree in their last axis"):
        Labelled(np.zeros(2), P, Q)


def test_labelled_pairs_made_under_jit_are_summed_as_they_stand() -> None:
    rng = np.random.default_rng(0)
    reward, logits, x = rng.normal(size=(3, 80))
    reference = log_softmax(logits)

    def loss(x: jax.Array) -> jax.Array:
        problem = Labelled(reward, reference, reference)
        return problem.expect(SURPRISE, x)

    outside = Labelled(reward, reference, reference)
    assert outside.separable
    assert float(jax.jit(loss)(x)) == pytest.approx(
        float(outside.expect(SURPRISE, jnp.asarray(x))), rel=1e-12
    )


def test_a_constant_in_the_reward_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    reward, one, two, x = rng.normal(size=(4, 300)).astype(np.float32)
    problem = Labelled(reward, jax.nn.log_softmax(one), jax.nn.log_softmax(two))
    assert problem.separable
    near = float(problem.expect(SURPRISE, jnp.asarray(x)))
    # The differences themselves are rounded by eps of the constant, 1e-3 nats here, either way and at random.
    assert float(problem.expect(SURPRISE, jnp.asarray(x + 1e4))) == pytest.approx(near, rel=1e-4)
