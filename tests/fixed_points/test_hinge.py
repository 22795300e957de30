"""The hinge loss's minimisers against another linear program, and against all whole numbers."""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points.hinge import minimise_hinge


def loss_of(weights: np.ndarray, h: np.ndarray, delta: float = 1.0) -> float:
    return float(np.sum(weights * np.maximum(0, delta - (h[:, None] - h[None, :]))))


def least_loss(weights: np.ndarray) -> float:
    """The minimum by the program in rewards and slacks."""
    size = len(weights)
    rows, bounds, costs = [], [], [0.0] * size
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j and weights[i, j] > 0]
    for k, (i, j) in enumerate(pairs):
        row = np.zeros(size + len(pairs))
        row[i], row[j], row[size + k] = -1, 1, -1
        rows.append(row)
        bounds.append(-1.0)
        costs.append(weights[i, j])
    if not pairs:
        return float(np.trace(weights))
    free = [(None, None)] * size + [(0, None)] * len(pairs)
    found = linprog(costs, A_ub=np.array(rows), b_ub=bounds, bounds=free, method="highs")
    assert found.status == 0
    return float(found.fun + np.trace(weights))


def minimisers_on_the_grid(weights: np.ndarray) -> int:
    """How many vectors of whole numbers, the first of them 0, are as good as any.

    A vertex has differences of at most N − 1, a path of N − 1 bounds of one; and where a minimiser is not
    the only one, another is a step of one away.
    """
    size = len(weights)
    grid = range(-size, size + 1)
    losses = [loss_of(weights, np.array([0, *rest])) for rest in itertools.product(grid, repeat=size - 1)]
    return int(np.sum(np.array(losses) <= min(losses) + 1e-9 * weights.sum()))


tables = st.integers(1, 7).flatmap(lambda n: hnp.arrays(float, (n, n), elements=st.integers(0, 4)))


@given(tables)
def test_the_loss_is_that_of_the_primal_program(weights: np.ndarray) -> None:
    if not weights.any():
        return
    found = minimise_hinge(weights)
    assert found.solved
    np.testing.assert_array_equal(found.h, np.round(found.h))
    assert loss_of(weights, found.h) == pytest.approx(least_loss(weights), abs=1e-8 * weights.sum())
    assert abs(found.gap) <= 1e-8 * weights.sum()


@given(st.sampled_from((3, 4)).flatmap(lambda n: hnp.arrays(float, (n, n), elements=st.integers(0, 3))))
def test_uniqueness_is_that_of_all_whole_numbers(weights: np.ndarray) -> None:
    if not weights.any():
        return
    found = minimise_hinge(weights)
    assert (found.spread == 0) == (minimisers_on_the_grid(weights) == 1)


