"""Which rewards pairs hold together: against a search over all subsets, and against what is then learned."""

import itertools
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points import on_rewards
from didsim.fixed_points.certificate import Verdict
from didsim.fixed_points.win_graph import compare
from didsim.preferences.problem import Problem

BETA = 0.5


def is_strongly_connected(wins: np.ndarray) -> bool:
    """Whether every set of sequences has won against the rest at least once (Ford)."""
    size = len(wins)
    sets = itertools.chain(*(itertools.combinations(range(size), k) for k in range(1, size)))
    return all(wins[list(some)][:, [j for j in range(size) if j not in some]].any() for some in sets)


def is_connected(wins: np.ndarray) -> bool:
    return is_strongly_connected(wins + wins.T)


def same_component(wins: np.ndarray) -> np.ndarray:
    """Whether there are paths both ways, by powers of the adjacency matrix."""
    steps = (wins > 0) | np.eye(len(wins), dtype=bool)
    reach = np.linalg.matrix_power(steps.astype(float), len(wins)) > 0
    return reach & reach.T


def all_pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    ordered = list(itertools.permutations(range(size), 2))
    return np.array([i for i, _ in ordered]), np.array([j for _, j in ordered])


def dataset(wins: np.ndarray) -> didsim.Pairs:
    """Every ordered pair, with the number of times that it occurs for its weight: one shape for all."""
    winners, losers = all_pairs(wins.shape[-1])
    shape = (*wins.shape[:-2], len(winners))
    return didsim.Pairs(
        np.broadcast_to(winners, shape), np.broadcast_to(losers, shape), wins[..., winners, losers]
    )


# Half of the pairs never occur, so that about as many graphs are connected as are not.
counts = st.one_of(st.just(0.0), st.integers(1, 5).map(float))
tables = st.sampled_from((3, 4, 5)).flatmap(
    lambda n: hnp.arrays(float, (n, n), elements=counts).map(lambda wins: wins * (1 - np.eye(n)))
)


@settings(max_examples=40)
@given(tables, st.booleans())
def test_dpo_is_identified_if_and_only_if_every_set_has_won(wins: np.ndarray, uniform: bool) -> None:
    if not wins.any():
        return
    size = len(wins)
    reference = np.zeros(size) if uniform else np.linspace(-1, 2, size)
    reference = log_softmax(reference)
    solution = didsim.solve(didsim.dpo(BETA), reference, dataset(wins))
    known = solution.certificate
    np.testing.assert_array_equal(known.component[:, None] == known.component[None, :], same_component(wins))
    largest = same_component(wins).sum(axis=1).max()
    assert int(known.identified.sum()) == largest
    assert bool(known.identified.all()) == is_strongly_connected(wins)
    if not is_strongly_connected(wins):
        assert np.isnan(solution.log_probs).all()
        assert not bool(known.finite)
        assert not bool(known.unique)
        return
    assert bool(known.finite & known.converged)
    assert bool(known.unique)
    h = BETA * (np.asarray(solution.log_probs) - reference)
    share = wins / wins.sum()
    gradient = np.zeros(size)
    for i in range(size):
        for j in range(size):
            pull = share[i, j] * expit(h[j] - h[i])
            gradient[i] -= pull
            gradient[j] += pull
    # Sums of at most 20 terms of at most 1, of rewards of a few nats.
    assert np.abs(gradient).max() < 1e-14

    def surprise(h: np.ndarray) -> float:
        return float(np.sum(share * np.logaddexp(0, h[None, :] - h[:, None])))

    found = scipy.optimize.minimize(surprise, np.zeros(size), options={"gtol": 1e-7})
    assert surprise(h) <= found.fun + 1e-15
    assert found.fun == pytest.approx(surprise(h), abs=1e-9)


def components(problem: Problem, size: int, *, both_ways: bool) -> list[int]:
    """Component labels of one problem, numbered as they appear."""
    one = problem.over_runs(lambda leaf, _: jnp.asarray(leaf)[None])
    labels = compare(one, size, 1, both_ways=both_ways).component[0].tolist()
    seen: list[int] = list(dict.fromkeys(labels))
    return [seen.index(label) for label in labels]


