"""Sequences without probability move nothing: no derivative of a loss is NaN, in logits or in data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_softmax

import didsim

UNIFORM = jnp.log(jnp.full(3, 1 / 3))
HALF = jnp.log(jnp.array([0.5, 0.5, 0.0]))
REWARD = jnp.array([1.0, 0.0, -1.0])
LENGTHS = jnp.array([1, 2, 2])
Z = jnp.array([0.3, 0.0, 0.1])
PROBLEMS = {
    "labelled": didsim.Labelled(REWARD, HALF, HALF),
    "labelled_by_one": didsim.Labelled(REWARD, HALF, UNIFORM),
    "contrastive": didsim.Contrastive(HALF, HALF),
    "contrastive_by_one": didsim.Contrastive(UNIFORM, HALF),
    "pairs": didsim.Pairs(np.array([0, 1, 0]), np.array([1, 0, 2]), np.array([1.0, 2.0, 0.0])),
    "joint": didsim.Labelled(REWARD, HALF, HALF).joint(3),
    "mixture": didsim.Mixture(
        (didsim.Labelled(REWARD, HALF, HALF), didsim.Contrastive(HALF, UNIFORM)),
        jnp.log(jnp.array([1.0, 0.0])),
    ),
}


def test_the_exponential_loss_has_its_gradient() -> None:
    problem = didsim.Labelled(REWARD, HALF, HALF)
    loss = lambda z: didsim.exponential(1.0).loss(log_softmax(z), UNIFORM, problem)  # noqa: E731
    slope = float(np.tanh(0.5)) / 2
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(3)), [-slope, slope, 0], atol=1e-15)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", didsim.OBJECTIVES)
def test_gradients_are_those_of_the_table_and_never_nan(name: str, kind: str) -> None:
    objective, problem = didsim.OBJECTIVES[name](), PROBLEMS[kind]
    # Without a space every sequence is one token.
    lengths = None if any(term.needs_tokens for term in objective.terms) else LENGTHS

    def loss(z: jax.Array, problem: didsim.Problem) -> jax.Array:
        return objective.population_loss(log_softmax(z), UNIFORM, problem, lengths)

    in_logits, in_data = eqx.filter_grad(lambda given: loss(*given))((Z, problem))
    np.testing.assert_allclose(in_logits, jax.grad(loss)(Z, problem.joint(3)), rtol=1e-10, atol=1e-12)
    for leaf in jax.tree.leaves(in_data):
        assert not np.isnan(leaf).any()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_second_derivatives_are_never_nan(kind: str) -> None:
    for name in ("exponential", "sft", "dpo"):
        objective = didsim.OBJECTIVES[name](0.5) if name != "sft" else didsim.sft()
        hessian = jax.hessian(
            lambda z, o=objective: o.population_loss(log_softmax(z), UNIFORM, PROBLEMS[kind], None)
        )(Z)
        assert not np.isnan(hessian).any()
