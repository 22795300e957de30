"""Experiments that repeat other people's toys."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import spearmanr

import didsim
from experiments import (
    deterministic_preferences,
    misspecified,
    rejected_drop,
    sampling_rates,
    similar_responses,
    squeezing,
)

SAMPLERS = {
    "uniform": didsim.Uniform(),
    "reward": didsim.RewardDifference("reward"),
    "policy": didsim.RewardDifference("policy"),
}


def online_loss(sampler: str, reward: jax.Array, beta: float, at: jax.Array, logits: jax.Array) -> jax.Array:
    """DPO's loss of some logits, on the pairs that a sampler draws for the policy with the logits `at`."""
    uniform = jnp.full(reward.shape, -jnp.log(reward.size))
    held = jax.nn.log_softmax(at)
    pairs = didsim.Online(reward, SAMPLERS[sampler]).at(held, beta * (held - uniform))
    return didsim.dpo(beta).loss(jax.nn.log_softmax(logits), uniform, pairs)


@pytest.mark.parametrize("sampler", sampling_rates.SAMPLERS)
def test_samplers_descend_the_loss_of_online_pairs(sampler: str) -> None:
    beta, rate = 1.7, 2.5
    reward = jax.random.normal(jax.random.key(1), (2, 4))
    rates = jnp.full((1, 2), rate)
    found = np.asarray(sampling_rates.errors_along(reward, rates, jnp.asarray(beta), sampler, 3))[0]
    for seed in range(2):
        logits = jnp.zeros(4)
        slope = jax.jit(jax.grad(lambda z, at, seed=seed: online_loss(sampler, reward[seed], beta, at, z)))
        for step in range(4):
            off = np.asarray(beta * logits - reward[seed])
            assert found[seed, step] == pytest.approx(np.abs(off[:, None] - off[None, :]).mean(), rel=1e-9)
            logits = logits - rate * slope(logits, logits)


@pytest.mark.parametrize("sampler", sampling_rates.SAMPLERS)
def test_safe_rates_are_those_of_the_hessian_at_the_optimum(sampler: str) -> None:
    beta = 0.8
    reward = jax.random.normal(jax.random.key(2), (1, 5))
    best = reward[0] / beta
    hessian = jax.hessian(lambda z: online_loss(sampler, reward[0], beta, best, z))(best)
    found = sampling_rates.curvatures(reward, sampler, beta)[0]
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian)[1:], rtol=1e-6)
    assert found[-1] <= beta**2 / (2 * 5)
    if sampler != "uniform":
        d = np.subtract.outer(*np.asarray(reward)[[0, 0]])
        np.testing.assert_allclose(found, 2 * beta**2 * 5 / np.sum(2 + np.exp(d) + np.exp(-d)), rtol=1e-9)


def test_orders_and_shares_of_sampling_rates_are_told() -> None:
    config = sampling_rates.Config(vocab_size=6, seeds=5, steps=40, multiples=(0.5, 1.2))
    dataset = sampling_rates.run(config)
    best = dataset["error"].sel(setting="best")
    assert sampling_rates.order(best.sel(sampler="uniform")) == pytest.approx(1, abs=0.1)
    for sampler in ("reward", "policy"):
        assert sampling_rates.order(best.sel(sampler=sampler)) == pytest.approx(2, abs=0.3)
    ends = dataset["end"]
    arrived = [100 * float((ends.sel(multiple=one) < 1e-6).mean()) for one in (0.5, 1.2)]
    told = sampling_rates.finding(dataset)
    shares = [float(one) for one in re.findall(r"([\d.]+)%", told)]
    np.testing.assert_allclose(shares[-2:], arrived, atol=0.5)
    assert arrived[0] > 90
    assert arrived[1] == 0
    np.testing.assert_allclose(shares[3:6], 100 * (dataset["safe_rate"] < 10).mean("seed"), atol=0.5)