def log(probabilities: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


@settings(max_examples=20)
@given(st.data(), st.integers(2, 5))
def test_independent_draws_are_the_graph_of_their_table(data: st.DataObject, size: int) -> None:
    """The node between the two draws stands for all pairs, and leaves components as they are."""

    def draw() -> np.ndarray:
        support = data.draw(hnp.arrays(bool, size).filter(np.any))
        return log((support / support.sum()).tolist())

    chosen, rejected, more = draw(), draw(), draw()
    problems: list[Problem] = [
        didsim.Contrastive(chosen, rejected),
        didsim.Labelled(np.linspace(0, 1, size), chosen, rejected),
    ]
    problems.append(didsim.Mixture((problems[0], didsim.Contrastive(more, chosen)), log([0.5, 0.5])))
    problems.append(didsim.Mixture((*problems[:2], problems[2]), log([0.0, 0.5, 0.5])))
    for problem in problems:
        table = np.exp(np.asarray(problem.joint(size).log_probs))
        for both_ways in (False, True):
            same = same_component(table if both_ways else table + table.T)
            labels = np.array(components(problem, size, both_ways=both_ways))
            np.testing.assert_array_equal(labels[:, None] == labels, same)
            as_table = components(problem.joint(size), size, both_ways=both_ways)
            np.testing.assert_array_equal(labels, as_table)


def test_pairs_that_weigh_nothing_are_no_comparisons() -> None:
    pairs = didsim.Pairs(np.array([0, 1, 2, 0]), np.array([1, 0, 0, 2]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert components(pairs, 4, both_ways=True) == [0, 0, 1, 2]
    assert components(pairs, 4, both_ways=False) == [0, 0, 0, 1]


def test_a_problem_without_a_graph_is_refused() -> None:
    online = didsim.Online(np.zeros(2), didsim.OnPolicy())
    with pytest.raises(ValueError, match="`problem` must know its graph of wins; Online does not"):
        components(online, 2, both_ways=True)


REFERENCE = log_softmax(np.array([0.5, 0.0, -0.5, 1.0]))
# All beat one another; 0 is never beaten; 3 is never compared.
LOOP = np.array([[0, 2, 0, 1], [1, 0, 2, 0], [0, 1, 0, 2], [1, 0, 3, 0.0]])
UNBEATEN = np.array([[0, 2, 1, 1], [0, 0, 2, 0], [0, 1, 0, 2], [0, 1, 3, 0.0]])
UNSEEN = np.array([[0, 2, 0, 0], [1, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0.0]])


def test_a_batch_in_which_some_are_identified() -> None:
    problem = dataset(np.stack([LOOP, UNBEATEN, UNSEEN]))
    solution = didsim.solve(didsim.dpo(BETA), REFERENCE, problem)
    known = solution.certificate
    assert known.identified.tolist() == [[True] * 4, [False, True, True, True], [True, True, True, False]]
    assert known.finite.tolist() == [True, False, False]
    assert known.unique.tolist() == [True, False, False]
    alone = didsim.solve(didsim.dpo(BETA), REFERENCE, dataset(LOOP))
    np.testing.assert_allclose(solution.log_probs[0], alone.log_probs, rtol=1e-13)
    assert np.isnan(solution.log_probs[1:]).all()
    with pytest.raises(didsim.NoMinimiserError, match="do not identify 2 of 12 sequences: wins") as caught:
        didsim.fixed_point(didsim.dpo(BETA), REFERENCE, problem)
    assert caught.value.solution.certificate.identified.shape == (3, 4)
    assert str(caught.value.solution.objection()) in str(caught.value)


@pytest.mark.parametrize("make", [didsim.dpo, didsim.exponential, didsim.reference_free])
def test_losses_that_fall_for_ever_need_wins_both_ways(make: type) -> None:
    known = didsim.solve(make(BETA), REFERENCE, dataset(np.stack([LOOP, UNBEATEN, UNSEEN]))).certificate
    assert known.identified.all(axis=-1).tolist() == [True, False, False]


@pytest.mark.parametrize("make", [didsim.cdpo, didsim.ipo, didsim.exo])
def test_losses_that_rise_on_both_sides_need_comparisons_alone(make: type) -> None:
    solution = didsim.solve(make(BETA), REFERENCE, dataset(np.stack([LOOP, UNBEATEN, UNSEEN])))
    known = solution.certificate
    assert known.identified.all(axis=-1).tolist() == [True, True, False]
    assert known.finite.tolist() == [True, True, False]
    assert known.converged[:2].all()
    assert np.isfinite(solution.log_probs[:2]).all()


def test_uniqueness_is_claimed_with_proof_alone() -> None:
    """EXO is not convex: that another entry of the batch is not identified proves nothing of the first."""
    alone = didsim.solve(didsim.exo(BETA), REFERENCE, dataset(np.stack([LOOP] * 3))).certificate
    assert not (alone.unique | alone.has_others).any()
    known = didsim.solve(didsim.exo(BETA), REFERENCE, dataset(np.stack([LOOP, LOOP, UNSEEN]))).certificate
    assert not known.unique[0]


def test_a_smoothing_of_zero_smooths_nothing() -> None:
    """cDPO with it is DPO, and needs wins both ways: nothing is returned as if it were the limit."""
    objective = jax.vmap(lambda smoothing: didsim.cdpo(BETA, smoothing))(np.array([0.0, 0.1, 0.2]))
    solution = didsim.solve(objective, REFERENCE, dataset(UNBEATEN))
    known = solution.certificate
    assert known.finite.tolist() == [False, True, True]
    assert not bool(known.converged[0] & known.identified[0].all())
    assert known.identified[1:].all()
    with pytest.raises(didsim.NoMinimiserError):
        didsim.fixed_point(objective, REFERENCE, dataset(UNBEATEN))


def test_a_contrastive_problem_without_full_support() -> None:
    half = log([0.5, 0.5, 0.0, 0.0])
    other = log([0.0, 0.5, 0.5, 0.0])
    solution = didsim.solve(didsim.dpo(BETA), REFERENCE, didsim.Contrastive(half, other))
    known = solution.certificate
    # Only 1 is drawn on both sides; 0 always wins, 2 always loses, 3 is never drawn.
    assert len(set(known.component.tolist())) == 4
    assert int(known.identified.sum()) == 1
    assert np.isnan(solution.log_probs).all()
    with pytest.raises(didsim.NoMinimiserError, match="do not identify 3 of 4 sequences"):
        didsim.fixed_point(didsim.dpo(BETA), REFERENCE, didsim.Contrastive(half, other))
    # Smoothed labels hold those that are drawn together, and nothing holds 3.
    known = didsim.solve(didsim.cdpo(BETA), REFERENCE, didsim.Contrastive(half, other)).certificate
    assert known.identified.tolist() == [True, True, True, False]


def test_weak_comparisons_of_all_are_enough_for_smoothed_labels() -> None:
    half, other = log([0.5, 0.5, 0.0, 0.0]), log([0.0, 0.25, 0.25, 0.5])
    smoothing = 0.2
    learned = np.asarray(
        didsim.fixed_point(didsim.cdpo(BETA, smoothing), REFERENCE, didsim.Contrastive(half, other))
    )
    h = BETA * (learned - REFERENCE)
    table = np.exp(half)[:, None] * np.exp(other)
    slope = table * (expit(h[:, None] - h[None, :]) - (1 - smoothing))
    np.testing.assert_allclose(slope.sum(axis=1), slope.sum(axis=0), atol=1e-15)


def test_what_is_not_identified_is_told_before_any_search() -> None:
    pairs, uniform = didsim.Pairs([0, 1, 0], [1, 2, 2]), np.full(3, -np.log(3))
    with patch.object(on_rewards, "_newton", side_effect=AssertionError("a search")):
        solution = didsim.solve(didsim.dpo(1.0), uniform, pairs)
    assert solution.verdict == Verdict.NOT_IDENTIFIED
    np.testing.assert_array_equal(jnp.exp(solution.certificate.limit), [1, 0, 0])
    # In a batch, each problem has the answer that it has alone.
    whole = didsim.Pairs([0, 1, 2], [1, 2, 0])
    both = didsim.Pairs(np.stack([pairs.winners, whole.winners]), np.stack([pairs.losers, whole.losers]))
    batch = didsim.solve(didsim.dpo(1.0), uniform, both)
    assert np.isnan(batch.log_probs[0]).all()
    np.testing.assert_allclose(batch.log_probs[1], uniform, rtol=1e-12)
    np.testing.assert_array_equal(jnp.exp(batch.certificate.limit[0]), [1, 0, 0])
