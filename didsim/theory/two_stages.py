"""Section 8: DPO beside its rival, a reward model and then the best policy for it.

The last sequence of an instance is the response that no pair shows, where a statement is about one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, log_softmax
from jaxtyping import Array

from didsim.estimation.kl_optimum import kl_optimum
from didsim.fixed_points.solve import fixed_point, solve
from didsim.information import expectation, kl
from didsim.objectives.catalogue import dpo, ipo
from didsim.preferences.by_table import LabelledByTable
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.table import PreferenceTable
from didsim.theory.cases import Case
from didsim.theory.checks import exact, largest, off

AZAR = "arXiv 2310.12036"
_RARE = (1.0, 10.0, 1e3, 1e6)
"""How many nats a response falls that no pair shows."""


def _surprise(policy: Array, reference: Array, beta: Array, weights: Array) -> Array:
    """DPO's loss by its definition, over pairs `(i, j)` with the given weights."""
    h = beta * (policy - reference)
    return -jnp.sum(weights * log_sigmoid(h[:, None] - h[None, :]))


def _pairs_of_the_shown(case: Case) -> Array:
    """Weights of all pairs of sequences but the last."""
    shown = case.third[:-1]
    return jax.nn.softmax(shown)[:, None] * jax.nn.softmax(-shown)[None, :]


def _with_unseen(case: Case, log_share: Array) -> Array:
    """The target, with the last sequence at a given probability."""
    shown = log_softmax(case.target[:-1]) + jnp.log(-jnp.expm1(log_share))
    return jnp.append(shown, log_share)


@exact(
    8,
    "arXiv 1909.08593",
    "π_ref exp(r/β) is the best policy for a reward: any other π has a value smaller by β KL(π ‖ best)",
)
def kl_optimum_is_best(case: Case) -> Array:
    """The difference of two values, against the divergence."""
    best = kl_optimum(case.reward, case.reference, case.beta)

    def value(policy: Array) -> Array:
        return expectation(policy, case.reward) - case.beta * kl(policy, case.reference)

    sizes = case.beta * case.reference, case.beta * case.target, case.beta * best, case.reward
    return off(value(best) - value(case.target), case.beta * kl(case.target, best), *sizes)


@exact(
    8,
    "arXiv 2305.18290",
    "DPO's loss of the best policy for a reward is that reward's logistic loss on the same pairs, and every "
    "policy is the best one for some reward",
)
def two_stages_meet(case: Case) -> Array:
    """Both losses on any pairs, and the way back from a policy."""
    problem = Contrastive(case.target, case.third)
    best = kl_optimum(case.reward, case.reference, case.beta)
    of_policy = dpo(case.beta).population_loss(best, case.reference, problem, None)
    differences = case.reward[:, None] - case.reward[None, :]
    of_reward = -jnp.sum(jnp.exp(case.target[:, None] + case.third[None, :]) * log_sigmoid(differences))
    implied = case.beta * (case.target - case.reference)
    back = kl_optimum(implied, case.reference, case.beta)
    sizes = case.beta * best, case.beta * case.reference
    return largest(
        off(of_policy, of_reward, *sizes), off(back, case.target, case.reference, implied / case.beta)
    )


@exact(
    8,
    "arXiv 2404.10719",
    "If no pair shows a response, DPO's loss is the same whatever probability the response takes from all "
    "others in proportion; the best policy for a reward gives it none if π_ref has none",
    sizes=(2, 3, 8),
)
def unseen_response(case: Case) -> Array:
    """The loss with little, half and most of the mass on the response; and the second stage."""
    weights = _pairs_of_the_shown(case)
    reference = jnp.append(log_softmax(case.reference[:-1]), -jnp.inf)
    shown = reference[:-1]

    def loss(policy: Array) -> Array:
        return _surprise(policy[:-1], shown, case.beta, weights)

    without = loss(_with_unseen(case, jnp.asarray(-jnp.inf)))
    shares = [loss(_with_unseen(case, jnp.log(share))) for share in (0.01, 0.5, 0.99)]
    best = kl_optimum(case.reward, reference, case.beta)
    sizes = case.beta * shown, case.beta * case.target
    return largest(*(off(one, without, *sizes) for one in shares), jnp.exp(best[-1]))


