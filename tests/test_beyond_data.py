"""Experiments on how pairs are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, log_softmax, logsumexp

from didsim import SequenceSpace
from experiments import (
    best_of_n_pairs,
    beta_mismatch,
    chosen_shift,
    entropy_map,
    iterative_refinement,
    power_law_violation,
)
from experiments.shared.updates import draw_updates
from experiments.shared.wording import number, share


def of_minimiser(reference: np.ndarray, joint: np.ndarray, beta: float) -> np.ndarray:
    """DPO's minimiser on a table of pairs by SciPy: `joint[i, j]` is how often `i` is chosen over `j`."""

    def loss(h: np.ndarray) -> tuple[float, np.ndarray]:
        distance = h[:, None] - h[None, :]
        slope = -joint / (1 + np.exp(distance))
        return float((joint * np.logaddexp(0, -distance)).sum()), slope.sum(1) - slope.sum(0)

    start = np.zeros(len(reference))
    best = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x
    return np.asarray(log_softmax(reference + best / beta))


@pytest.fixture(scope="module")
def mismatch() -> xr.Dataset:
    config = beta_mismatch.Config(
        vocab_size=3, max_length=1, seeds=2, steps=400, data_betas=(2.0, 0.5), train_betas=(0.5, 1.0, 2.0)
    )
    return beta_mismatch.run(config)


def test_the_limit_of_two_betas_is_the_minimiser_that_scipy_finds(mismatch: xr.Dataset) -> None:
    keys = jax.random.split(jax.random.key(0), (2, 2))
    reference, target = log_softmax(jax.vmap(jax.vmap(lambda k: jax.random.normal(k, (3,))))(keys), axis=-1)
    for built, trained in ((0.5, 1.0), (2.0, 0.5), (2.0, 2.0)):
        for seed in range(2):
            p, q = reference[seed], target[seed]
            rejected = np.exp(p + built * (p - q))
            joint = np.exp(p)[:, None] * (rejected / rejected.sum())[None, :]
            learned = of_minimiser(p, joint, trained)
            one = mismatch.sel(data_beta=built, train_beta=trained, seed=seed)
            assert float(one["chosen_displacement"]) == pytest.approx(np.exp(p) @ (learned - p), abs=1e-6)
            change = np.exp(p) @ p - np.exp(learned) @ learned
            assert float(one["entropy_change"]) == pytest.approx(change, abs=1e-6)


def test_descent_takes_the_position_to_the_ratio_of_both_betas(mismatch: xr.Dataset) -> None:
    start, end = (mismatch["position"].isel(step=step) for step in (0, -1))
    assert float(abs(start).max()) < 1e-14
    np.testing.assert_allclose(end, np.broadcast_to([[0.25], [0.5], [1], [2]], (4, 2)), atol=1e-5)


def test_the_words_on_two_betas_are_those_of_the_cells(mismatch: xr.Dataset) -> None:
    told = beta_mismatch.finding(mismatch)
    middle = mismatch.median("seed")
    for s, cell in ((0.5, (0.5, 1.0)), (2, (2.0, 1.0))):
        one = middle.sel(data_beta=cell[0], train_beta=cell[1])
        text = f"(`s` = {s}) it is {number(float(one['js_to_target']))} nats from the target"
        assert text in told
        assert f"changes by {number(float(one['chosen_displacement']))} nats" in told
    below = (mismatch["entropy_change"].sel(data_beta=0.5, train_beta=[1.0, 2.0]) > 0).mean()
    assert f"in {100 * float(below):.0f}% of cells and seeds with `s` below 1" in told


