import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax
from scipy.stats import chisquare

import didsim
from didsim.preferences.online import Draw
from tests import strategies
from tests.tables import table

RNG = np.random.default_rng(0)
SIZE = 6
REWARD = RNG.normal(size=SIZE)
POLICY = log_softmax(RNG.normal(size=SIZE))
H = 0.7 * (POLICY - log_softmax(RNG.normal(size=SIZE)))
UNIFORM = np.full(SIZE, 1 / SIZE)


def powers(exponent: float) -> np.ndarray:
    unnormalised = np.exp(POLICY) ** exponent
    return unnormalised / unnormalised.sum()


def by_difference(h: np.ndarray) -> np.ndarray:
    d = h[:, None] - h
    table = 2 + np.exp(d) + np.exp(-d)
    return table / table.sum()


def by_capped_difference(h: np.ndarray, cap: float) -> np.ndarray:
    """As the authors' code has it: the smaller of `1/(σ(d) σ(−d))` and `2 + e^cap + e^−cap`."""
    d = h[:, None] - h
    table = np.minimum(1 / (expit(d) * expit(-d)), 2 + np.exp(cap) + np.exp(-cap))
    return table / table.sum()


# The joint distribution of the two sequences, entry by entry.
JOINT: dict[str, tuple[didsim.Sampler, np.ndarray]] = {
    "uniform": (didsim.Uniform(), np.outer(UNIFORM, UNIFORM)),
    "on_policy": (didsim.OnPolicy(), np.outer(powers(1), powers(1))),
    "tempered": (didsim.OnPolicy(0.3), np.outer(powers(0.3), powers(0.3))),
    "policy_and_uniform": (didsim.PolicyAndUniform(0.3), np.outer(powers(0.3), UNIFORM)),
    "capped": (didsim.CappedRewardDifference(0.5), by_capped_difference(H, 0.5)),
    "capped_by_reward": (didsim.CappedRewardDifference(), by_capped_difference(H, np.ptp(REWARD))),
    "policy_difference": (didsim.RewardDifference(), by_difference(H)),
    "reward_difference": (didsim.RewardDifference("reward"), by_difference(REWARD)),
}


