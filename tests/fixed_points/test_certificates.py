"""What a certificate says: separable data, level losses, families that run off, and each problem alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import didsim
from didsim.fixed_points import Verdict, separable
from didsim.fixed_points.newton import Found
from didsim.fixed_points.task import Task, best_of
from didsim.objectives.kernels import Logistic
from didsim.objectives.rewards import LogRatio
from didsim.objectives.terms import Population, Sequences, Term

ROOT = Path(__file__).parents[2]
UNIFORM = np.full(3, -np.log(3))
CHAIN = didsim.Pairs(np.array([0, 1, 0]), np.array([1, 2, 2]))


@pytest.mark.parametrize("name", ["dpo", "robust", "exponential", "rdpo", "reference_free", "discopop"])
def test_one_sided_wins_identify_nothing(name: str) -> None:
    solution = didsim.solve(didsim.OBJECTIVES[name](), UNIFORM, CHAIN)
    assert solution.verdict == Verdict.NOT_IDENTIFIED
    assert np.isnan(solution.log_probs).all()
    limit = np.exp(solution.certificate.limit)
    # Robust DPO has no infimum, and DiscoPOP is not convex: where they end is not known.
    expected = [np.nan] * 3 if name in ("robust", "discopop") else [1, 0, 0]
    np.testing.assert_array_equal(limit, expected)


def test_the_limit_of_two_that_tie_against_long_training() -> None:
    """0 and 1 beat one another, 0 twice as often; both beat 2; 3 is never compared."""
    pairs = didsim.Pairs(np.array([0, 0, 1, 0, 1]), np.array([1, 1, 0, 2, 2]))
    reference = log_softmax(np.array([0.5, 0.0, 1.0, 0.2]))
    limit = np.exp(didsim.solve(didsim.dpo(1.0), reference, pairs).certificate.limit)
    odds = np.exp(reference[0] - reference[1]) * 2
    np.testing.assert_allclose(limit, [odds / (1 + odds), 1 / (1 + odds), 0, 0], rtol=1e-12)
    policy = didsim.EnergyBased(reference)
    record = didsim.Record(2_000, {"policy": lambda s: s.log_probs})
    # The curvature is at most 0.3, so that this step is small enough.
    run = didsim.train(policy, reference, pairs, didsim.dpo(1.0), optax.sgd(4.0), 20_000, record=record)
    learned = np.exp(run.metrics["policy"])
    np.testing.assert_allclose(learned[-1, 0] / learned[-1, 1], odds, rtol=1e-3)
    # 2 falls behind like 1/steps. The logits of 0, 1 and 2 keep their sum, so that those of 0 and 1 rise by a
    # third of that, and 3 stays where it is.
    behind = learned[:, 2:] / learned[:, :1]
    np.testing.assert_allclose(behind[-1] / behind[1], [1 / 10, 10 ** (-1 / 3)], rtol=0.02)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 10.0])
def test_the_loss_does_not_change_along_directions_of_a_family(beta: float) -> None:
    features = np.array([[2, 0.1, 0], [2, 0, 0.1], [-2, 0.5, -0.5], [0, 0, 0]])
    pairs = didsim.Pairs(np.array([0, 1]), np.array([1, 0]), np.array([0.7, 0.3]))
    policy = didsim.LogLinear(features, np.zeros(3))
    solution = didsim.solve(didsim.dpo(beta), np.full(4, -np.log(4)), pairs, policy=policy)
    margin = float(solution.log_probs[0] - solution.log_probs[1])
    assert margin == pytest.approx(np.log(7 / 3) / beta, rel=1e-9)
    known = solution.certificate
    assert solution.verdict == Verdict.NOT_UNIQUE
    assert (bool(known.has_others), bool(known.unique), int(known.flat)) == (True, False, 2)
    objection = solution.objection()
    assert objection is not None
    assert "the loss does not change along 2 directions" in objection


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_family_that_runs_off_has_no_parameters(dtype: type) -> None:
    policy = didsim.LogLinear(np.eye(3, 2, dtype=dtype), np.zeros(2, dtype))
    solution = didsim.solve(didsim.dpo(1.0), UNIFORM.astype(dtype), CHAIN, policy=policy)
    assert np.isnan(solution.log_probs).all()
    assert isinstance(solution.policy, didsim.LogLinear)
    assert np.isnan(solution.policy.weights).all()


class Closeness(Term):
    """`KL(π ‖ reference)`."""

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: jax.Array | None) -> jax.Array:
        return -(self.reward(*chosen) + self.reward(*rejected)) / 2

    def expected(self, space: Sequences, over: Population) -> jax.Array:
        assert space.ref_logps is not None
        return didsim.kl(space.logps, space.ref_logps)


def test_a_term_of_ones_own_takes_several_starts() -> None:
    term = Closeness(LogRatio(jnp.asarray(1.0)), Logistic())
    problem = didsim.Contrastive(np.log([0.5, 0.3, 0.2]), UNIFORM)
    alone = didsim.solve(didsim.Objective(term), UNIFORM, problem)
    np.testing.assert_allclose(alone.log_probs, UNIFORM, atol=1e-12)
    assert (alone.certificate.starts, bool(alone.certificate.unique)) == (8, False)


WINNERS = np.array([0, 1, 2, 3, 4, 5, 1, 0, 3, 2, 2, 4, 4, 5, 1, 4, 3, 0, 0, 2, 3, 0, 3, 5, 0, 0])
LOSERS = np.array([1, 2, 3, 4, 5, 0, 2, 5, 4, 3, 1, 3, 3, 2, 2, 5, 1, 3, 1, 4, 0, 5, 2, 3, 4, 2])


def test_neither_beta_nor_the_place_in_a_batch_changes_a_certificate() -> None:
    six, pairs = np.full(6, -np.log(6)), didsim.Pairs(WINNERS, LOSERS)
    both = jax.vmap(lambda beta: didsim.exo(beta, 1e-3))(np.array([0.1, 1.0, 1.0]))
    known = didsim.solve(both, six, pairs).certificate
    assert known.agreed is not None
    assert known.agreed.tolist() == [False] * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_by_name(dtype: str) -> None:
    half = jnp.asarray(UNIFORM, dtype)
    with pytest.raises(ValueError, match=f"`reference` must have dtype float32 or float64; got {dtype}"):
        didsim.solve(didsim.dpo(), half, CHAIN)
    with pytest.raises(ValueError, match=f"`logits` must have dtype float32 or float64; got {dtype}"):
        didsim.EnergyBased(half)
    with pytest.raises(ValueError, match=f"`beta` must have dtype float32 or float64; got {dtype}"):
        didsim.dpo(jnp.asarray(0.1, dtype))


def test_no_nan_is_computed_on_purpose() -> None:
    """In a process of its own, as JAX reads the flag at its start."""
    readme = (ROOT / "README.md").read_text()
    ten_lines = readme.split("## Ten lines")[1].split("```python\n")[1].split("```")[0]
    more = """
