"""Experiments on finite data."""

from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import didsim
from experiments import finite_data, generalisation, overfitting, two_stage
from experiments.shared.finite import has_minimiser


def test_a_minimiser_needs_wins_that_lead_from_each_sequence_to_every_other() -> None:
    random = np.random.default_rng(0)
    winners, losers = random.integers(0, 4, (2, 40, 11))
    expected = []
    for won, lost in zip(winners, losers, strict=True):
        reach = np.eye(4, dtype=bool)
        reach[won, lost] = True
        for _ in range(3):
            reach = reach @ reach
        expected.append(reach.all())
    assert 5 < sum(expected) < 35
    assert has_minimiser(didsim.Pairs(winners, losers), 4).tolist() == expected


def test_the_asymptote_of_two_sequences_has_a_closed_form() -> None:
    """`n` labels tell the one reward difference with variance `1/(n p (1 − p))`."""
    config = finite_data.Config(vocab_size=2, max_length=1, beta=0.7, seeds=3)
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, 3)), 2)
    population = finite_data._population(config, reference, target, 1.0)
    gap = np.asarray((target - reference)[:, 0] - (target - reference)[:, 1])
    p, policy = expit(0.7 * gap), np.exp(np.asarray(target))
    expected = policy.prod(axis=-1) / (8 * 0.7**2 * p * (1 - p))
    np.testing.assert_allclose(finite_data._asymptote(config, population, target), expected, rtol=1e-5)


def test_minimisers_of_many_pairs_are_as_far_off_as_the_asymptote_says() -> None:
    config = finite_data.Config(
        vocab_size=4, max_length=1, seeds=64, pairs=(20_000,), exponents=(1.0,), fitted=(20,), times=2
    )
    dataset = finite_data.run(config)
    assert dataset["found"].all()
    # A sum of three squares: the mean of 64 ratios has the standard error √(2/3)/8 or a little more.
    ratio = 20_000 * dataset["js"] / dataset["asymptote"]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.4)


def test_counts_are_those_of_the_population_and_data_weigh_them() -> None:
    config = finite_data.Config(vocab_size=3, max_length=1, seeds=2)
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(1), (2, 2)), 3)
    population = finite_data._population(config, reference, target, 2.0)
    counts = population.sample(np.random.default_rng(0), 200_000)
    assert counts.sum(axis=(1, 2)).tolist() == [200_000] * 2
    probs, reward = np.exp(np.asarray(reference)) ** 2, 0.5 * np.asarray(target - reference)
    for seed in range(2):
        total = sum(probs[seed, i] * probs[seed, j] for i in range(3) for j in range(i))
        pairs = population.data(counts[seed])
        for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            drawn = probs[seed, i] * probs[seed, j] / total
            assert counts[seed, :, k].sum() / 200_000 == pytest.approx(drawn, abs=0.005)
            wins = expit(reward[seed, i] - reward[seed, j])
            assert float(pairs.preference(i, j)) == pytest.approx(wins, abs=0.01)


def test_ridge_is_the_penalised_maximum_of_the_likelihood() -> None:
    config = finite_data.Config(vocab_size=3, max_length=1, seeds=2, beta=0.5)
    with jax.enable_x64(True):
        reference = jnp.asarray(log_softmax(np.random.default_rng(0).normal(size=(2, 3)), axis=-1))
        population = finite_data._population(config, reference, reference[::-1], 0.0)
        counts = np.array([[[9, 4, 0], [3, 5, 2]], [[1, 0, 0], [0, 0, 7]]])
        paths = np.asarray(
            finite_data._ridge(config, population, counts, 20, reference, np.array([8.0, 80.0]))
        )
    for place, time in enumerate((8.0, 80.0)):
        for seed in range(2):

            def loss(r: np.ndarray, seed: int = seed, time: float = time) -> float:
                d = r[[0, 0, 1]] - r[[1, 2, 2]]
                won, lost = counts[seed]
                likelihood = won @ np.logaddexp(0, -d) + lost @ np.logaddexp(0, d)
                return float(likelihood + 20 / (0.25 * time) * r @ r / 2)

            best = minimize(loss, np.zeros(3), tol=1e-12).x
            policy = log_softmax(np.asarray(reference[seed]) + best / 0.5)
            np.testing.assert_allclose(paths[place, seed], policy, atol=1e-5)


def test_the_accuracy_of_a_score_by_a_double_loop() -> None:
    chosen, rejected = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, 1)), 5)
    score = jnp.array([[1.0, 0.0, 1.0, -2.0, 3.0]])
    w, v, s = np.exp(chosen[0]), np.exp(rejected[0]), np.asarray(score[0])
    expected = sum(w[i] * v[j] * ((s[i] > s[j]) + 0.5 * (s[i] == s[j])) for i in range(5) for j in range(5))
    assert float(overfitting._accuracy(chosen, rejected, score)[0]) == pytest.approx(expected, rel=1e-5)


