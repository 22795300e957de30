from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from didsim import Contrastive, Labelled
from didsim.objectives.baselines import PairMean, PolicyMean
from didsim.objectives.kernels import Linear, Logistic, Sigmoid
from didsim.objectives.rewards import Guarded, LogOdds, LogProb, LogRatio
from didsim.objectives.terms import Pair, Population, Sequences, Single
from tests.strategies import betas, ordinary_policies
from tests.tables import table

ONE = jnp.array(1.0)
W, Y = np.array([-1.0, -2.5]), np.array([-3.0, -0.5])
REF_W, REF_Y = np.array([-2.0, -2.0]), np.array([-1.0, -4.0])
CHOSEN = Sequences(jnp.asarray(W), jnp.asarray(REF_W), None)
REJECTED = Sequences(jnp.asarray(Y), jnp.asarray(REF_Y), None)


@pytest.mark.parametrize("sequence", ["chosen", "rejected"])
@pytest.mark.parametrize("push", ["up", "down"])
@pytest.mark.parametrize("baseline", [None, 0.4])
def test_single_terms_compare_one_reward_with_a_baseline(
    sequence: Literal["chosen", "rejected"], push: Literal["up", "down"], baseline: float | None
) -> None:
    """Without one of their own they see none that is given."""
    h = 0.7 * ((W - REF_W) if sequence == "chosen" else (Y - REF_Y))
    reward = LogRatio(jnp.array(0.7))
    held = None if baseline is None else jnp.array(baseline)
    for own, z in ((None, 0.0), (PairMean(), 0.4 if baseline else 0.35 * np.mean(W - REF_W + Y - REF_Y))):
        term = Single(reward, Sigmoid(), jnp.array(3.0), sequence=sequence, push=push, baseline=own)
        found = term.weighted(term.of_pairs(CHOSEN, REJECTED, held))
        sign = 1 if push == "up" else -1
        np.testing.assert_allclose(found, 3 * expit(-sign * (h - z)), rtol=1e-13)


def test_pair_terms_may_have_another_reward_for_the_chosen() -> None:
    plain, guarded = LogRatio(ONE), Guarded(ONE, jnp.array(2.0))
    t_w, t_y = W - REF_W, Y - REF_Y
    np.testing.assert_allclose(Pair(plain, Linear()).of_pairs(CHOSEN, REJECTED, None), t_y - t_w, rtol=1e-15)
    np.testing.assert_allclose(
        Pair(plain, Linear(), chosen_reward=guarded).of_pairs(CHOSEN, REJECTED, None),
        t_y - (t_w - 2 * np.maximum(0, -t_w)),
        rtol=1e-15,
    )


@given(st.data(), betas)
def test_expectations_of_terms_agree_with_all_pairs(data: st.DataObject, beta: float) -> None:
    p, r, first, second = (data.draw(ordinary_policies(5)) for _ in range(4))
    problem = Labelled(np.arange(5.0), first, second)
    space = Sequences(jnp.asarray(p), jnp.asarray(r), None)
    marginals = problem.chosen_marginal(5), problem.rejected_marginal(5)
    held = Sequences(jnp.asarray(first), jnp.asarray(r), None)
    over = Population(problem, held, marginals)
    weights, h = np.exp(table(problem, 5)), beta * (p - r)
    h_held = beta * (first - r)
    baselines: list[tuple[Any, float]] = [
        (None, 0.0),
        (PolicyMean(), max(0, np.exp(first) @ h_held)),
        (PairMean(), (weights.sum(1) + weights.sum(0)) @ h_held / 2),
    ]
    for baseline, z in baselines:
        term = Single(
            LogRatio(jnp.array(beta)), Logistic(), sequence="rejected", push="down", baseline=baseline
        )
        expected = weights.sum(0) @ np.logaddexp(0, h - z)
        # Rewards and baselines of size A, sums over 5 of them: some 32 eps of A.
        error = 32 * np.finfo(float).eps * (1 + np.abs(h).max() + np.abs(h_held).max())
        assert float(term.expected(space, over)) == pytest.approx(expected, rel=1e-12, abs=error)
    pair = Pair(LogRatio(jnp.array(beta)), Linear(), chosen_reward=Guarded(jnp.array(beta), jnp.array(3.0)))
    guarded = h - 3 * np.maximum(0, -h)
    expected = np.sum(weights * (h - guarded[:, None]))
    assert float(pair.expected(space, over)) == pytest.approx(expected, rel=1e-12, abs=5 * error)


def test_baselines_of_batches_of_policies_have_one_entry_each() -> None:
    p = log_softmax(np.random.default_rng(0).normal(size=(4, 3)), axis=-1)
    marginals = jnp.asarray(p[0]), jnp.asarray(p[1])
    h = jnp.asarray(p - p[2])
    together = PolicyMean().of_policy(h, jnp.asarray(p), marginals)
    shifts = PairMean().of_policy(h, jnp.asarray(p), marginals)
    for k in range(4):
        assert float(together[k]) == pytest.approx(float(max(0, np.exp(p[k]) @ h[k])), abs=1e-15, rel=1e-13)
        mean = (np.exp(p[0]) + np.exp(p[1])) @ h[k] / 2
        assert float(shifts[k]) == pytest.approx(float(mean), rel=1e-13)


def test_terms_say_what_they_need() -> None:
    pair, single = (
        Pair(LogOdds(), Logistic()),
        Single(LogProb(ONE, False), Linear(), sequence="chosen", push="up"),
    )
    assert pair.needs_lengths
    assert not pair.needs_reference
    assert not single.needs_lengths
    assert Pair(LogRatio(ONE), Logistic()).needs_reference


def test_sequences_and_pushes_are_checked() -> None:
    bad: Any = "both"
    with pytest.raises(ValueError, match="`sequence` must be 'chosen' or 'rejected'; got 'both'"):
        Single(LogRatio(ONE), Linear(), sequence=bad, push="up")
    with pytest.raises(ValueError, match="`push` must be 'up' or 'down'; got 'both'"):
        Single(LogRatio(ONE), Linear(), sequence="chosen", push=bad)


@pytest.mark.parametrize("sequence", ["chosen", "rejected"])
def test_gradients_of_single_terms_hold_the_policy_of_the_baseline(
    sequence: Literal["chosen", "rejected"],
) -> None:
    rng = np.random.default_rng(0)
    p, r, w, y = (jnp.asarray(log_softmax(rng.normal(size=4))) for _ in range(4))
    problem = Contrastive(w, y)
    term = Single(LogRatio(ONE), Sigmoid(), sequence=sequence, push="up", baseline=PolicyMean())
    over = Population(problem, Sequences(p, r, None), (w, y))
    found = jax.grad(lambda q: term.expected(Sequences(q, r, None), over))(p)
    d = np.asarray(p - r) - max(0.0, float(np.exp(p) @ (p - r)))
    expected = -np.exp(w if sequence == "chosen" else y) * expit(d) * expit(-d)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
