import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import chisquare

import didsim
from didsim import Contrastive, Joint, Labelled, Pairs, Problem
from didsim.objectives.kernels import SURPRISE
from tests.strategies import betas, hostile_logits, ordinary_logits, policies, tuples
from tests.tables import expectation, table

KEY = jax.random.key(0)
EPS = float(np.finfo(np.float64).eps)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
REWARD = np.array([1.0, -0.5, 0.25])
DATA = Pairs(np.array([0, 0, 1, 2, 0]), np.array([1, 2, 0, 0, 1]), np.array([1.0, 2.0, 0.5, 0.0, 3.0]))
PROBLEMS = {
    "contrastive": Contrastive(P, Q),
    "labelled": Labelled(REWARD, P, Q),
    "pairs": DATA,
    "joint": Joint(np.log([[0.1, 0.3, 0.05], [0.05, 0.1, 0.15], [0.2, 0.04, 0.01]])),
}

few_sizes = st.sampled_from((1, 2, 5))
PREFERENCE = eqx.filter_jit(lambda problem, i, j: problem.preference(i, j))
EXPECT = eqx.filter_jit(lambda problem, x: problem.expect(jax.nn.softplus, x))
ACROSS = eqx.filter_jit(lambda problem, x, y: problem.expect_across(jax.nn.softplus, x, y))
TABLE = eqx.filter_jit(lambda problem, n: problem.joint(n).log_probs)
EXPECT_EXP = eqx.filter_jit(lambda problem, x: problem.expect_exp(x))
MARGINALS = eqx.filter_jit(lambda problem, n: (problem.chosen_marginal(n), problem.rejected_marginal(n)))


@st.composite
def problems(draw: st.DrawFn, *, hostile: bool = True) -> tuple[Problem, int]:
    size = draw(few_sizes)
    logits = hostile_logits(size) if hostile else ordinary_logits(size)
    one = logits.map(log_softmax)
    kind = draw(st.sampled_from(["contrastive", "labelled", "pairs", "joint"]))
    if kind == "contrastive":
        return Contrastive(draw(one), draw(one)), size
    if kind == "labelled":
        return Labelled(draw(logits), draw(one), draw(one)), size
    if kind == "joint":
        return Joint(log_softmax(np.stack([draw(logits) for _ in range(size)]))), size
    indices = st.lists(st.integers(0, size - 1), min_size=4, max_size=4).map(np.array)
    weights = st.lists(st.floats(0, 5, width=32), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-3)
    return Pairs(draw(indices), draw(indices), np.array(draw(weights))), size


