"""Minimisers against training, other solvers and closed forms by hand; and what is certified of them."""

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, log_softmax

import didsim
from tests import papers
from tests.fixed_points.limits import (
    BETA,
    CHOSEN,
    LENGTHS,
    OBJECTIVES,
    PROBLEM,
    REFERENCE,
    REJECTED,
    REWARD,
    SEEDS,
    SIZE,
    TABLES,
    gradient_of,
    loss_of,
    solved,
    table_of,
    trained,
)

UNIFORM = np.full(SIZE, -np.log(SIZE))


# One objective for each way in which one is solved; the others differ from these by a reward or a kernel.
OPTIMISED = {"dpo", "fdpo_js", "slic", "cdpo", "simpo", "exo", "discopop", "cpo", "orpo", "bco", "kto"}


def as_users_compile(names: Iterable[str]) -> list[Any]:
    """Names of objectives, of which those that stand for all are in the lane `core`."""
    return [pytest.param(name, marks=pytest.mark.core if name in OPTIMISED else ()) for name in names]


@pytest.mark.parametrize(
    "name", as_users_compile(name for name in papers.NAMES if name not in papers.NO_LIMIT)
)
def test_training_ends_at_the_minimiser(name: str) -> None:
    distance = didsim.js(trained(OBJECTIVES[name]), solved(name).log_probs)
    assert float(distance.max()) < 1e-10
    # It is another policy than the one that training starts from.
    assert float(didsim.js(UNIFORM, solved(name).log_probs).min()) > 1e-3


@pytest.mark.parametrize(
    "name",
    as_users_compile(
        name for name in papers.NAMES if name not in (*papers.NO_LIMIT, *papers.KINKED, "apo_zero")
    ),
)
def test_the_gradient_vanishes(name: str) -> None:
    solution = solved(name)
    assert float(jnp.max(solution.certificate.gradient_norm)) < 1e-14
    for k in range(SEEDS):
        np.testing.assert_allclose(np.exp(solution.log_probs[k]).sum(), 1, rtol=1e-14)
        assert np.abs(gradient_of(name, solution.log_probs[k], REFERENCE[k], TABLES[k])).max() < 1e-11


@pytest.mark.parametrize("name", ["cdpo", "simpo", "cpo", "orpo", "exo"])
def test_scipy_finds_nothing_lower(name: str) -> None:
    for k in range(SEEDS):

        def loss(logits: Any, k: int = k) -> float:
            return loss_of(name, logits, logits, REFERENCE[k], TABLES[k])

        least = loss(solved(name).log_probs[k])
        found = scipy.optimize.minimize(loss, REFERENCE[k])
        assert least <= found.fun + 1e-14
        # BFGS stops at a gradient of 1e-5: so much above the minimum for a curvature of 1e-3 or more.
        assert found.fun <= least + 1e-10 / (2 * 1e-3)


# What is known of the minimisers: method, starts, whether unique.
CERTIFIED: dict[str, tuple[str, int, bool | None]] = {
    "dpo": ("closed form", 1, True),
    "exponential": ("closed form", 1, True),
    "ipo": ("closed form", 1, True),
    "reference_free": ("closed form", 1, True),
    "sft": ("closed form", 1, True),
    "length_normalised_dpo": ("closed form, one root", 1, True),
    "fdpo_forward_kl": ("closed form, one root", 1, True),
    "fdpo_js": ("closed form, one root", 1, True),
    "fdpo_alpha": ("closed form, one root", 1, True),
    "slic": ("linear program", 1, True),
    "cdpo": ("Newton on rewards", 1, True),
    "robust": ("Newton on rewards", 1, True),
    "simpo": ("Newton on rewards", 1, True),
    "exo": ("Newton on rewards", 8, None),
    "discopop": ("Newton on rewards", 8, None),
    "cpo": ("Newton on logits", 1, True),
    "dpop": ("Newton on logits", 1, True),
    "orpo": ("Newton on logits", 8, None),
    "bco": ("Newton on logits", 8, None),
    "kto": ("Newton on logits", 8, None),
}


