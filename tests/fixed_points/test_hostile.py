from collections.abc import Callable

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
    REFERENCE,
    REJECTED,
    SEEDS,
    SIZE,
    TABLES,
    loss_of,
    solved,
    table_of,
)

BETAS = np.array([1e-3, 0.1, 1e3])


@pytest.mark.parametrize("name", ["cdpo", "exo"])
def test_rewards_do_not_depend_on_beta(name: str) -> None:
    make: Callable[..., didsim.Objective] = getattr(didsim, name)
    argument = papers.FLIPS if name == "cdpo" else papers.EXO
    objective = jax.vmap(lambda beta: make(beta, argument))(BETAS)
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    solution = didsim.solve(objective, REFERENCE[0], problem, LENGTHS)
    assert solution.certificate.converged.all()
    assert solution.certificate.finite.all()
    h = BETA * (np.asarray(solved(name).log_probs[0]) - REFERENCE[0])
    for beta, learned in zip(BETAS, solution.log_probs, strict=True):
        expected = log_softmax(REFERENCE[0] + h / beta)
        # A rounding of a reward of a nat is one of 1/beta.
        np.testing.assert_allclose(learned, expected, rtol=1e-12, atol=1e-12 * (1 + 1 / beta))


def test_betas_of_a_loss_that_is_no_function_of_rewards() -> None:
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    objective = jax.vmap(lambda beta: didsim.cpo(beta, 0.3))(BETAS)
    solution = didsim.solve(objective, REFERENCE[0], problem, LENGTHS)
    assert solution.certificate.converged.all()
    for beta, learned in zip(BETAS, np.asarray(solution.log_probs), strict=True):
        pull = beta * TABLES[0] * expit(-beta * (learned[:, None] - learned))
        gradient = pull.sum(axis=0) - pull.sum(axis=1) - 0.3 * (np.exp(CHOSEN[0]) - np.exp(learned))
        assert np.abs(gradient).max() < 1e-13 * (1 + beta)


def test_policies_that_are_nearly_sure() -> None:
    spiked = np.stack([np.array([50.0, 0, 1, 2, -1, 0]), [0, 200, 1, 2, 3, 0], [0, 1, 2, 3, -700, 0]])
    chosen = log_softmax(spiked, axis=-1)
    problem = didsim.Contrastive(chosen, REJECTED)
    learned = didsim.fixed_point(OBJECTIVES["dpo"], REFERENCE, problem, LENGTHS)
    np.testing.assert_allclose(
        learned, log_softmax(REFERENCE + (chosen - REJECTED) / BETA, axis=-1), rtol=1e-13
    )
    for name in ("cdpo", "exo"):
        solution = didsim.solve(OBJECTIVES[name], REFERENCE, problem, LENGTHS)
        assert solution.objection() is None
        for k in range(SEEDS):
            table = table_of(chosen[k], REJECTED[k])
            h = BETA * (np.asarray(solution.log_probs[k]) - REFERENCE[k])
            d = h[:, None] - h
            slope = expit(d) - (1 - papers.FLIPS)
            if name == "exo":
                slope = expit(d) * expit(-d) * (d - np.log(1 / papers.EXO - 1))
            pull = table * slope
            # Relative to what the pairs of each sequence could pull.
            mass = table.sum(axis=0) + table.sum(axis=1)
            assert np.abs((pull.sum(axis=1) - pull.sum(axis=0)) / mass).max() < 1e-12
    # A margin beside preferences of e^−700 is too much for it: then it says so.
    hard = didsim.solve(OBJECTIVES["simpo"], REFERENCE, problem, LENGTHS)
    known = hard.certificate
    assert known.converged.all() or hard.objection() is not None
    np.testing.assert_array_equal(known.finite & ~known.converged, np.zeros(SEEDS, bool))


@pytest.mark.parametrize("name", ["dpo", "cdpo", "slic", "cpo"])
def test_one_sequence(name: str) -> None:
    nothing = np.zeros(1)
    learned = didsim.fixed_point(OBJECTIVES[name], nothing, didsim.Contrastive(nothing, nothing))
    assert learned.tolist() == [0.0]


@pytest.mark.parametrize("name", ["cdpo", "nca"])
def test_two_sequences_by_a_search_along_a_line(name: str) -> None:
    reference, chosen, rejected = log_softmax(np.array([[0.3, 0.0], [0.0, 1.0], [0.4, 0.0]]), axis=-1)
    learned = didsim.fixed_point(OBJECTIVES[name], reference, didsim.Contrastive(chosen, rejected))
    table = table_of(chosen, rejected)
    found = scipy.optimize.minimize_scalar(
        lambda x: loss_of(name, np.array([x, 0]), np.array([x, 0]), reference, table),
        bracket=(-3, 3),
        options={"xtol": 1e-12},
    )
    # A loss is flat to rounding within its square root of the minimum.
    assert float(learned[0] - learned[1]) == pytest.approx(found.x, abs=1e-6)


