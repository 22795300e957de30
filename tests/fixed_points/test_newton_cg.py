"""Minimisers of large problems."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points.newton import Found
from didsim.fixed_points.newton_cg import minimise_by_products
from didsim.objectives.curvature import Expansion
from didsim.pairwise import primitive
from tests.fixed_points.nodes_seen import nodes_seen

SIZE, BETA = 1100, 0.5  # more than there are dense matrices for
RNG = np.random.default_rng(0)
REFERENCE, CHOSEN, REJECTED = log_softmax(RNG.normal(size=(3, SIZE)), axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)


def minimised(
    loss: Callable[[jax.Array], jax.Array], start: jax.Array, mass: jax.Array | None = None
) -> Found:
    def around(z: jax.Array) -> Expansion:
        hessian = jax.hessian(loss)(z)
        return Expansion(loss(z), jax.grad(loss)(z), lambda: jnp.diag(hessian), lambda step: hessian @ step)

    return jax.jit(lambda start: minimise_by_products(around, start, mass))(start)


def test_scales_do_not_matter_to_a_quadratic() -> None:
    """Of differences: springs of all strengths that join all numbers to the first."""
    mass = np.logspace(-9, 3, 40)
    middle = np.random.default_rng(1).normal(size=41)

    def loss(z: jax.Array) -> jax.Array:
        return jnp.sum(mass * ((z - middle)[1:] - (z - middle)[0]) ** 2) / 2

    found = minimised(loss, jnp.zeros(41))
    np.testing.assert_allclose(found.z - found.z[0], middle - middle[0], atol=1e-10)
    assert bool(found.converged)


def test_a_step_that_is_too_long_is_halved() -> None:
    """Newton's step from 2 to the minimum of √(1 + d²) goes to −8, where the loss is larger."""
    found = minimised(lambda z: jnp.sqrt(1 + (z[0] - z[1]) ** 2), jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(found.z, 0, atol=1e-9)
    assert bool(found.converged)
    assert 2 < int(found.steps) < 20


def test_a_saddle_is_told_and_left_if_there_is_a_slope() -> None:
    """Of `(d² − 1)²` for two differences: at `d = 0` the slope is zero, and the loss falls both ways."""

    def loss(z: jax.Array) -> jax.Array:
        d = jnp.array([z[0] - z[1], z[1] - z[2]])
        return jnp.sum((d**2 - 1) ** 2)

    mass = jnp.ones(3)
    rests = minimised(loss, jnp.zeros(3), mass)
    assert bool(rests.falls)
    assert not bool(rests.converged)
    found = minimised(loss, jnp.array([1e-3, 0.0, 1e-3]), mass)
    np.testing.assert_allclose(np.diff(found.z), [-1, 1], atol=1e-10)
    assert bool(found.converged)


def test_a_level_direction_is_told() -> None:
    def loss(z: jax.Array) -> jax.Array:
        return jnp.sqrt(1 + (z[0] - z[1]) ** 2)

    found = minimised(loss, jnp.array([1.0, -1.0, 0.0]), jnp.ones(3))
    np.testing.assert_allclose(found.z[:2], 0, atol=1e-9)
    assert bool(found.falls)
    assert not bool(found.converged)


def test_a_plateau_far_out_is_no_end() -> None:
    """Of `1 − exp(−d²)`. At `d = 7` a slope of 1e-20 still leads back, and at 40 there is none."""

    def loss(z: jax.Array) -> jax.Array:
        return -jnp.exp(-((z[0] - z[1]) ** 2))

    found = minimised(loss, jnp.array([3.5, -3.5]), jnp.ones(2))
    np.testing.assert_allclose(found.z, 0, atol=1e-9)
    assert bool(found.converged)
    assert not bool(minimised(loss, jnp.array([20.0, -20.0]), jnp.ones(2)).converged)


def test_a_tail_that_falls_for_ever_is_no_end() -> None:
    """Of `e^(z_1 − z_0)`, whose slope and curvature vanish together: a step is always one nat long."""

    def loss(z: jax.Array) -> jax.Array:
        return jnp.exp(z[1] - z[0]) + (z[1] - z[2]) ** 2 / 2

    found = minimised(loss, jnp.zeros(3), jnp.ones(3))
    assert not bool(found.converged)
    assert float(found.step) > 0.5


def test_a_shallow_saddle_among_thousands_of_numbers_is_no_minimum() -> None:
    """A chain of springs, of which one in the middle pushes. Scaled, its lowest curvature is −8e-4."""
    size = 1000
    strength = jnp.ones(size - 1).at[size // 2].set(-0.02)

    def chain(z: jax.Array) -> jax.Array:
        return jnp.sum(strength * jnp.diff(z) ** 2) / 2

    def around(z: jax.Array) -> Expansion:
        own = jnp.pad(strength, (0, 1)) + jnp.pad(strength, (1, 0))
        return Expansion(chain(z), jax.grad(chain)(z), lambda: own, jax.grad(chain))

    found = jax.jit(lambda z: minimise_by_products(around, z, jnp.ones(size)))(jnp.zeros(size))
    assert not bool(found.converged)


def test_a_product_that_is_not_a_number_proves_no_minimum() -> None:
    def around(z: jax.Array) -> Expansion:
        nothing, ones = jnp.zeros_like(z), jnp.ones_like(z)
        return Expansion(jnp.zeros(()), nothing, lambda: ones, lambda step: jnp.nan * step)

    found = jax.jit(lambda z: minimise_by_products(around, z, jnp.ones(5)))(jnp.zeros(5))
    assert not bool(found.converged)


def test_a_function_that_falls_for_ever_does_not_converge() -> None:
    assert not bool(minimised(lambda z: jnp.exp(z[1] - z[0]), jnp.zeros(2)).converged)


@pytest.mark.core
@pytest.mark.parametrize("mass", [None, jnp.ones(5000)])
def test_a_slope_that_is_not_a_number_is_no_end(mass: jax.Array | None) -> None:
    """Among so many numbers XLA loses NaN when it looks for the largest."""

    def around(z: jax.Array) -> Expansion:
        return Expansion(jnp.sum(z), z.at[1].set(jnp.nan), lambda: jnp.ones_like(z), lambda step: step)

    found = jax.jit(lambda start: minimise_by_products(around, start, mass))(jnp.zeros(5000))
    assert np.isnan(found.gradient)
    assert not bool(found.converged)


@pytest.mark.parametrize("few", [False, True])
def test_where_a_loss_is_not_a_number_no_step_goes_but_a_sum_may_need_more_nodes(few: bool) -> None:
    def loss(z: jax.Array) -> jax.Array:
        d = z[0] - z[1]
        return jnp.where(d < -5, jnp.nan, jnp.sqrt(1 + d**2))

    with primitive._only_nodes(128 if few else None):
        found = minimised(loss, jnp.array([1.0, -1.0]))
    assert np.isnan(found.value) == few
    if not few:
        np.testing.assert_allclose(found.z, 0, atol=1e-9)


@pytest.mark.parametrize(("rare", "nodes"), [(4.0, [128]), (20.0, [128, None]), (60.0, [128, None])])
def test_few_nodes_are_tried_first(
    rare: float, nodes: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards over more than 23 nats need more than 128, and over more than 90, sums pair by pair."""
    seen = nodes_seen(monkeypatch)
    # Of a size of its own, so that no program is there yet.
    of_rank = np.arange(SIZE + int(rare))
    chosen, rejected = log_softmax(-rare * (of_rank < 5)), log_softmax(-rare * (of_rank > SIZE - 5))
    reference = np.full(len(of_rank), -np.log(len(of_rank)))
    solution = didsim.solve(didsim.simpo(1.0, 0.0), reference, didsim.Contrastive(chosen, rejected))
    assert list(dict.fromkeys(seen)) == nodes
    assert solution.verdict.name == "MINIMISER"
    np.testing.assert_allclose(solution.log_probs, log_softmax(chosen - rejected), atol=1e-6)


def gradient_of_smoothed_labels(h: np.ndarray, smoothing: float) -> np.ndarray:
    """By the full matrix of pairs, over what all pairs of a sequence could pull."""
    weights = np.exp(CHOSEN)[:, None] * np.exp(REJECTED)
    slope = weights * (expit(h[:, None] - h[None, :]) - (1 - smoothing))
    return (slope.sum(axis=1) - slope.sum(axis=0)) / (np.exp(CHOSEN) + np.exp(REJECTED))


def test_smoothed_labels_on_a_large_space() -> None:
    """Without smoothing there is a closed form; with it, the gradient by the full matrix of pairs."""
    smoothing = np.array([0.0, 0.2])
    objectives = jax.vmap(lambda s: didsim.cdpo(BETA, s))(smoothing)
    solution = didsim.solve(objectives, REFERENCE, PROBLEM)
    known = solution.certificate
    assert known.method == "Newton with conjugate gradients on rewards"
    assert known.converged.tolist() == [True, True]
    assert known.finite.tolist() == [True, True]
    assert known.unique.tolist() == [True, True]
    expected = log_softmax(REFERENCE + (CHOSEN - REJECTED) / BETA)
    np.testing.assert_allclose(solution.log_probs[0], expected, atol=1e-9)
    h = BETA * (np.asarray(solution.log_probs[1]) - REFERENCE)
    assert np.abs(gradient_of_smoothed_labels(h, smoothing[1])).max() < 1e-12
    # It is a minimum of other rewards than those without smoothing.
    assert float(didsim.js(solution.log_probs[1], expected)) > 1e-3
    single = [jnp.asarray(one, "float32") for one in (REFERENCE, CHOSEN, REJECTED)]
    rounded = didsim.solve(objectives, single[0], didsim.Contrastive(*single[1:]))
    assert rounded.log_probs.dtype == "float32"
    assert rounded.verdict == didsim.fixed_points.Verdict.MINIMISER
    np.testing.assert_allclose(rounded.log_probs, solution.log_probs, atol=3e-5)


@pytest.mark.slow
def test_a_population_of_a_loss_that_is_not_convex() -> None:
    """From the reference; the gradient by the full matrix of pairs, in NumPy."""
    smoothing = 0.2
    solution = didsim.solve(didsim.exo(0.1, smoothing), REFERENCE, PROBLEM, starts=1)
    assert solution.certificate.method == "Newton with conjugate gradients on rewards"
    assert solution.verdict.name == "MINIMISER"
    h = 0.1 * (np.asarray(solution.log_probs) - REFERENCE)
    d = h[:, None] - h
    weights = np.exp(CHOSEN)[:, None] * np.exp(REJECTED)
    slope = weights * expit(d) * expit(-d) * (d - np.log((1 - smoothing) / smoothing))
    gradient = (slope.sum(axis=1) - slope.sum(axis=0)) / (np.exp(CHOSEN) + np.exp(REJECTED))
    assert np.abs(gradient).max() < 1e-10
    assert float(solution.certificate.gradient_norm) < 1e-12


WINNERS, LOSERS = RNG.integers(SIZE, size=(2, 40 * SIZE))
PAIRS = didsim.Pairs(WINNERS[WINNERS != LOSERS], LOSERS[WINNERS != LOSERS])


@pytest.mark.parametrize(
    ("problem", "objective"),
    [
        (PAIRS, didsim.dpo(BETA)),
        (PAIRS, didsim.ipo(0.3)),
        (PROBLEM, didsim.cpo(BETA)),
        (PAIRS, didsim.dpo(BETA) + 0.5 * didsim.sft()),
    ],
)
def test_a_quasi_newton_search_by_another_library_ends_at_the_same_policy(
    problem: didsim.preferences.Problem, objective: didsim.Objective
) -> None:
    """Of all pairs as a matrix, from the reference, in logits scaled by their sequence's share of pairs."""
    solution = didsim.solve(objective, REFERENCE, problem)
    known = solution.certificate
    assert known.method.startswith("Newton with conjugate gradients")
    assert bool(known.unique)
    table, reference = problem.joint(SIZE), jnp.asarray(REFERENCE)
    mass = np.exp(np.logaddexp(table.chosen_marginal(SIZE), table.rejected_marginal(SIZE)))
    scale = 1 / np.sqrt(SIZE * (mass + np.exp(REFERENCE)))

    @jax.jit
    @jax.value_and_grad
    def loss(u: jax.Array) -> jax.Array:
        return SIZE * objective.population_loss(jax.nn.log_softmax(scale * u), reference, table, None)

    found = minimize(
        lambda u: [np.asarray(one) for one in loss(u)],
        REFERENCE / scale,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "maxfun": 2000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30},
    )
    assert float(loss(np.asarray(solution.log_probs) / scale)[0]) <= found.fun * (1 + 1e-12)
    np.testing.assert_allclose(solution.log_probs, log_softmax(scale * found.x), atol=2e-3)


def test_a_loss_that_is_not_convex_on_a_large_space() -> None:
    """Finite pairs, each of whose differences pulls both ways; the gradient pair by pair, in NumPy."""
    winners, losers = WINNERS, LOSERS
    smoothing = 0.2
    solution = didsim.solve(didsim.exo(BETA, smoothing), REFERENCE, didsim.Pairs(winners, losers))
    known = solution.certificate
    assert known.method == "Newton with conjugate gradients on rewards"
    assert solution.verdict.name == "MINIMISER"
    assert not bool(known.unique)
    h = BETA * (np.asarray(solution.log_probs) - REFERENCE)
    d = h[winners] - h[losers]
    # Of KL(Bernoulli(σ(d)) ‖ Bernoulli(1 − ε)): the variance of the label, times its log-odds against those.
    slope = expit(d) * expit(-d) * (d - np.log((1 - smoothing) / smoothing))
    gradient = np.bincount(winners, slope, SIZE) - np.bincount(losers, slope, SIZE)
    assert np.abs(gradient / np.bincount(np.concatenate([winners, losers]), minlength=SIZE)).max() < 1e-10