def test_a_step_squeezes_as_the_formula_says() -> None:
    random = np.random.default_rng(0)
    logits = np.sort(random.normal(size=(3, 7)) * 2)[:, ::-1]
    policy = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    place = np.array([6, 0, 3])
    found = squeezing.one_step(jnp.log(policy)[None], jnp.asarray(place), -0.7)[0]
    for seed in range(3):
        moved = np.log(policy[seed]) + 0.7 * policy[seed]
        moved[place[seed]] -= 0.7
        after = np.exp(moved) / np.exp(moved).sum()
        np.testing.assert_allclose(found[seed], np.log(after / policy[seed]), rtol=1e-12)
    # To first order a class falls if its own and the pushed probability are less than the sum of squares.
    falling = np.asarray(squeezing._falling(jnp.log(policy)[None], 6, 1e-6))[0]
    expected = (policy[:, :6] + policy[:, 6:] < (policy**2).sum(axis=1, keepdims=True)).mean(axis=1)
    np.testing.assert_allclose(falling, expected)


def test_runs_of_squeezing_are_told() -> None:
    config = squeezing.Config(vocab_size=8, seeds=3, steps=40, pairs=9, scales=(0.1, 3.0))
    dataset = squeezing.run(config)
    assert dataset.attrs["pairs"] == 2
    first = dataset["first_probability"].isel(step=[0, -1]).median("seed")
    told = squeezing.finding(dataset)
    ends = re.search(r"from probability (\S+) to (\S+) for DPO, (\S+) for NPO", told)
    assert ends is not None
    numbers = first.sel(objective=["dpo", "npo"]).values
    expected = [numbers[0, 0], numbers[0, 1], numbers[1, 1]]
    for one, value in zip(ends.groups(), expected, strict=True):
        assert float(one) == pytest.approx(value, rel=0.06)
    down = dataset["change"].sel(direction="down", shape="peaked").isel(rank=slice(None, -1))
    assert f"lets {100 * float((down < 0).mean()):.0f}% of all other classes" in told
    rises = numbers[:, 1] > numbers[:, 0]
    assert rises.tolist() == [False, True]
    assert told.endswith("into the likeliest class for NPO (rejected alone).")


def test_squeezing_needs_room_for_a_pair() -> None:
    with pytest.raises(ValueError, match="must make at least 4 sequences; got 3"):
        squeezing.Config(vocab_size=3)


def test_paths_of_similar_responses_are_those_of_training() -> None:
    """Small steps of DPO on the weights of a log-linear policy, against the closed path."""
    beta, rate, steps = 0.6, 0.002, 500
    embeddings = np.random.default_rng(1).normal(size=(5, 3))
    weights = np.array([0.3, -0.2, 0.5])
    start = didsim.LogLinear(jnp.asarray(embeddings), jnp.asarray(weights))
    reference = start.log_probs()
    trained = didsim.train(
        start,
        reference,
        didsim.Pairs([0], [1]),
        didsim.dpo(beta),
        optax.sgd(rate),
        steps,
        record=didsim.Record(steps, {"fall": lambda s: s.log_probs[0] - s.reference[0]}),
    )
    assert isinstance(trained.policy, didsim.LogLinear)
    difference = embeddings[0] - embeddings[1]
    squared = jnp.asarray(difference @ difference)
    at = similar_responses.position_at(jnp.asarray([rate * steps]), squared[None], beta)
    moved = np.asarray(trained.policy.weights) - weights
    np.testing.assert_allclose(moved, float(at[0]) * difference, rtol=2e-3)
    found = similar_responses.displacement(reference, jnp.asarray(embeddings @ difference), at)
    assert float(found[0]) == pytest.approx(float(trained.metrics["fall"][-1]), rel=2e-3)


def test_ranks_and_winners_of_similar_responses_are_told() -> None:
    config = similar_responses.Config(vocab_size=6, seeds=2, instances=64, features=3, looks=3, bins=2)
    dataset = similar_responses.run(config)
    embeddings, weights, similarity = similar_responses._instances(config, jax.random.key(0), 6)
    instances = np.asarray(embeddings[1]), np.asarray(weights[1])
    scores, falls, winners = [], [], []
    for features, own in zip(*instances, strict=True):
        difference = features[0] - features[1]
        logits = features @ own
        after = logits + 0.1 * np.sqrt(10) ** 3 / (difference @ difference) * features @ difference
        before, later = (np.exp(one[0]) / np.exp(one).sum() for one in (logits, after))
        scores.append(features[0] @ features[1] - features[0] @ features[0])
        falls.append(np.log(before / later))
        winners.append(int(np.argmax(features @ difference)))
    np.testing.assert_allclose(dataset["fall"].sel(seed=1), falls, rtol=1e-8)
    found = dataset["correlation_margin"].sel(score="ches", seed=1).isel(margin=1)
    assert float(found) == pytest.approx(spearmanr(scores, falls).statistic)
    high = np.asarray(similarity[1]) >= 0
    of_high = dataset["share"].sel(seed=1).isel(bin=1)
    assert float(of_high.sel(winner="opposite")) == pytest.approx(np.mean(np.array(winners)[high] == 2))
    assert float(of_high.sel(winner="chosen")) == pytest.approx(np.mean(np.array(winners)[high] == 0))
    told = re.findall(r"([\d.]+)%", similar_responses.finding(dataset))
    chosen = dataset["share"].sel(winner="chosen").median("seed")
    assert [float(told[0]), float(told[3])] == pytest.approx(list(100 * chosen.values), abs=0.5)


