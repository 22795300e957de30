"""Soft labels and ties, and what KTO compares rewards with: against transcriptions in NumPy and mpmath."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from scipy.special import expit, log_expit, log_softmax

import didsim
from didsim import LabelledByTable, Pairs, PreferenceTable
from tests import papers

RNG = np.random.default_rng(0)
POLICY, REFERENCE = log_softmax(RNG.normal(size=(2, 4)), axis=-1)
WINNERS, LOSERS = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 0, 0, 3])
SOFT = np.array([1.0, 0.7, 0.0, 0.25, 0.5])
TIED = np.array([False, True, False, False, True])
AT = tuple(logps[index] for logps in (POLICY, REFERENCE) for index in (WINNERS, LOSERS))
LOGGED = AT[0], AT[1], AT[2], AT[3]
SPPO = didsim.sppo(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("theta", [1.001, 3.0, 1e6])
@pytest.mark.parametrize("gap", [0.0, 0.5, -3.0, 700.0, -700.0])
def test_rao_kupper_losses_of_wins_and_ties_agree_with_mpmath(gap: float, theta: float, dtype: type) -> None:
    objective = didsim.dpo_rao_kupper(1.0, np.asarray(theta, dtype))
    theta = float(np.asarray(theta, dtype))
    low, high = (jnp.asarray(x, dtype) for x in (-abs(gap), 0.0))
    w, y = (high, low) if gap > 0 else (low, high)
    zero = jnp.zeros((), dtype)
    with mpmath.workdps(700):
        d = mpmath.mpf(gap)
        win = 1 / (1 + theta * mpmath.exp(-d))
        loss = 1 / (1 + theta * mpmath.exp(d))
        expected = {False: float(-mpmath.log(win)), True: float(-mpmath.log(1 - win - loss))}
        slopes = {False: float(win - 1), True: float((win - 1) - (loss - 1))}
    # Sums of numbers as large as the gap and log θ²; next to θ = 1 the latter is log of θ − 1.
    error = 4 * float(np.finfo(dtype).eps) * (4 + 2 * np.log(theta) + abs(gap) + 1 / (theta - 1))
    for tied, value in expected.items():

        def of(w: jax.Array, tied: bool = tied) -> jax.Array:
            return objective.pair_loss(w, y, zero, zero, tied=tied)

        found, slope = jax.value_and_grad(of)(jnp.asarray(w))
        assert found.dtype == dtype
        assert float(found) == pytest.approx(value, rel=1e-15, abs=error)
        assert float(slope) == pytest.approx(slopes[tied], abs=error)


def test_population_of_ties_is_a_sum_over_outcomes_and_so_is_its_gradient() -> None:
    theta, beta = 2.5, 0.7
    reward = np.array([1.0, -0.5, 0.2, 0.0])
    first, second = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 0.25, 0.25])
    strength = np.exp(reward)
    with np.errstate(divide="ignore"):
        problem = LabelledByTable(PreferenceTable.rao_kupper(reward, 4.0), np.log(first), np.log(second))
    objective = didsim.dpo_rao_kupper(beta, theta)

    def transcribed(z: np.ndarray) -> float:
        h = beta * (log_softmax(z) - REFERENCE)
        total = 0.0
        for i, j in itertools.product(range(4), range(4)):
            win = strength[i] / (strength[i] + 4 * strength[j])
            loss = strength[j] / (strength[j] + 4 * strength[i])
            model_win = np.exp(h[i]) / (np.exp(h[i]) + theta * np.exp(h[j]))
            model_loss = np.exp(h[j]) / (np.exp(h[j]) + theta * np.exp(h[i]))
            surprise = win * np.log(model_win) + loss * np.log(model_loss)
            surprise += (1 - win - loss) * np.log(1 - model_win - model_loss)
            total -= first[i] * second[j] * surprise
        return total

    def loss(z: jax.Array) -> jax.Array:
        return objective.loss(jax.nn.log_softmax(z), REFERENCE, problem)

    z = np.array(POLICY)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(z))
    assert float(value) == pytest.approx(transcribed(z), rel=1e-13)
    steps = 1e-5 * np.eye(4)
    numeric = [(transcribed(z + step) - transcribed(z - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, numeric, atol=1e-9)
    for same in (problem.joint(4), didsim.Mixture((problem, problem), np.log([0.4, 0.6]))):
        assert float(objective.loss(POLICY, REFERENCE, same)) == pytest.approx(transcribed(z), rel=1e-13)


def test_ties_of_the_same_model_teach_the_reward_and_ignoring_them_does_not() -> None:
    reward = np.array([1.0, -0.5, 0.2, 0.0])
    problem = LabelledByTable(PreferenceTable.rao_kupper(reward, 3.0), POLICY, REFERENCE)
    limit = didsim.fixed_point(didsim.dpo_rao_kupper(0.5, 3.0), REFERENCE, problem)
    np.testing.assert_allclose(limit, log_softmax(REFERENCE + reward / 0.5), atol=1e-10)
    plain = didsim.fixed_point(didsim.dpo(0.5), REFERENCE, problem)
    assert np.abs(plain - limit).max() > 0.1


def test_a_dataset_of_ties_is_the_mean_of_its_pairs() -> None:
    data = Pairs(WINNERS, LOSERS, tied=TIED)
    for objective in (didsim.dpo_rao_kupper(0.5, 2.0), didsim.dpo(0.5), SPPO, didsim.nca(0.5)):
        by_pair = objective.pair_loss(*LOGGED, tied=TIED)
        assert float(objective.loss(POLICY, REFERENCE, data)) == pytest.approx(
            float(by_pair.mean()), rel=1e-12
        )
        # A table of pairs has drawn labels, and in SPPO a constant more.
        constant = 2 * np.mean(TIED) * 0.25 / 0.5**2 if objective is SPPO else 0.0
        table = float(objective.loss(POLICY, REFERENCE, data.joint(4))) - constant
        assert table == pytest.approx(float(by_pair.mean()), rel=1e-12)
    d = 0.5 * ((LOGGED[0] - LOGGED[2]) - (LOGGED[1] - LOGGED[3]))
    expected = np.where(TIED, -(log_expit(d) + log_expit(-d)) / 2, -log_expit(d))
    np.testing.assert_allclose(didsim.dpo(0.5).pair_loss(*LOGGED, tied=TIED), expected, rtol=1e-13)


def test_a_single_tie_draws_two_sequences_together() -> None:
    data = Pairs([0], [1], tied=[True])
    assert set(zip(data.wins(2).winners.tolist(), data.wins(2).losers.tolist(), strict=True)) == {
        (0, 1),
        (1, 0),
    }
    reference = np.log([0.2, 0.8])
    limit = didsim.fixed_point(didsim.dpo_rao_kupper(0.5, 2.0), reference, data)
    np.testing.assert_allclose(np.exp(limit), [0.2, 0.8], rtol=1e-10)


@pytest.mark.slow
def test_minibatches_of_ties_train_to_the_limit_of_all() -> None:
    reward = np.array([1.0, -1.0, 0.0, 0.5])
    uniform = np.log(np.full(4, 0.25))
    problem = LabelledByTable(PreferenceTable.rao_kupper(reward, 3.0), uniform, uniform)
    run = didsim.train(
        didsim.EnergyBased(jnp.asarray(uniform)),
        uniform,
        problem,
        didsim.dpo_rao_kupper(1.0, 3.0),
        optax.adam(optax.cosine_decay_schedule(0.05, 600)),
        600,
        record=didsim.Record(600, {"loss": didsim.METRICS["loss"]}),
        batch_size=256,
        key=jax.random.key(0),
    )
    # 256 pairs of noise a step, averaged by the schedule.
    np.testing.assert_allclose(run.policy.log_probs(), log_softmax(reward), atol=0.05)


@pytest.mark.parametrize("beta", [1e-3, 0.5, 20.0])
def test_sppo_with_soft_labels_is_its_paper(beta: float) -> None:
    t_w, t_l = LOGGED[0] - LOGGED[2], LOGGED[1] - LOGGED[3]
    expected = (t_w - (SOFT - 0.5) / beta) ** 2 + (t_l - (1 - SOFT - 0.5) / beta) ** 2
    objective = didsim.sppo(beta)
    np.testing.assert_allclose(objective.pair_loss(*LOGGED, win_probs=SOFT), expected, rtol=1e-13)
    weights = np.array([1.0, 2.0, 0.0, 0.5, 3.0])
    data = Pairs(WINNERS, LOSERS, weights, win_probs=SOFT)
    mean = weights @ expected / weights.sum()
    assert float(objective.loss(POLICY, REFERENCE, data)) == pytest.approx(
        float(mean), rel=1e-12, abs=1e-15 / beta**2
    )


def test_drawn_labels_have_the_gradient_of_soft_ones() -> None:
    data = Pairs(WINNERS, LOSERS, win_probs=SOFT)

    def loss(z: jax.Array, problem: didsim.Problem) -> jax.Array:
        return didsim.sppo(0.5).loss(jax.nn.log_softmax(z), REFERENCE, problem)

    soft, drawn = (jax.grad(loss)(jnp.asarray(POLICY), one) for one in (data, data.joint(4)))
    np.testing.assert_allclose(soft, drawn, rtol=1e-12, atol=1e-14)


def test_soft_labels_are_the_mean_over_the_label() -> None:
    data = Pairs(WINNERS, LOSERS, win_probs=SOFT)
    swapped = LOGGED[1], LOGGED[0], LOGGED[3], LOGGED[2]
    for name, objective in papers.make(0.6).items():
        if name in ("sppo", "dpo_pg"):
            continue
        lengths = np.array([1, 2, 3, 4])
        tokens = lengths[WINNERS], lengths[LOSERS]
        z = float(didsim.kl(POLICY, REFERENCE) * 0.6) if name == "kto" else None
        z = 0.1 if name == "bco" else z
        won = papers.PAPERS[name](0.6, papers.Pair(*LOGGED, *tokens, 0.0 if z is None else z))
        lost = papers.PAPERS[name](0.6, papers.Pair(*swapped, *tokens[::-1], 0.0 if z is None else z))
        found = objective.pair_loss(*LOGGED, *tokens, baseline=z, win_probs=SOFT)
        np.testing.assert_allclose(found, SOFT * won + (1 - SOFT) * lost, rtol=1e-11, err_msg=name)
        if name != "bco":
            loss = objective.loss(POLICY, REFERENCE, data, lengths)
            assert float(loss) == pytest.approx(float(found.mean()), rel=1e-11), name


def test_a_label_without_doubt_does_not_see_the_infinite_loss_of_the_other() -> None:
    def of(w: jax.Array) -> jax.Array:
        return didsim.exponential(1.0).pair_loss(w, -800.0, -1.0, -1.0, win_probs=jnp.ones(())).sum()

    value, slope = jax.value_and_grad(of)(jnp.asarray(-1.0))
    assert float(value) == float(-slope) == pytest.approx(np.exp(-799.0), rel=1e-12)


def test_wrong_outcomes_are_named() -> None:
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="`win_probs` must be between 0 and 1"):
            Pairs([0, 1], [1, 0], win_probs=[0.5, bad]) if bad == bad else didsim.dpo().pair_loss(
                -1.0, -1.0, -1.0, -1.0, win_probs=bad
            )
    with pytest.raises(ValueError, match="`win_probs` must have one entry for each pair"):
        Pairs([0, 1], [1, 0], win_probs=[0.5])
    with pytest.raises(ValueError, match="`tied` must be True or False for each pair"):
        Pairs([0, 1], [1, 0], tied=[0, 1])
    with pytest.raises(ValueError, match="`tied` must be True or False for each pair"):
        didsim.dpo().pair_loss(-1.0, -1.0, -1.0, -1.0, tied=np.array(1))
    with pytest.raises(ValueError, match="`theta` must be between"):
        didsim.dpo_rao_kupper(0.1, 1.0)


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_kto_has_the_exact_divergence_or_the_estimate_of_its_pairs(beta: float, sign: float) -> None:
    """Either way round, so that the estimate is once held at zero."""
    policy, reference = (POLICY, REFERENCE) if sign > 0 else (REFERENCE, POLICY)
    logged = [one[index] for one in (policy, reference) for index in (WINNERS, LOSERS)]
    h_w, h_l = beta * (logged[0] - logged[2]), beta * (logged[1] - logged[3])
    exact = beta * sum(np.exp(policy[y]) * (policy[y] - reference[y]) for y in range(4))
    estimate = max(0.0, sum(h_w[k] + h_l[k] for k in range(5)) / 10)
    data = Pairs(WINNERS, LOSERS)
    for baseline, z0 in (("policy", exact), ("pairs", estimate)):
        objective = didsim.kto(beta, 1.25, 0.75, baseline)
        expected = 1.25 * (1 - expit(h_w - z0)) + 0.75 * (1 - expit(z0 - h_l))
        assert float(objective.loss(policy, reference, data)) == pytest.approx(expected.mean(), rel=1e-13)
        given = objective.pair_loss(*logged, baseline=z0)
        np.testing.assert_allclose(given, expected, rtol=1e-13)
    # The mean of `pair_loss` is the loss of the dataset, and for BCO too.
    for objective in (didsim.kto(beta, 1.25, 0.75, "pairs"), didsim.bco(beta)):
        mean = objective.pair_loss(*logged).mean()
        assert float(objective.loss(policy, reference, data)) == pytest.approx(float(mean), rel=1e-13)


@pytest.mark.parametrize("baseline", ["policy", "pairs"])
def test_a_minibatch_of_kto_has_the_baseline_that_was_asked_for(baseline: str) -> None:
    """One step of plain descent, from a policy away from its reference, on the pairs of the step."""
    objective, key, beta = didsim.kto(0.8, 1.25, 0.75, baseline), jax.random.key(3), 0.8
    problem = didsim.Contrastive(POLICY, REFERENCE)
    run = didsim.train(
        didsim.EnergyBased(jnp.asarray(POLICY)),
        REFERENCE,
        problem,
        objective,
        optax.sgd(1.0),
        1,
        record=didsim.Record(1, {"loss": didsim.METRICS["loss"]}),
        batch_size=3,
        key=jnp.stack([key]),
    )
    drawn = problem.sample(jax.random.fold_in(key, 0), 3)
    h, p = beta * (POLICY - REFERENCE), np.exp(POLICY)
    pairs = list(zip(drawn.winners.tolist(), drawn.losers.tolist(), strict=True))
    estimate = max(0.0, sum(h[w] + h[y] for w, y in pairs) / 6)
    z0 = float(p @ h) if baseline == "policy" else estimate
    assert abs(float(p @ h) - estimate) > 1e-3
    slope = np.zeros(4)
    for w, y in pairs:
        slope[w] -= 1.25 * expit(h[w] - z0) * expit(z0 - h[w]) / 3
        slope[y] += 0.75 * expit(h[y] - z0) * expit(z0 - h[y]) / 3
    gradient = beta * (slope - slope.sum() * p)
    np.testing.assert_allclose(run.policy.log_probs()[0], log_softmax(POLICY - gradient), rtol=1e-12)


def test_kto_refuses_another_baseline_by_name() -> None:
    with pytest.raises(ValueError, match="`baseline` must be 'policy' or 'pairs'; got 'batch'"):
        didsim.kto(baseline="batch")
