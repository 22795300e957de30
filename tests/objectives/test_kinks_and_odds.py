"""Corners have the subgradient that trainers take; odds of a sure policy keep their digits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.nn import log_softmax

import didsim
from didsim.objectives import LogOdds

UNIFORM = jnp.log(jnp.full(4, 0.25))
ONE_WIN = didsim.Pairs(winners=jnp.array([0]), losers=jnp.array([1]))


def test_dpo_positive_starts_as_dpo_does() -> None:
    def gradient(objective: didsim.Objective) -> jax.Array:
        return jax.grad(lambda z: objective.loss(log_softmax(z), UNIFORM, ONE_WIN))(UNIFORM)

    found = gradient(didsim.dpop(0.3, 50.0))
    np.testing.assert_allclose(found, [-0.15, 0.15, 0, 0], atol=1e-15)
    np.testing.assert_allclose(found, gradient(didsim.dpo(0.3)), atol=1e-15)


def test_a_hinge_at_its_corner_is_flat() -> None:
    pair = jax.grad(lambda d: didsim.slic(1.0, 1.0).pair_loss(d, -1.0, -1.0, -1.0))(jnp.asarray(0.0 - 1e-300))
    assert float(pair) == 0
    z = jnp.array([1.0, 0.0, 0.0, 0.0])
    problem = didsim.Contrastive(jnp.log(jnp.array([1.0, 0, 0, 0])), jnp.log(jnp.array([0, 1.0, 0, 0])))
    loss = lambda z: didsim.slic(1.0, 1.0).loss(log_softmax(z), UNIFORM, problem)  # noqa: E731
    d = float(log_softmax(z)[0] - log_softmax(z)[1])
    expected = 0.0 if d >= 1 else 1.0
    np.testing.assert_allclose(jax.grad(loss)(z), [-expected, expected, 0, 0], atol=1e-15)


def exact_odds(z: np.ndarray, tokens: np.ndarray) -> list[mpmath.mpf]:
    weights = [mpmath.exp(mpmath.mpf(float(x))) for x in z]
    total = sum(weights)
    odds = []
    for k, n in enumerate(tokens):
        rest = sum(w for j, w in enumerate(weights) if j != k) / total
        log_p = mpmath.log1p(-rest) / int(n)
        odds.append(log_p - mpmath.log(-mpmath.expm1(log_p)))
    return odds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tokens", [(1, 1, 1), (1, 2, 3), (4, 1, 2)])
@pytest.mark.parametrize(
    "z", [(0, -700, -350), (700, 0, -1), (50, 0, 1), (0, 0, 0), (0.125, 0, -700), (0, -20, -700), (17, 0, 0)]
)
def test_odds_agree_with_mpmath_at_any_gap(
    z: tuple[float, ...], tokens: tuple[int, ...], dtype: type
) -> None:
    given: np.ndarray = np.asarray(z, dtype)
    of = lambda z: LogOdds().of_space(log_softmax(z), None, jnp.asarray(tokens))  # noqa: E731
    eps = 8 * float(jnp.finfo(dtype).eps)
    with mpmath.workdps(700):
        odds = exact_odds(given.astype(float), np.asarray(tokens))
        h = mpmath.mpf(10) ** -200
        moved = []
        for k in range(3):
            weights = [mpmath.mpf(float(x)) + (h if j == k else 0) for j, x in enumerate(given)]
            total = sum(map(mpmath.exp, weights))
            rests = [sum(mpmath.exp(w) for j, w in enumerate(weights) if j != i) / total for i in range(3)]
            logs = [mpmath.log1p(-rest) / n for rest, n in zip(rests, tokens, strict=True)]
            moved.append([log - mpmath.log(-mpmath.expm1(log)) for log in logs])
        slopes = np.array([[float((moved[k][i] - odds[i]) / h) for k in range(3)] for i in range(3)])
        expected = np.array(list(map(float, odds)))
    found = np.asarray(of(jnp.asarray(given)), float)
    np.testing.assert_allclose(found, expected, rtol=eps, atol=eps)
    np.testing.assert_allclose(jax.jacobian(of)(jnp.asarray(given)), slopes, rtol=4 * eps, atol=4 * eps)


def test_divergence_rewards_are_zero_at_the_reference_and_agree_where_they_are_the_same() -> None:
    p = log_softmax(jnp.array([0.3, -1.0, 2.0]))
    beta = jnp.asarray(0.7)
    rewards = didsim.objectives
    for reward in (
        rewards.ForwardKL(beta),
        rewards.JensenShannon(beta),
        rewards.ChiSquared(beta),
        rewards.Alpha(beta, jnp.asarray(0.4)),
        rewards.Alpha(beta, jnp.asarray(1.0)),
        rewards.LogRatio(beta),
    ):
        np.testing.assert_allclose(reward(p, p, None), 0, atol=1e-15)
    q = log_softmax(jnp.array([1.0, 0.5, -2.0]))
    alpha = rewards.Alpha(beta, jnp.asarray(1.0))(p, q, None)
    np.testing.assert_allclose(rewards.ForwardKL(beta)(p, q, None), alpha, rtol=1e-14)