def test_limits_of_sure_orders_are_those_of_the_losses() -> None:
    """IPO by a least-squares search in SciPy, DPO on a closed order of three by the root of its slope."""
    tau, q = 0.3, 0.2
    reference = np.log(np.array([[0.2, 0.5, 0.3]]))

    def loss(h: np.ndarray) -> float:
        centre = 1 / (2 * tau)
        pairs = [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1 - q), (2, 0, q)]
        return sum(weight * (h[i] - h[j] - centre) ** 2 for i, j, weight in pairs)

    h = minimize(loss, np.zeros(3), tol=1e-12).x
    policy = np.exp(reference[0] + h)
    chances = jnp.array([q])
    found = deterministic_preferences.ipo_limit(jnp.asarray(reference), jnp.asarray(tau), chances)
    np.testing.assert_allclose(np.exp(found[0]), policy / policy.sum(), rtol=1e-5)
    # By symmetry both steps of the order have one size, `d`.
    step = brentq(lambda d: expit(-d) + (1 - q) - expit(2 * d), 0, 10, xtol=1e-14)
    policy = np.exp(reference[0] + np.array([step, 0, -step]) / tau)
    found = deterministic_preferences.dpo_limit(jnp.asarray(reference), tau, chances)
    np.testing.assert_allclose(np.exp(found[0, 0]), policy / policy.sum(), rtol=1e-8)


def test_ends_of_sure_orders_are_told() -> None:
    config = deterministic_preferences.Config(
        seeds=2, taus=(0.1, 2.0), closing=(0.01, 1.0), steps=1500, learning_rate=0.05
    )
    dataset = deterministic_preferences.run(config)
    ends = dataset["probability"].isel(action=0).median("seed")
    assert float(abs(dataset["probability"] - dataset["limit"]).sel(objective="ipo").max()) < 0.01
    told = deterministic_preferences.finding(dataset)
    words = r"ends at (\S+) for DPO with beta 0.1 and at (\S+) with beta 2; .* (\S+) and (\S+)\. After"
    best = re.search(words, told)
    assert best is not None
    expected = [float(ends.sel(objective=one)[k]) for one in ("dpo", "ipo") for k in (0, 1)]
    assert [float(one) for one in best.groups()] == pytest.approx(expected, rel=0.06)
    # On the full cycle both stay at the reference.
    assert told.endswith("with probability 1 it is 0 and 0.")
    np.testing.assert_allclose(
        dataset["solved"].isel(closing=-1), [dataset["reference"].values] * 2, rtol=1e-9
    )


def test_a_closed_order_needs_three_actions() -> None:
    with pytest.raises(ValueError, match="must make at least 3 sequences; got 2"):
        deterministic_preferences.Config(vocab_size=2)


def test_dpo_and_auxdpo_fit_rewards_of_a_class() -> None:
    """DPO by a search in SciPy, and AuxDPO by its definition: what is left over is seen by no feature."""
    random = np.random.default_rng(3)
    features, reward = random.normal(size=(5, 3)), random.normal(size=5)
    weights = np.triu(random.gamma(0.5, size=(5, 5)), k=1)
    mask = np.array([True, True, False])

    def loss(c: np.ndarray) -> float:
        h = features[:, :2] @ c
        h = h[:, None] - h[None, :]
        won = expit(reward[:, None] - reward[None, :])
        return float(np.sum(weights * (won * np.logaddexp(0, -h) + (1 - won) * np.logaddexp(0, h))))

    best = minimize(loss, np.zeros(2), tol=1e-14).x
    arrays = [jnp.asarray(one) for one in (features, reward, weights, mask)]
    found = misspecified.dpo_fit(*arrays)
    np.testing.assert_allclose(found, features[:, :2] @ best, rtol=1e-4, atol=1e-6)
    p = random.dirichlet(np.ones(5))
    found = np.asarray(misspecified.aux_fit(*arrays[:2], jnp.log(jnp.asarray(p)), arrays[3]))
    delta = reward - found
    for k in range(2):
        column = features[:, k]
        assert np.sum(p * (column - p @ column) * delta) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(np.linalg.lstsq(features[:, :2], found, rcond=None)[1], 0, atol=1e-12)


