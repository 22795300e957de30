"""The divergence from the reference as a prior: its value, its curvature, and where DPO with it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr

import didsim
from didsim.objectives.objective import Objective
from didsim.objectives.terms import Sequences

REFERENCE = log_softmax([0.3, -0.4, 1.0, 0.0])
POLICY = log_softmax([-1.0, 0.7, 0.1, 2.0])
PAIRS = didsim.Pairs([0, 0, 2], [1, 1, 3])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("shift", [0.0, 700.0])
def test_the_value_is_scipys(direction: str, shift: float) -> None:
    policy = log_softmax(POLICY - np.array([shift, 0, 0, 0]))
    found = didsim.kl_to_reference(0.7, direction).loss(policy, REFERENCE, PAIRS)  # type: ignore[arg-type]
    if direction == "forward":
        expected = np.sum(np.exp(REFERENCE) * (REFERENCE - policy))
    else:
        expected = np.sum(rel_entr(np.exp(policy), np.exp(REFERENCE)))
    assert float(found) == pytest.approx(0.7 * expected, rel=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_curvatures_are_derivatives(direction: str) -> None:
    objective = didsim.kl_to_reference(0.7, direction)  # type: ignore[arg-type]
    z = jnp.asarray(POLICY) + 3

    def loss(z: jax.Array) -> jax.Array:
        return objective.population_loss(jax.nn.log_softmax(z), jnp.asarray(REFERENCE), PAIRS, None)

    matrix = objective.curvature(z, jnp.asarray(REFERENCE), PAIRS, None)
    np.testing.assert_allclose(matrix, jax.hessian(loss)(z), atol=1e-13)
    found = objective.expansion(z, jnp.asarray(REFERENCE), PAIRS, None)
    np.testing.assert_allclose(found.value, loss(z), atol=1e-13)
    np.testing.assert_allclose(found.gradient, jax.grad(loss)(z), atol=1e-13)
    np.testing.assert_allclose(found.diagonal(), np.diag(matrix), atol=1e-13)
    step = jnp.cos(jnp.arange(len(z)))
    np.testing.assert_allclose(found.product(step), matrix @ step, atol=1e-13)
    # In each log-probability by itself, by differences of the sum that defines the divergence.
    (term,) = objective.terms
    space = Sequences(jnp.asarray(POLICY), jnp.asarray(REFERENCE), None)
    over = objective._population(space.logps, jnp.asarray(REFERENCE), PAIRS, None, None)
    for k, own in enumerate(term.own_curvature(space, over)):

        def alone(x: float, k: int = k) -> float:
            moved = POLICY.copy()
            moved[k] += x
            if direction == "forward":
                return float(np.sum(np.exp(REFERENCE) * (REFERENCE - moved)))
            return float(np.sum(np.exp(moved) * (moved - REFERENCE)))

        bend = (alone(1e-4) - 2 * alone(0) + alone(-1e-4)) / 1e-8
        assert float(own) == pytest.approx(bend, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_separable_pairs_have_one_certified_answer(beta: float, weight: float) -> None:
    with pytest.raises(didsim.NoMinimiserError):
        didsim.fixed_point(didsim.dpo(beta), REFERENCE, PAIRS)
    objective: Objective = didsim.dpo(beta) + weight * didsim.kl_to_reference()
    solution = didsim.solve(objective, REFERENCE, PAIRS)
    assert solution.objection() is None
    assert bool(solution.certificate.unique)

    def loss(z: np.ndarray) -> float:
        ratio = log_softmax(z) - REFERENCE
        pairs = [np.logaddexp(0, -beta * (ratio[i] - ratio[j])) for i, j in ((0, 1), (0, 1), (2, 3))]
        return float(np.mean(pairs) - weight * np.sum(np.exp(REFERENCE) * ratio))

    best = minimize(loss, REFERENCE, method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(solution.log_probs, log_softmax(best.x), atol=2e-5)
    assert loss(np.asarray(solution.log_probs)) <= best.fun + 1e-13


def test_beyond_matrices_the_answer_is_the_same() -> None:
    """Among 1,500 sequences all that no pair shows keep one share, and the score of the others is zero."""
    size = 1500
    uniform = np.full(size, -np.log(size))
    objective = didsim.dpo(0.5) + didsim.kl_to_reference()
    limit = np.asarray(didsim.fixed_point(objective, uniform, didsim.Pairs([0], [1])))
    assert np.ptp(limit[2:]) < 1e-10
    # The score in either logit: ref_k − π_k balances the pull of the pair.
    pull = 0.5 / (1 + np.exp(0.5 * (limit[0] - limit[1])))
    np.testing.assert_allclose(np.exp(limit[:2]) - 1 / size, [pull, -pull], atol=1e-9)


def test_the_reverse_divergence_cannot_hold_a_loss_that_falls_for_ever() -> None:
    """At a log-ratio far below any local minimum the sum is lower than it, for beta below 1."""
    objective = didsim.dpo(0.1) + 5 * didsim.kl_to_reference(direction="reverse")
    half, data = np.log([0.5, 0.5]), didsim.Pairs([0], [1])
    losses = [float(objective.loss(log_softmax([0.0, -t]), half, data)) for t in (50.0, 100.0, 200.0, 400.0)]
    assert np.all(np.diff(losses) < 0)


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="`direction` must be 'forward' or 'reverse'"):
        didsim.kl_to_reference(1.0, "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`weight` must be positive"):
        didsim.kl_to_reference(0.0)
    with pytest.raises(ValueError, match="`self` has a term of the whole policy"):
        (didsim.dpo() + didsim.kl_to_reference()).pair_loss(-1.0, -1.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`reference` must give every sequence a positive probability"):
        didsim.kl_to_reference().loss(np.log([0.5, 0.5]), np.array([0, -np.inf]), didsim.Pairs([0], [1]))
