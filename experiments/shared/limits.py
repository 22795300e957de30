"""Objectives at comparable settings, and the limit of each."""

import inspect
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Array, Bool, Float

import didsim

SUM = "dpo + sft"
GRADIENT_DESCENT = "gradient descent"
"""How the end of a gradient rule is found."""

_AT_REST = 1e-6


# They joined the library after the committed figures, which do not change. `--set objectives=…` draws them.
_NOT_DRAWN = frozenset(
    {
        "alphapo",
        "aot",
        "aot_unpaired",
        "bdpo",
        "chi_po",
        "dpo_rao_kupper",
        "dpo_shift",
        "h_dpo",
        "ld_dpo",
        "npo",
        "wpo",
    }
)


def drawn_names() -> tuple[str, ...]:
    """Every objective of the committed figures, and those that a user has added to `OBJECTIVES`."""
    return tuple(name for name in didsim.OBJECTIVES if name not in _NOT_DRAWN)


def check_names(names: tuple[str, ...]) -> None:
    """Raise ValueError at the first name that is not an objective."""
    for name in names:
        if name != SUM:
            didsim.OBJECTIVES[name]


def strength(name: str, beta: float, max_length: int) -> dict[str, float]:
    """The argument that gives an objective the `beta` of the data.

    It is `beta`, or `tau` for IPO; the result is empty if the objective has neither. An objective whose
    reward is divided by the length gets `beta · max_length`, so that its rewards have the scale of the
    others.
    """
    make = didsim.OBJECTIVES[name]
    for argument in {"beta", "tau"} & set(inspect.signature(make).parameters):
        reward = make(**{argument: beta}).reward
        per_token = reward.affine and not reward.has_one_slope
        return {argument: beta * max_length if per_token else beta}
    return {}


def make(name: str, beta: float, max_length: int) -> didsim.Objective:
    """An objective with the `beta` of the data (see `strength`) and defaults for all other arguments."""
    if name == SUM:
        return didsim.dpo(beta) + didsim.sft()
    return didsim.OBJECTIVES[name](**strength(name, beta, max_length))


class Limit(NamedTuple):
    """Where an objective ends, for a batch of instances.

    Attributes:
        log_probs: log-probabilities of the policy at the end; `−inf` for probability zero. If the policy runs
            off, they are those at which the solver stopped.
        method: how the end was found.
        converged: whether the end is stationary.
        runs_off: whether the policy ran off towards zero probabilities, as the certificate tells.
        unique: 1 if this is proven to be the only minimiser, 0 if it is not; NaN for all if nothing is
            proven of any.
        agreed: 1 if all starts ended here, 0 if they did not, NaN if there was one start.
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
    """The exact minimiser of each instance.

    A gradient rule (DPO-PG) has no loss to minimise. It is trained by plain gradient descent on logits, from
    the reference.

    Args:
        objective: the objective.
        reference: log-probabilities of the reference policies.
        problem: where pairs come from.
        space: the sequences.
        starts: number of starts of the solver for a loss that is not known to be convex.
        steps: number of steps of a gradient rule.
        learning_rate: learning rate of a gradient rule.
    """
    unknown = np.full(reference.shape[0], np.nan)
    if objective.is_gradient_rule:
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
        return Limit(run.policy.log_probs(), GRADIENT_DESCENT, rests, never, unknown, unknown)
    solution = didsim.solve(objective, reference, problem, space.lengths, starts=starts)
    known = solution.certificate
    return Limit(
        solution.log_probs,
        known.method,
        known.converged,
        known.runs_off,
        known.unique.astype(float) if (known.unique | known.has_others).any() else unknown,
        unknown if known.agreed is None else np.asarray(known.agreed, float),
    )
