"""Derivatives of a solution, by hand and against differences of re-solved problems."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

import didsim
from tests.fixed_points.limits import (
    BETA,
    CHOSEN,
    PROBLEM,
    REFERENCE,
    REJECTED,
    SEEDS,
    SIZE,
)
from tests.fixed_points.limits import solved as solved_by_name

WINNERS = np.array([0, 1, 1, 2, 2, 3, 3, 0, 0])
LOSERS = np.array([1, 0, 2, 1, 3, 2, 0, 3, 2])
WEIGHTS = np.random.default_rng(7).uniform(0.5, 2, size=9)
START = log_softmax(np.random.default_rng(8).normal(size=4))


def difference(function: Any, at: float, step: float = 1e-3) -> np.ndarray:
    """A derivative, by differences of fourth order."""
    ends = {k: np.asarray(function(at + k * step)) for k in (-2, -1, 1, 2)}
    return (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * step)


def influence(solution: didsim.Solution) -> np.ndarray:
    weights = didsim.sensitivity(solution).weights
    assert weights is not None
    return np.asarray(weights)


def test_dpo_by_hand() -> None:
    """`log π = log ref + h/β − lse`, so that `∂ log π/∂β = −(h − E_π h)/β²`."""
    solution = solved_by_name("dpo")
    found = didsim.sensitivity(solution)
    assert list(found.objective) == ["terms[0].reward.beta"]
    assert found.weights is None
    h = CHOSEN - REJECTED
    mean = np.sum(np.exp(solution.log_probs) * h, axis=-1, keepdims=True)
    np.testing.assert_allclose(found.objective["terms[0].reward.beta"], -(h - mean) / BETA**2, atol=1e-10)


def test_two_sequences_by_hand() -> None:
    """`π_0/π_1 = (W_01/W_10)^(1/β)` with `W_ij` the weight of all wins of `i` over `j`."""
    weights = np.array([3.0, 1.0, 2.0])
    data = didsim.Pairs([0, 0, 1], [1, 1, 0], weights=weights)
    solution = didsim.solve(didsim.dpo(BETA), log_softmax([0.0, 0.0]), data)
    p = np.exp(solution.log_probs)
    np.testing.assert_allclose(p[0] / p[1], (4 / 2) ** (1 / BETA), rtol=1e-12)
    along = np.array([p[1], -p[0]]) / BETA  # how log π moves with log(W_01/W_10)
    expected = np.outer([1 / 4, 1 / 4, -1 / 2], along)
    np.testing.assert_allclose(influence(solution), expected, rtol=1e-10)
    # Without weights of their own, pairs have ones.
    alone = didsim.solve(didsim.dpo(BETA), np.log([0.5, 0.5]), didsim.Pairs([0, 0, 1], [1, 1, 0]))
    q = 2 ** (1 / BETA) / (1 + 2 ** (1 / BETA))
    np.testing.assert_allclose(influence(alone), np.outer([0.5, 0.5, -1], [1 - q, -q]) / BETA, rtol=1e-10)


MAKERS: dict[str, Any] = {
    "simpo": lambda: didsim.simpo(1.0, 0.5),
    "cpo": lambda: didsim.cpo(BETA, 0.8),
    "bco": lambda: didsim.bco(BETA),
}


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_are_those_of_resolved_problems(name: str) -> None:
    """In every number of the objective, and in every weight; BCO's baseline moves."""
    objective = MAKERS[name]()
    winners, losers = (np.concatenate(ends) for ends in ((WINNERS, LOSERS), (LOSERS, WINNERS)))
    weights = np.concatenate([WEIGHTS, 0.9 * WEIGHTS])

    def solution_of(objective: Any, weights: Any) -> didsim.Solution:
        return didsim.solve(objective, START, didsim.Pairs(winners, losers, weights=weights), starts=2)

    solution = solution_of(objective, weights)
    assert solution.verdict.name == "MINIMISER"
    found = didsim.sensitivity(solution)
    leaves, structure = jax.tree.flatten(objective)
    paths = [jax.tree_util.keystr(path)[1:] for path, _ in jax.tree_util.tree_leaves_with_path(objective)]
    assert found.objective.keys() == set(paths)
    for k, path in enumerate(paths):

        def moved(value: Any, k: int = k) -> Any:
            changed = [jnp.asarray(value) if j == k else leaf for j, leaf in enumerate(leaves)]
            return solution_of(jax.tree.unflatten(structure, changed), weights).log_probs

        expected = difference(moved, float(leaves[k]))
        np.testing.assert_allclose(found.objective[path], expected, rtol=1e-7, atol=1e-8)
    assert found.weights is not None
    assert found.weights.shape == (18, 4)
    for pair in (0, 5, 12):

        def reweighted(value: Any, pair: int = pair) -> Any:
            changed = weights.copy()
            changed[pair] = value
            return solution_of(objective, changed).log_probs

        expected = difference(reweighted, weights[pair])
        np.testing.assert_allclose(found.weights[pair], expected, rtol=1e-7, atol=1e-8)
    # Only ratios of weights count, and probabilities add up to one.
    np.testing.assert_allclose(weights @ found.weights, 0, atol=1e-11)
    np.testing.assert_allclose(found.weights @ np.exp(solution.log_probs), 0, atol=1e-11)


