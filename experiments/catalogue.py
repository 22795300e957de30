"""Every objective at settings that make them comparable, and where each of them ends."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Array, Bool, Float

import didsim
from didsim.objectives.objective import KeepsChosen

SUM = "dpo + sft"
NAMES = (*didsim.OBJECTIVES, SUM)

# Where a log-probability is below this and the solver still moves, the policy runs off.
_RUNS_OFF = -300.0
_AT_REST = 1e-6


def check_names(names: tuple[str, ...]) -> None:
    """Raise ValueError at the first name of no objective."""
    for name in names:
        if name != SUM:
            didsim.OBJECTIVES[name]


def make(name: str, beta: float, max_length: int) -> didsim.Objective:
    """An objective with the beta of the data, which is also IPO's and SPPO's, and else its own defaults.

    Losses whose rewards are divided by lengths get `beta * max_length`, so that rewards have the scale of
    the others'.
    """
    special: dict[str, Callable[[], didsim.Objective]] = {
        "simpo": lambda: didsim.simpo(beta * max_length),
        "length_normalised_dpo": lambda: didsim.length_normalised_dpo(beta * max_length),
        "orpo": didsim.orpo,
        "sft": didsim.sft,
        SUM: lambda: didsim.dpo(beta) + didsim.sft(),
    }
    return special[name]() if name in special else didsim.OBJECTIVES[name](beta)


class Limit(NamedTuple):
    """Where an objective ends. Arrays have a leading axis of instances; NaN stands for what is not known.

    Attributes:
        log_probs: of the minimiser, `−inf` where it has no mass; of a policy on its way if it runs off.
        method: how it was found.
        converged: whether it is stationary.
        runs_off: whether the policy was on its way to zero probabilities when the solver stopped.
        unique: 1 if it is proven to be the only one, 0 if it is proven not to be.
        agreed: whether all starts ended there.
    """

    log_probs: Float[Array, "instances sequences"]
    method: str
    converged: Bool[np.ndarray, " instances"]
    runs_off: Bool[np.ndarray, " instances"]
    unique: Float[np.ndarray, " instances"]
    agreed: Float[np.ndarray, " instances"]


def find_limit(
    objective: didsim.Objective,
    reference: Float[Array, "instances sequences"],
    problem: didsim.Contrastive,
    space: didsim.SequenceSpace,
    *,
    starts: int,
    steps: int,
    learning_rate: float,
) -> Limit:
    """The exact minimiser of each instance; DPO-PG, which has none of its own, is trained until it rests.

    Args:
        objective: what is minimised.
        reference: the reference policies.
        problem: where pairs come from.
        space: the sequences.
        starts: of the solver, where the loss is not known to be convex.
        steps: of DPO-PG's plain gradient descent on logits, from the reference.
        learning_rate: of the same.
    """
    unknown = np.full(reference.shape[0], np.nan)
    if isinstance(objective, KeepsChosen):
        run = didsim.train(
            didsim.EnergyBased(reference),
            reference,
            problem,
            objective,
            optax.sgd(learning_rate),
            steps,
            record=didsim.Record(steps, {"gradient_norm": didsim.METRICS["gradient_norm"]}),
        )
        rests = np.asarray(run.metrics["gradient_norm"][..., -1]) < _AT_REST
        never = np.zeros_like(rests)
        return Limit(run.policy.log_probs(), "gradient descent", rests, never, unknown, unknown)
    solution = didsim.solve(objective, reference, problem, space.lengths, starts=starts)
    known = solution.certificate
    converged = np.asarray(known.converged)
    return Limit(
        solution.log_probs,
        known.method,
        converged,
        ~converged & (np.asarray(solution.log_probs).min(axis=-1) < _RUNS_OFF),
        unknown if known.unique is None else np.asarray(known.unique, float),
        unknown if known.agreed is None else np.asarray(known.agreed, float),
    )
