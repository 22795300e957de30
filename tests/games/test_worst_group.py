"""The worst group: against searches over the largest loss, formulas by hand, and duality."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from scipy.special import expit, log_softmax

import didsim
from didsim import (
    Contrastive,
    EnergyBased,
    Labelled,
    LogLinear,
    Mixture,
    group_losses,
    solve_worst_group,
    worst_group,
)

NUMBERS = np.random.default_rng(4)
REFERENCE = np.log(np.full(4, 0.25))
REWARDS = NUMBERS.normal(size=(3, 4)) * 2
WEIGHTS = np.array([0.6, 0.3, 0.1])
RATERS = Mixture(tuple(Labelled(reward, REFERENCE, REFERENCE) for reward in REWARDS), np.log(WEIGHTS))


def losses_of_raters(h: np.ndarray) -> np.ndarray:
    """DPO's loss of each rater by the table of all pairs, for rewards `h`."""
    d = h[:, None] - h
    return np.array([2 * np.mean(expit(r[:, None] - r) * np.logaddexp(0, -d)) for r in REWARDS])


def test_the_largest_loss_is_as_small_as_a_search_finds() -> None:
    """Against SLSQP on `t` under `L_g ≤ t`, with the tables of all pairs."""
    found = solve_worst_group(didsim.dpo(0.5), REFERENCE, RATERS)
    h = 0.5 * (np.asarray(found.log_probs) - REFERENCE)
    np.testing.assert_allclose(found.losses, losses_of_raters(h), rtol=1e-12)
    searched = scipy.optimize.minimize(
        lambda x: x[-1],
        np.append(np.zeros(4), 1.0),
        constraints={"type": "ineq", "fun": lambda x: x[-1] - losses_of_raters(x[:4])},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.losses.max() == pytest.approx(searched.fun, abs=1e-7)
    assert 0 <= found.gap < 1e-7
    assert found.gradient_norm < 1e-8
    # Lower than where the mean of all raters ends.
    pooled = didsim.fixed_point(didsim.dpo(0.5), REFERENCE, RATERS)
    assert group_losses(didsim.dpo(0.5), pooled, REFERENCE, RATERS).max() > found.losses.max() + 1e-3


def test_one_feature_for_several_prompts_is_a_search_over_one_number() -> None:
    features = NUMBERS.normal(size=(2, 3, 1))
    chosen, rejected = log_softmax(NUMBERS.normal(size=(2, 2, 3)), axis=-1)
    placed = [didsim.in_own_prompt(one) for one in (chosen, rejected)]
    problem = Mixture(tuple(Contrastive(placed[0][k], placed[1][k]) for k in range(2)), np.log([0.5, 0.5]))
    reference = np.full(6, -np.log(6))

    def losses(theta: float) -> np.ndarray:
        margins = theta * (features[:, :, None, 0] - features[:, None, :, 0])
        weights = np.exp(chosen[:, :, None] + rejected[:, None, :])
        return np.sum(weights * np.logaddexp(0, -margins), axis=(1, 2))

    searched = scipy.optimize.minimize_scalar(
        lambda theta: max(losses(theta)), bounds=(-20, 20), method="bounded", options={"xatol": 1e-12}
    )
    found = solve_worst_group(didsim.dpo(1.0), reference, problem, policy=LogLinear(features, np.zeros(1)))
    np.testing.assert_allclose(found.losses, losses(float(found.policy.weights[0])), rtol=1e-12)  # type: ignore[union-attr]
    assert found.losses.max() == pytest.approx(searched.fun, abs=1e-8)
    assert 0 <= found.gap < 1e-7
    np.testing.assert_allclose(np.exp(found.log_probs).reshape(2, 3).sum(axis=1), [0.5, 0.5])


@pytest.mark.parametrize("temperature", [1e-9, 0.05, 1e3])
def test_the_loss_is_the_adversarys_best_answer(temperature: float) -> None:
    """`max_α Σ α L − T KL(α ‖ w)`, at its maximiser and near it; between the mean and the largest loss."""
    policy = log_softmax(np.array([1.0, -0.5, 0.2, 2.0]))
    objective = worst_group(didsim.dpo(0.5), temperature)
    loss = float(objective.loss(policy, REFERENCE, RATERS))
    losses = losses_of_raters(0.5 * (policy - REFERENCE))
    np.testing.assert_allclose(group_losses(didsim.dpo(0.5), policy, REFERENCE, RATERS), losses, rtol=1e-12)

    def payoff(alpha: np.ndarray) -> float:
        there = alpha > 0
        return float(
            alpha @ losses - temperature * np.sum(alpha[there] * np.log(alpha[there] / WEIGHTS[there]))
        )

    alpha = np.exp(log_softmax(np.log(WEIGHTS) + losses / temperature))
    assert loss == pytest.approx(payoff(alpha), rel=1e-11)
    for other in (WEIGHTS, np.array([0.2, 0.2, 0.6]), np.eye(3)[losses.argmax()]):
        assert loss >= payoff(other) - 1e-12
    assert WEIGHTS @ losses - 1e-12 <= loss <= losses.max() + 1e-12


def test_training_follows_the_weighted_gradient_and_ends_near_the_worst_groups_best() -> None:
    objective = worst_group(didsim.dpo(0.5), 0.002)
    record = didsim.Record(
        every=1000,
        metrics={"groups": lambda s: group_losses(didsim.dpo(0.5), s.log_probs, s.reference, s.problem)},
    )
    run = didsim.train(
        EnergyBased(REFERENCE), REFERENCE, RATERS, objective, optax.adam(0.01), 2000, record=record
    )
    assert run.metrics["groups"].shape == (3, 3)
    best = solve_worst_group(didsim.dpo(0.5), REFERENCE, RATERS).losses.max()
    assert best - 1e-12 <= run.metrics["groups"][-1].max() < best + 0.02
    slope = jax.grad(
        lambda z: objective.population_loss(jax.nn.log_softmax(z), jnp.asarray(REFERENCE), RATERS, None)
    )
    at = jnp.asarray([1.0, 0.0, 0.5, -0.3])
    losses = jax.jacobian(lambda z: group_losses(didsim.dpo(0.5), jax.nn.log_softmax(z), REFERENCE, RATERS))(
        at
    )
    alpha = np.exp(log_softmax(np.log(WEIGHTS) + losses_of_raters(0.5 * np.asarray(at)) / 0.002))
    np.testing.assert_allclose(slope(at), alpha @ losses, rtol=1e-9, atol=1e-12)


def test_a_batch_of_mixtures_and_float32() -> None:
    weights = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    batch = Mixture(RATERS.problems, weights)
    policy = log_softmax(np.array([1.0, -0.5, 0.2, 2.0])).astype(np.float32)
    loss = worst_group(didsim.dpo(0.5), 0.1).loss(policy, REFERENCE.astype(np.float32), batch)
    losses = losses_of_raters(0.5 * (policy.astype(float) - REFERENCE))
    expected = 0.1 * np.log(np.sum(np.exp(weights + losses / 0.1), axis=-1))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_what_has_no_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="`problem` must be a Mixture"):
        worst_group(didsim.dpo(0.5)).loss(REFERENCE, REFERENCE, RATERS.problems[0])
    with pytest.raises(ValueError, match="`objective` must be a loss; got a gradient rule"):
        worst_group(didsim.dpo_pg())
    with pytest.raises(ValueError, match="weights are positive"):
        solve_worst_group(
            didsim.dpo(), REFERENCE, Mixture(RATERS.problems, np.array([0.0, -np.inf, -np.inf]))
        )
    with pytest.raises(ValueError, match="`self` has no loss of a pair"):
        worst_group(didsim.dpo()).pair_loss(-1.0, -2.0, -1.0, -1.0)


@pytest.mark.slow
def test_a_loss_that_is_not_convex_gets_no_bound() -> None:
    found = solve_worst_group(didsim.simpo(2.0) + didsim.apo_zero(0.5), REFERENCE, RATERS)
    assert np.isnan(found.gap)
    assert np.isfinite(found.log_probs).all()