@pytest.mark.parametrize("name", ["dpo", "ipo", "exponential", "cdpo", "robust", "exo"])
def test_equal_distributions_teach_nothing(name: str) -> None:
    learned = didsim.solve(OBJECTIVES[name], REFERENCE, didsim.Contrastive(CHOSEN, CHOSEN), LENGTHS)
    np.testing.assert_allclose(learned.log_probs, REFERENCE, atol=1e-13)


def test_bounded_losses_of_equal_distributions_have_no_one_minimiser() -> None:
    """All gains are zero, and the loss is the same for every policy."""
    with pytest.raises(didsim.NoMinimiserError):
        didsim.fixed_point(didsim.apo_zero(BETA), REFERENCE, didsim.Contrastive(CHOSEN, CHOSEN), LENGTHS)


def test_a_batch_of_betas_of_references_and_of_problems() -> None:
    betas = jnp.array([0.25, 2.0])[:, None, None]
    problem = didsim.Contrastive(CHOSEN[:2], REJECTED[:2])
    for make in (didsim.dpo, didsim.cdpo):
        learned = didsim.solve(jax.vmap(jax.vmap(jax.vmap(make)))(betas), REFERENCE[:, None], problem)
        assert learned.log_probs.shape == (2, SEEDS, 2, SIZE)
        known = learned.certificate
        assert known.converged.shape == known.gradient_norm.shape == known.last_step.shape == (2, SEEDS, 2)
        assert known.component.shape == known.identified.shape == (2, SEEDS, 2, SIZE)
        # Rewards are those of the problem, whatever beta and the reference.
        shape = (2, SEEDS, 2, SIZE)
        rewards = np.asarray(betas)[..., None] * (np.asarray(learned.log_probs) - REFERENCE[:, None])
        rewards -= rewards.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(rewards, np.broadcast_to(rewards[:1, :1], shape), atol=1e-13)
        if make is didsim.dpo:
            expected = CHOSEN[:2] - REJECTED[:2]
            expected = expected - expected.mean(axis=-1, keepdims=True)
            np.testing.assert_allclose(rewards, np.broadcast_to(expected, shape), atol=1e-13)
        assert np.abs(rewards[0, 0, 0] - rewards[0, 0, 1]).max() > 0.1


@pytest.mark.parametrize("make", [didsim.ipo, didsim.simpo, didsim.exponential])
def test_a_batch_of_objectives_is_each_of_them(make: object) -> None:
    def build(value: jax.Array) -> didsim.Objective:
        return didsim.simpo(value, gamma=0) if make is didsim.simpo else make(value)  # type: ignore[operator]

    one = REFERENCE[0], didsim.Contrastive(CHOSEN[0], REJECTED[0]), LENGTHS
    values = jnp.array([0.3, 1.0])
    both = didsim.fixed_point(jax.vmap(build)(values), *one)
    for k, value in enumerate(values):
        np.testing.assert_allclose(both[k], didsim.fixed_point(build(value), *one), rtol=1e-12)


def test_float32_stays_float32_within_its_rounding() -> None:
    single = REFERENCE.astype(np.float32), CHOSEN.astype(np.float32), REJECTED.astype(np.float32)
    learned = didsim.fixed_point(didsim.dpo(BETA), single[0], didsim.Contrastive(*single[1:]))
    assert learned.dtype == jnp.float32
    # Four roundings of log-probabilities of at most 5 nats, one of them divided by beta.
    bound = np.finfo(np.float32).eps * 5 * (4 + 4 / BETA)
    assert np.abs(np.asarray(learned, np.float64) - solved("dpo").log_probs).max() < bound


def test_float32_is_as_good_as_its_certificate_says() -> None:
    single = REFERENCE.astype(np.float32), CHOSEN.astype(np.float32), REJECTED.astype(np.float32)
    objective = jax.tree.map(lambda leaf: leaf.astype(np.float32), OBJECTIVES["cdpo"])
    solution = didsim.solve(objective, single[0], didsim.Contrastive(*single[1:]), LENGTHS)
    assert solution.log_probs.dtype == jnp.float32
    # A loss of about 1 is flat to rounding within the square root of it, for a curvature of 1e-2 or more.
    far = 10 * np.sqrt(np.finfo(np.float32).eps)
    np.testing.assert_allclose(solution.log_probs, solved("cdpo").log_probs, atol=far)
    assert solution.certificate.converged.all() or solution.objection() is not None