@exact(
    8,
    "arXiv 2406.01462",
    "If no pair shows a response y, policies of one DPO loss have KL(π_ref ‖ π) ≥ π_ref(y) log(1/π(y)) − "
    "log 2, which has no bound",
    sizes=(2, 3, 8),
)
def unbounded_divergence(case: Case) -> Array:
    """A family of policies in which the response becomes rare: their losses, and the bound."""
    weights, shown = _pairs_of_the_shown(case), case.reference[:-1]
    family = [_with_unseen(case, -jnp.asarray(nats)) for nats in _RARE]
    losses = [_surprise(policy[:-1], shown, case.beta, weights) for policy in family]
    share = jnp.exp(case.reference[-1])
    bounds = jnp.stack([share * nats - jnp.log(2.0) for nats in _RARE])
    short = jnp.maximum(0, bounds - jnp.stack([kl(case.reference, policy) for policy in family]))
    sizes = case.beta * shown, case.beta * case.target
    return largest(
        *(off(one, losses[0], *sizes) for one in losses),
        short / (1 + jnp.max(jnp.abs(bounds)) + jnp.max(jnp.abs(case.reference))),
    )


@exact(
    8,
    "after arXiv 2510.20413",
    "If a policy π_ref exp(θ φ), φ = (1, 0, 1), cannot tell a from c, DPO learns σ(β θ) = "
    "(1 − w) P(a ≻ b) + w P(c ≻ b) from pairs (a, b) and (b, c), a share w of them (b, c)",
    sizes=(3,),
)
def misspecified_reversal(case: Case) -> Array:
    """The slope of the loss in `θ`, which must vanish there."""
    beats, loses = case.reward[0] - case.reward[1], case.reward[2] - case.reward[1]
    w = (case.position + 2) / 4
    log_w, log_rest = jnp.log(w), jnp.log1p(-w)

    def mean(sign: int) -> Array:
        """The log of the mean probability that the better or the worse sequence of `b` and the rest wins."""
        return jnp.logaddexp(log_rest + log_sigmoid(sign * beats), log_w + log_sigmoid(sign * loses))

    scaled = mean(1) - mean(-1)  # β θ, of which σ is the mean
    log_probs = jnp.full((3, 3), -jnp.inf)
    log_probs = (
        log_probs.at[0, 1].set(log_rest + log_sigmoid(beats)).at[1, 0].set(log_rest + log_sigmoid(-beats))
    )
    log_probs = log_probs.at[2, 1].set(log_w + log_sigmoid(loses)).at[1, 2].set(log_w + log_sigmoid(-loses))
    features = jnp.array([1.0, 0.0, 1.0])

    def loss(scaled: Array) -> Array:
        policy = log_softmax(case.reference + scaled / case.beta * features)
        return dpo(case.beta).population_loss(policy, case.reference, Joint(log_probs), None)

    size = 1 + case.beta * jnp.max(jnp.abs(case.reference))
    return jnp.abs(jax.grad(loss)(scaled)) / size


@exact(
    8,
    AZAR,
    "If pairs are two draws from μ, IPO ends at π_ref exp(P(y ≻ μ)/τ), also if labels are always right",
)
def ipo_of_win_rates(case: Case) -> Array:
    """The limit under sure labels, of which the larger reward always wins, and under those of a table."""
    distance = case.reward[:, None] - case.reward[None, :]
    sure = PreferenceTable((1 + jnp.sign(distance)) / 2)
    deviations = []
    for table in (sure, PreferenceTable.bradley_terry(case.reward)):
        limit = fixed_point(ipo(case.beta), case.reference, LabelledByTable(table, case.third, case.third))
        rates = jnp.exp(table.win_rates(case.third))
        expected = kl_optimum(rates, case.reference, case.beta)
        deviations.append(off(limit, expected, case.reference, rates / case.beta))
    return largest(*deviations)


@exact(
    8,
    AZAR,
    "If labels are always right, DPO tends to the best response alone, at every β",
    most=40,
    sizes=(2, 3, 8),
)
def dpo_of_sure_labels(case: Case) -> float:
    """The limit of descent on all pairs of a total order."""
    order = np.argsort(-np.asarray(case.reward))
    winners, losers = (order[k] for k in np.triu_indices(len(order), 1))
    limit = solve(dpo(float(case.beta)), case.reference, Pairs(winners, losers)).certificate.limit
    return float(np.abs(np.exp(limit) - (np.arange(len(order)) == order[0])).max())
