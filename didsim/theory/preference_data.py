"""Section 2: the information in preference pairs."""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array

from didsim.families import best_of_n, worst_of_n
from didsim.information import did, geodesic
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled
from didsim.preferences.rejected import optimal_rejected
from didsim.theory.cases import Case
from didsim.theory.checks import PAPER, exact, largest, off


def _pairs(size: int) -> tuple[Array, Array]:
    i, j = jnp.indices((size, size))
    return i, j


def _differences(values: Array) -> Array:
    return values[:, None] - values[None, :]


@exact(
    2,
    PAPER,
    "Contrastive pairs follow the Bradley–Terry model of the reward log q_{w/l}: p = σ(log q_i − log q_j)",
)
def bradley_terry(case: Case) -> Array:
    """The preference against Bayes' rule on the unordered pair."""
    w, el = case.target, case.third
    i, j = _pairs(case.size)
    by_rule = jax.nn.sigmoid((w[:, None] + el[None, :]) - (w[None, :] + el[:, None]))
    by_did = jax.nn.sigmoid(_differences(did(w, el)))
    # A probability comes from log-odds, whose rounding grows with their size.
    return largest(off(Contrastive(w, el).preference(i, j), by_rule, w, el), off(by_did, by_rule, w, el))


@exact(2, PAPER, "If q_{ref/l} ∝ q_{*/ref}^β, preferences are p = σ(β log q_{*/ref}(i) − β log q_{*/ref}(j))")
def power_law_preferences(case: Case) -> Array:
    """Chosen responses come from the reference, rejected responses from the optimal distribution."""
    reference, target, beta = case.reference, case.target, case.beta
    rejected = optimal_rejected(reference, target, beta)
    i, j = _pairs(case.size)
    expected = jax.nn.sigmoid(beta * _differences(did(target, reference)))
    sizes = reference, target, beta * (target - reference), rejected
    return off(Contrastive(reference, rejected).preference(i, j), expected, *sizes)


@exact(2, PAPER, "The optimal rejected distribution π_l ∝ π_ref (π_ref/π*)^β gives q_{ref/l} ∝ q_{*/ref}^β")
def optimal_rejected_law(case: Case) -> Array:
    """The law, from the definition of the DID."""
    reference, target, beta = case.reference, case.target, case.beta
    rejected = optimal_rejected(reference, target, beta)
    law = log_softmax(beta * did(target, reference))
    return off(did(reference, rejected), law, reference, rejected, beta * (target - reference))


@exact(
    2,
    PAPER,
    "The optimal rejected distribution is unique: preferences determine q_{ref/l}, and π_ref then gives π_l",
)
def optimal_rejected_unique(case: Case) -> Array:
    """Preferences between each sequence and the first give back the rejected distribution.

    The policies are flattened first, since a probability below e^−708 is rounded to zero.
    """
    reference, rejected = (p / jnp.maximum(1, -jnp.min(p) / 150) for p in (case.reference, case.third))
    reference, rejected = log_softmax(reference), log_softmax(rejected)
    problem, others = Contrastive(reference, rejected), jnp.arange(case.size)
    odds = jnp.log(problem.preference(others, 0)) - jnp.log(problem.preference(0, others))
    return off(log_softmax(reference - odds), rejected, reference, odds)


@exact(2, PAPER, "π_l, π_ref and π* are on one geodesic π_ref q^s, at s = −β, 0 and 1")
def one_geodesic(case: Case) -> Array:
    """The three positions."""
    reference, target, beta = case.reference, case.target, case.beta
    log_q = did(target, reference)
    sizes = reference, target, beta * log_q
    return largest(
        off(geodesic(reference, log_q, -beta), optimal_rejected(reference, target, beta), *sizes),
        off(geodesic(reference, log_q, jnp.zeros(())), reference, *sizes),
        off(geodesic(reference, log_q, jnp.ones(())), target, *sizes),
    )


@exact(2, PAPER, "The preference of labelled pairs is that of their labels, σ(r_i − r_j), for all samplers")
def labelled_preference(case: Case) -> Array:
    """The preference, from how often each pair occurs in each order."""
    problem = Labelled(case.reward, case.target, case.third, separable=False)
    table = problem.joint(case.size).log_probs
    return off(table - table.T, _differences(case.reward), table)


@exact(
    2,
    PAPER,
    "The best and the worst of n draws have closed forms that share ties in proportion to π (here n = 2)",
)
def best_and_worst_of_two(case: Case) -> Array:
    """An enumeration of all draws, with scores rounded so that there are ties."""
    p, score = case.reference, jnp.round(case.reward)
    both = jnp.exp(p[:, None] + p[None, :])
    # Of two draws with the same score, each is kept half of the time: a tie is shared in proportion to π.
    tie = 0.5
    difference = _differences(score)
    first = jnp.where(difference > 0, 1.0, jnp.where(difference == 0, tie, 0.0))
    best = jnp.sum(both * first, axis=1) + jnp.sum(both * (1 - first), axis=0)
    last = jnp.where(difference < 0, 1.0, jnp.where(difference == 0, tie, 0.0))
    worst = jnp.sum(both * last, axis=1) + jnp.sum(both * (1 - last), axis=0)
    return largest(
        off(jnp.exp(best_of_n(p, score, 2.0)), best), off(jnp.exp(worst_of_n(p, score, 2.0)), worst)
    )
