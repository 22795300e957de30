"""What several test files of this folder share."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike

from didsim import Objective, Problem
from tests import papers
from tests.papers import PAPERS, magnitude, rounding
from tests.tables import expectation

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
# These have exponentials of log-ratios, which overflow.
EXPONENTIAL = ("exponential", "fdpo_forward_kl", "fdpo_alpha", "alphapo", "chi_po")


def baseline(name: str, b: float, p: np.ndarray, r: np.ndarray, log_table: np.ndarray) -> float:
    """What rewards are compared with: `b · KL(π ‖ ref)`, or the mean over both sequences of a pair."""
    h = b * (p - r)
    if name == "kto":
        return max(0.0, float(np.exp(p) @ h))
    if name == "bco":
        weights = np.exp(log_table)
        return float((weights.sum(1) @ h + weights.sum(0) @ h) / 2)
    return 0.0


def population(
    name: str,
    b: float,
    p: np.ndarray,
    r: np.ndarray,
    n: np.ndarray,
    log_table: np.ndarray,
    z: float | None = None,
) -> tuple[float, float]:
    """The loss over all pairs, and a bound on rounding."""
    z = baseline(name, b, p, r, log_table) if z is None else z
    if name == "orpo":
        p = papers.with_likeliest_from_the_others(p)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = PAPERS[name](b, papers.Pair(p[:, None], p, r[:, None], r, n[:, None], n, z))
        losses = np.broadcast_to(losses, log_table.shape)
        size = float(np.max(magnitude(name, b, p, r, n)))
        error = EPS * float(rounding(name, b, size)) + 1e-12 * expectation(log_table, np.abs(losses))
    return expectation(log_table, losses), error


@eqx.filter_jit
def losses_and_gradients(
    objectives: dict[str, Objective], logits: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """At the policy of logits."""

    def one(objective: Objective) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda x: objective.loss(jax.nn.log_softmax(x), r, problem, n))(logits)

    return {name: one(objective) for name, objective in objectives.items()}


@eqx.filter_jit
def losses(
    objectives: dict[str, Objective], p: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike | None
) -> dict[str, jax.Array]:
    return {name: objective.loss(p, r, problem, n) for name, objective in objectives.items()}


"""Enough sequences for sums over pairs to be taken in near-linear time."""
"""One objective for each kind of sum; others differ by their rewards."""
