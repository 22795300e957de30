"""Losses that are not convex: another library, from many starts, finds nothing lower.

`DIDSIM_PROBLEMS=500` in the environment makes as many problems instead of a few.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import didsim

PROBLEMS = int(os.environ.get("DIDSIM_PROBLEMS", "12"))
SIZE, STARTS = 6, 20
OBJECTIVES = {"exo": lambda beta: didsim.exo(beta, 1e-3), "orpo": didsim.orpo}


def intransitive_table(rng: np.random.Generator) -> np.ndarray:
    """Shares of all ordered pairs of different sequences, drawn without any reward behind them."""
    table = np.zeros((SIZE, SIZE))
    table[~np.eye(SIZE, dtype=bool)] = rng.dirichlet(np.full(SIZE * (SIZE - 1), rng.choice([0.3, 3.0])))
    return table


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_search_from_many_starts_finds_nothing_lower(name: str) -> None:
    rng = np.random.default_rng(0)
    references = jnp.log(rng.dirichlet(np.ones(SIZE), PROBLEMS))
    betas = 10 ** rng.uniform(-2, 1, PROBLEMS)
    with np.errstate(divide="ignore"):
        tables = np.log([intransitive_table(rng) for _ in range(PROBLEMS)])
    make = OBJECTIVES[name]
    solution = didsim.solve(jax.vmap(make)(betas), references, didsim.Joint(tables), starts=64)
    assert np.all(np.isfinite(solution.log_probs))

    @jax.jit
    @jax.value_and_grad
    def loss(z: jax.Array, beta: jax.Array, reference: jax.Array, problem: didsim.Joint) -> jax.Array:
        return make(beta).population_loss(jax.nn.log_softmax(z), reference, problem, None)

    for k in range(PROBLEMS):
        given = betas[k], references[k], didsim.Joint(tables[k])
        found = float(loss(solution.log_probs[k], *given)[0])
        for start in range(STARTS):
            # Every other one is spread over rewards, not over log-probabilities.
            spread = (1.0, 3.0, 10.0)[start % 3] / (betas[k] if start % 2 else 1)
            other = minimize(
                lambda z, given=given: [np.asarray(one) for one in loss(z, *given)],
                references[k] + spread * rng.normal(size=SIZE),
                jac=True,
                method="BFGS",
                options={"gtol": 1e-10},
            )
            assert other.fun > found - 1e-9, (k, start)
