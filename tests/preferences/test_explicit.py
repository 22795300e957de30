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
from scipy.special import log_softmax
from scipy.stats import chisquare

import didsim
from didsim import Contrastive, Joint, Labelled, Pairs, Problem
from tests.preferences.problem_cases import (
    ACROSS,
    DATA,
    EXPECT,
    EXPECT_EXP,
    KEY,
    MARGINALS,
    PROBLEMS,
    REWARD,
    SIGNIFICANCE,
    P,
    Q,
    problems,
)
from tests.strategies import ordinary_logits
from tests.tables import table

TABLE = eqx.filter_jit(lambda problem, n: problem.joint(n).log_probs)


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


def test_a_sequence_that_never_won_has_no_share() -> None:
    never = Pairs(np.array([0, 0]), np.array([1, 2]))
    assert never.chosen_marginal(4).tolist() == [0, -np.inf, -np.inf, -np.inf]
    np.testing.assert_allclose(np.exp(never.rejected_marginal(4)), [0, 0.5, 0.5, 0])


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