@pytest.mark.parametrize("name", JOINT)
def test_expectations_are_those_of_the_joint_distribution(name: str) -> None:
    sampler, joint = JOINT[name]
    problem = didsim.Online(REWARD, sampler).at(jnp.asarray(POLICY), jnp.asarray(H))
    wins = expit(REWARD[:, None] - REWARD)
    losses = np.logaddexp(0, -(H[:, None] - H))
    expected = np.sum(joint * (wins * losses + (1 - wins) * losses.T))
    assert float(problem.expect(lambda d: jax.nn.softplus(-d), jnp.asarray(H))) == pytest.approx(
        expected, rel=1e-12
    )
    chosen = np.sum(joint * wins, axis=1) + np.sum(joint * (1 - wins), axis=0)
    np.testing.assert_allclose(np.exp(problem.chosen_marginal(SIZE)), chosen, rtol=1e-12)
    rejected = np.sum(joint * (1 - wins), axis=1) + np.sum(joint * wins, axis=0)
    np.testing.assert_allclose(np.exp(problem.rejected_marginal(SIZE)), rejected, rtol=1e-12)
    exponentials = np.exp(H[:, None] - H)
    expected = np.sum(joint * (wins * exponentials + (1 - wins) * exponentials.T))
    assert float(problem.expect_exp(jnp.asarray(H))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", JOINT)
def test_sampled_pairs_follow_the_joint_distribution(name: str) -> None:
    sampler, joint = JOINT[name]
    problem = didsim.Online(REWARD, sampler).at(jnp.asarray(POLICY), jnp.asarray(H))
    number = 20_000
    pairs = problem.sample(jax.random.key(1), number)
    counts = np.zeros((SIZE, SIZE))
    np.add.at(counts, (np.asarray(pairs.winners), np.asarray(pairs.losers)), 1)
    wins = expit(REWARD[:, None] - REWARD)
    expected = (joint * wins + joint.T * wins) * number
    assert chisquare(counts.ravel(), expected.ravel()).pvalue > 1e-4


def losses(problem: Any, logits: jax.Array, reference: jax.Array) -> jax.Array:
    return didsim.dpo(0.5).population_loss(jax.nn.log_softmax(logits), reference, problem, None, None)


@pytest.mark.parametrize("name", JOINT)
def test_no_gradient_passes_through_the_sampler(name: str) -> None:
    sampler, _ = JOINT[name]
    reference = jnp.asarray(log_softmax(RNG.normal(size=SIZE)))
    logits = jnp.asarray(POLICY)
    online = didsim.Online(REWARD, sampler)
    held = online.at(logits, 0.5 * (logits - reference))
    np.testing.assert_allclose(
        jax.grad(losses, argnums=1)(online, logits, reference),
        jax.grad(losses, argnums=1)(held, logits, reference),
        rtol=1e-12,
        atol=1e-15,
    )
    assert float(jnp.abs(jax.grad(losses, argnums=1)(online, logits, reference)).max()) > 1e-3


@pytest.mark.parametrize("name", JOINT)
def test_in_near_linear_time_the_same(name: str) -> None:
    """From 64 sequences on, sums over pairs are taken in two parts; here against a double loop."""
    size = 150
    rng = np.random.default_rng(1)
    reward, policy, h = rng.normal(size=(3, size))
    policy = log_softmax(policy)
    sampler, _ = JOINT[name]
    online = didsim.Online(reward, sampler)
    assert online.separable
    problem = online.at(jnp.asarray(policy), jnp.asarray(h))
    tempered = {"uniform": 0.0, "on_policy": 1.0, "tempered": 0.3}
    if name in tempered:
        one = np.exp(log_softmax(tempered[name] * policy))
        joint = np.outer(one, one)
    elif name == "policy_and_uniform":
        joint = np.outer(np.exp(log_softmax(0.3 * policy)), np.full(size, 1 / size))
    elif name.startswith("capped"):
        joint = by_capped_difference(h, 0.5 if name == "capped" else np.ptp(reward))
    else:
        joint = by_difference(h if name == "policy_difference" else reward)
    wins = expit(reward[:, None] - reward)
    d = h[:, None] - h
    expected = np.sum(joint * (wins * np.logaddexp(0, -d) + (1 - wins) * np.logaddexp(0, d)))
    kernel = didsim.dpo().terms[0].kernel
    value, gradient = jax.value_and_grad(lambda h: kernel.expect(problem, h))(jnp.asarray(h))
    assert float(value) == pytest.approx(expected, rel=1e-12)
    flow = joint * (wins * -expit(-d) + (1 - wins) * expit(d))
    gross = np.abs(joint).sum(1).max()
    np.testing.assert_allclose(gradient, flow.sum(1) - flow.sum(0), atol=1e-12 * gross, rtol=0)


@eqx.filter_jit
def asked_of(mixture: didsim.Mixture, x: Any, y: Any, size: int) -> dict[str, jax.Array]:
    return {
        "square": mixture.expect(jnp.square, x),
        "across": mixture.expect_across(jnp.square, x, y),
        "exp": mixture.expect_exp(x),
        "table": mixture.joint(size).log_probs,
        "chosen": mixture.chosen_marginal(size),
        "rejected": mixture.rejected_marginal(size),
    }


@given(st.data())
def test_a_mixture_is_the_weighted_mean_of_its_problems(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from((1, 2, 8)))
    one, two, x, y = (data.draw(strategies.ordinary_policies(size)) for _ in range(4))
    problems = didsim.Contrastive(one, two), didsim.Labelled(x, two, one)
    shares = 0.3 * np.exp(table(problems[0], size)) + 0.7 * np.exp(table(problems[1], size))
    found = asked_of(didsim.Mixture(problems, np.log([0.3, 0.7])), x, y, size)
    expected = {
        "square": np.sum(shares * (x[:, None] - x) ** 2),
        "across": np.sum(shares * (x[:, None] - y) ** 2),
        "exp": np.sum(shares * np.exp(x[:, None] - x)),
        "table": np.log(shares),
        "chosen": np.log(shares.sum(1)),
        "rejected": np.log(shares.sum(0)),
    }
    for name, value in expected.items():
        # Values of order 10 at most, and sums over 64 pairs of them.
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_tables_of_batches_of_mixtures() -> None:
    shares = np.array([[0.3, 0.7], [1.0, 0.0]])
    one, two, three = log_softmax(RNG.normal(size=(3, SIZE)), axis=-1)
    problems = didsim.Contrastive(one, two), didsim.Joint(log_softmax(RNG.normal(size=(SIZE, SIZE))))
    with np.errstate(divide="ignore"):
        mixture = didsim.Mixture(problems, np.log(shares))
    found = mixture.joint(SIZE)
    across = mixture.expect_across(jnp.square, jnp.asarray(one), jnp.asarray(three))
    assert found.batch_shape == across.shape == (2,)
    for k in range(2):
        parts = [np.exp(table(problem, SIZE)) for problem in problems]
        expected = shares[k, 0] * parts[0] + shares[k, 1] * parts[1]
        np.testing.assert_allclose(np.exp(found.log_probs[k]), expected, rtol=1e-12)
        direct = np.sum(expected * (one[:, None] - three) ** 2)
        assert float(across[k]) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("name", JOINT)
def test_training_online_ends_at_the_reward_whatever_the_sampler(name: str) -> None:
    """Labelled pairs of full support have one minimiser, and only the way there depends on the sampler."""
    reference = didsim.normal_logits(jax.random.key(2), SIZE)
    objective = didsim.dpo(0.5)
    problem = didsim.Online(REWARD, JOINT[name][0])
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 1000), b2=0.95, eps=1e-16)
    run = didsim.train(didsim.EnergyBased(reference), reference, problem, objective, adam, 1000)
    limit = log_softmax(np.asarray(reference) + REWARD / 0.5)
    assert float(didsim.js(run.policy.log_probs(), limit)) < 1e-10
    assert float(run.metrics["js_to_target"][-1]) < 1e-10
    np.testing.assert_allclose(didsim.fixed_point(objective, reference, problem), limit, rtol=1e-12)