def test_dependent_pairs_keep_their_marginals_and_lead_where_scipy_says() -> None:
    random = np.random.default_rng(0)
    chosen, rejected = (log_softmax(random.normal(size=(1, 4)), axis=-1) for _ in range(2))
    trait, coupling = random.normal(size=(1, 4)), jnp.array([[0.8]])
    tables, correlation = power_law_violation._dependent(
        coupling, jnp.asarray(chosen), jnp.asarray(rejected), jnp.asarray(trait)
    )
    joint = np.exp(tables[0, 0])
    np.testing.assert_allclose(joint.sum(1), np.exp(chosen[0]), rtol=1e-9)
    np.testing.assert_allclose(joint.sum(0), np.exp(rejected[0]), rtol=1e-9)
    w, v, t = joint.sum(1), joint.sum(0), trait[0]
    means = w @ t, v @ t
    deviations = [np.sqrt(p @ t**2 - mean**2) for p, mean in zip((w, v), means, strict=True)]
    expected = (t @ joint @ t - means[0] * means[1]) / np.prod(deviations)
    assert float(correlation[0, 0]) == pytest.approx(expected, rel=1e-9)
    reward = np.asarray(power_law_violation._reward(tables[0, 0]))
    learned = of_minimiser(chosen[0], joint, 0.5)
    np.testing.assert_allclose(log_softmax(chosen[0] + reward / 0.5), learned, atol=1e-6)
    independent = log_softmax(chosen[0] + (chosen[0] - rejected[0]) / 0.5)
    assert abs(independent - learned).max() > 0.1


def test_the_score_test_by_loops() -> None:
    random = np.random.default_rng(1)
    u, wins = random.normal(size=4), random.integers(0, 9, (4, 4)).astype(float)
    wins[:, 3] = wins[3] = 0  # a response that no pair shows

    def surprise(b: float) -> float:
        return -sum(wins[i, j] * np.log(expit(b * (u[i] - u[j]))) for i in range(4) for j in range(4))

    b = minimize_scalar(surprise, (-1, 1), tol=1e-12).x
    beyond, laplacian = np.zeros(4), np.zeros((4, 4))
    for i in range(4):
        for j in range(i):
            p, met = expit(b * (u[i] - u[j])), wins[i, j] + wins[j, i]
            beyond += (wins[i, j] - met * p) * (np.eye(4)[i] - np.eye(4)[j])
            edge = np.eye(4)[i] - np.eye(4)[j]
            laplacian += met * p * (1 - p) * np.outer(edge, edge)
    statistic, rank = power_law_violation.score_test(wins[None, None, None], u[None])
    assert int(rank[0, 0, 0]) == 2
    expected = beyond @ np.linalg.pinv(laplacian) @ beyond
    assert float(statistic[0, 0, 0]) == pytest.approx(expected, rel=1e-6)


def test_the_law_is_rejected_where_it_fails_and_the_words_say_how_often() -> None:
    config = power_law_violation.Config(vocab_size=4, max_length=1, seeds=4, repeats=25, pairs=(3000,))
    dataset = power_law_violation.run(config)
    rates = dataset["rejects"].mean("seed").isel(pairs=0)
    assert 0.005 < float(rates.sel(data="the law")) < 0.12
    assert float(rates.sel(data="worst of n")) > 0.5
    told = power_law_violation.finding(dataset)
    assert f"{100 * float(rates.sel(data='mixture')):.0f}% (mixture)" in told
    # To second order the JS divergence is Var(e)/8, of which the smallest errors show no more.
    js, predicted = (dataset[name].isel(level=0).sel(departure="noise") for name in ("js", "of_odds"))
    np.testing.assert_allclose(js, predicted, rtol=0.15)


@pytest.fixture(scope="module")
def shifted() -> xr.Dataset:
    return chosen_shift.run(chosen_shift.Config(vocab_size=5, max_length=1, seeds=3))


def test_displacement_is_the_difference_of_two_fits_and_turns_where_a_root_is(shifted: xr.Dataset) -> None:
    np.testing.assert_allclose(shifted["displacement"], shifted["room"] - shifted["misfit"], atol=1e-12)
    keys = jax.random.split(jax.random.key(0), (3, 3))
    normal = np.asarray(jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (5,))))(keys))
    reference, target = log_softmax(normal[:2], axis=-1)
    u = target - reference
    for seed in range(3):
        for name, chosen in (
            ("teacher", log_softmax(reference[seed] + 0.5 * u[seed])),
            ("older policy", log_softmax(reference[seed] + normal[2, seed])),
        ):
            for kind, x in (
                ("reference", chosen - reference[seed]),
                ("optimal", chosen - log_softmax(reference[seed] - 0.5 * u[seed])),
            ):

                def change(
                    s: float, x: np.ndarray = x, seed: int = seed, chosen: np.ndarray = chosen
                ) -> float:
                    return float(s * np.exp(chosen) @ x - logsumexp(reference[seed] + s * x))

                one = shifted.sel(source=name, rejected=kind, seed=seed)
                assert float(one["slope"]) == pytest.approx(change(1e-6) / 1e-6, rel=1e-4)
                turn = float(one["turn"])
                if change(1e-4) <= 0:
                    assert turn == np.inf
                else:
                    assert turn == pytest.approx(1 / brentq(change, 1e-4, 1e3), rel=1e-6)


