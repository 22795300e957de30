"""Tables of preferences, with ties and without: against double loops over their entries."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax
from scipy.stats import chisquare

import didsim
from didsim import Joint, Labelled, LabelledByTable, Mixture, Online, PreferenceTable

CYCLIC = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])
SURE = np.array([[0.5, 1.0, 0.25], [0.0, 0.5, 1.0], [0.75, 0.0, 0.5]])
TIES = np.array([[0.4, 0.3, 0.0], [0.3, 0.2, 1.0], [0.0, 1.0, 1.0]])
WITH_TIES = np.array([[0.3, 0.6, 0.2], [0.1, 0.4, 0.0], [0.8, 0.0, 0.0]])
TABLES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "cyclic": (CYCLIC, np.zeros((3, 3))),
    "sure": (SURE, np.zeros((3, 3))),
    "ties": (WITH_TIES, TIES),
}
FIRST, SECOND = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.0, 0.4])
X = np.array([0.3, -1.1, 0.7])
UNIFORM = np.log(np.full(3, 1 / 3))
LOSS = didsim.Record(metrics={"loss": didsim.METRICS["loss"]})


def problem_of(name: str) -> LabelledByTable:
    wins, ties = TABLES[name]
    with np.errstate(divide="ignore"):
        return LabelledByTable(
            PreferenceTable(wins, ties if ties.any() else None), np.log(FIRST), np.log(SECOND)
        )


def outcomes(name: str) -> list[tuple[int, int, float, bool]]:
    """Every outcome: who is chosen, who is rejected, how often, and whether it is a tie."""
    wins, ties = TABLES[name]
    found = []
    for i, j in itertools.product(range(3), range(3)):
        drawn = FIRST[i] * SECOND[j]
        found += [(i, j, drawn * wins[i, j], False), (j, i, drawn * wins[j, i], False)]
        found += [(i, j, drawn * ties[i, j] / 2, True), (j, i, drawn * ties[i, j] / 2, True)]
    assert sum(weight for _, _, weight, _ in found) == pytest.approx(1)
    return found


@pytest.mark.parametrize("name", TABLES)
def test_expectations_are_sums_over_outcomes(name: str) -> None:
    problem, found = problem_of(name), outcomes(name)
    kernel = lambda d: jnp.logaddexp(0, -d)  # noqa: E731
    y = -2 * X
    for problem_like in (problem, problem.joint(3), Mixture((problem,), np.zeros(1))):
        value = sum(w * np.logaddexp(0, X[j] - X[i]) for i, j, w, _ in found)
        assert float(problem_like.expect(kernel, jnp.asarray(X))) == pytest.approx(value, rel=1e-13)
        value = sum(w * np.logaddexp(0, X[j] - X[i] + 0.4) for i, j, w, _ in found)
        found_at = problem_like.expect(kernel, jnp.asarray(X), jnp.asarray(0.4))
        assert float(found_at) == pytest.approx(value, rel=1e-13)
        value = sum(w * np.logaddexp(0, y[j] - X[i]) for i, j, w, _ in found)
        across = problem_like.expect_across(kernel, jnp.asarray(X), jnp.asarray(y))
        assert float(across) == pytest.approx(value, rel=1e-13)
        value = sum(w * np.exp(X[i] - X[j]) for i, j, w, _ in found)
        assert float(problem_like.expect_exp(jnp.asarray(X))) == pytest.approx(value, rel=1e-13)
        value = sum(w * (X[i] - X[j]) ** 2 for i, j, w, tie in found if tie)
        ties = problem_like.expect_ties(jnp.square, jnp.asarray(X))
        assert float(ties) == pytest.approx(value, rel=1e-13, abs=1e-300)
        chosen, rejected = np.zeros(3), np.zeros(3)
        for i, j, w, _ in found:
            chosen[i] += w
            rejected[j] += w
        np.testing.assert_allclose(np.exp(problem_like.chosen_marginal(3)), chosen, rtol=1e-13)
        np.testing.assert_allclose(np.exp(problem_like.rejected_marginal(3)), rejected, rtol=1e-13)


@pytest.mark.parametrize("name", TABLES)
def test_preferences_win_rates_and_edges(name: str) -> None:
    wins, ties = TABLES[name]
    problem = problem_of(name)
    np.testing.assert_allclose(
        problem.preference(np.arange(3)[:, None], np.arange(3)), wins + ties / 2, rtol=1e-14
    )
    policy = np.array([0.2, 0.3, 0.5])
    rates = [sum(policy[j] * (wins[i, j] + ties[i, j] / 2) for j in range(3)) for i in range(3)]
    np.testing.assert_allclose(np.exp(problem.preferences.win_rates(np.log(policy))), rates, rtol=1e-13)
    edges = {(i, j) for i, j, weight, _ in outcomes(name) if weight > 0}
    graph = problem.wins(3)
    assert set(zip(graph.winners.tolist(), graph.losers.tolist(), strict=True)) == edges


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("as_joint", [False, True])
def test_samples_follow_the_table_and_its_ties(name: str, as_joint: bool) -> None:
    number = 20_000
    problem = problem_of(name)
    sample = (problem.joint(3) if as_joint else problem).sample(jax.random.key(3), number)
    tied = np.zeros(number, bool) if sample.tied is None else np.asarray(sample.tied)
    winners, losers = np.asarray(sample.winners), np.asarray(sample.losers)
    low, high = np.minimum(winners, losers), np.maximum(winners, losers)
    # The order of a tie means nothing.
    cell = np.where(tied, 9 + 3 * low + high, 3 * winners + losers)
    expected = np.zeros(18)
    for i, j, weight, tie in outcomes(name):
        expected[9 + 3 * min(i, j) + max(i, j) if tie else 3 * i + j] += weight
    counts = np.bincount(cell, minlength=18)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], number * expected[possible]).pvalue > 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("theta", [1.0, 1.000001, 1.5, 3.0, 1e6])
def test_rao_kupper_agrees_with_mpmath_at_any_gap(theta: float, dtype: type) -> None:
    reward: np.ndarray = np.array([0.0, 0.5, -700.0], dtype)
    table = PreferenceTable.rao_kupper(reward, theta)
    assert table.log_wins.dtype == dtype
    rounded = theta if dtype == np.float64 else float(np.float32(theta))
    # A relative error of theta next to 1 is one of theta − 1, and of the probability of a tie; the logarithm
    # of that is a sum of numbers as large as log θ².
    eps = 8 * float(np.finfo(dtype).eps)
    amplified = eps * (1 + 2 * np.log(rounded) + 1 / (rounded - 1)) if rounded > 1 else eps
    with mpmath.workdps(700):
        strength = [mpmath.exp(mpmath.mpf(float(r))) for r in reward]
        for i, j in itertools.product(range(3), range(3)):
            win = strength[i] / (strength[i] + mpmath.mpf(rounded) * strength[j])
            loss = strength[j] / (strength[j] + mpmath.mpf(rounded) * strength[i])
            assert float(table.log_wins[i, j]) == pytest.approx(float(mpmath.log(win)), rel=eps, abs=eps)
            tie = 1 - win - loss
            assert table.log_ties is not None
            if rounded == 1:
                assert float(table.log_ties[i, j]) == -np.inf
            else:
                exact = float(mpmath.log(tie))
                assert float(table.log_ties[i, j]) == pytest.approx(exact, rel=eps, abs=amplified)


def test_without_ties_rao_kupper_is_bradley_terry() -> None:
    with np.errstate(divide="ignore"):
        first, second = np.log(FIRST), np.log(SECOND)
    table = LabelledByTable(PreferenceTable.rao_kupper(X, 1.0), first, second)
    plain = Labelled(X, first, second)
    np.testing.assert_allclose(
        np.exp(table.joint(3).log_probs), np.exp(plain.joint(3).log_probs), rtol=1e-13, atol=1e-300
    )
    for ask in (lambda one: one.chosen_marginal(3), lambda one: one.expect(jnp.square, jnp.asarray(X))):
        np.testing.assert_allclose(ask(table), ask(plain), rtol=1e-12)
    assert float(table.expect_ties(jnp.square, jnp.asarray(X))) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sure", "ties"])
def test_gradients_in_data_and_values_are_never_nan(name: str, dtype: type) -> None:
    problem = jax.tree.map(lambda leaf: leaf.astype(dtype), problem_of(name))

    def loss(problem: LabelledByTable, z: jax.Array, name: str) -> jax.Array:
        return didsim.OBJECTIVES[name]().population_loss(
            jax.nn.log_softmax(z), jnp.asarray(UNIFORM, dtype), problem, None
        )

    for objective in ("dpo", "exponential", "sppo"):
        value, gradients = jax.value_and_grad(loss, (0, 1))(problem, jnp.asarray(X, dtype), objective)
        assert value.dtype == dtype
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients)), objective
    second = jax.hessian(loss, 1)(problem, jnp.asarray(X, dtype), "exponential")
    assert bool(jnp.isfinite(second).all())


@pytest.mark.parametrize("name", ["dpo", "ipo", "exponential", "sppo"])
def test_solutions_on_a_cyclic_table_are_stationary(name: str) -> None:
    reference = log_softmax(np.array([0.2, -0.4, 0.1]))
    problem = LabelledByTable(PreferenceTable(CYCLIC), np.log([0.5, 0.3, 0.2]), np.log([0.1, 0.6, 0.3]))
    solution = didsim.solve(didsim.OBJECTIVES[name](0.7), reference, problem)
    assert solution.objection() is None
    weights = np.zeros((3, 3))
    for i, j in itertools.product(range(3), range(3)):
        drawn = np.exp(problem.first[i] + problem.second[j])
        weights[i, j] += drawn * CYCLIC[i, j]
        weights[j, i] += drawn * CYCLIC[j, i]
    t = np.asarray(solution.log_probs) - reference
    slope = {
        "dpo": lambda i, j: -0.7 * expit(-0.7 * (t[i] - t[j])),
        "ipo": lambda i, j: 2 * (t[i] - t[j] - 1 / 1.4),
        "exponential": lambda i, j: -0.7 * np.exp(-0.7 * (t[i] - t[j])),
    }
    flow = np.zeros(3)
    for i, j in itertools.product(range(3), range(3)):
        if name == "sppo":
            flow[i] += weights[i, j] * 2 * (t[i] - 1 / 1.4)
            flow[j] += weights[i, j] * 2 * (t[j] + 1 / 1.4)
        else:
            one = weights[i, j] * slope[name](i, j)
            flow[i] += one
            flow[j] -= one
    # The gradient in logits takes off the mean under the policy.
    assert np.abs(flow - np.exp(solution.log_probs) * flow.sum()).max() < 1e-11


def test_pairs_that_win_one_way_only_leave_dpo_without_a_limit() -> None:
    table = PreferenceTable(np.array([[0.5, 1.0, 1.0], [0.0, 0.5, 0.6], [0.0, 0.4, 0.5]]))
    problem = LabelledByTable(table, UNIFORM, UNIFORM)
    assert not problem.compares_all
    with pytest.raises(didsim.NoMinimiserError, match="do not identify"):
        didsim.fixed_point(didsim.dpo(1.0), UNIFORM, problem)


def test_online_pairs_of_a_table() -> None:
    reference = log_softmax(np.array([0.2, -0.4, 0.1]))
    policy = log_softmax(np.array([1.0, 0.0, -0.5]))
    problem = Online(PreferenceTable(CYCLIC), didsim.OnPolicy())
    p, h = np.exp(policy), 0.5 * (policy - reference)
    expected = 0.0
    for i, j in itertools.product(range(3), range(3)):
        expected += p[i] * p[j] * CYCLIC[i, j] * np.logaddexp(0, h[j] - h[i])
        expected += p[i] * p[j] * CYCLIC[j, i] * np.logaddexp(0, h[i] - h[j])
    assert float(didsim.dpo(0.5).loss(policy, reference, problem)) == pytest.approx(expected, rel=1e-13)
    assert float(problem.preference(0, 1)) == pytest.approx(0.9)
    run = didsim.train(
        didsim.EnergyBased(jnp.asarray(reference)),
        reference,
        Online(PreferenceTable(WITH_TIES, TIES), didsim.RewardDifference()),
        didsim.ipo(0.5),
        optax.sgd(0.05),
        10,
        record=LOSS,
        batch_size=8,
        key=jax.random.key(0),
    )
    assert np.isfinite(run.metrics["loss"]).all()


def test_batches_of_tables_are_their_members() -> None:
    both = LabelledByTable(PreferenceTable(np.stack([CYCLIC, SURE])), UNIFORM, UNIFORM)
    assert both.batch_shape == (2,)
    values = both.expect(jnp.square, jnp.asarray(X))
    for k, wins in enumerate((CYCLIC, SURE)):
        alone = LabelledByTable(PreferenceTable(wins), UNIFORM, UNIFORM)
        assert float(values[k]) == pytest.approx(float(alone.expect(jnp.square, jnp.asarray(X))), rel=1e-14)
    assert both.sample(jax.random.key(0), 5).winners.shape == (2, 5)
    policy = didsim.EnergyBased(jnp.asarray(UNIFORM))
    run = didsim.train(policy, UNIFORM, both, didsim.dpo(0.5), optax.sgd(0.1), 3, record=LOSS)
    assert run.metrics["loss"].shape == (2, 2)


def test_a_table_for_a_reward_is_not_read_as_a_batch() -> None:
    for make in (
        lambda: Labelled(CYCLIC, UNIFORM, UNIFORM),
        lambda: Online(CYCLIC, didsim.Uniform()),
        lambda: Labelled(np.stack([CYCLIC, SURE]), UNIFORM, UNIFORM),
        lambda: Labelled(CYCLIC.astype(np.float32), UNIFORM, UNIFORM),
    ):
        with pytest.raises(ValueError, match=r"`reward` must be rewards; got a table of shape"):
            make()
    assert Labelled(CYCLIC - 1, UNIFORM, UNIFORM).batch_shape == (3,)
    with pytest.raises(ValueError, match="`reward` must be an array here; got a PreferenceTable"):
        Labelled(PreferenceTable(CYCLIC), UNIFORM, UNIFORM)  # type: ignore[arg-type]


BAD: list[tuple[Any, Any, str]] = [
    (np.ones((2, 3)) / 2, None, r"`wins` must be square in its last two axes; got shape \(2, 3\)"),
    (CYCLIC + 0.1, None, r"`wins` must have \[i, j\] \+ \[j, i\] = 1"),
    (WITH_TIES, None, r"`wins` must have \[i, j\] \+ \[j, i\] = 1"),
    (WITH_TIES, TIES * 0.9, r"ties\[i, j\] = 1 for any two"),
    (CYCLIC * 3 - 1, None, "`wins` must be probabilities, from 0 to 1"),
    (CYCLIC, np.zeros((2, 2)), r"`ties` must have the shape of `wins`"),
    (np.full((2, 2), np.nan), None, "`wins` must be finite everywhere"),
    (np.eye(2, dtype=int), None, "`wins` must be a floating-point array"),
    (0.5, None, "`wins` must have at least 2 axis"),
]


@pytest.mark.parametrize(("wins", "ties", "message"), BAD)
def test_what_is_no_table_is_refused(wins: Any, ties: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceTable(wins, ties)


def test_other_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`theta` must be at least 1"):
        PreferenceTable.rao_kupper(X, 0.9)
    with pytest.raises(ValueError, match="`preferences` must be a PreferenceTable"):
        LabelledByTable(CYCLIC, UNIFORM, UNIFORM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must agree in their last axis"):
        LabelledByTable(PreferenceTable(CYCLIC), UNIFORM, np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match="`sampler` must not use the reward of labels from a table"):
        Online(PreferenceTable(CYCLIC), didsim.RewardDifference("reward"))
    with pytest.raises(ValueError, match="`problem` must be over 4 sequences; got one over 3"):
        problem_of("ties").check_size(4)
    table = np.log(np.full((2, 2), 0.25))
    for ties, message in (
        (table[0], "`log_ties` must have the shape"),
        (table + 1, "nowhere more than `log_probs`"),
        (np.log([[0.1, 0.2], [0.1, 0.1]]), "`log_ties` must be symmetric"),
    ):
        with pytest.raises(ValueError, match=message):
            Joint(table, ties)


def test_one_and_two_sequences() -> None:
    alone = LabelledByTable(PreferenceTable([[0.5]]), np.zeros(1), np.zeros(1))
    assert float(didsim.dpo(0.5).loss(np.zeros(1), np.zeros(1), alone)) == pytest.approx(np.log(2))
    two = LabelledByTable(PreferenceTable([[0.5, 0.8], [0.2, 0.5]]), np.log([0.5, 0.5]), np.log([0.5, 0.5]))
    limit = didsim.fixed_point(didsim.dpo(1.0), np.log([0.5, 0.5]), two)
    np.testing.assert_allclose(np.exp(limit), [0.8, 0.2], rtol=1e-12)


def test_a_mixture_of_raters_is_a_loop_over_them() -> None:
    rewards = np.array([[0.0, 2.0, -1.0], [1.0, 0.0, 40.0]])
    weights = np.array([[0.3, 0.7], [1.0, 0.0]])
    mixed = PreferenceTable.bradley_terry(rewards).mixed(weights)
    assert mixed.batch_shape == (2,)
    for k, i, j in itertools.product(range(2), range(3), range(3)):
        expected = sum(weights[k, a] * expit(rewards[a, i] - rewards[a, j]) for a in range(2))
        assert float(jnp.exp(mixed.log_wins[k, i, j])) == pytest.approx(expected, rel=1e-13)
    with_ties = PreferenceTable.rao_kupper(rewards, 2.0).mixed(weights[0])
    assert with_ties.log_ties is not None
    total = np.exp(with_ties.log_wins) + np.exp(with_ties.log_wins).T + np.exp(with_ties.log_ties)
    np.testing.assert_allclose(total, np.ones((3, 3)), rtol=1e-13)


def test_raters_who_are_sure_keep_their_unlikely_outcomes() -> None:
    """A probability of e^−700 is not rounded to zero on the way."""
    table = PreferenceTable.bradley_terry(np.array([[0.0, 700.0]])).mixed([1.0])
    assert float(table.log_wins[0, 1]) == pytest.approx(-700)


def test_in_a_mixture_of_rewards_the_majority_can_go_in_circles() -> None:
    """Three raters, each with an order of their own: Condorcet's paradox."""
    orders = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
    wins = np.exp(PreferenceTable.bradley_terry(20 * orders).mixed(np.full(3, 1 / 3)).log_wins)
    assert min(wins[0, 1], wins[1, 2], wins[2, 0]) > 0.6


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("win", [0.0, 0.8, 1.0])
def test_in_a_cycle_all_win_as_often_as_they_lose(size: int, win: float) -> None:
    wins = np.exp(PreferenceTable.cyclic(size, win).log_wins)
    np.testing.assert_allclose(wins + wins.T, np.ones((size, size)))
    np.testing.assert_allclose(wins.sum(axis=1), np.full(size, size / 2))
    beaten = [(i + k) % size for i in range(size) for k in range(1, (size - 1) // 2 + 1)]
    assert [wins[i // max(1, (size - 1) // 2), j] for i, j in enumerate(beaten)] == [win] * len(beaten)


def test_dpo_learns_nothing_of_a_cycle_and_the_projection_of_any_other_table() -> None:
    reference = np.log([0.2, 0.3, 0.5])
    cycle = LabelledByTable(PreferenceTable.cyclic(3, 0.95), UNIFORM, UNIFORM)
    np.testing.assert_allclose(didsim.fixed_point(didsim.dpo(0.1), reference, cycle), reference, atol=1e-9)
    learned = didsim.fixed_point(
        didsim.dpo(0.5), reference, LabelledByTable(PreferenceTable(CYCLIC), UNIFORM, UNIFORM)
    )
    h = 0.5 * (np.asarray(learned) - reference)
    # At the projection each sequence wins as often as the reward says.
    np.testing.assert_allclose(expit(h[:, None] - h).sum(axis=1), CYCLIC.sum(axis=1), atol=1e-9)


def test_wrong_mixtures_and_cycles_are_named() -> None:
    raters = PreferenceTable.bradley_terry(np.zeros((2, 3)))
    for weights in ([0.5, 0.6], [1.5, -0.5], [1.0]):
        with pytest.raises(ValueError, match="`weights`"):
            raters.mixed(weights)
    with pytest.raises(ValueError, match="`self` must have a batch axis of raters"):
        PreferenceTable(CYCLIC).mixed([1.0])
    with pytest.raises(ValueError, match="`size`"):
        PreferenceTable.cyclic(0)
