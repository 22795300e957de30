"""Section 9: preferences that no reward explains, and policies that no other beats."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, logsumexp
from jaxtyping import Array

from didsim.games.exploitability import exploitability
from didsim.games.nash import nash
from didsim.information import kl
from didsim.objectives.catalogue import dpo, inpo, ipo, sppo
from didsim.objectives.objective import Objective
from didsim.preferences.by_table import LabelledByTable
from didsim.preferences.online import Online, OnPolicy
from didsim.preferences.table import PreferenceTable
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, exact, largest, off

MUNOS = "arXiv 2312.00886"


def _any_table(case: Case) -> PreferenceTable:
    """A table that no reward explains: the log-odds of a pair are `r_i z_j − z_i r_j`."""
    product = case.reward[:, None] * case.third[None, :]
    return PreferenceTable(jax.nn.sigmoid(product - product.T))


def _gains(table: PreferenceTable, policy: Array) -> Array:
    """`P(y ≻ π) − 1/2`, as a sum of leads, whose own rounding is all of its error."""
    wins = jnp.exp(table.log_wins)
    return (wins - wins.T) @ jnp.exp(policy) / 2


def _reference_of(case: Case, table: PreferenceTable) -> Array:
    """The reference for which the target is the regularised Nash policy of a table."""
    return log_softmax(case.target - _gains(table, case.target) / case.beta)


@exact(
    9,
    OURS,
    "If pairs are uniform and every sequence wins as often as it loses, as in a cycle, DPO learns nothing, "
    "whatever β",
)
def dpo_on_a_cycle(case: Case) -> Array:
    """The slope of the loss at the reference, for a table in which all sequences are alike but for names."""
    ahead = (np.arange(case.size) - np.arange(case.size)[:, None]) % case.size
    lead = (case.reward - jnp.roll(case.reward[::-1], 1)) / 2  # of the sequence `k` places ahead; odd in `k`
    table = PreferenceTable(jax.nn.sigmoid(lead[ahead]))
    uniform = jnp.full(case.size, -jnp.log(case.size))
    problem = LabelledByTable(table, uniform, uniform)

    def loss(logits: Array) -> Array:
        return dpo(case.beta).population_loss(log_softmax(logits), case.reference, problem, None)

    # Of the size of β, by which the slope is divided, times the rounding of log-probabilities.
    size = 1 + case.beta * jnp.max(jnp.abs(case.reference))
    return largest(jnp.abs(jax.grad(loss)(case.reference))) / (case.beta * size)


@exact(
    9,
    OURS,
    "With payment β KL, the best answer to π beats it by β KL(π ‖ b), b ∝ π_ref exp(P(y ≻ π)/β)",
)
def exploitability_is_a_divergence(case: Case) -> Array:
    """The library's number, against the value of the best answer less that of the policy."""
    table = _any_table(case)
    gains = _gains(table, case.target)
    best = case.beta * logsumexp(case.reference + gains / case.beta)
    own = jnp.sum(jnp.exp(case.target) * gains) - case.beta * kl(case.target, case.reference)
    found = exploitability(case.target, table, case.reference, case.beta)
    return off(found, best - own, case.beta * case.reference, case.beta * case.target)


@exact(
    9,
    MUNOS,
    "The regularised Nash policy is the one with π ∝ π_ref exp(P(y ≻ π)/β)",
    most=40,
    sizes=(2, 3, 8),
)
def regularised_nash(case: Case) -> Array:
    """The policy that is known to be it, against the one that `nash` finds: by how much each is beaten."""
    table = _any_table(case)
    reference = _reference_of(case, table)
    found = nash(table, reference, case.beta)
    answer = log_softmax(reference + _gains(table, found.log_probs) / case.beta)
    known = exploitability(case.target, table, reference, case.beta)
    return largest(
        off(found.log_probs, answer, reference, 1 / case.beta),
        known / (1 + case.beta * jnp.max(jnp.abs(reference))),
        jnp.asarray(found.exploitability),
    )


@exact(
    9,
    "arXiv 2405.00675, 2403.08635, 2407.00617",
    "On pairs of the policy's own, SPPO, IPO and INPO rest at the regularised Nash policy",
)
def self_play_rests_at_nash(case: Case) -> Array:
    """The slopes of three losses at the Nash policy, in units of the numbers that cancel in them."""
    table = _any_table(case)
    reference = _reference_of(case, table)
    problem = Online(table, OnPolicy())
    slopes = []
    for objective in (sppo(case.beta), ipo(case.beta), inpo(case.beta, 3 * case.beta)):

        def loss(logits: Array, objective: Objective = objective) -> Array:
            return objective.population_loss(log_softmax(logits), reference, problem, None)

        slopes.append(jnp.abs(jax.grad(loss)(case.target)))
    size = 1 + 1 / case.beta + jnp.max(jnp.abs(reference)) + jnp.max(jnp.abs(case.target))
    return largest(*slopes) / size


@exact(
    9,
    "Kreweras (1965), arXiv 1502.06362",
    "Every table has a policy that no sequence beats more often than not",
    most=40,
    sizes=(2, 3, 8),
)
def unregularised_nash(case: Case) -> float:
    """By how much the linear program's policy is beaten, in NumPy."""
    table = _any_table(case)
    policy = np.exp(nash(table).log_probs)
    wins = np.exp(np.asarray(table.log_wins))
    return float(max(0, ((wins - wins.T) / 2 @ policy).max()))
