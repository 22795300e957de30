"""Minimisers of large problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim.fixed_points import lbfgs
from didsim.fixed_points.lbfgs import minimise_large
from tests.fixed_points.nodes_seen import nodes_seen

MANY = 5000  # so many that XLA loses NaN when it looks for the largest
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


@pytest.mark.core
def test_a_loss_without_a_value_has_no_end() -> None:
    found = jax.jit(minimise_large, static_argnums=0)(
        lambda z: jnp.sum(jnp.sqrt(z - 1)), jnp.zeros(MANY), jnp.ones(MANY)
    )
    assert np.isnan(found.gradient)
    assert not bool(found.converged)


@pytest.mark.slow
def test_the_search_takes_any_sum_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few nodes alone, it would stop where a sum is not good enough, and call that an end."""
    seen = nodes_seen(monkeypatch)
    monkeypatch.setattr(lbfgs, "_STEPS", 3)
    solution = didsim.solve(didsim.orpo(), REFERENCE, PROBLEM, starts=1)
    assert solution.certificate.method == "L-BFGS on logits"
    assert seen[0] is None


@pytest.mark.parametrize(
    ("objective", "what"),
    [
        (didsim.slic(), "a hinge, whose linear program has a variable for every pair"),
        (didsim.dpo() + didsim.bco(), "a loss that depends on the policy other than through its gradient"),
        (didsim.kto() + didsim.bco(), "a loss that depends on the policy other than through its gradient"),
    ],
)
def test_what_needs_dense_matrices_is_refused(objective: didsim.Objective, what: str) -> None:
    with pytest.raises(ValueError, match=f"`problem` must have at most 1024 sequences for {what}; got one"):
        didsim.solve(objective, REFERENCE, PROBLEM)


def test_a_policy_of_too_many_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="`policy` must have at most 1024 parameters to solve for; got 1100"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(REFERENCE))