def test_uniqueness_of_weights_without_ties() -> None:
    """Whole-number weights tie often; these hardly ever do, and are nearly always unique."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(20):
        weights = rng.exponential(size=(4, 4))
        verdicts.append(minimise_hinge(weights).spread == 0)
        assert verdicts[-1] == (minimisers_on_the_grid(weights) == 1)
    assert np.sum(verdicts) > 10


@pytest.mark.parametrize("size", [1, 2])
def test_no_pairs_but_with_itself(size: int) -> None:
    found = minimise_hinge(np.eye(size))
    assert found.solved
    np.testing.assert_array_equal(found.h, np.zeros(size))
    assert found.spread == (np.inf if size > 1 else 0)


@pytest.mark.parametrize("scale", [2.0, 4.0, 8.0, 12.0])
def test_near_deterministic_weights_are_right_or_said_not_to_be_solved(scale: float) -> None:
    random = np.random.default_rng(0)
    unsolved = 0
    for _ in range(20):
        chosen, rejected = (log_softmax(scale * random.normal(size=3)) for _ in range(2))
        weights = np.exp(chosen[:, None] + rejected)
        exact = [[Fraction(float(weight)) for weight in row] for row in weights]

        def loss(h: Sequence[int], exact: list[list[Fraction]] = exact) -> Fraction:
            pairs = itertools.permutations(range(3), 2)
            return sum((exact[i][j] * max(0, 1 - h[i] + h[j]) for i, j in pairs), Fraction(0))

        losses = [loss((0, i, j)) for i in range(-3, 4) for j in range(-3, 4)]
        found = minimise_hinge(weights)
        unsolved += not found.solved
        if found.solved:
            here = loss([int(one) for one in found.h])
            assert here - min(losses) <= 1e-6 * here
            assert float(here - min(losses)) <= found.gap + 1e-12 * float(here)
            if found.spread == 0:
                assert losses.count(min(losses)) == 1
    assert unsolved <= 2


def test_two_sequences_that_are_nearly_sure() -> None:
    found = minimise_hinge(np.exp(np.log([1 - 1e-5, 1e-5])[:, None] + np.log([1e-5, 1 - 1e-5])))
    assert found.h.tolist() == [0, -1]
    assert found.spread == 0
    assert found.solved


def test_weights_of_many_orders_of_magnitude() -> None:
    weights = np.exp(np.random.default_rng(1).normal(size=(6, 6)) * 3)
    one, other = minimise_hinge(weights), minimise_hinge(1e12 * weights)
    np.testing.assert_array_equal(one.h, other.h)
    assert loss_of(weights, one.h) == pytest.approx(least_loss(weights), abs=1e-8 * weights.sum())


SIZE = 5
RNG = np.random.default_rng(2)
REFERENCE, CHOSEN, REJECTED, FIRST, SECOND = log_softmax(1.5 * RNG.normal(size=(5, SIZE)), axis=-1)
REWARD = RNG.normal(size=SIZE)


def labelled_table() -> np.ndarray:
    drawn = np.exp(FIRST)[:, None] * np.exp(SECOND)
    return (drawn + drawn.T) * expit(REWARD[:, None] - REWARD)


def pairs_table(winners: np.ndarray, losers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    table = np.zeros((SIZE, SIZE))
    np.add.at(table, (winners, losers), weights / weights.sum())
    return table


WINNERS, LOSERS = (np.array(side) for side in zip(*itertools.permutations(range(SIZE), 2), strict=True))
COUNTS = RNG.exponential(size=len(WINNERS))
PROBLEMS: dict[str, tuple[didsim.preferences.Problem, np.ndarray]] = {
    "contrastive": (didsim.Contrastive(CHOSEN, REJECTED), np.exp(CHOSEN)[:, None] * np.exp(REJECTED)),
    "labelled": (didsim.Labelled(REWARD, FIRST, SECOND), labelled_table()),
    "pairs": (didsim.Pairs(WINNERS, LOSERS, COUNTS), pairs_table(WINNERS, LOSERS, COUNTS)),
}


@pytest.mark.parametrize("kind", sorted(PROBLEMS))
@pytest.mark.parametrize(("beta", "delta"), [(1.0, 1.0), (0.2, 3.0)])
def test_solve_ends_on_a_grid_of_spacing_delta(kind: str, beta: float, delta: float) -> None:
    problem, table = PROBLEMS[kind]
    solution = didsim.solve(didsim.slic(beta, delta), REFERENCE, problem)
    known = solution.certificate
    assert known.method == "linear program"
    assert bool(known.converged)
    assert bool(known.finite)
    assert abs(float(known.duality_gap)) < 1e-9
    h = beta * (np.asarray(solution.log_probs) - REFERENCE)
    steps = (h - h[0]) / delta
    # Two roundings of numbers of at most 20 nats, over the spacing of 1.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-12)
    assert loss_of(table, np.round(steps)) == pytest.approx(least_loss(table), abs=1e-9)
    assert bool(known.unique) == (minimisers_on_the_grid(table) == 1)


def test_where_it_is_not_unique_fixed_point_says_so() -> None:
    problem = didsim.Contrastive(CHOSEN, CHOSEN)
    solution = didsim.solve(didsim.slic(1.0), REFERENCE, problem)
    assert not bool(solution.certificate.unique)
    with pytest.raises(didsim.NoMinimiserError, match="the minimiser is not unique") as caught:
        didsim.fixed_point(didsim.slic(1.0), REFERENCE, problem)
    np.testing.assert_array_equal(caught.value.solution.log_probs, solution.log_probs)


def test_a_dataset_of_sequences_that_are_apart() -> None:
    solution = didsim.solve(
        didsim.slic(1.0), REFERENCE, didsim.Pairs(np.array([0, 1, 3]), np.array([1, 0, 4]))
    )
    known = solution.certificate
    assert not bool(known.unique)
    # 0 and 1, 3 and 4 are compared, whichever won; 2 with nothing.
    component = np.asarray(known.component)
    assert component[0] == component[1]
    assert component[3] == component[4]
    assert len(set(component.tolist())) == 3
    with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify 3 of 5 sequences"):
        didsim.fixed_point(
            didsim.slic(1.0), REFERENCE, didsim.Pairs(np.array([0, 1, 3]), np.array([1, 0, 4]))
        )


def test_a_batch_is_each_of_its_entries() -> None:
    chosen = np.stack([CHOSEN, REFERENCE])
    both = didsim.solve(didsim.slic(0.5), REFERENCE, didsim.Contrastive(chosen, REJECTED))
    for k in range(2):
        one = didsim.solve(didsim.slic(0.5), REFERENCE, didsim.Contrastive(chosen[k], REJECTED))
        np.testing.assert_allclose(both.log_probs[k], one.log_probs, rtol=1e-14)
        assert bool(both.certificate.unique[k]) == bool(one.certificate.unique)