@pytest.mark.parametrize("name", as_users_compile(CERTIFIED))
def test_certificates(name: str) -> None:
    method, starts, unique = CERTIFIED[name]
    known = solved(name).certificate
    assert (known.method, known.starts) == (method, starts)
    assert known.unique.tolist() == [bool(unique)] * SEEDS
    assert not known.has_others.any()
    assert known.converged.tolist() == known.finite.tolist() == [True] * SEEDS
    if starts == 1:
        assert known.agreed is None
    else:
        assert known.agreed is not None
        assert known.agreed.tolist() == [True] * SEEDS
    assert float(known.last_step.max()) < (1e-12 if method.startswith("Newton") else 1e-300)
    assert known.component.shape == known.identified.shape == (SEEDS, SIZE)
    assert known.identified.all()
    assert not known.component.any()
    assert np.isfinite(known.duality_gap).all() == (method == "linear program")
    assert solved(name).objection() is None
    assert solved(name).policy is None


def test_a_gradient_rule_has_no_minimiser() -> None:
    solution = solved("dpo_pg")
    assert solution.certificate.method == "none"
    assert np.isnan(solution.log_probs).all()
    assert not solution.certificate.converged.any()
    assert not solution.certificate.finite.any()
    with pytest.raises(didsim.NoMinimiserError, match="A gradient rule minimises nothing"):
        didsim.fixed_point(OBJECTIVES["dpo_pg"], REFERENCE, PROBLEM)


def test_apo_down_runs_off() -> None:
    solution = solved("apo_down")
    known = solution.certificate
    # A probability of e^−100 is on its way to zero, however small the gradient is there.
    assert float(solution.log_probs.min(axis=-1).max()) < -100
    assert not known.finite.any()
    assert not known.converged.any()
    objection = solution.objection()
    assert objection is not None
    assert "the policy runs off in 3 of 3 problems" in objection


# Each sequence is chosen ten times as often as the one before, against a uniform one.
SURE = np.log(10) * np.arange(SIZE)


def test_robust_dpo_with_preferences_surer_than_its_noise_allows_runs_off() -> None:
    chosen = np.stack([CHOSEN[0], log_softmax(SURE), log_softmax(-SURE)])
    rejected = np.stack([REJECTED[0], *np.full((2, SIZE), -np.log(SIZE))])
    problem = didsim.Contrastive(chosen, rejected)
    solution = didsim.solve(OBJECTIVES["robust"], REFERENCE, problem, LENGTHS)
    known = solution.certificate
    assert known.converged.tolist() == known.finite.tolist() == [True, False, False]
    assert known.unique.tolist() == [True, False, False]
    np.testing.assert_allclose(solution.log_probs[0], solved("robust").log_probs[0], rtol=1e-12)
    with pytest.raises(didsim.NoMinimiserError, match="the policy runs off in 2 of 3 problems") as caught:
        didsim.fixed_point(OBJECTIVES["robust"], REFERENCE, problem, LENGTHS)
    assert isinstance(caught.value, ValueError)
    assert caught.value.solution.certificate.converged.tolist() == [True, False, False]


def test_the_gradient_of_where_it_stopped_is_that_in_logits() -> None:
    """Of a policy on its way out, so that it is not zero; the loss's own weight counts."""
    problem = didsim.Contrastive(log_softmax(SURE), np.full(SIZE, -np.log(SIZE)))
    solution = didsim.solve(3 * OBJECTIVES["robust"], REFERENCE[0], problem)
    table = table_of(np.asarray(problem.chosen), np.asarray(problem.rejected))
    h = BETA * (np.asarray(solution.log_probs) - REFERENCE[0])
    flips = papers.FLIPS / (1 - 2 * papers.FLIPS)
    slope = 3 * BETA * table * (-expit(h[None, :] - h[:, None]) - flips)
    gradient = slope.sum(axis=1) - slope.sum(axis=0)
    assert np.abs(gradient).max() > 0.01
    assert float(solution.certificate.gradient_norm) == pytest.approx(np.abs(gradient).max(), rel=1e-6)


