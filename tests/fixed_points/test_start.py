"""A solve that starts from a nearby solution: the same minimiser, the same certificate, fewer steps."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from tests.fixed_points.limits import (
    BETA,
    FEATURES,
    LENGTHS,
    OBJECTIVES,
    PROBLEM,
    REFERENCE,
    SEEDS,
    SIZE,
    solved,
)

# Numbers that depend on the way to the end: on its rounding, or on how long it was.
OF_THE_WAY = ("gradient_norm", "last_step", "steps", "limit")


def assert_same_certificate(found: didsim.Certificate, expected: didsim.Certificate) -> None:
    for field in dataclasses.fields(didsim.Certificate):
        if field.name not in OF_THE_WAY:
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
    np.testing.assert_allclose(found.limit, expected.limit, atol=1e-12)
    for known in (found, expected):
        assert np.asarray(known.gradient_norm).max() < 1e-14
        assert np.asarray(known.last_step).max() < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "cdpo",  # on rewards, convex
        "exo",  # on rewards, several starts
        "cpo",  # on logits
        "kto",  # on logits, with a baseline that moves, and several starts
    ],
)
def test_the_minimiser_and_its_certificate_do_not_depend_on_the_start(name: str) -> None:
    usual = solved(name)
    for start in (usual, usual.log_probs, np.asarray(usual.log_probs[0]), np.full(SIZE, -np.log(SIZE))):
        found = didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, LENGTHS, start=start)
        np.testing.assert_allclose(found.log_probs, usual.log_probs, atol=1e-12)
        assert_same_certificate(found.certificate, usual.certificate)


@pytest.mark.parametrize("name", ["cdpo", "cpo"])
def test_there_are_fewer_steps_from_nearby(name: str) -> None:
    make: Any = {"cdpo": lambda x: didsim.cdpo(BETA, x), "cpo": lambda x: didsim.cpo(BETA, 3 * x)}[name]

    def steps(start: Any) -> np.ndarray:
        found = didsim.solve(make(0.101), REFERENCE, PROBLEM, LENGTHS, start=start)
        np.testing.assert_allclose(found.log_probs, far.log_probs, atol=1e-12)
        return found.certificate.steps

    near = didsim.solve(make(0.1), REFERENCE, PROBLEM, LENGTHS)
    far = didsim.solve(make(0.101), REFERENCE, PROBLEM, LENGTHS)
    assert np.all(steps(near) < far.certificate.steps)
    assert np.all(steps(near) >= 1)
    # From the minimiser itself nothing is left to do but a step or two of rounding.
    assert np.all(steps(far) <= 2)


def test_rewards_of_a_solution_do_not_depend_on_its_beta() -> None:
    """The loss of differences of rewards is minimised at the same rewards, whatever beta makes of them."""
    before = didsim.solve(didsim.cdpo(10 * BETA, 0.1), REFERENCE, PROBLEM, LENGTHS)
    found = didsim.solve(didsim.cdpo(BETA, 0.1), REFERENCE, PROBLEM, LENGTHS, start=before)
    assert np.all(found.certificate.steps <= 2)
    alone = didsim.solve(didsim.cdpo(BETA, 0.1), REFERENCE, PROBLEM, LENGTHS)
    np.testing.assert_allclose(found.log_probs, alone.log_probs, atol=1e-12)


def test_closed_forms_and_linear_programs_take_no_steps() -> None:
    start = np.full(SIZE, -np.log(SIZE))
    for name in ("dpo", "ipo", "sft", "slic"):
        found = didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, LENGTHS, start=start)
        np.testing.assert_array_equal(found.log_probs, solved(name).log_probs)
        assert not found.certificate.steps.any()
        assert found.certificate.steps.shape == (SEEDS,)


def test_where_a_solution_has_no_policy_the_reference_is_the_start() -> None:
    usual = solved("cdpo")
    nothing = eqx.tree_at(lambda one: one.log_probs, usual, jnp.full((SEEDS, SIZE), jnp.nan))
    moving = eqx.tree_at(
        lambda one: (one.log_probs, one.certificate.converged),
        usual,
        (jnp.full((SEEDS, SIZE), -np.log(SIZE)), np.array([False, False, True])),
    )
    for start, same in ((nothing, [0, 1, 2]), (moving, [0, 1])):
        found = didsim.solve(OBJECTIVES["cdpo"], REFERENCE, PROBLEM, LENGTHS, start=start)
        for k in same:
            np.testing.assert_array_equal(found.certificate.steps[k], usual.certificate.steps[k])
            np.testing.assert_allclose(found.log_probs[k], usual.log_probs[k], atol=1e-13)


def test_a_policy_on_a_part_of_the_space_can_be_a_start() -> None:
    """KTO gives zero to what is rejected more often than chosen, and a start from there is as good."""
    problem = didsim.Contrastive(PROBLEM.rejected, log_softmax(3 * np.asarray(PROBLEM.chosen), axis=-1))
    objective = OBJECTIVES["kto"]
    usual = didsim.solve(objective, REFERENCE, problem, LENGTHS)
    assert np.isneginf(usual.log_probs).any(axis=-1).all()
    found = didsim.solve(objective, REFERENCE, problem, LENGTHS, start=usual)
    np.testing.assert_allclose(found.log_probs, usual.log_probs, atol=1e-12)
    assert found.verdict == usual.verdict
    # As an array the start is a distribution as any other, which must not have a zero.
    with pytest.raises(ValueError, match="`start` must give every sequence a positive probability"):
        didsim.solve(objective, REFERENCE, problem, LENGTHS, start=usual.log_probs)


def test_a_start_far_out_does_not_make_a_runaway_level() -> None:
    """There the loss has ceased to curve. It is compared with where it curves, at the usual start."""
    uniform = np.full(SIZE, -np.log(SIZE))
    problem = didsim.Contrastive(log_softmax(np.log(10) * np.arange(SIZE)), uniform)
    usual = didsim.solve(OBJECTIVES["robust"], uniform, problem)
    assert usual.verdict.name == "RUNS_OFF"
    stopped = log_softmax(np.asarray(usual.log_probs))
    for start in (usual, stopped):
        found = didsim.solve(OBJECTIVES["robust"], uniform, problem, start=start)
        assert found.verdict == usual.verdict
        assert not found.certificate.has_others


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2])
def test_small_spaces_and_near_deterministic_starts(size: int, dtype: str) -> None:
    rng = np.random.default_rng(size)
    reference, chosen, rejected = log_softmax(rng.normal(size=(3, size)), axis=-1).astype(dtype)
    problem, objective = didsim.Contrastive(chosen, rejected), didsim.cdpo(0.5, 0.1)
    usual = didsim.fixed_point(objective, reference, problem)
    start = log_softmax(700.0 * np.arange(size)).astype(dtype)
    found = didsim.fixed_point(objective, reference, problem, start=start)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, usual, atol=1e-12 if dtype == "float64" else 1e-6)


def test_starts_that_do_not_fit_are_refused() -> None:
    objective, start = OBJECTIVES["cdpo"], np.full(SIZE, -np.log(SIZE))
    with pytest.raises(ValueError, match="`start` must be log-probabilities normalised"):
        didsim.solve(objective, REFERENCE, PROBLEM, start=start + 1)
    with pytest.raises(ValueError, match="`start` must be over 6 sequences, as `reference`"):
        didsim.solve(objective, REFERENCE, PROBLEM, start=np.full(3, -np.log(3)))
    with pytest.raises(ValueError, match=r"`start`, `arguments` must broadcast together"):
        didsim.solve(objective, REFERENCE, PROBLEM, start=np.broadcast_to(start, (2, SIZE)))
    with pytest.raises(ValueError, match=r"`start` must have batch axes that broadcast to .* \(3,\); got"):
        didsim.solve(objective, REFERENCE, PROBLEM, start=np.broadcast_to(start, (4, 1, SIZE)))
    policy = didsim.LogLinear(FEATURES, np.zeros(2))
    with pytest.raises(ValueError, match="`start` must not come with a `policy`"):
        didsim.solve(objective, REFERENCE, PROBLEM, policy=policy, start=start)
    with pytest.raises(ValueError, match="`start` must be known at the call"):
        jax.jit(lambda start: didsim.fixed_point(objective, REFERENCE, PROBLEM, start=start))(start)