def test_the_difference_sampler_needs_fewer_steps_than_the_uniform_one() -> None:
    """Newton's method in disguise: its weights cancel the slope of the sigmoid at the optimum."""
    reference = didsim.normal_logits(jax.random.key(3), SIZE)

    def distance(sampler: didsim.Sampler) -> float:
        problem = didsim.Online(2 * REWARD, sampler)
        # The same share of the curvature for both: gradients in units of the largest weight of a sequence.
        run = didsim.train(
            didsim.EnergyBased(reference), reference, problem, didsim.dpo(1.0), optax.sgd(4.0), 40
        )
        return float(run.metrics["js_to_target"][-1])

    assert distance(didsim.RewardDifference()) < 0.1 * distance(didsim.Uniform())


def test_minibatches_are_drawn_from_the_policy_as_it_stands() -> None:
    reference = didsim.normal_logits(jax.random.key(4), SIZE)
    problem = didsim.Online(REWARD, didsim.OnPolicy())
    run = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        problem,
        didsim.dpo(0.5),
        optax.adam(0.02),
        1000,
        batch_size=64,
        key=jax.random.key(0),
    )
    assert float(run.metrics["js_to_target"][-1]) < 0.1 * float(run.metrics["js_to_target"][0])


def test_a_sampler_of_ones_own() -> None:
    class Best(didsim.Sampler):
        def __call__(self, reward: jax.Array, log_probs: jax.Array, implicit_reward: jax.Array) -> Any:
            return (Draw(jnp.zeros(()), didsim.best_of_n(log_probs, reward, 2), log_probs),)

    problem = didsim.Online(REWARD, Best()).at(jnp.asarray(POLICY), jnp.asarray(H))
    assert isinstance(problem, didsim.Labelled)
    np.testing.assert_allclose(problem.first, didsim.best_of_n(POLICY, REWARD, 2), rtol=1e-12)


