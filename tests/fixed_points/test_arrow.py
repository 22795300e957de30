"""The Hessian of losses of single sequences, against matrices, and the minimisers that it leads to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import example, given
from hypothesis import strategies as st
from jax.nn import log_softmax
from scipy.special import expit

import didsim
from didsim.fixed_points.arrow import Arrow

SEEDS = st.integers(0, 2**32 - 1)
NONE = jnp.zeros((0, 0))  # a Hessian in logits knows its idle direction itself


def arrow_of(own: np.ndarray, total: float, p: np.ndarray) -> Arrow:
    return Arrow(jnp.asarray(own), jnp.asarray(total), jnp.asarray(p), jnp.ones(len(p), bool))


@jax.jit
def newton_step(hessian: Arrow, gradient: jax.Array) -> tuple[jax.Array, ...]:
    """The step, the number of flat directions, the smallest eigenvalue, and whether the Hessian is safe."""
    found = hessian.decomposed(gradient, NONE, None, None, jnp.asarray(False), jnp.asarray(True))
    return found.step, found.flat, found.lowest, found.is_safe


@given(SEEDS, st.sampled_from([1, 2, 3, 17]))
def test_products_and_the_diagonal_are_those_of_autodiff(seed: int, size: int) -> None:
    """For the loss `Σ_i a_i ℓ_i + b_i ℓ_i²/2 + c_i ℓ_i³/6` of log-probabilities `ℓ`."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, size))
    z, step = rng.normal(size=(2, size))

    def loss(z: jax.Array) -> jax.Array:
        logps = log_softmax(z)
        return jnp.sum(a * logps + b * logps**2 / 2 + c * logps**3 / 6)

    logps = np.asarray(log_softmax(z))
    arrow = arrow_of(b + c * logps, float(np.sum(a + b * logps + c * logps**2 / 2)), np.exp(logps))
    hessian = np.asarray(jax.hessian(loss)(z))
    scale = np.abs(hessian).max() + 1
    np.testing.assert_allclose(arrow.product(jnp.asarray(step)), hessian @ step, atol=1e-13 * scale)
    np.testing.assert_allclose(arrow.diagonal(), np.diag(hessian), atol=1e-13 * scale)


SIGNS = st.sampled_from([1.0, -1.0, 0.0])


@given(SEEDS, st.lists(SIGNS, min_size=7, max_size=7), st.floats(-6, 6))
@example(0, [1.0], 0.0)  # one sequence
@example(0, [-1.0], 0.0)
@example(0, [1.0, -1.0], 0.0)
@example(0, 6 * [1.0] + [-1.0], 6.0)  # the one negative direction is nearly that of `p`
def test_steps_are_those_of_all_eigenvectors(seed: int, signs: list[float], spread: float) -> None:
    """On the steps with `pᵀ x = 0`, of which SciPy has a basis, scaled to curvatures of 1, −1 and 0."""
    rng = np.random.default_rng(seed)
    size, sign = len(signs), np.array(signs)
    sizes = np.exp(rng.normal(size=size))
    p = rng.dirichlet(np.ones(size)) * np.exp(np.where(sign < 0, spread, 0))
    p = p / p.sum()
    own = sign * sizes  # with no slope, `D` is the own curvature
    hessian = arrow_of(own, 0.0, p)
    scale = np.where(sign == 0, 1, 1 / np.sqrt(sizes))
    basis = scipy.linalg.null_space((scale * p)[None])
    values, vectors = np.linalg.eigh(basis.T @ np.diag(sign) @ basis)
    counts = np.abs(values) > 1e-10
    gradient = rng.normal(size=size)
    along = vectors.T @ basis.T @ (scale * gradient)
    expected = -scale * (basis @ vectors[:, counts] @ (along[counts] / np.abs(values[counts])))
    step, flat, lowest, is_safe = newton_step(hessian, jnp.asarray(gradient))
    np.testing.assert_allclose(step, expected, atol=1e-8 * (1 + np.abs(expected).max(initial=0)))
    assert int(flat) == np.sum(~counts)
    assert float(lowest) == pytest.approx(values.min(initial=1.0), abs=1e-10)
    assert bool(is_safe) == bool(np.all(values > 1e-7))