def test_the_influence_of_a_pair_by_its_own_gradient() -> None:
    """`A⁻¹ f_k / W`, with the Hessian and the pair's gradient by a double loop."""
    beta, smoothing = BETA, 0.1
    data = didsim.Pairs(WINNERS, LOSERS, weights=WEIGHTS)
    solution = didsim.solve(didsim.cdpo(beta, smoothing), START, data)
    log_probs = np.asarray(solution.log_probs)
    hessian, gradients = np.zeros((4, 4)), np.zeros((9, 4))
    for k, (i, j, weight) in enumerate(zip(WINNERS, LOSERS, WEIGHTS, strict=True)):
        d = beta * (log_probs[i] - log_probs[j] - START[i] + START[j])
        apart = np.eye(4)[i] - np.eye(4)[j]
        gradients[k] = beta * (expit(d) - 1 + smoothing) * apart
        hessian += weight * beta**2 * expit(d) * expit(-d) * np.outer(apart, apart)
    moves = -gradients @ np.linalg.pinv(hessian)
    expected = moves - moves @ np.exp(log_probs)[:, None]
    np.testing.assert_allclose(influence(solution), expected, rtol=1e-9, atol=1e-12)


def test_a_batch_has_the_derivatives_of_its_problems() -> None:
    objective = jax.vmap(lambda beta: didsim.cdpo(beta, 0.1))(jnp.array([0.3, 0.5, 0.9]))
    weights = np.stack([WEIGHTS, WEIGHTS[::-1], np.ones(9)])
    data = didsim.Pairs(np.stack([WINNERS] * 3), np.stack([LOSERS] * 3), weights=weights)
    found = didsim.sensitivity(didsim.solve(objective, START, data))
    assert found.weights is not None
    assert found.weights.shape == (3, 9, 4)
    for k, beta in enumerate([0.3, 0.5, 0.9]):
        pairs = didsim.Pairs(WINNERS, LOSERS, weights=weights[k])
        alone = didsim.sensitivity(didsim.solve(didsim.cdpo(beta, 0.1), START, pairs))
        assert alone.weights is not None
        np.testing.assert_allclose(found.weights[k], alone.weights, rtol=1e-9, atol=1e-13)
        for name, slope in alone.objective.items():
            np.testing.assert_allclose(found.objective[name][k], slope, rtol=1e-9, atol=1e-13)
    # A number that the runs share has a derivative in each of them.
    shared = didsim.sensitivity(didsim.solve(didsim.cdpo(0.5, 0.1), REFERENCE, PROBLEM))
    assert shared.objective["terms[0].reward.beta"].shape == (SEEDS, SIZE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_that_of_the_solution(dtype: str) -> None:
    data = didsim.Pairs(WINNERS, LOSERS, weights=WEIGHTS.astype(dtype))
    found = didsim.sensitivity(didsim.solve(didsim.cdpo(0.5, 0.1), START.astype(dtype), data))
    exact = influence(didsim.solve(didsim.cdpo(0.5, 0.1), START, didsim.Pairs(WINNERS, LOSERS, WEIGHTS)))
    assert found.weights is not None
    assert found.weights.dtype == dtype
    np.testing.assert_allclose(found.weights, exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("logit", [30.0, 300.0])
def test_near_deterministic_policies(logit: float) -> None:
    """A chain of sequences, each far less probable than the one before, and known by hand."""
    chosen, rejected = log_softmax([0.0, -1.0, -2.0]), log_softmax([0.0, 0.0, 0.0])
    beta = 2 / logit
    solution = didsim.solve(
        didsim.dpo(beta), log_softmax([0.0, 0.0, 0.0]), didsim.Contrastive(chosen, rejected)
    )
    assert float(solution.log_probs.min()) == pytest.approx(-logit, rel=0.2)
    found = didsim.sensitivity(solution).objective["terms[0].reward.beta"]
    h = chosen - rejected
    mean = np.sum(np.exp(solution.log_probs) * h)
    np.testing.assert_allclose(found, -(h - mean) / beta**2, rtol=1e-8, atol=1e-8)


def refused(solution: didsim.Solution, why: str) -> None:
    with pytest.raises(
        ValueError, match=f"`solution` must be a minimiser that can be differentiated; .*{why}"
    ):
        didsim.sensitivity(solution)


def test_what_is_no_regular_minimiser_is_refused() -> None:
    uniform, ends = np.full(2, -np.log(2)), didsim.Pairs([0, 1], [1, 0], weights=[0.8, 0.2])
    refused(didsim.solve(didsim.dpo(), uniform, didsim.Pairs([0], [1])), "the pairs do not identify")
    refused(didsim.solve(didsim.dpo_pg(), uniform, ends), "A gradient rule minimises nothing")
    refused(didsim.solve(didsim.robust(1.0, 0.3), uniform, ends), "the policy runs off")
    refused(didsim.solve(didsim.slic(), uniform, ends), "the loss has corners")
    refused(didsim.solve(didsim.sft(), uniform, didsim.Pairs([0], [1])), "no minimiser gives every sequence")
    solution = didsim.solve(didsim.cdpo(), uniform, ends)
    no, yes = np.asarray(False), np.asarray(True)
    refused(eqx.tree_at(lambda one: one.certificate.converged, solution, no), "did not converge")
    refused(eqx.tree_at(lambda one: one.certificate.has_others, solution, yes), "the minimiser is not unique")
    in_family = didsim.solve(didsim.cdpo(), uniform, ends, policy=didsim.EnergyBased(uniform))
    refused(in_family, "the best of a family of policies")
    refused(eqx.tree_at(lambda one: one.given, solution, None), "it does not say what was solved")
    with pytest.raises(ValueError, match=r"`solution` must be a Solution, as didsim\.solve gives; got 0\.5"):
        didsim.sensitivity(0.5)  # type: ignore[arg-type]


def test_a_minimiser_whose_jacobian_is_singular_is_refused() -> None:
    """As one would be at which the loss is of fourth order; here a solution that is put there."""
    solution = didsim.solve(didsim.dpo(BETA), np.log([0.5, 0.5]), didsim.Pairs([0, 1], [1, 0]))
    far = jnp.array([0.0, -2000.0])
    refused(
        eqx.tree_at(lambda one: one.log_probs, solution, far), "the Jacobian of the gradient .* is singular"
    )
