"""Objectives of the reward that a policy expects, and INPO: losses and gradients against sums in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax

import didsim
from didsim import EnergyBased, Labelled, Online, OnPolicy, PreferenceTable

NUMBERS = np.random.default_rng(0)
REFERENCE, POLICY, HELD = log_softmax(NUMBERS.normal(size=(3, 5)), axis=-1)
AS_ARRAY = jnp.asarray(REFERENCE)
REWARD = NUMBERS.normal(size=5)
PROBLEM = Labelled(REWARD, REFERENCE, REFERENCE)
BETA = 0.4
LAST = didsim.Record(every=10_000, metrics={"loss": didsim.METRICS["loss"]})


def value(policy: np.ndarray) -> float:
    return sum(np.exp(p) * (r - BETA * (p - q)) for p, q, r in zip(policy, REFERENCE, REWARD, strict=True))


def exact_gradient(policy: np.ndarray) -> np.ndarray:
    """`∂V/∂z_k = π_k (A_k)` for free logits, with the advantage `A = r − h − V`."""
    return np.exp(policy) * (REWARD - BETA * (policy - REFERENCE) - value(policy))


@pytest.mark.parametrize("objective", [didsim.policy_gradient(BETA), didsim.ppo(BETA)])
def test_the_loss_is_minus_the_value_and_its_slope_the_exact_policy_gradient(
    objective: didsim.Objective,
) -> None:
    assert float(objective.loss(POLICY, REFERENCE, PROBLEM)) == pytest.approx(-value(POLICY), rel=1e-13)
    slope = jax.grad(lambda z: objective.population_loss(jax.nn.log_softmax(z), AS_ARRAY, PROBLEM, None))
    np.testing.assert_allclose(slope(jnp.asarray(POLICY)), -exact_gradient(POLICY), rtol=1e-11)


@pytest.mark.parametrize("clip", [1e-3, 0.2, 5.0])
def test_the_clipped_surrogate_is_a_loop_over_sequences(clip: float) -> None:
    total, gains = 0.0, REWARD - BETA * (HELD - REFERENCE)
    mean = np.exp(HELD) @ gains
    for p, q, gain in zip(POLICY, HELD, gains, strict=True):
        ratio = np.exp(p - q)
        total += np.exp(q) * min(ratio * (gain - mean), np.clip(ratio, 1 - clip, 1 + clip) * (gain - mean))
    found = didsim.ppo(BETA, clip).population_loss(
        jnp.asarray(POLICY), AS_ARRAY, PROBLEM, None, held=jnp.asarray(HELD)
    )
    assert float(found) == pytest.approx(-mean - total, rel=1e-12)


@pytest.mark.parametrize("beta", [1e-3, 100.0])
@pytest.mark.parametrize("make", [didsim.policy_gradient, didsim.ppo])
def test_the_limit_is_the_kl_optimum(make: object, beta: float) -> None:
    objective = make(beta)  # type: ignore[operator]
    solution = didsim.solve(objective, REFERENCE, PROBLEM)
    expected = log_softmax(REFERENCE + REWARD / beta)
    np.testing.assert_allclose(solution.log_probs, expected, rtol=1e-12, atol=1e-12)
    assert solution.certificate.unique
    assert solution.certificate.gradient_norm < 1e-12 * max(1, beta)
    traced = jax.jit(lambda r: didsim.fixed_point(objective, REFERENCE, Labelled(r, REFERENCE, REFERENCE)))
    np.testing.assert_allclose(traced(REWARD), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("objective", [didsim.policy_gradient(BETA), didsim.ppo(BETA, 0.1)])
def test_training_ends_at_the_kl_optimum(objective: didsim.Objective, times: int) -> None:
    optimizer = didsim.inner_steps(optax.sgd(2.0 / times), times)
    run = didsim.train(EnergyBased(REFERENCE), REFERENCE, PROBLEM, objective, optimizer, 3000, record=LAST)
    np.testing.assert_allclose(run.policy.log_probs(), didsim.kl_optimum(REWARD, REFERENCE, BETA), atol=1e-10)


def test_inner_steps_hold_the_old_policy_and_keep_probabilities_near() -> None:
    """Against the same steps by hand; and the share by which a probability has moved when its step ends."""
    objective, rate, times = didsim.ppo(BETA, 0.05), 0.3, 40
    held = jnp.asarray(REFERENCE)
    slope = jax.grad(
        lambda z: objective.population_loss(jax.nn.log_softmax(z), AS_ARRAY, PROBLEM, None, held=held)
    )
    z = held
    for _ in range(times):
        z = z - rate * slope(z)
    optimizer = didsim.inner_steps(optax.sgd(rate), times)
    run = didsim.train(EnergyBased(REFERENCE), REFERENCE, PROBLEM, objective, optimizer, 1, record=LAST)
    np.testing.assert_allclose(
        run.policy.logits,  # type: ignore[attr-defined]
        z,
        rtol=1e-12,
        atol=1e-13,
    )
    free = didsim.train(
        EnergyBased(REFERENCE), REFERENCE, PROBLEM, didsim.policy_gradient(BETA), optimizer, 1, record=LAST
    )
    moved, moved_freely = (
        np.abs(np.exp(np.asarray(one.policy.log_probs()) - REFERENCE) - 1).max() for one in (run, free)
    )
    assert moved < 0.5 * moved_freely


def test_inpo_is_a_double_loop_over_an_anchor_between_reference_and_held_policy() -> None:
    tau, eta = 0.2, 0.5
    odds = NUMBERS.normal(size=(5, 5))
    wins = expit(odds - odds.T)
    anchor = tau / eta * REFERENCE + (1 - tau / eta) * HELD
    g = POLICY - anchor
    total = sum(
        2 * np.exp(HELD[i] + HELD[j]) * wins[i, j] * (g[i] - g[j] - 1 / (2 * eta)) ** 2
        for i in range(5)
        for j in range(5)
    )
    online = Online(PreferenceTable(wins), OnPolicy())
    pairs = online.at(jnp.asarray(HELD), jnp.zeros(5))
    objective = didsim.inpo(tau, eta)
    found = objective.population_loss(jnp.asarray(POLICY), AS_ARRAY, pairs, None, held=jnp.asarray(HELD))
    assert float(found) == pytest.approx(total, rel=1e-12)

    def slope(one: didsim.Objective) -> jax.Array:
        return jax.grad(lambda z: one.population_loss(jax.nn.log_softmax(z), AS_ARRAY, online, None))(
            jnp.asarray(POLICY)
        )

    np.testing.assert_allclose(slope(objective), tau / eta * slope(didsim.ipo(tau)), rtol=1e-9, atol=1e-13)


def test_a_dataset_has_the_mean_of_inpos_pair_losses() -> None:
    pairs = didsim.Pairs([0, 1, 3], [2, 0, 4])
    losses = didsim.inpo(0.1, 0.4).pair_loss(
        POLICY[[0, 1, 3]], POLICY[[2, 0, 4]], REFERENCE[[0, 1, 3]], REFERENCE[[2, 0, 4]]
    )
    loss = didsim.inpo(0.1, 0.4).loss(POLICY, REFERENCE, pairs)
    assert float(loss) == pytest.approx(float(losses.mean()), rel=1e-12)


@pytest.mark.parametrize(
    "objective", [didsim.sppo(0.3), didsim.ipo(0.3), didsim.inpo(0.3, 0.6)], ids=["sppo", "ipo", "inpo"]
)
def test_self_play_ends_at_the_nash_policy(objective: didsim.Objective) -> None:
    odds = np.random.default_rng(3).normal(size=(4, 4)) * 2
    table, reference = PreferenceTable(expit(odds - odds.T)), np.log([0.1, 0.2, 0.3, 0.4])
    nash = didsim.nash(table, reference, 0.3).log_probs
    problem = Online(table, OnPolicy())
    # Adam's momentum would circle around it for ever: self-play turns as much as it falls.
    optimizer = didsim.inner_steps(optax.sgd(0.02), 3)
    run = didsim.train(EnergyBased(reference), reference, problem, objective, optimizer, 1500, record=LAST)
    np.testing.assert_allclose(run.policy.log_probs(), nash, atol=1e-6)


def test_what_has_no_reward_or_no_pairs_is_refused() -> None:
    objective = didsim.policy_gradient(0.1)
    with pytest.raises(ValueError, match="`problem` must have labels by a reward"):
        objective.loss(POLICY, REFERENCE, didsim.Pairs([0, 1, 2, 3, 4], [1, 2, 3, 4, 0]))
    with pytest.raises(ValueError, match="`self` has no loss of a pair"):
        objective.pair_loss(-1.0, -2.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`eta` must be at least `tau`"):
        didsim.inpo(0.3, 0.1)
    with pytest.raises(ValueError, match="`times` must be an integer of at least 1"):
        didsim.inner_steps(optax.sgd(0.1), 0)


def test_a_sum_with_a_loss_of_pairs_has_a_minimiser_too() -> None:
    """The solver may not put a table in the place of a problem whose reward it needs."""
    objective = didsim.policy_gradient(BETA) + didsim.dpo(0.7)
    solution = didsim.solve(objective, REFERENCE, PROBLEM, starts=1)
    slope = jax.grad(lambda z: objective.population_loss(jax.nn.log_softmax(z), AS_ARRAY, PROBLEM, None))
    np.testing.assert_allclose(slope(solution.log_probs), np.zeros(5), atol=1e-12)


def test_float32_stays_float32() -> None:
    reward, reference = (one.astype(np.float32) for one in (REWARD, REFERENCE))
    problem = Labelled(reward, reference, reference)
    for objective in (didsim.policy_gradient(BETA), didsim.ppo(BETA)):
        loss = objective.loss(POLICY.astype(np.float32), REFERENCE.astype(np.float32), problem)
        assert loss.dtype == np.float32
        assert float(loss) == pytest.approx(-value(POLICY), rel=1e-5)