@given(SEEDS, st.sampled_from([2, 3, 17]), st.sampled_from([0.2, 1.0]))
def test_curvatures_by_magnitude_are_positive(seed: int, size: int, share: float) -> None:
    """Products with the matrices of the module's first formula, each of its curvatures upwards."""
    rng = np.random.default_rng(seed)
    own, total, p = rng.normal(size=size), rng.normal(), rng.dirichlet(np.ones(size))
    found = arrow_of(own, total, p).by_magnitude(jnp.asarray(share))
    matrix = np.stack([np.asarray(found.product(jnp.asarray(one))) for one in np.eye(size)])
    away = np.eye(size) - p[:, None]
    bent = away @ np.diag(np.where(own < 0, -share * own, own)) @ away.T
    normaliser = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(
        matrix, bent + (share if total > 0 else 1) * abs(total) * normaliser, atol=1e-14
    )
    assert np.linalg.eigvalsh(matrix)[0] >= -1e-14


@given(SEEDS, st.sampled_from([2, 5, 40]))
def test_a_step_solves_newton_s_equations(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    hessian = arrow_of(rng.exponential(size=size), -rng.exponential(), rng.dirichlet(np.ones(size)))
    gradient = rng.normal(size=size)
    gradient -= gradient.mean()
    step, *_ = newton_step(hessian, jnp.asarray(gradient))
    np.testing.assert_allclose(hessian.product(step), -gradient, atol=1e-10)
    assert abs(hessian.p @ step) < 1e-12 * (1 + np.abs(step).max())


def test_sequences_that_are_left_out_have_the_identity() -> None:
    kept = jnp.array([True, False, True])
    hessian = Arrow(jnp.array([1.0, np.nan, 2.0]), jnp.asarray(-1.0), jnp.array([0.25, 0.0, 0.75]), kept)
    step, *_ = newton_step(hessian, jnp.array([0.5, 3.0, -0.5]))
    np.testing.assert_allclose(hessian.product(step), [-0.5, -3, 0.5], atol=1e-15)
    assert float(hessian.diagonal()[1]) == 1


def test_directions_are_level_if_both_hessians_are() -> None:
    p = np.full(5, 0.2)
    first = arrow_of(np.array([0.0, 0, 0, 1, 1]), 0.0, p)
    last = arrow_of(np.array([0.0, 0, 0, 0, 1]), 0.0, p)
    count, mixture = first.level_directions(last, None)
    assert int(count) == 2 + 1  # the idle one counts
    np.testing.assert_allclose(first.product(mixture), 0, atol=1e-15)
    np.testing.assert_allclose(last.product(mixture), 0, atol=1e-15)
    assert float(jnp.max(jnp.abs(mixture))) == 1
    none, nothing = first.level_directions(arrow_of(np.ones(5), 0.0, p), None)
    assert int(none) == 1
    np.testing.assert_array_equal(nothing, 0)


def slopes_of_kto(h: np.ndarray, p: np.ndarray, wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    baseline = max(0.0, p @ h)
    return (losses - wins) * expit(h - baseline) * expit(baseline - h)


def slopes_of_bco(h: np.ndarray, p: np.ndarray, wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    baseline = (wins + losses) @ h / 2
    return losses * expit(h - baseline) - wins * expit(baseline - h)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "slopes"), [(didsim.kto, slopes_of_kto), (didsim.bco, slopes_of_bco)])
def test_losses_with_a_baseline_are_solved_beyond_what_matrices_allow(
    make: Callable[[float], didsim.Objective], slopes: Callable[..., np.ndarray]
) -> None:
    size, beta = 1500, 0.5
    rng = np.random.default_rng(0)
    reference, chosen, rejected = (log_softmax(jnp.asarray(rng.normal(size=size))) for _ in range(3))
    problem = didsim.Contrastive(chosen, rejected)
    solution = didsim.solve(make(beta), reference, problem)
    assert bool(solution.certificate.converged)
    logps = np.asarray(solution.log_probs)
    kept, p = np.isfinite(logps), np.exp(logps)
    h = np.where(kept, beta * (np.where(kept, logps, 0) - np.asarray(reference)), 0)
    wins, losses = np.exp(chosen), np.exp(rejected)
    slope = np.where(kept, beta * slopes(h, p, wins, losses), 0)
    np.testing.assert_allclose(slope - p * slope.sum(), 0, atol=1e-15)


def test_a_descent_at_a_fixed_rate_ends_in_steps_that_know_the_baseline() -> None:
    """The baseline moves with each step, so that descent alone comes closer by a fixed share a step."""
    draws = np.random.default_rng(8).normal(size=(3, 24, 8))[:, 4]
    reference, chosen, rejected = log_softmax(jnp.asarray(8 * draws), axis=-1)
    certificate = didsim.solve(didsim.bco(0.3), reference, didsim.Contrastive(chosen, rejected)).certificate
    assert certificate.steps > 300
    assert certificate.converged
    assert certificate.agreed