def test_unshifted_chosen_responses_fall_and_the_words_say_by_how_much(shifted: xr.Dataset) -> None:
    unmoved = shifted.isel(shift=0)["displacement"]
    assert float(abs(unmoved.sel(rejected="reference")).max()) < 1e-12
    assert float(unmoved.sel(rejected="optimal").max()) < 0
    median = float(shifted["displacement"].sel(rejected="optimal", source="teacher").isel(shift=-1).median())
    assert f"{number(median)} (teacher)" in chosen_shift.finding(shifted)


@pytest.fixture(scope="module")
def entropies() -> xr.Dataset:
    return entropy_map.run(entropy_map.Config(vocab_size=2, max_length=2, instances=40, steps=5))


def test_entropy_moves_in_training_as_a_loop_over_pairs_says(entropies: xr.Dataset) -> None:
    """One step of descent by the definition of the loss, and its slope along `chosen − rejected`."""
    reference, target = (np.asarray(x) for x in draw_updates(0, 40, SequenceSpace(2, 2), False))
    for family, place in ((0, 3), (1, 5), (5, 0)):
        p, q = reference[family, place], target[family, place]
        rejected = np.exp(log_softmax(p + 0.5 * (p - q)))
        push = np.zeros(4)
        for i in range(4):
            for j in range(4):
                push[i] += np.exp(p[i]) * rejected[j] * 0.5 / 2
                push[j] -= np.exp(p[i]) * rejected[j] * 0.5 / 2
        after = log_softmax(p + 0.5 * push)
        one = entropies.isel(family=family, instance=place)
        change = np.exp(p) @ p - np.exp(after) @ after
        assert float(one["early_change"]) == pytest.approx(change, rel=1e-6, abs=1e-12)
        tiny = log_softmax(p + 1e-6 * push)
        slope = (np.exp(p) @ p - np.exp(tiny) @ tiny) / 1e-6 / (0.5 / 2)
        assert float(one["training"]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_each_covariance_decides_its_own_first_change_and_the_words_count_signs(
    entropies: xr.Dataset,
) -> None:
    for predictor, change in (("geodesic", "step_change"), ("training", "early_change")):
        right = (entropies[predictor] > 0) == (entropies[change] > 0)
        assert float(right.mean()) > 0.97
        counted = entropies["share"].sel(predictor=predictor, change=change).mean()
        assert float(counted) == pytest.approx(float(right.mean()))
        assert share(float(right.mean())) in entropy_map.finding(entropies)
    above = entropies["did_entropy"] > entropies["did_entropy"].median()
    claim = ((entropies["early_change"] > 0) == above).mean()
    assert f"first step of training in {share(float(claim))}" in entropy_map.finding(entropies)


@pytest.fixture(scope="module")
def refined() -> xr.Dataset:
    config = iterative_refinement.Config(
        vocab_size=2, max_length=3, seeds=64, rounds=30, weights=(0.5, 1.6, 2.2), errors=(0.1, 0.5)
    )
    return iterative_refinement.run(config)


def test_errors_follow_the_recursion_in_numpy(refined: xr.Dataset) -> None:
    keys = jax.random.split(jax.random.key(0), (3, 64))
    start, goal = (np.asarray(jax.random.normal(keys[place, 7], (8,))) for place in range(2))
    noise = np.asarray(jax.random.normal(keys[2, 7], (30, 8)))
    for weight in (0.5, 1.6, 2.2):
        for teacher in ("same", "fresh"):
            error, squares = start - goal, []
            for step in range(30):
                squares.append(np.var(error))
                error = (1 - weight) * error + weight * 0.5 * noise[step if teacher == "fresh" else 0]
            found = refined["square"].sel(teacher=teacher, weight=weight, seed=7)
            np.testing.assert_allclose(found, [*squares, np.var(error)], rtol=1e-6)


def test_floors_are_those_of_the_theory_and_both_schemes_agree(refined: xr.Dataset) -> None:
    """A mean of 64 sums of seven squares each: its relative standard error is √(2/448), 7%."""
    stable = refined.sel(weight=[0.0, 0.5, 1.6])
    np.testing.assert_allclose(stable["floor"].mean("seed"), stable["known_floor"], rtol=0.25)
    assert float(refined["known_floor"].sel(weight=0.5, error=0.5)) == pytest.approx(0.25 / 3 * 7 / 8)
    assert float(stable["gap"].max()) < 1e-9
    ends = refined["js"].isel(round=-1).sel(teacher="same", weight=0.5)
    np.testing.assert_allclose(ends, refined["teacher_js"], rtol=1e-5)
    told = iterative_refinement.finding(refined)
    expected = float(refined["known_floor"].sel(weight=1.6, error=0.5))
    assert f"{number(expected)} (α = 1.6)" in told
    grown = float(refined["square"].sel(teacher="fresh", weight=2.2).isel(round=-1).median())
    assert f"to {number(grown)} (α = 2.2)" in told


@pytest.fixture(scope="module")
def chosen_of_n() -> xr.Dataset:
    config = best_of_n_pairs.Config(vocab_size=2, max_length=3, seeds=3, draws=(2, 4), powers=(0.2, 0.5, 3.0))
    return best_of_n_pairs.run(config)


def test_gains_at_the_divergence_of_best_of_n_by_root_finding(chosen_of_n: xr.Dataset) -> None:
    keys = jax.random.split(jax.random.key(0), (3, 3))
    for seed in range(3):
        p = log_softmax(np.asarray(jax.random.normal(keys[0, seed], (8,))))
        reward = np.asarray(jax.random.normal(keys[1, seed], (8,)))
        for n in (2, 4):
            upto = np.array([np.exp(p)[reward <= one].sum() for one in reward])
            best = upto**n - (upto - np.exp(p)) ** n
            worst = (1 - upto + np.exp(p)) ** n - np.maximum(1 - upto, 0) ** n
            kl = best @ (np.log(best) - p)

            def policy(s: float, x: np.ndarray, p: np.ndarray = p) -> np.ndarray:
                return np.asarray(np.exp(log_softmax(p + s * x)))

            def beyond(s: float, x: np.ndarray, p: np.ndarray = p, kl: float = kl) -> float:
                one = policy(s, x)
                return float(one @ (np.log(one) - p) - kl)

            one = chosen_of_n.sel(reward="normal", draws=n, seed=seed)
            assert float(one["kl"]) == pytest.approx(kl, rel=1e-9)
            ratio = np.log(best / worst)
            power = brentq(beyond, 1e-6, 20, args=(ratio,))
            gain = (policy(power, ratio) - np.exp(p)) @ reward
            assert float(one["gain"].sel(policy="pairs")) == pytest.approx(gain, rel=1e-6)
            assert float(one["beta"]) == pytest.approx(1 / power, rel=1e-6)
            largest = policy(brentq(beyond, 1e-6, 20, args=(reward,)), reward)
            assert float(one["best_gain"]) == pytest.approx((largest - np.exp(p)) @ reward, rel=1e-6)
            assert float(one["gain"].sel(policy="best")) == pytest.approx(
                (best - np.exp(p)) @ reward, rel=1e-9
            )


def test_the_beta_law_is_an_integral_and_the_words_count_who_is_ahead(chosen_of_n: xr.Dataset) -> None:
    law = chosen_of_n["kl_of_beta_law"].values
    for place, k in enumerate((0.2, 0.5)):
        mass = quad(lambda u, k=k: (u / (1 - u)) ** k, 0, 1)[0]
        mean = quad(lambda u, k=k: (u / (1 - u)) ** k * k * np.log(u / (1 - u)), 0, 1)[0] / mass
        assert law[place] == pytest.approx(mean - np.log(mass), rel=1e-3)
    assert np.isinf(law[2])
    # Two draws teach the log-odds of a win.
    np.testing.assert_allclose(chosen_of_n["log_ratio"].sel(draws=2), chosen_of_n["odds"], atol=1e-12)
    # All policies that treat passing sequences alike are the same at one divergence.
    np.testing.assert_allclose(chosen_of_n["share"].sel(reward="pass or fail"), 1, atol=1e-6)
    lead = chosen_of_n["gain"].sel(reward="normal", draws=4).diff("policy") > 1e-9
    assert f"and in {share(float(lead.mean()))} at n = 4; heavy" in best_of_n_pairs.finding(chosen_of_n)
