"""Losses with kinks: how they are rounded, and minimisers by the conditions on their subgradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points.smoothing import TEMPERATURES, has_kinks, smoothed
from tests import papers

SIZE, SEEDS = 6, 3
RNG = np.random.default_rng(3)
REFERENCE, CHOSEN, REJECTED = log_softmax(RNG.normal(size=(3, SEEDS, SIZE)), axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)
WEIGHTS = np.exp(CHOSEN)[:, :, None] * np.exp(REJECTED)[:, None, :]
# Rounding moves a loss's slope by e^(−distance / temperature): nothing is left of it this far from a kink.
AT_A_KINK = 100 * TEMPERATURES[-1]


def test_what_has_kinks() -> None:
    kinked = {name for name, make in didsim.OBJECTIVES.items() if has_kinks(make())}
    assert kinked == set(papers.KINKED)
    assert has_kinks(didsim.dpo() + 0.1 * didsim.slic())


@pytest.mark.parametrize("temperature", [0.5, 1e-3])
@pytest.mark.parametrize("objective", [didsim.slic(0.7, 1.3), didsim.dpop(0.7, 5.0)])
def test_a_rounded_loss_is_above_by_at_most_the_temperature(
    objective: didsim.Objective, temperature: float
) -> None:
    softer = smoothed(objective, jnp.asarray(temperature))
    assert not has_kinks(softer)
    chosen, rejected, ref_chosen, ref_rejected = -np.random.default_rng(0).exponential(2, size=(4, 1000))
    sharp, soft = (
        np.asarray(one.pair_loss(chosen, rejected, ref_chosen, ref_rejected)) for one in (objective, softer)
    )
    # T log 2 at the kink; times 0.7 · 5 for DPO-positive, whose loss has slope of at most one.
    most = temperature * np.log(2) * max(1, 0.7 * 5)
    assert np.all(soft >= sharp - 1e-14)
    assert np.all(soft <= sharp + most * (1 + 1e-12) + 1e-14)
    assert (soft - sharp).max() > most / 10


def test_smooth_objectives_are_left_alone() -> None:
    objective = didsim.cpo() + didsim.kto()
    left = smoothed(objective, jnp.asarray(0.1))
    same = jax.tree.map(lambda a, b: a is b, left, objective)
    assert jax.tree.leaves(same)
    assert all(jax.tree.leaves(same))


def largest_residual(fixed: np.ndarray, free: np.ndarray, pi: np.ndarray) -> float:
    """The largest entry of `fixed + free · a − mu · pi` for the best `a` in [0, 1] and any `mu`.

    Zero where some subgradient in log-probabilities is a multiple of the constraint's, that they sum to one.
    """
    size, number = free.shape
    columns = np.column_stack([free, -pi, -np.ones(size)])
    flipped = np.column_stack([-free, pi, -np.ones(size)])
    found = linprog(
        [0.0] * (number + 1) + [1.0],
        A_ub=np.vstack([columns, flipped]),
        b_ub=np.concatenate([-fixed, fixed]),
        bounds=[(0, 1)] * number + [(None, None), (0, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert found.status == 0
    return float(found.fun)


def test_a_hinge_and_a_likelihood() -> None:
    beta, delta, factor = 0.8, 1.5, 0.05
    objective = didsim.slic(beta, delta) + factor * didsim.sft()
    solution = didsim.solve(objective, REFERENCE, PROBLEM)
    assert solution.certificate.converged.all()
    assert solution.certificate.unique.all()
    assert float(jnp.max(solution.certificate.last_step)) < 1e-6
    kinks = 0
    for k in range(SEEDS):
        learned = np.asarray(solution.log_probs[k])
        d = beta * np.subtract.outer(learned - REFERENCE[k], learned - REFERENCE[k])
        tied = np.abs(d - delta) < AT_A_KINK
        pull = beta * WEIGHTS[k] * (d < delta) * ~tied
        fixed = pull.sum(axis=0) - pull.sum(axis=1) - factor * np.exp(CHOSEN[k])
        winners, losers = np.nonzero(tied)
        kinks += len(winners)
        free = np.zeros((SIZE, len(winners)))
        strength = beta * WEIGHTS[k, winners, losers]
        free[winners, np.arange(len(winners))] = -strength
        free[losers, np.arange(len(winners))] = strength
        # The linear program's own tolerance.
        assert largest_residual(fixed, free, np.exp(learned)) < 1e-9
        assert largest_residual(fixed, free[:, :0], np.exp(learned)) > 1e-4
    # The likelihood alone does not undo the hinge's grid.
    assert kinks >= SEEDS


@pytest.mark.parametrize("weight", [2.0, 50.0])
def test_dpo_positive(weight: float) -> None:
    beta = 0.5
    solution = didsim.solve(didsim.dpop(beta, weight), REFERENCE, PROBLEM)
    assert solution.certificate.converged.all()
    assert solution.certificate.unique.all()
    kinks = 0
    for k in range(SEEDS):
        learned = np.asarray(solution.log_probs[k])
        t = learned - REFERENCE[k]
        d = beta * np.subtract.outer(t - weight * np.maximum(0, -t), t)
        pull = beta * WEIGHTS[k] * expit(-d)
        won, lost = pull.sum(axis=1), pull.sum(axis=0)
        tied = np.abs(t) < AT_A_KINK
        kinks += tied.sum()
        fixed = lost - won * np.where((t < 0) & ~tied, 1 + weight, 1)
        free = np.diag(-weight * won)[:, tied]
        assert largest_residual(fixed, free, np.exp(learned)) < 1e-9
    # The penalty is exact: some sequences stay where the reference has them.
    assert kinks >= SEEDS


def test_dpo_positive_without_a_penalty_is_dpo() -> None:
    learned = didsim.fixed_point(didsim.dpop(0.5, 0.0), REFERENCE, PROBLEM)
    np.testing.assert_allclose(
        learned, log_softmax(REFERENCE + (CHOSEN - REJECTED) / 0.5, axis=-1), atol=1e-9
    )


def test_the_gradient_of_a_loss_with_kinks_is_not_asked_for_at_its_linear_program() -> None:
    known = didsim.solve(didsim.slic(), REFERENCE, PROBLEM).certificate
    assert np.isnan(known.gradient_norm).all()
    assert (np.abs(known.duality_gap) < 1e-9).all()
