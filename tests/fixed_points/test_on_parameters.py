from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from scipy.special import log_softmax

import didsim
from tests.compilations import counted_compilations
from tests.fixed_points.limits import (
    BETA,
    FEATURES,
    OBJECTIVES,
    PROBLEM,
    REFERENCE,
    SEEDS,
    TABLES,
    gradient_of,
    loss_of,
    solved,
)


def test_a_family_of_few_features() -> None:
    name = "cdpo"
    policy = didsim.LogLinear(FEATURES, np.array([0.3, -2.0]))
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, policy=policy)
    known = solution.certificate
    assert (known.method, known.starts) == ("Newton on parameters", 1)
    assert known.converged.all()
    assert known.unique.all()
    found: Any = solution.policy
    assert found.weights.shape == (SEEDS, 2)
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_allclose(found.log_probs(), solution.log_probs, rtol=1e-13)
    for k in range(SEEDS):

        def loss(weights: Any, k: int = k) -> float:
            return loss_of(name, FEATURES @ weights, FEATURES @ weights, REFERENCE[k], TABLES[k])

        weights = np.asarray(found.weights[k])
        in_weights = FEATURES.T @ gradient_of(name, solution.log_probs[k], REFERENCE[k], TABLES[k])
        assert np.abs(in_weights).max() < 1e-11
        other = scipy.optimize.minimize(loss, np.zeros(2))
        assert loss(weights) <= other.fun + 1e-14
        np.testing.assert_allclose(weights, other.x, atol=1e-3)
        # The free minimiser is not in the family.
        free = solved(name).log_probs[k]
        assert loss_of(name, free, free, REFERENCE[k], TABLES[k]) < loss(weights) - 1e-6


def test_a_full_table_of_next_tokens_holds_the_free_minimiser() -> None:
    space = didsim.SequenceSpace(2, 2)
    reference, chosen, rejected = log_softmax(np.random.default_rng(6).normal(size=(3, space.size)), axis=-1)
    policy = didsim.Autoregressive.from_log_probs(reference, space)
    solution = didsim.solve(
        didsim.dpo(BETA), reference, didsim.Contrastive(chosen, rejected), policy=policy, starts=4
    )
    known = solution.certificate
    assert (known.starts, bool(known.unique)) == (4, False)
    assert known.agreed is not None
    assert bool(known.agreed)
    assert bool(known.converged)
    expected = log_softmax(reference + (chosen - rejected) / BETA)
    np.testing.assert_allclose(solution.log_probs, expected, atol=1e-12)
    assert isinstance(solution.policy, didsim.Autoregressive)
    np.testing.assert_allclose(solution.policy.log_probs(), solution.log_probs, rtol=1e-13)


def test_policies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`policy` must be one policy over 6 sequences; .* shape \(5,\)"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(np.zeros(5)))
    with pytest.raises(ValueError, match=r"`policy` must be one policy over 6 sequences; .* shape \(3, 6\)"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(REFERENCE))
    with pytest.raises(ValueError, match="`policy` must be a Policy, as LogLinear"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=REFERENCE)


class Bare(didsim.Policy):
    """Logits that nothing has checked."""

    logits: jax.Array

    def log_probs(self) -> jax.Array:
        return jax.nn.log_softmax(self.logits.astype(float))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_of_half_precision_are_refused_by_name(dtype: str) -> None:
    policy = Bare(jnp.zeros(6, dtype))
    message = f"`policy` must have dtype float32 or float64; got {dtype}"
    with pytest.raises(ValueError, match=message):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=policy)
    with pytest.raises(ValueError, match=message):
        didsim.train(policy, REFERENCE, PROBLEM, didsim.dpo(), optax.sgd(0.1), 1)


def test_a_family_is_refused_under_jit() -> None:
    with pytest.raises(ValueError, match="`solve` must be called outside jit"):
        jax.jit(lambda z: didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=Bare(z)).log_probs)(REFERENCE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0, 50.0, 2e6, 1e8])
def test_no_family_has_a_minimiser_where_nobody_beats_the_winner(beta: float, dtype: Any) -> None:
    uniform = np.full(3, -np.log(3), dtype)
    chain = didsim.Pairs(np.array([0, 1]), np.array([1, 2]))
    free = didsim.EnergyBased(uniform)
    with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify 2 of 3 sequences"):
        didsim.fixed_point(didsim.dpo(beta), uniform, chain, policy=free)
    for scale in (1, 1e3, 1e5):
        features = didsim.LogLinear((scale * np.eye(3)[:, :2]).astype(dtype), np.zeros(2, dtype))
        with pytest.raises(didsim.NoMinimiserError, match=r"runs off|did not converge"):
            didsim.fixed_point(didsim.dpo(beta), uniform, chain, policy=features)


def test_new_values_compile_nothing() -> None:
    one = didsim.Contrastive(PROBLEM.chosen[0], PROBLEM.rejected[0])

    def solve(beta: float, scale: float) -> None:
        policy = didsim.LogLinear(scale * FEATURES, np.zeros(FEATURES.shape[1]))
        didsim.solve(didsim.dpo(beta), REFERENCE[0], one, policy=policy)

    solve(0.5, 1.0)
    with counted_compilations() as compiled:
        solve(0.7, 2.0)
    assert compiled == []


@pytest.mark.core
def test_features_that_pairs_leave_open_are_counted_among_thousands_of_pairs() -> None:
    """Sums of many terms round differently in different programs, which must not pass for a change."""
    problems, size, features, seen = 16, 128, 12, 10
    draw = np.random.default_rng(0)
    first, second = np.triu_indices(size, 1)
    reward = draw.normal(size=(problems, size))
    weights = ((first < seen) & (second < seen)).astype(float)
    wins = 1 / (1 + np.exp(reward[:, second] - reward[:, first]))
    reference = log_softmax(jnp.asarray(draw.normal(size=size)))
    policy = didsim.LogLinear(jnp.asarray(draw.normal(size=(size, features))), jnp.zeros(features))
    one = [np.broadcast_to(each, wins.shape) for each in (first, second, weights)]
    pairs = didsim.Pairs(*one, win_probs=wins)
    known = didsim.solve(didsim.dpo(0.5), reference, pairs, policy=policy).certificate
    assert known.converged.all()
    assert (known.flat == features - (seen - 1)).all()