@given(tuples(2, hostile=False))
def test_contrastive_preferences_agree_with_bayes_rule(drawn: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = (np.exp(p) for p in drawn)
    size = len(chosen)
    i, j = np.divmod(np.arange(size * size), size)
    result = PREFERENCE(Contrastive(*drawn), i, j)
    expected = [
        chosen[a] * rejected[b] / (chosen[a] * rejected[b] + chosen[b] * rejected[a])
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@given(tuples(2))
def test_contrastive_preferences_are_bradley_terry_in_the_log_ratio(drawn: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = drawn
    size = len(chosen)
    i, j = np.divmod(np.arange(size * size), size)
    result = np.asarray(PREFERENCE(Contrastive(chosen, rejected), i, j))
    ratio = chosen - rejected
    # The exponent is up to 2800 nats and rounded by a few eps of it: 1e-12.
    np.testing.assert_allclose(result, expit(ratio[i] - ratio[j]), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(result + PREFERENCE(Contrastive(chosen, rejected), j, i), 1, rtol=1e-12)


@given(tuples(2))
def test_labelled_preferences_are_bradley_terry_in_the_reward(drawn: tuple[np.ndarray, ...]) -> None:
    reward, sampler = drawn
    size = len(reward)
    i, j = np.divmod(np.arange(size * size), size)
    result = PREFERENCE(Labelled(reward, sampler, sampler), i, j)
    np.testing.assert_allclose(result, expit(reward[i] - reward[j]), rtol=1e-12, atol=1e-300)


def test_preferences_of_a_dataset_are_weighted_shares() -> None:
    assert DATA.weights is not None
    observed = list(zip(DATA.winners.tolist(), DATA.losers.tolist(), DATA.weights.tolist(), strict=True))
    for i, j in itertools.product(range(3), repeat=2):
        won = sum(weight for a, b, weight in observed if (a, b) == (i, j))
        lost = sum(weight for a, b, weight in observed if (a, b) == (j, i))
        share = float(DATA.preference(i, j))
        if won + lost == 0:
            assert np.isnan(share)
        else:
            assert share == pytest.approx(won / (won + lost), rel=1e-14)


def test_pairs_that_never_occur_have_no_preference() -> None:
    problem = Contrastive(np.array([0.0, -np.inf, -np.inf]), np.array([0.0, -np.inf, -np.inf]))
    assert np.isnan(problem.preference(1, 2))
    assert float(Contrastive(np.array([0.0, -np.inf]), np.log([0.5, 0.5])).preference(0, 1)) == 1


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("i", "j"),
    [
        (np.array([[0], [1]]), np.array([0, 1, 2])),
        (np.array([[0]]), np.array([0, 1])),
        (np.array(2), np.array([0, 1])),
        (np.array([0, 1]), np.array([1, 2])),
    ],
)
def test_indices_of_any_shapes_broadcast_apart_from_the_batch(
    name: str, i: np.ndarray, j: np.ndarray
) -> None:
    problem = PROBLEMS[name]
    batch = jax.tree.map(lambda x: jnp.stack([x, jnp.roll(x, 1)]), problem)
    shifted = jax.tree.map(lambda x: jnp.roll(x, 1), problem)
    result = batch.preference(i, j)
    shape = np.broadcast_shapes(i.shape, j.shape)
    assert result.shape == (2, *shape)
    whole_i, whole_j = np.broadcast_to(i, shape), np.broadcast_to(j, shape)
    for place in np.ndindex(shape):
        a, b = int(whole_i[place]), int(whole_j[place])
        for row, one in enumerate((problem, shifted)):
            np.testing.assert_allclose(result[(row, *place)], one.preference(a, b), rtol=1e-13)


@given(problems(), st.data())
def test_expectations_agree_with_a_double_loop(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = drawn
    x = data.draw(hostile_logits(size))
    probability = np.exp(table(problem, size))
    terms = [
        probability[i, j] * np.logaddexp(0, x[i] - x[j]) for i, j in itertools.product(range(size), repeat=2)
    ]
    # A kernel up to the spread of x, whose differences are rounded by a few eps of that.
    error = 8 * EPS * (1 + np.ptp(x))
    assert float(EXPECT(problem, x)) == pytest.approx(sum(terms), rel=1e-12, abs=error)


@given(problems(), st.data())
def test_expectations_across_two_values_agree_with_a_double_loop(
    drawn: tuple[Problem, int], data: st.DataObject
) -> None:
    problem, size = drawn
    x, y = data.draw(hostile_logits(size)), data.draw(hostile_logits(size))
    log_table, values = table(problem, size), np.logaddexp(0, x[:, None] - y)
    error = 8 * EPS * (1 + np.abs(x).max() + np.abs(y).max())
    found = float(ACROSS(problem, x, y))
    assert found == pytest.approx(expectation(log_table, values), rel=1e-12, abs=error)
    assert float(ACROSS(problem, x, x)) == pytest.approx(float(EXPECT(problem, x)), rel=1e-12, abs=error)


@given(problems())
def test_tables_agree_with_a_double_loop(drawn: tuple[Problem, int]) -> None:
    problem, size = drawn
    # Sums of log-probabilities down to −3000.
    np.testing.assert_allclose(TABLE(problem, size), table(problem, size), rtol=1e-13, atol=1e-12)


@given(problems(), st.data())
def test_a_problem_and_its_table_agree(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = drawn
    x = data.draw(ordinary_logits(size))
    same = Joint(TABLE(problem, size))
    assert float(EXPECT(same, x)) == pytest.approx(float(EXPECT(problem, x)), rel=1e-11)
    assert float(EXPECT_EXP(same, x)) == pytest.approx(float(EXPECT_EXP(problem, x)), rel=1e-10)
    for one, other in zip(MARGINALS(same, size), MARGINALS(problem, size), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-11)


def test_tables_of_batches_agree_with_their_members() -> None:
    chosen, rejected = np.stack([P, Q])[:, None], np.stack([Q, P, Q])
    batches: list[tuple[Problem, Callable[[int, int], Problem]]] = [
        (Contrastive(chosen, rejected), lambda i, j: Contrastive(chosen[i, 0], rejected[j])),
        (
            Labelled(np.stack([REWARD, -REWARD])[:, None], P, rejected),
            lambda i, j: Labelled([REWARD, -REWARD][i], P, rejected[j]),
        ),
    ]
    x, y = np.array([0.5, -1.0, 2.0]), np.array([[0.0, 1.0, -1.0], [1.0, 2.0, 0.5]])[:, None]
    for batch, member in batches:
        tables, across = batch.joint(3), ACROSS(batch, x, y)
        assert tables.batch_shape == across.shape == (2, 3)
        both = ACROSS(tables, x, y)
        for i, j in itertools.product(range(2), range(3)):
            np.testing.assert_allclose(tables.log_probs[i, j], table(member(i, j), 3), rtol=1e-13)
            np.testing.assert_allclose(across[i, j], ACROSS(member(i, j), x, y[i, 0]), rtol=1e-13)
            np.testing.assert_allclose(both[i, j], across[i, j], rtol=1e-13)


@pytest.mark.parametrize("weights", [None, np.array([[1.0, 3.0, 2.0], [1.0, 1.0, 0.0]])])
def test_tables_of_batches_of_datasets_count_every_pair(weights: np.ndarray | None) -> None:
    winners, losers = np.array([[0, 0, 1], [2, 2, 0]]), np.array([[1, 1, 0], [0, 1, 0]])
    data = Pairs(winners, losers, weights)
    found = np.exp(data.joint(4).log_probs)
    assert found.shape == (2, 4, 4)
    expected = np.zeros((2, 4, 4))
    for row, pair in itertools.product(range(2), range(3)):
        weight = 1.0 if weights is None else weights[row, pair]
        expected[row, winners[row, pair], losers[row, pair]] += weight
    expected /= expected.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    x = np.array([0.5, -1.0, 2.0, 7.0])
    values = np.logaddexp(0, x[:, None] - 2 * x)
    np.testing.assert_allclose(ACROSS(data, x, 2 * x), (expected * values).sum((1, 2)), rtol=1e-13)


def test_a_table_is_any_distribution_of_pairs() -> None:
    """Of chosen and rejected that depend on one another, as no other population has them."""
    shares = np.array([[0.0, 0.5, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.3]])
    with np.errstate(divide="ignore"):
        problem = Joint(np.log(shares))
    assert float(problem.preference(0, 1)) == pytest.approx(0.5 / 0.6, rel=1e-14)
    assert float(problem.preference(1, 0)) == pytest.approx(0.1 / 0.6, rel=1e-14)
    assert float(problem.preference(2, 1)) == 1
    assert float(problem.preference(2, 2)) == 0.5
    assert np.isnan(problem.preference(0, 2))
    np.testing.assert_allclose(np.exp(problem.chosen_marginal(3)), [0.5, 0.1, 0.4], rtol=1e-14)
    np.testing.assert_allclose(np.exp(problem.rejected_marginal(3)), [0.1, 0.6, 0.3], rtol=1e-14)
    x = np.array([0.3, -0.7, 1.1])
    expected = np.sum(shares * np.exp(x[:, None] - x))
    assert float(EXPECT_EXP(problem, x)) == pytest.approx(expected, rel=1e-13)
    offset = problem.expect(jnp.square, jnp.asarray(x), jnp.asarray(0.4))
    assert float(offset) == pytest.approx(np.sum(shares * (x[:, None] - x - 0.4) ** 2), rel=1e-13)
    assert problem.joint(3) is problem
    gradient = jax.grad(lambda x: problem.expect_exp(x) + problem.expect(jax.nn.softplus, x))(jnp.asarray(x))
    assert np.isfinite(gradient).all()


def test_full_support_of_a_table_is_that_of_its_marginals() -> None:
    with np.errstate(divide="ignore"):
        assert Joint(np.log([[0.0, 0.5], [0.5, 0.0]])).has_full_support
        assert not Joint(np.log([[0.5, 0.5], [0.0, 0.0]])).has_full_support
        assert not Joint(np.log([[0.5, 0.0], [0.5, 0.0]])).has_full_support
        both = np.log([[[0.0, 0.5], [0.5, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    assert not Joint(both).has_full_support


def test_tables_are_checked() -> None:
    for shape in ((3,), (2, 3), (4, 2, 3)):
        with pytest.raises(ValueError, match=r"`log_probs` must be square in its last two axes; got shape"):
            Joint(np.zeros(shape))
    with pytest.raises(ValueError, match="`log_probs` must be log-probabilities normalised"):
        Joint(log_softmax(np.zeros((2, 2)), axis=-1))
    with pytest.raises(ValueError, match="`log_probs` must be log-probabilities; got NaN"):
        Joint(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="`log_probs` must be a floating-point array"):
        Joint(np.zeros((2, 2), int))
    for problem in PROBLEMS.values():
        with pytest.raises(ValueError, match=r"`(problem|winners|losers)` .*2"):
            problem.joint(2)


def test_samples_of_a_batch_of_tables_follow_their_own_distribution() -> None:
    tables = np.stack([np.asarray(PROBLEMS["joint"].joint(3).log_probs)] * 2)
    tables[1] = tables[1].T
    sample = Joint(tables).sample(KEY, 5000)
    assert sample.winners.shape == (2, 5000)
    for winners, losers, log_table in zip(sample.winners, sample.losers, tables, strict=True):
        counts = np.bincount(3 * np.asarray(winners) + np.asarray(losers), minlength=9)
        assert chisquare(counts, 5000 * np.exp(log_table).ravel()).pvalue > SIGNIFICANCE


def test_training_on_a_batch_of_tables_is_training_on_each() -> None:
    reference = jnp.asarray(P)
    tables = log_softmax(np.random.default_rng(0).normal(size=(2, 9)), axis=-1).reshape(2, 3, 3)

    def train(problem: Problem, **options: Any) -> Any:
        policy = didsim.EnergyBased(reference)
        return didsim.train(policy, reference, problem, didsim.dpo(0.5), optax.sgd(1.0), 20, **options)

    together = train(Joint(tables))
    for k in range(2):
        alone = train(Joint(tables[k]))
        np.testing.assert_allclose(together.metrics["loss"][k], alone.metrics["loss"], rtol=1e-12)
        np.testing.assert_allclose(together.policy.log_probs()[k], alone.policy.log_probs(), rtol=1e-12)
    # The loss falls to that of the best policy of the table.
    assert float(together.metrics["loss"][0, -1]) < float(together.metrics["loss"][0, 0])
    sampled = train(Joint(tables[0]), batch_size=8, key=KEY)
    assert np.isfinite(sampled.metrics["loss"]).all()


@given(problems(), st.data())
def test_expectations_of_exponentials_agree_with_a_double_loop(
    drawn: tuple[Problem, int], data: st.DataObject
) -> None:
    problem, size = drawn
    x = data.draw(hostile_logits(size))
    expected = logsumexp(table(problem, size) + x[:, None] - x)
    result = float(EXPECT_EXP(problem, x))
    assert not np.isnan(result)
    assert result >= 0
    # Exponents of up to 5000 nats are rounded by a few eps of that: 1e-11 of the sum's logarithm.
    if abs(expected) < 700:
        assert np.log(result) == pytest.approx(expected, rel=0, abs=2e-11)
    elif expected > 710:
        assert result > np.exp(699)
    else:
        assert result < np.exp(-690) or expected >= 700


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


@given(problems())
def test_marginals_agree_with_a_double_loop(drawn: tuple[Problem, int]) -> None:
    problem, size = drawn
    log_table = table(problem, size)
    for result, axis in zip(MARGINALS(problem, size), (1, 0), strict=True):
        with np.errstate(divide="ignore"):
            expected = logsumexp(log_table, axis=axis)
        assert abs(logsumexp(result)) < 1e-12
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-11)


def test_a_sequence_that_never_won_has_no_share() -> None:
    never = Pairs(np.array([0, 0]), np.array([1, 2]))
    assert never.chosen_marginal(4).tolist() == [0, -np.inf, -np.inf, -np.inf]
    np.testing.assert_allclose(np.exp(never.rejected_marginal(4)), [0, 0.5, 0.5, 0])


# The chance that a right sampler fails one of these tests is 1e-6.
SIGNIFICANCE = 1e-6


@pytest.mark.parametrize("name", PROBLEMS)
def test_frequencies_of_samples_agree_with_exact_probabilities(name: str) -> None:
    problem, num = PROBLEMS[name], 20_000
    sample = problem.sample(KEY, num)
    assert sample.winners.shape == sample.losers.shape == (num,)
    counts = np.bincount(3 * np.asarray(sample.winners) + np.asarray(sample.losers), minlength=9)
    expected = num * np.exp(table(problem, 3)).ravel()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], expected[possible] * num / expected.sum()).pvalue > SIGNIFICANCE


def test_samples_of_a_batch_follow_their_own_distribution() -> None:
    chosen = np.log([[0.9, 0.1], [0.2, 0.8]])
    sample = Contrastive(chosen, np.log([0.5, 0.5])).sample(KEY, 5000)
    assert sample.winners.shape == (2, 5000)
    for winners, p in zip(np.asarray(sample.winners), chosen, strict=True):
        assert chisquare(np.bincount(winners), 5000 * np.exp(p)).pvalue > SIGNIFICANCE
    labelled = Labelled(np.array([[2.0, 0.0], [0.0, 3.0]]), np.log([0.5, 0.5]), np.log([0.5, 0.5]))
    sample = labelled.sample(KEY, 5000)
    for row, margin in enumerate((2.0, 3.0)):
        differ = np.asarray(sample.winners[row] != sample.losers[row])
        right = (np.asarray(sample.winners[row])[differ] == row).sum()
        expected = differ.sum() * np.array([expit(margin), expit(-margin)])
        assert chisquare([right, differ.sum() - right], expected).pvalue > SIGNIFICANCE


def test_chosen_and_rejected_are_drawn_independently() -> None:
    sample = Contrastive(np.log([0.5, 0.5]), np.log([0.5, 0.5])).sample(KEY, 5000)
    agree = int((sample.winners == sample.losers).sum())
    assert chisquare([agree, 5000 - agree]).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_key_gives_the_same_sample(name: str) -> None:
    first, again, other = (PROBLEMS[name].sample(jax.random.key(seed), 50) for seed in (3, 3, 4))
    assert np.array_equal(first.winners, again.winners)
    assert np.array_equal(first.losers, again.losers)
    assert not np.array_equal(first.winners * 3 + first.losers, other.winners * 3 + other.losers)


def test_what_has_no_probability_is_never_drawn() -> None:
    sample = Contrastive(np.array([-np.inf, 0.0, -np.inf]), np.array([0.0, -np.inf, -np.inf])).sample(
        KEY, 100
    )
    assert set(np.asarray(sample.winners)) == {1}
    assert set(np.asarray(sample.losers)) == {0}


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_are_alike_under_jit(name: str) -> None:
    eager = PROBLEMS[name].sample(KEY, 20)
    compiled = eqx.filter_jit(lambda problem, key: problem.sample(key, 20))(PROBLEMS[name], KEY)
    assert np.array_equal(eager.winners, compiled.winners)
    assert np.array_equal(eager.losers, compiled.losers)


def test_batches_agree_with_their_members() -> None:
    chosen, rejected = np.stack([P, Q])[:, None], np.stack([Q, P, Q])
    problem = Contrastive(chosen, rejected)
    assert problem.batch_shape == (2, 3)
    x = np.array([0.5, -1.0, 2.0])
    batch, batch_exp = EXPECT(problem, x), EXPECT_EXP(problem, x)
    labelled = Labelled(np.stack([REWARD, -REWARD])[:, None], P, rejected)
    assert labelled.batch_shape == (2, 3)
    batch_labelled, chosen_share = EXPECT(labelled, x), MARGINALS(labelled, 3)[0]
    assert batch.shape == batch_exp.shape == batch_labelled.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        one = Contrastive(chosen[i, 0], rejected[j])
        np.testing.assert_allclose(batch[i, j], EXPECT(one, x), rtol=1e-13)
        np.testing.assert_allclose(batch_exp[i, j], EXPECT_EXP(one, x), rtol=1e-13)
        single = Labelled(labelled.reward[i, 0], P, rejected[j])
        np.testing.assert_allclose(batch_labelled[i, j], EXPECT(single, x), rtol=1e-13)
        np.testing.assert_allclose(chosen_share[i, j], MARGINALS(single, 3)[0], rtol=1e-13)


def test_batches_of_datasets_and_of_values_broadcast() -> None:
    winners, losers = np.array([[0, 1], [2, 2]]), np.array([[1, 0], [0, 1]])
    data = Pairs(winners, losers, np.array([[1.0, 3.0], [1.0, 1.0]]))
    assert data.batch_shape == (2,)
    x = np.arange(12.0).reshape(4, 1, 3) ** 1.5
    batch = data.expect(jnp.square, jnp.asarray(x))
    assert batch.shape == (4, 2)
    expected = 0.25 * (x[1, 0, 0] - x[1, 0, 1]) ** 2 + 0.75 * (x[1, 0, 1] - x[1, 0, 0]) ** 2
    assert float(batch[1, 0]) == pytest.approx(expected, rel=1e-14)
    share = np.exp(data.chosen_marginal(3))
    np.testing.assert_allclose(share, [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], rtol=1e-14)


@pytest.mark.parametrize("name", PROBLEMS)
def test_expectations_agree_under_vmap(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    mapped = jax.vmap(lambda x: PROBLEMS[name].expect(jax.nn.softplus, x))(jnp.asarray(x))
    np.testing.assert_allclose(mapped, [float(EXPECT(PROBLEMS[name], row)) for row in x], rtol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ["expect", "expect_exp"])
def test_gradients_agree_with_finite_differences(name: str, method: str) -> None:
    problem = PROBLEMS[name]

    def function(x: jax.Array) -> jax.Array:
        return problem.expect(jax.nn.softplus, x) if method == "expect" else problem.expect_exp(x)

    check_grads(jax.jit(function), (jnp.array([0.3, -0.7, 1.1]),), 1, atol=1e-7, rtol=1e-7)


def _total(problem: Problem, x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    shares = problem.chosen_marginal(size) if not isinstance(problem, Pairs) else jnp.zeros(size)
    return problem.expect(jax.nn.softplus, x) + shares @ jnp.arange(1.0, size + 1)


GRADIENT = eqx.filter_jit(eqx.filter_grad(lambda both: _total(*both)))


@given(problems(), st.data())
def test_gradients_are_finite_at_hostile_inputs(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = drawn
    gradient = GRADIENT((problem, jnp.asarray(data.draw(hostile_logits(size)))))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def narrowed(problem: Problem) -> Problem:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, problem)


@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_stays_float32(name: str) -> None:
    problem, x = narrowed(PROBLEMS[name]), jnp.array([0.3, -0.7, 1.1], jnp.float32)
    assert problem.expect(jax.nn.softplus, x).dtype == jnp.float32
    assert problem.expect_exp(x).dtype == jnp.float32
    assert problem.preference(0, 1).dtype == jnp.float32
    assert problem.chosen_marginal(3).dtype == jnp.float32
    assert problem.rejected_marginal(3).dtype == jnp.float32


@given(problems(), st.data())
def test_expectations_in_float32(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = narrowed(drawn[0]), drawn[1]
    x = data.draw(ordinary_logits(size)).astype(np.float32)
    wide = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, problem
    )
    probability = np.exp(table(wide, size))
    values = np.logaddexp(0, x[:, None].astype(float) - x.astype(float))
    eps = float(np.finfo(np.float32).eps)
    # Kernels are taken at differences of at most 6, and are good to a few eps of their value and of 6. The
    # probability of a label is σ(Δ), whose error of eps |Δ| σ(−Δ) relative to itself is below eps. Weights
    # are good to 8 eps; the sums over N and N (or over 4 pairs) to N eps each, and weights sum to 1 to N + 4.
    bound = (3 * size + 40) * eps * (probability * (values + 6)).sum()
    assert abs(float(EXPECT(problem, x)) - (probability * values).sum()) <= bound


@given(few_sizes, st.data(), betas)
def test_scaling_the_reward_of_labels_sharpens_preferences(
    size: int, data: st.DataObject, beta: float
) -> None:
    reward = data.draw(ordinary_logits(size))
    sampler = data.draw(policies(size))
    place = int(np.argmax(reward))
    result = PREFERENCE(Labelled(beta * reward, sampler, sampler), place, np.arange(size))
    np.testing.assert_allclose(result, expit(beta * (reward[place] - reward)), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: Contrastive(a, b), ("chosen", "rejected")),
        (lambda a, b: Labelled(REWARD, a, b), ("first", "second")),
    ],
    ids=["contrastive", "labelled"],
)
def test_distributions_are_checked(make: Callable[..., Problem], names: tuple[str, str]) -> None:
    for expected, bad in {
        "be log-probabilities normalised": P + 1,
        "be log-probabilities; got NaN": P * np.nan,
        "be a floating-point array": np.zeros(3, int),
        "not be empty": np.zeros(0),
    }.items():
        with pytest.raises(ValueError, match=f"`{names[0]}` must {expected}"):
            make(bad, P)
        with pytest.raises(ValueError, match=f"`{names[1]}` must {expected}"):
            make(P, bad)
    with pytest.raises(ValueError, match=f"`{names[0]}`.*`{names[1]}` must agree in their last axis"):
        make(P, np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match=f"`{names[0]}`.*`{names[1]}` must broadcast together"):
        make(np.stack([P] * 2), np.stack([P] * 3))


def test_the_reward_of_labels_is_checked() -> None:
    with pytest.raises(ValueError, match="`reward` must be finite everywhere; got inf"):
        Labelled(np.array([np.inf, 0.0, 0.0]), P, Q)
    with pytest.raises(ValueError, match="`reward` must be a floating-point array; got dtype int64"):
        Labelled(np.arange(3), P, Q)
    with pytest.raises(ValueError, match="`reward`, `first`, `second` must agree in their last axis"):
        Labelled(np.zeros(2), P, Q)


@pytest.mark.parametrize("name", PROBLEMS)
def test_indices_and_sizes_out_of_range_are_named(name: str) -> None:
    problem = PROBLEMS[name]
    with pytest.raises(ValueError, match=r"`i` must index one of .* got -1"):
        problem.preference(-1, 0)
    with pytest.raises(ValueError, match="`j` must be integers that index sequences; got dtype float64"):
        problem.preference(0, 1.0)
    for marginal in (problem.chosen_marginal, problem.rejected_marginal):
        with pytest.raises(ValueError, match=r"`(problem|winners|losers)` .*2"):
            marginal(2)
    with pytest.raises(ValueError, match=r"`(problem|winners|losers)` .*2"):
        problem.check_size(2)
    problem.check_size(3)


@pytest.mark.parametrize("name", ["contrastive", "labelled", "joint"])
def test_populations_know_their_size(name: str) -> None:
    with pytest.raises(ValueError, match=r"`j` must index one of 3 sequences \(0 to 2\); got 3"):
        PROBLEMS[name].preference(0, 3)
    with pytest.raises(ValueError, match="`problem` must be over 4 sequences; got one over 3"):
        PROBLEMS[name].check_size(4)


@pytest.mark.parametrize("name", PROBLEMS)
def test_sampling_checks_its_arguments(name: str) -> None:
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="`num_pairs` must be an integer of at least 1; got"):
            PROBLEMS[name].sample(KEY, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`key` must be a typed random key"):
        PROBLEMS[name].sample(jax.random.PRNGKey(0), 3)


def test_a_dataset_checks_its_indices() -> None:
    with pytest.raises(ValueError, match="`winners` must be integers that index sequences; got dtype float"):
        Pairs(np.array([0.0]), np.array([1]))
    with pytest.raises(ValueError, match=r"`losers` must index one of .* got -1"):
        Pairs(np.array([0]), np.array([-1]))
    for winners, losers in (([0, 1], [0]), (0, 1), ([[0, 1]], [0, 1])):
        with pytest.raises(ValueError, match="`winners` and `losers` must have one shape, with at least one"):
            Pairs(np.array(winners), np.array(losers))
    with pytest.raises(ValueError, match=r"`winners` and `losers` must have .* at least one pair"):
        Pairs(np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(ValueError, match="`losers` must index one of 3 sequences"):
        Pairs(np.array([0]), np.array([3])).expect(jnp.square, jnp.zeros(3))


def test_a_dataset_checks_its_weights() -> None:
    winners, losers = np.array([0, 1]), np.array([1, 0])
    with pytest.raises(ValueError, match=r"`weights` must have one entry for each pair, shape \(2,\); got"):
        Pairs(winners, losers, np.ones(3))
    with pytest.raises(ValueError, match="`weights` must be a floating-point array; got dtype int"):
        Pairs(winners, losers, np.ones(2, int))
    with pytest.raises(ValueError, match="`weights` must be finite everywhere; got nan"):
        Pairs(winners, losers, np.array([1.0, np.nan]))
    for bad in ([1.0, -0.5], [0.0, 0.0]):
        with pytest.raises(ValueError, match="`weights` must be zero or more, and not all zero"):
            Pairs(winners, losers, np.array(bad))
    with pytest.raises(ValueError, match="`weights` must be zero or more, and not all zero"):
        Pairs(np.array([[0], [1]]), np.array([[1], [0]]), np.array([[1.0], [0.0]]))


def test_only_ratios_of_weights_matter() -> None:
    x = jnp.array([0.3, -0.7, 1.1])
    assert DATA.weights is not None
    scaled = Pairs(DATA.winners, DATA.losers, 1e-3 * DATA.weights)
    np.testing.assert_allclose(scaled.expect(jnp.square, x), DATA.expect(jnp.square, x), rtol=1e-14)
    alike = Pairs(DATA.winners, DATA.losers, jnp.full(5, 7.0))
    plain = Pairs(DATA.winners, DATA.losers)
    np.testing.assert_allclose(alike.expect(jnp.square, x), plain.expect(jnp.square, x), rtol=1e-14)


def test_a_dataset_may_be_made_and_asked_inside_jit() -> None:
    @jax.jit
    def inside(x: jax.Array) -> jax.Array:
        data = Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 3.0]))
        return data.expect(jnp.square, x) + data.preference(0, 1)

    assert float(inside(jnp.array([0.0, 1.0, 3.0]))) == pytest.approx(0.25 + 0.75 * 4 + 1, rel=1e-14)


def test_a_problem_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Problem()  # type: ignore[abstract]


def test_an_array_of_keys_is_refused() -> None:
    p = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match="`key` must be one random key; got an array of shape"):
        Contrastive(p, p).sample(jax.random.split(jax.random.key(0)), 3)


def test_indices_of_another_kind_are_named() -> None:
    p = np.log([0.5, 0.5])
    for value in ("a", None, [[0], [0, 1]]):
        with pytest.raises(ValueError, match="`i` must be integers that index sequences; got"):
            Contrastive(p, p).preference(value, 0)


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


@pytest.mark.parametrize("size", [5, 100])
@pytest.mark.parametrize("kernel", [SURPRISE, jax.nn.softplus])
def test_offsets_broadcast_with_the_batch(size: int, kernel: Any) -> None:
    rng = np.random.default_rng(2)
    x, offsets = jnp.asarray(rng.normal(size=(5, size))), jnp.asarray(rng.normal(size=5))
    one, two = log_softmax(rng.normal(size=(2, size)), axis=-1)
    for problem in (Contrastive(one, two), Labelled(rng.normal(size=size), one, two)):
        together = problem.expect(kernel, x, offsets)
        for k in range(5):
            alone = problem.expect(kernel, x[k], offsets[k])
            assert float(together[k]) == pytest.approx(float(alone), rel=1e-12)
