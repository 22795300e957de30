"""Hessians by structure, held against JAX's own second derivatives of the loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_softmax
from jaxtyping import Array

import didsim
from didsim.objectives.objective import Objective
from didsim.preferences.problem import Problem

SIZE = 6
RNG = np.random.default_rng(3)
REFERENCE, Q, Z = jnp.asarray(RNG.normal(size=(3, SIZE)))
REFERENCE, Q = log_softmax(REFERENCE), log_softmax(Q)
TIED = didsim.Pairs([0, 0, 1, 2], [1, 5, 2, 0], tied=[False, True, False, True])
PROBLEMS: dict[str, Problem] = {
    "ties": TIED,
    "online": didsim.Online(Q, didsim.OnPolicy()),
}
LENGTHS = np.array([1, 2, 2, 3, 1, 2])
# These take the tokens from a space, and no lengths.
WITHOUT_LENGTHS = {"ld_dpo", "wpo"}


def by_autodiff(objective: Objective, z: Any, problem: Problem, lengths: Any) -> tuple[Array, Array]:
    """The gradient and the Hessian."""
    held = log_softmax(z)

    def loss(z: Array) -> Array:
        return objective.population_loss(log_softmax(z), REFERENCE, problem, lengths, held=held)

    hessian, gradient = jax.jacfwd(lambda z: (jax.grad(loss)(z),) * 2, has_aux=True)(z)
    return gradient, hessian


@pytest.mark.parametrize("name", [name for name in didsim.OBJECTIVES if name != "dpo_pg"])
def test_a_hessian_is_that_of_autodiff(name: str) -> None:
    objective = didsim.OBJECTIVES[name]()
    lengths = None if name in WITHOUT_LENGTHS else jnp.asarray(LENGTHS)
    for kind, problem in PROBLEMS.items():
        if kind == "online" and name in {"aot", "aot_unpaired"}:
            continue
        table = problem if problem.online else problem.joint(SIZE)
        found = objective.curvature(Z, REFERENCE, table, lengths)
        slope, expected = by_autodiff(objective, Z, table, lengths)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * scale + 1e-15, err_msg=kind)
        gradient = objective.in_log_probs(log_softmax(Z), REFERENCE, table, lengths).gradient_in_logits(Z)
        np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-14 * scale + 1e-15, err_msg=kind)


@pytest.mark.parametrize("spread", [1.0, 8.0, 30.0])
def test_the_odds_of_the_likeliest_sequence_depend_on_all_others(spread: float) -> None:
    objective, table = didsim.orpo(), didsim.Contrastive(REFERENCE, Q).joint(SIZE)
    lengths, z = jnp.ones(SIZE), spread * Z
    found = objective.curvature(z, REFERENCE, table, lengths)
    _, expected = by_autodiff(objective, z, table, lengths)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in didsim.OBJECTIVES if name != "dpo_pg"])
def test_curvatures_by_magnitude_are_a_positive_hessian(name: str) -> None:
    """Only a constant added to all logits changes nothing. For a convex loss of pairs it is the Hessian."""
    objective = didsim.OBJECTIVES[name]()
    lengths = None if name in WITHOUT_LENGTHS else jnp.asarray(LENGTHS)
    table = didsim.Contrastive(REFERENCE, Q).joint(SIZE)
    for z in (Z, 8 * Z):
        found = objective.in_log_probs(log_softmax(z), REFERENCE, table, lengths)
        for share in (1.0, 0.2):
            matrix = np.asarray(found.by_magnitude(jnp.asarray(share)).in_logits(z))
            rounding = 1e-12 * np.abs(matrix).max()
            np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=rounding)
            np.testing.assert_allclose(matrix.sum(1), 0, atol=rounding)
            assert np.linalg.eigvalsh(matrix)[0] >= -rounding
            if name in {"dpo", "ipo", "exponential"}:
                _, expected = by_autodiff(objective, z, table, lengths)
                np.testing.assert_allclose(matrix, expected, rtol=0, atol=rounding)


def without_pairs_of_a_sequence_with_itself(problem: Problem) -> Problem:
    """They have no curvature, but count as if they had one in what each sequence has by itself."""
    table = jnp.where(jnp.eye(SIZE, dtype=bool), -jnp.inf, problem.joint(SIZE).log_probs)
    return didsim.Joint(table - jax.nn.logsumexp(table))


POPULATION = without_pairs_of_a_sequence_with_itself(didsim.Contrastive(REFERENCE, Q))
# Finite pairs, ties and a population all at once; and without ties, which one loss treats in another way.
MIXTURE = didsim.Mixture((TIED, didsim.Pairs([3, 4], [4, 5]), POPULATION), np.log([0.2, 0.5, 0.3]))
WITHOUT_TIES = didsim.Mixture((didsim.Pairs([3, 4], [4, 5]), POPULATION), np.log([0.6, 0.4]))
# Their terms look at tokens, at the order of rewards, at two rewards, or at all sequences for each reward.
UNKNOWN = {"aot", "aot_unpaired", "bdpo", "dpo_shift", "dpop", "ld_dpo", "orpo", "wpo"}
# Their loss of a tie is more than that of half a win of either sequence, which is all that is known.
OF_TIES = {"dpo_rao_kupper"}


@pytest.mark.parametrize("name", [name for name in didsim.OBJECTIVES if name != "dpo_pg"])
def test_an_expansion_is_that_of_autodiff(name: str) -> None:
    objective = didsim.OBJECTIVES[name]()
    assert objective.knows_own_curvature == (name not in UNKNOWN)
    if name in UNKNOWN:
        return
    problem = WITHOUT_TIES if name in OF_TIES else MIXTURE
    found = objective.expansion(Z, REFERENCE, problem, jnp.asarray(LENGTHS))
    gradient, expected = by_autodiff(objective, Z, problem, jnp.asarray(LENGTHS))
    near: Any = {"rtol": 1e-9, "atol": 1e-11 * np.abs(expected).max() + 1e-15}
    np.testing.assert_allclose(found.gradient, gradient, **near)
    np.testing.assert_allclose(found.diagonal(), jnp.diag(expected), **near)
    np.testing.assert_allclose(jax.vmap(found.product)(jnp.eye(len(Z))), expected, **near)