def test_the_toy_of_misspecification_has_the_reward_of_the_paper() -> None:
    config = misspecified.Config(
        vocab_size=4, seeds=2, instances=64, features=(1, 2, 3), betas=(0.1, 10.0), concentrations=(0.1, 10.0)
    )
    dataset = misspecified.run(config)
    assert float(dataset["toy"].sel(policy="aux")[0]) == pytest.approx(1.199, abs=5e-4)
    # A class of three features holds all policies of four responses: DPO then finds the reward itself.
    full = dataset.sel(features=3)
    assert float(full["worse_features"].sel(fit="dpo").max()) == 0
    assert float(full["reversed"].max()) == pytest.approx(0, abs=0.02)
    told = misspecified.finding(dataset)
    shares = [float(one) for one in re.findall(r"([\d.]+)%", told)]
    worse = dataset["worse_beta"].median("seed")
    expected = [100 * float(worse.sel(fit=one)[k]) for one in ("dpo", "aux") for k in (0, 1)]
    np.testing.assert_allclose(shares[2:6], expected, atol=0.5)
    assert expected[3] < 2


@pytest.fixture(scope="module")
def dropped() -> xr.Dataset:
    config = rejected_drop.Config(vocab_size=8, seeds=3, steps=60, every=5)
    return rejected_drop.run(config)


def test_gradient_ratios_of_a_pair_and_its_moves(dropped: xr.Dataset) -> None:
    """The moves by a loop of gradient steps in NumPy, written from the loss."""
    chosen, rejected = (np.exp(dropped[name]) for name in ("chosen_logps", "rejected_logps"))
    np.testing.assert_allclose(dropped["probability_gradients"], chosen / rejected, rtol=1e-9)
    np.testing.assert_allclose(dropped["logit_gradients"], 1, rtol=1e-12)
    first = dropped.sel(case="rejected").isel(step=0)
    assert (first["chosen_logps"] < first["rejected_logps"]).all()
    for case in rejected_drop.CASES:
        one = dropped.sel(case=case, seed=1)
        start = np.exp(np.array([one["chosen_logps"][0], one["rejected_logps"][0]]))
        others, logits = 1 - start.sum(), np.log(start)
        for step in range(1, 61):
            margin = (logits[0] - logits[1]) - np.log(start[0] / start[1])
            logits += 0.1 * expit(-0.1 * margin) * np.array([1.0, -1.0])
            if step % 5 == 0:
                whole = np.log(np.exp(logits).sum() + others)
                now = one.sel(step=step)
                assert float(now["chosen_logps"]) == pytest.approx(logits[0] - whole, rel=1e-9)
                assert float(now["rejected_logps"]) == pytest.approx(logits[1] - whole, rel=1e-9)


def test_moves_of_the_rejected_are_told(dropped: xr.Dataset) -> None:
    ends = dropped.isel(step=-1).median("seed")
    moves = -ends["rejected_displacement"] / ends["chosen_displacement"]
    told = rejected_drop.finding(dropped)
    numbers = re.search(r"has fallen by (\S+), (\S+) and (\S+) nats at the end", told)
    assert numbers is not None
    assert [float(one) for one in numbers.groups()] == pytest.approx(list(moves.values), rel=0.06)
    gap = re.search(r"at most (\S+) of the measured", told)
    assert gap is not None
    assert 0 < float(gap.group(1)) < 0.05


def test_pairs_of_two_quarters_need_eight_responses() -> None:
    with pytest.raises(ValueError, match="must make at least 8 sequences; got 7"):
        rejected_drop.Config(vocab_size=7)
