"""Nash policies: against linear programs, fixed points found in another way, and policies known by hand."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, log_softmax, logsumexp

import didsim
from didsim import PreferenceTable, exploitability, nash
from tests.strategies import policies

SIZES = st.sampled_from((1, 2, 3, 6))


@st.composite
def tables(draw: st.DrawFn, size: int) -> np.ndarray:
    """A table of preferences: any, one with sure entries, or one with ties between equals."""
    odds = draw(hnp.arrays(float, (size, size), elements=st.sampled_from((-1e3, -2.0, -0.3, 0.0, 0.7, 40.0))))
    return expit(np.triu(odds, 1) - np.triu(odds, 1).T)


@st.composite
def games(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    size = draw(SIZES)
    beta = draw(st.sampled_from((1e-8, 1e-4, 0.03, 0.5, 20.0, 1e8)))
    return draw(tables(size)), draw(policies(size)), beta


def value_of_best_answer(policy: np.ndarray, table: np.ndarray, reference: np.ndarray, beta: float) -> float:
    """What the best answer gains, by double loops and a logsumexp."""
    size = len(policy)
    rates = np.array(
        [sum(np.exp(policy[j]) * (table[i, j] - table[j, i]) / 2 for j in range(size)) for i in range(size)]
    )
    own = -beta * sum(np.exp(p) * (p - q) for p, q in zip(policy, reference, strict=True) if np.isfinite(p))
    return float(beta * logsumexp(reference + rates / beta) - own)


@given(games())
def test_a_regularised_policy_is_beaten_by_none(game: tuple[np.ndarray, np.ndarray, float]) -> None:
    table, reference, beta = game
    found = nash(PreferenceTable(table), reference, beta)
    assert 0 <= found.exploitability < 1e-13 * max(1, beta)
    # The oracle subtracts numbers of the size of `beta` times a log-probability.
    scale = 1 + beta * np.abs(reference).max()
    policy = np.asarray(found.log_probs)
    assert abs(value_of_best_answer(policy, table, reference, beta)) < 1e-12 * scale
    # The fixed point itself: an error of the win rates is multiplied by 1/beta.
    lead = (table - table.T) / 2
    answer = log_softmax(reference + lead @ np.exp(policy) / beta)
    room = 1e-13 * (10 + np.abs(reference).max() + 1 / beta)
    np.testing.assert_allclose(policy, answer, atol=room)


def test_the_regularised_policy_is_that_of_slow_mirror_descent() -> None:
    """Averaged steps of multiplicative weights, in NumPy, which need no derivative."""
    table = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])
    reference, beta = np.log([0.2, 0.3, 0.5]), 0.2
    policy = reference
    for _ in range(4000):
        answer = reference + table @ np.exp(policy) / beta
        policy = log_softmax(0.95 * policy + 0.05 * answer)
    np.testing.assert_allclose(nash(PreferenceTable(table), reference, beta).log_probs, policy, atol=1e-12)


@given(SIZES.flatmap(tables))
def test_no_sequence_beats_the_policy_of_the_linear_program(table: np.ndarray) -> None:
    found = nash(PreferenceTable(table))
    policy = np.exp(found.log_probs)
    assert policy.sum() == pytest.approx(1)
    assert max(0, ((table - table.T) / 2 @ policy).max()) < 1e-12
    assert found.exploitability == pytest.approx(max(0, ((table - table.T) / 2 @ policy).max()), abs=1e-14)
    # The value that another program, for the other player, guarantees.
    size = len(table)
    dual = scipy.optimize.linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=np.hstack([table, -np.ones((size, 1))]),
        b_ub=np.zeros(size),
        A_eq=np.append(np.ones(size), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * size + [(None, None)],
    )
    assert dual.fun == pytest.approx((policy @ table).min(), abs=1e-7)


def test_a_generalised_game_of_three_is_known_by_hand() -> None:
    """With leads a of 0 over 1, b of 1 over 2, and c of 2 over 0 the policy is (b, c, a), normalised."""
    a, b, c = 0.2, 0.4, 0.1
    table = 0.5 + np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]])
    np.testing.assert_allclose(
        np.exp(nash(PreferenceTable(table)).log_probs), np.array([b, c, a]) / 0.7, atol=1e-12
    )


def test_limits_in_beta() -> None:
    """The reference for a large beta; for a small one the Nash policy without it, where there is only one."""
    game, reference = PreferenceTable.cyclic(5, 0.8), log_softmax(np.array([3.0, 0.0, -2.0, 1.0, 0.5]))
    found = nash(game, reference, np.array([1e9, 1e-9]))
    np.testing.assert_allclose(found.log_probs[0], reference, atol=1e-8)
    np.testing.assert_allclose(np.exp(found.log_probs[1]), np.full(5, 0.2), atol=1e-7)
    assert found.exploitability.shape == found.steps.shape == (2,)


@pytest.mark.parametrize("beta", [None, 1e-6, 0.1])
def test_a_reward_has_its_best_sequence_for_the_nash_policy(beta: float | None) -> None:
    table = PreferenceTable.bradley_terry(np.array([0.3, 1.5, -1.0]))
    found = np.exp(nash(table, beta=beta).log_probs)
    assert found.argmax() == 1
    if beta != 0.1:
        np.testing.assert_allclose(found, [0, 1, 0], atol=1e-9)


@given(st.sampled_from((-2000.0, -700.0)), st.sampled_from((1e-5, 1e-2)))
def test_references_of_many_nats_under_a_small_beta(depth: float, beta: float) -> None:
    """The path bends sharply where a sequence begins to count."""
    numbers = np.random.default_rng(1)
    odds = numbers.normal(size=(8, 8))
    reference = log_softmax(numbers.uniform(depth / beta * 1e-4, 0, size=8))
    assert nash(PreferenceTable(expit(odds - odds.T)), reference, beta).exploitability < 1e-14


def test_zeros_of_the_reference_stay_zeros() -> None:
    reference = np.array([np.log(0.5), np.log(0.5), -np.inf])
    found = nash(PreferenceTable.bradley_terry(np.array([0.0, 1.0, 9.0])), reference, 0.3)
    assert np.isneginf(found.log_probs[2])
    expected = didsim.nash(PreferenceTable.bradley_terry(np.array([0.0, 1.0])), reference[:2], 0.3)
    np.testing.assert_allclose(found.log_probs[:2], expected.log_probs, atol=1e-13)


def test_batches_broadcast_and_float32_is_solved_in_float64() -> None:
    tables_ = np.stack([0.5 + np.array([[0, 0.3], [-0.3, 0]]), np.full((2, 2), 0.5)]).astype(np.float32)
    reference = np.log(np.array([[[0.5, 0.5]], [[0.25, 0.75]], [[0.9, 0.1]]], np.float32))
    found = nash(PreferenceTable(tables_), reference, np.float32(0.5))
    assert found.log_probs.shape == (3, 2, 2)
    assert found.log_probs.dtype == np.float32
    assert found.exploitability.max() < 1e-14
    np.testing.assert_allclose(found.log_probs[1, 1], np.log([0.25, 0.75]), rtol=1e-6)
    # Both players know that sequence 0 leads by 0.3: π ∝ ref · exp(0.3 · π(other) …) by its own equation.
    p = np.exp(found.log_probs[0, 0].astype(float))
    assert np.log(p[0] / p[1]) == pytest.approx((0.3 * p[1] + 0.3 * p[0]) / 0.5, rel=1e-6)
    assert nash(PreferenceTable(tables_)).log_probs.shape == (2, 2)


@given(games())
def test_exploitability_is_what_the_best_answer_gains(game: tuple[np.ndarray, np.ndarray, float]) -> None:
    table, reference, beta = game
    policy = log_softmax(np.linspace(-1, 2, len(reference)))
    found = float(exploitability(policy, PreferenceTable(table), reference, beta))
    expected = value_of_best_answer(policy, table, reference, beta)
    assert found == pytest.approx(expected, abs=1e-13 * (1 + beta * np.abs(reference).max()))
    alone = float(exploitability(policy, PreferenceTable(table)))
    assert alone == pytest.approx(max(0, ((table - table.T) / 2 @ np.exp(policy)).max()), abs=1e-15)


def test_exploitability_is_differentiable_and_maps() -> None:
    game = PreferenceTable.cyclic(3, 0.9)
    policies_ = log_softmax(np.random.default_rng(0).normal(size=(4, 3)), axis=-1)
    batch = exploitability(policies_, game, beta=0.5)
    one_by_one = jax.vmap(lambda one: exploitability(one, game, beta=0.5))(policies_)
    np.testing.assert_allclose(batch, one_by_one, rtol=1e-12)
    slope = jax.grad(lambda z: exploitability(jax.nn.log_softmax(z), game, beta=0.5))(np.zeros(3))
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-15)  # at the Nash policy, where it is least


def test_wrong_games_are_refused() -> None:
    game, reference = PreferenceTable.cyclic(3), np.log(np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="`reference` must come with `beta`"):
        nash(game, reference)
    with pytest.raises(ValueError, match="`reference`, `preferences` must agree in their last axis"):
        nash(game, np.log([0.5, 0.5]), 1.0)
    with pytest.raises(ValueError, match="`nash` must be called outside jit"):
        jax.jit(lambda beta: nash(game, reference, beta).log_probs)(1.0)