def test_the_message_tells_of_the_problem_that_did_not_converge() -> None:
    """That the limit is far out in one problem says nothing of another, which is nearer."""
    uniform = np.full((2, SIZE), -np.log(SIZE))
    problem = didsim.Contrastive(np.stack([log_softmax(SURE), uniform[0]]), uniform)
    solution = didsim.solve(didsim.dpo(0.01), REFERENCE[0], problem)
    assert float(solution.log_probs[0].min()) < -300 < float(solution.log_probs[1].min())
    stopped = jnp.array([True, False])
    objection = eqx.tree_at(lambda one: one.certificate.converged, solution, stopped).objection()
    assert objection is not None
    assert "the solver did not converge in 1 of 2 problems" in objection


# Wrong arguments.


def test_what_has_no_full_support_is_refused() -> None:
    with np.errstate(divide="ignore"):
        holed = np.log(np.array([0.5, 0.5, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="`reference` must give every sequence of a pair a"):
        didsim.fixed_point(didsim.dpo(), holed, PROBLEM)
    uniform = np.full(SIZE, -np.log(SIZE))
    for problem in (
        didsim.Contrastive(holed, uniform),
        didsim.Contrastive(uniform, holed),
        didsim.Labelled(REWARD[0], holed, holed),
    ):
        with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify"):
            didsim.fixed_point(didsim.dpo(), REFERENCE, problem)
    # One sampler of full support compares everything with what the other draws.
    learned = didsim.fixed_point(didsim.dpo(BETA), REFERENCE, didsim.Labelled(REWARD, uniform, holed))
    np.testing.assert_allclose(learned, log_softmax(REFERENCE + REWARD / BETA, axis=-1), atol=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for call in (didsim.fixed_point, didsim.solve):
        with pytest.raises(ValueError, match="`problem` must be over 3 sequences; got one over 6"):
            call(didsim.dpo(), log_softmax(np.zeros(3)), PROBLEM)
        with pytest.raises(ValueError, match=r"`lengths` must have one entry for each of 6 sequences"):
            call(didsim.dpo(), REFERENCE, PROBLEM, lengths=np.array([1, 2]))
        with pytest.raises(ValueError, match="`losers` must index one of 6 sequences"):
            call(didsim.dpo(), REFERENCE, didsim.Pairs(np.array([0]), np.array([6])))
        with pytest.raises(ValueError, match="must broadcast together"):
            call(didsim.dpo(), REFERENCE[:2], PROBLEM)
        with pytest.raises(ValueError, match="must broadcast together"):
            call(jax.vmap(didsim.dpo)(jnp.ones(2)), REFERENCE, PROBLEM)


@pytest.mark.parametrize("starts", [0, -1, 2.5])
def test_there_must_be_a_start(starts: Any) -> None:
    with pytest.raises(ValueError, match="`starts` must be an integer of at least 1"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, starts=starts)


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`objective` must be an Objective, as .* makes; got 'dpo'"):
        didsim.fixed_point("dpo", REFERENCE, PROBLEM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`problem` must be a Problem, as Contrastive, Labelled or Pairs"):
        didsim.fixed_point(didsim.dpo(), REFERENCE, REFERENCE)
    with pytest.raises(ValueError, match="`reference` must be log-probabilities normalised"):
        didsim.fixed_point(didsim.dpo(), REFERENCE + 1, PROBLEM)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_a_baseline_takes_few_steps(name: str) -> None:
    """Steps for which it stands still would go on to the bound of 300, in the rounding of the gradient."""
    draw = np.random.default_rng(0)
    reference, chosen, rejected = log_softmax(jnp.asarray(draw.normal(size=(3, 128))), axis=-1)
    solution = didsim.solve(didsim.OBJECTIVES[name](0.5), reference, didsim.Contrastive(chosen, rejected))
    assert solution.certificate.converged
    assert solution.certificate.agreed
    assert solution.certificate.steps <= 20


@pytest.mark.parametrize("objective", ["cdpo(0.5, 0.1)", "exo(0.5)", "cpo(0.5)", "kto(0.5)"])
def test_a_first_call_compiles_few_programs(objective: str) -> None:
    # Each operation outside of a compiled program is one more to compile.
    program = f"""
import jax, didsim, numpy as np
compiled = []
def listen(event, duration, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(about.get("fun_name"))
logs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), 3))
jax.monitoring.register_event_duration_secs_listener(listen)
didsim.solve(didsim.{objective}, logs[0], didsim.Contrastive(logs[1], logs[2]))
print(len(compiled))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert 3 <= int(done.stdout) <= 32, done.stdout