import numpy as np
u, pairs = np.full(3, -np.log(3), np.float32), didsim.Pairs(np.array([0, 1, 0]), np.array([1, 2, 2]))
for name in ("dpo", "slic", "kto", "dpo_pg"):
    print(name, didsim.solve(didsim.OBJECTIVES[name](), u, pairs).verdict.name)
"""
    env = {**os.environ, "JAX_DEBUG_NANS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ten_lines + more], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dpo NOT_IDENTIFIED" in done.stdout


def test_no_limit_is_looked_for_where_none_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of sequences with losers: a search over all sequences, thrown away, took half a minute."""

    def search(*_: Any) -> None:
        raise AssertionError("the limit is not known, whatever is found")

    monkeypatch.setattr(separable, "_minimised", search)
    reference = jnp.log(jnp.full(5, 0.2))
    solution = didsim.solve(didsim.dpo(0.1), reference, didsim.Pairs(jnp.array([0, 2]), jnp.array([1, 3])))
    assert not solution.certificate.finite
    assert np.isnan(solution.certificate.limit).all()


@pytest.mark.parametrize("beta", [0.05, 0.1])
def test_one_start_that_stops_far_out_by_rounding_is_no_minimiser(beta: float) -> None:
    """AOT with a sequence that is never rejected falls for ever, and where it stops is rounding."""
    reference = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    with np.errstate(divide="ignore"):
        rejected = np.log([0, 0.5, 0.3, 0.2])
    problem = didsim.Contrastive(np.log([0.25, 0.25, 0.25, 0.25]), rejected)
    known = didsim.solve(didsim.aot(beta), reference, problem, starts=24).certificate
    assert not known.converged
    assert known.runs_off


@pytest.mark.parametrize(("end", "counts"), [(-299.0, True), (-301.0, False)])
def test_a_start_that_converged_far_out_counts_if_all_did(end: float, counts: bool) -> None:
    policies = np.log(np.array([[[0.5, 0.5], [0.5, 0.5]]]))
    policies[0, 0, 1] = end
    objective, uniform = didsim.cpo(1.0), jnp.log(jnp.full((1, 2), 0.5))
    problem = didsim.Contrastive(uniform, uniform)
    task = Task.over_runs(objective, uniform, problem, None, (1,), False, 0.0)
    ends, values, none = jnp.asarray(policies), jnp.array([[0.0, 1.0]]), jnp.zeros((1, 2), int)
    for other, expected in ((1.0, counts), (0.0, True)):
        step = jnp.array([[0.0, other]])
        found = Found(ends, values, step, step, none, none, none > 0, none)
        best, chosen, agreed = best_of(task, found, ends)
        assert best.converged.tolist() == [expected]
        assert chosen[0, 1] == end
        assert agreed is not None
        assert not agreed.any()