def test_batches_of_rewards_and_exponents() -> None:
    problem = didsim.Online(np.stack([REWARD, -REWARD]), didsim.OnPolicy(jnp.array([[0.5], [1.0], [2.0]])))
    assert problem.batch_shape == (3, 2)
    current = problem.at(jnp.asarray(POLICY), jnp.asarray(H))
    values = current.expect(jax.nn.softplus, jnp.asarray(H))
    for i, j in itertools.product(range(3), range(2)):
        one = didsim.Online([1, -1][j] * REWARD, didsim.OnPolicy([0.5, 1.0, 2.0][i]))
        alone = one.at(jnp.asarray(POLICY), jnp.asarray(H)).expect(jax.nn.softplus, jnp.asarray(H))
        assert float(values[i, j]) == pytest.approx(float(alone), rel=1e-12)


def test_what_needs_a_policy_says_so_and_wrong_arguments_are_named() -> None:
    problem = didsim.Online(REWARD, didsim.OnPolicy())
    for ask in (
        lambda: problem.expect(jnp.square, jnp.asarray(H)),
        lambda: problem.expect_exp(jnp.asarray(H)),
        lambda: problem.expect_across(jnp.square, jnp.asarray(H), jnp.asarray(H)),
        lambda: problem.joint(SIZE),
        lambda: problem.sample(jax.random.key(0), 3),
        lambda: problem.chosen_marginal(SIZE),
        lambda: problem.rejected_marginal(SIZE),
    ):
        with pytest.raises(ValueError, match="depends on the policy"):
            ask()
    assert float(problem.preference(0, 1)) == pytest.approx(expit(REWARD[0] - REWARD[1]))
    with pytest.raises(ValueError, match="`sampler` must be a Sampler"):
        didsim.Online(REWARD, didsim.OnPolicy)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`reward` must be finite"):
        didsim.Online(np.array([0.0, np.inf]), didsim.OnPolicy())
    with pytest.raises(ValueError, match="`exponent` must be zero or more"):
        didsim.OnPolicy(-1.0)
    with pytest.raises(ValueError, match="`exponent` must be zero or more"):
        didsim.PolicyAndUniform(-1.0)
    with pytest.raises(ValueError, match="`cap` must be zero or more"):
        didsim.CappedRewardDifference(-1.0)
    with pytest.raises(ValueError, match="`of` must be 'policy' or 'reward'; got 'h'"):
        didsim.RewardDifference("h")
    with pytest.raises(ValueError, match="`problem` must be over 5 sequences; got one over 6"):
        problem.check_size(5)
    with pytest.raises(ValueError, match="sampler"):
        didsim.SAMPLERS["best"]
    contrastive = didsim.Contrastive(POLICY, POLICY)
    with pytest.raises(ValueError, match="`log_weights` must have one entry for each of 1 problems"):
        didsim.Mixture((contrastive,), np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match="`problems` must be labelled by one reward"):
        didsim.Mixture((contrastive,), np.zeros(1)).preference(0, 1)


@pytest.mark.parametrize("name", JOINT)
def test_line_searches_hold_the_pairs_fixed(name: str) -> None:
    reference = didsim.normal_logits(jax.random.key(5), SIZE)
    problem = didsim.Online(REWARD, JOINT[name][0])
    run = didsim.train(didsim.EnergyBased(reference), reference, problem, didsim.dpo(0.5), optax.lbfgs(), 60)
    assert float(run.metrics["js_to_target"][-1]) < 1e-6


def test_batches_of_exponents_train_as_one_by_one() -> None:
    reference = didsim.normal_logits(jax.random.key(6), SIZE)
    exponents = np.array([0.3, 1.0, 2.0])

    def run(exponent: Any) -> Any:
        problem = didsim.Online(REWARD, didsim.OnPolicy(exponent))
        return didsim.train(
            didsim.EnergyBased(reference), reference, problem, didsim.dpo(0.5), optax.sgd(1.0), 20
        ).metrics["loss"]

    together = run(exponents)
    for k, exponent in enumerate(exponents):
        np.testing.assert_allclose(together[k], run(exponent), rtol=1e-12)


def test_a_mixture_holds_no_online_problem() -> None:
    with pytest.raises(ValueError, match="`problems` must not depend on the policy"):
        didsim.Mixture((didsim.Online(REWARD, didsim.Uniform()),), np.zeros(1))
