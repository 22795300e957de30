"""Minimisers of large problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points.lbfgs import minimise_large

SIZE, BETA = 1100, 0.5  # more than there are dense matrices for
RNG = np.random.default_rng(0)
REFERENCE, CHOSEN, REJECTED = log_softmax(RNG.normal(size=(3, SIZE)), axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)


def test_scales_do_not_matter_to_a_quadratic() -> None:
    mass = np.logspace(-6, 3, 40)
    middle = np.random.default_rng(1).normal(size=40)

    def loss(z: jax.Array) -> jax.Array:
        return jnp.sum(mass * (z - middle) ** 2) / 2 + jnp.sum(mass) * jnp.log(jnp.cosh(z[0] - middle[0]))

    found = jax.jit(minimise_large, static_argnums=0)(loss, jnp.zeros(40), jnp.asarray(mass))
    np.testing.assert_allclose(found.z, middle, atol=1e-7)
    assert bool(found.converged)


def test_a_function_that_falls_for_ever_does_not_converge() -> None:
    def loss(z: jax.Array) -> jax.Array:
        return -jnp.sum(z)

    found = jax.jit(minimise_large, static_argnums=0)(loss, jnp.zeros(3), jnp.ones(3))
    assert not bool(found.converged)


def test_smoothed_labels_on_a_large_space() -> None:
    """Without smoothing there is a closed form; with it, the gradient by the full matrix of pairs."""
    smoothing = np.array([0.0, 0.2])
    solution = didsim.solve(jax.vmap(lambda s: didsim.cdpo(BETA, s))(smoothing), REFERENCE, PROBLEM)
    known = solution.certificate
    assert known.method == "L-BFGS on rewards"
    assert known.converged.tolist() == [True, True]
    assert known.finite.tolist() == [True, True]
    assert known.unique.tolist() == [True, True]
    expected = log_softmax(REFERENCE + (CHOSEN - REJECTED) / BETA)
    assert float(didsim.js(solution.log_probs[0], expected)) < 1e-16
    weights = np.exp(CHOSEN)[:, None] * np.exp(REJECTED)
    h = BETA * (np.asarray(solution.log_probs[1]) - REFERENCE)
    slope = weights * (expit(h[:, None] - h[None, :]) - (1 - smoothing[1]))
    gradient = slope.sum(axis=1) - slope.sum(axis=0)
    # What is left, over what all pairs of a sequence could pull: by so many nats are rewards off.
    assert np.abs(gradient / (np.exp(CHOSEN) + np.exp(REJECTED))).max() < 1e-10
    # It is a minimum of other rewards than those without smoothing.
    assert float(didsim.js(solution.log_probs[1], expected)) > 1e-3


@pytest.mark.parametrize(
    ("objective", "what"),
    [
        (didsim.slic(), "a hinge, whose linear program has a variable for every pair"),
        (didsim.bco(), "a loss that depends on the policy other than through its gradient"),
        (didsim.apo_zero(), "a loss that depends on the policy other than through its gradient"),
    ],
)
def test_what_needs_dense_matrices_is_refused(objective: didsim.Objective, what: str) -> None:
    with pytest.raises(ValueError, match=f"`problem` must have at most 1024 sequences for {what}; got one"):
        didsim.solve(objective, REFERENCE, PROBLEM)


def test_a_policy_of_too_many_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="`policy` must have at most 1024 parameters to solve for; got 1100"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(REFERENCE))
