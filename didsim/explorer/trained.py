"""Training, step by step: what the page plays."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from didsim.explorer.held_out import held_out_accuracy
from didsim.explorer.limits import solved
from didsim.explorer.problems import log_probs, numbers, objective_of, problem_of
from didsim.explorer.state import State
from didsim.information import entropy, expectation, js
from didsim.objectives import Objective
from didsim.policies import EnergyBased
from didsim.preferences import Problem
from didsim.training import METRICS, Metric, Record, Run, train

STEPS, EVERY = 400, 4

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}
"""What can train, by the names of `State.optimizer`."""

_POLICY = Metric(lambda snapshot: snapshot.log_probs, "Log-probabilities of the policy", "nats")
# Made once, since a new one compiles the program again.
_RECORD = Record(EVERY, {"policy": _POLICY, "displacement": METRICS["chosen_displacement"]})


def run_of(
    state: State,
    objective: Objective,
    reference: Float[Array, " sequences"],
    problem: Problem,
    record: Record,
    target: Float[Array, " sequences"] | None = None,
) -> Run:
    """A run from the reference, with the optimiser of a state."""
    return train(
        EnergyBased(reference),
        reference,
        problem,
        objective,
        Partial(OPTIMIZERS[state.optimizer], state.rate),
        STEPS,
        record=record,
        target=target,
        on_divergence="record",
    )


def training(state: State) -> dict[str, Any]:
    """A run of the state's objective on its pairs, from the reference.

    `displacement` is the change of the log-likelihood of the chosen responses of the pairs that are trained
    on; `held_out_displacement` is that of the population.
    """
    reference, chosen = log_probs(state.reference), log_probs(state.chosen)
    objective, problem = objective_of(state), problem_of(state)
    run = run_of(state, objective, reference, problem, _RECORD)
    policies = jnp.asarray(run.metrics["policy"])
    limit = jnp.asarray(solved(state).certificate.limit)
    return {
        "steps": np.asarray(run.steps).tolist(),
        "policies": numbers(jnp.exp(policies)),
        "displacement": numbers(run.metrics["displacement"]),
        "diverged_at": int(run.diverged_at),
        **_measured(state, policies, chosen, reference, limit),
    }


def _measured(
    state: State,
    policies: Float[Array, "records sequences"],
    chosen: Float[Array, " sequences"],
    reference: Float[Array, " sequences"],
    limit: Float[Array, " sequences"],
) -> dict[str, Any]:
    """What is measured of the records that are finite; null for the others."""
    whole = np.isfinite(np.asarray(policies)).all(axis=-1)
    known = jnp.where(whole[:, None], policies, reference)
    measured = {
        "held_out_displacement": expectation(chosen, known) - expectation(chosen, reference),
        "entropy": entropy(known),
        "accuracy": held_out_accuracy(state, known),
    }
    if not np.isnan(np.asarray(limit)).any():
        measured["js"] = js(known, limit)
    return {name: numbers(np.where(whole, np.asarray(one), np.nan)) for name, one in measured.items()}