def test_few_pairs_are_fitted_and_nothing_is_learned() -> None:
    config = overfitting.Config(max_length=3, seeds=4, pairs=(20, 200), steps=1500, held_out=500, weights=3)
    dataset = overfitting.run(config)
    few, end = dataset.sel(pairs=20), dataset.sel(pairs=20).isel(step=-1)
    assert not few["found"].any()
    assert float(few["chosen_displacement"].max("step").median()) > 0.2
    assert float(end["chosen_displacement"].median()) < -3
    assert float(end["accuracy"].sel(part="fitted").median()) > 0.75
    assert float(end["accuracy"].sel(part="held out").median()) < 0.6
    assert float(end["slope"].sel(part="held out").median()) < 0.3
    # Of more weight on the divergence comes less certainty.
    slopes = dataset["slope_solved"].sel(part="held out")
    assert (abs(slopes.isel(weight=0)) > abs(slopes.isel(weight=-1))).all()
    told = overfitting.finding(dataset)
    assert f"{100 * float(dataset['accuracy_limit'].median()):.0f}%)" in told


def test_two_stage_equals_dpo_in_the_same_class_and_only_there() -> None:
    config = two_stage.Config(
        vocab_size=2, max_length=3, seeds=2, features=2, shifts=(0.0, 1.0), ridges=(1e-6, 10.0)
    )
    dataset = two_stage.run(config)
    assert float(dataset["apart"].sel(setting=["full", "features"]).max()) < 1e-9
    assert float(dataset["apart"].sel(setting=["reward", "policy"]).min()) > 1e-3
    assert float(dataset["apart"].sel(setting="unseen").max()) < 1e-5
    lost = dataset["lost"]
    assert (lost.sel(setting="policy", way="two") < lost.sel(setting="policy", way="dpo")).all()
    assert (lost.sel(setting="reward", way="dpo") < lost.sel(setting="reward", way="two")).all()


def test_unseen_sequences_under_few_features_and_under_free_logits() -> None:
    """Features that hold the reward, more features than pairs show, and free logits."""
    config = generalisation.Config(
        vocab_size=2, max_length=4, seeds=2, linear=2, rest=0.0, features=(3, 8), shares=(0.35,)
    )
    dataset = generalisation.run(config)
    assert float(dataset["unseen_error"].sel(policy="3").max()) < 1e-8
    assert float(dataset["seen_error"].max()) < 1e-8
    assert float(dataset["unseen_error"].sel(policy=["8", "free"]).min()) > 1e-2
    assert float(dataset["unevenness"].sel(policy="free").max()) < 1e-12


def test_free_logits_end_where_the_solver_says_that_descent_ends() -> None:
    config = generalisation.Config(vocab_size=2, max_length=3, seeds=2, features=(2,), shares=(0.5,))
    with patch.object(didsim, "js", wraps=didsim.js) as judged:
        generalisation.run(config)
    free, target = judged.call_args.args
    keys = jax.random.split(jax.random.key(config.seed), 5)
    reference = didsim.markov(keys[0], config.make_space())
    seen = np.argsort(jax.random.uniform(keys[4], (2, 8)), axis=-1) < 4
    for policy, one, shown in zip(free[0], target, seen, strict=True):
        data = generalisation._pairs(config.beta * (one - reference), shown)
        found = didsim.solve(didsim.dpo(config.beta), reference, data).certificate
        np.testing.assert_allclose(policy, found.limit, atol=1e-8)


def test_descent_changes_weights_along_seen_features_alone() -> None:
    """Of all weights that fit three sequences, the ones that plain gradient descent reaches."""
    random = np.random.default_rng(0)
    features, reward = random.normal(size=(6, 4)), random.normal(size=6)
    seen = np.arange(6) < 3
    start = didsim.LogLinear(features, np.zeros(4))
    weights = np.zeros(4)
    differences = (features[:3, None] - features[None, :3]).reshape(9, 4)
    wins = 1 / (1 + np.exp(-(reward[:3, None] - reward[None, :3]).ravel()))
    for _ in range(20_000):
        weights += 0.1 * differences.T @ (wins - 1 / (1 + np.exp(-differences @ weights)))
    other = weights + np.linalg.svd(features[:3] - features[:3].mean(0))[2][-1]
    found = generalisation._of_descent(other[None, None], start, seen[None, None])
    np.testing.assert_allclose(found[0, 0], weights, atol=1e-8)
