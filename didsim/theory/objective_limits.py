"""Section 3: objectives, and where they converge.

A limit must be stationary: the pull that raises the reward of a sequence equals the pull that lowers it. Both
pulls are sums over all pairs, computed in logarithms.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, log_softmax, logsumexp
from jaxtyping import Array, Float
from scipy.optimize import linprog
from scipy.special import expit, xlogy

from didsim.families import best_of_n, worst_of_n
from didsim.fixed_points.hinge import minimise_hinge
from didsim.fixed_points.solve import fixed_point, solve
from didsim.fixed_points.win_graph import compare
from didsim.information import did, js
from didsim.objectives.catalogue import (
    apo_zero,
    dpo,
    exponential,
    fdpo_alpha,
    fdpo_forward_kl,
    fdpo_js,
    ipo,
    kto,
    simpo,
)
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.rejected import optimal_rejected
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, claim, exact, largest, off


def _differences(values: Array) -> Array:
    return values[:, None] - values[None, :]


def _imbalance(log_weights: Array, h: Array, log_slope: Callable[[Array], Array], *sizes: Array) -> Array:
    """How far `h` is from stationary for `Σ_ij W_ij φ(h_i − h_j)`, with `−φ′ = exp(log_slope)`."""
    pulls = log_weights + log_slope(_differences(h))
    return off(logsumexp(pulls, axis=1), logsumexp(pulls, axis=0), log_weights, h, *sizes)


def _contrastive(case: Case) -> tuple[Contrastive, Array]:
    """Pairs of any chosen and rejected distributions, and the log-weights of all pairs."""
    problem = Contrastive(case.target, case.third)
    return problem, case.target[:, None] + case.third[None, :]


def _under_power_law(case: Case) -> Contrastive:
    return Contrastive(case.reference, optimal_rejected(case.reference, case.target, case.beta))


def _log_slope_of_logistic(d: Array) -> Array:
    return log_sigmoid(-d)


@exact(3, PAPER, "The normaliser of the softmax cancels in DPO's loss, and the loss is convex in the logits")
def convexity(case: Case) -> Array:
    """The loss of unnormalised logits, and a chord that must not pass below the loss."""
    problem, log_weights = _contrastive(case)
    objective = dpo(case.beta)

    def by_pairs(logits: Array) -> Array:
        surprise = -log_sigmoid(case.beta * _differences(logits - case.reference))
        return jnp.sum(jnp.exp(log_weights) * surprise)

    one, two = case.third + 3 * case.reward, case.reference - case.reward
    middle = by_pairs((one + two) / 2)
    chord = (by_pairs(one) + by_pairs(two)) / 2
    value = objective.population_loss(log_softmax(one), case.reference, problem, None)
    size = 1 + case.beta * jnp.max(jnp.abs(jnp.stack([one, two, case.reference])))
    return largest(
        off(value, by_pairs(one), size), jnp.maximum(0, middle - chord) / (1 + jnp.abs(chord) + size)
    )


@exact(3, PAPER, "DPO converges to π_ref (π_w/π_l)^(1/β)")
def dpo_limit(case: Case) -> Array:
    """Stationarity of the policy that `fixed_point` returns."""
    problem, log_weights = _contrastive(case)
    limit = fixed_point(dpo(case.beta), case.reference, problem)
    h = case.beta * (limit - case.reference)
    rounded = case.beta * limit, case.beta * case.reference
    return _imbalance(log_weights, h, _log_slope_of_logistic, *rounded)


@exact(
    3,
    PAPER,
    "DPO learns the target if chosen responses come from π_ref, rejected ones from the optimal distribution",
)
def dpo_learns_target(case: Case) -> Array:
    """The limit against the target."""
    limit = fixed_point(dpo(case.beta), case.reference, _under_power_law(case))
    ratio = case.target - case.reference
    return off(limit, case.target, case.reference, ratio, case.reference / case.beta, case.target / case.beta)


@exact(3, PAPER, "With β_d in the data and β_t in training, DPO converges to π_ref (π*/π_ref)^(β_d/β_t)")
def dpo_other_beta(case: Case) -> Array:
    """The limit against the tempered DID."""
    limit = fixed_point(dpo(case.other_beta), case.reference, _under_power_law(case))
    step = case.beta / case.other_beta * (case.target - case.reference)
    scale = case.reference / case.other_beta
    return off(limit, log_softmax(case.reference + step), case.reference, step, scale, step / case.beta)


@exact(
    3,
    OURS,
    "If a pair (i, j) is kept as often as the pair (j, i), DPO's limit is that of all pairs: pairs may be "
    "chosen by how alike their responses are",
)
def symmetric_selection(case: Case) -> Array:
    """Stationarity of the limit on pairs whose weights are those of all pairs times `K_ij = K_ji`."""
    problem, log_weights = _contrastive(case)
    kept = log_sigmoid(case.reward[:, None] * case.reward[None, :])
    limit = fixed_point(dpo(case.beta), case.reference, problem)
    h = case.beta * (limit - case.reference)
    rounded = case.beta * limit, case.beta * case.reference
    return _imbalance(log_weights + kept, h, _log_slope_of_logistic, *rounded)


@exact(
    3,
    OURS,
    "DPO on the best and the worst of two draws learns the odds of a win over π_ref: "
    "π_∞ ∝ π_ref (P(y ≻ π_ref)/P(π_ref ≻ y))^(1/β)",
)
def best_and_worst_pairs(case: Case) -> Array:
    """The limit against the odds of a win over a draw from the reference, of scores with ties.

    With `F` the probability of a score up to that of `y`, and `G` that of its score, the best of two draws is
    `y` with probability `π_ref(y) (2F − G)`, and the worst with `π_ref(y) (2 − 2F + G)`.
    """
    p, score = case.reference, jnp.round(case.reward)
    ahead = jnp.sign(_differences(score))
    problem = Contrastive(best_of_n(p, score, 2.0), worst_of_n(p, score, 2.0))
    limit = fixed_point(dpo(case.beta), p, problem)
    wins, losses = (
        logsumexp(p[None, :] + jnp.where(side > 0, 0, jnp.where(side == 0, jnp.log(0.5), -jnp.inf)), axis=1)
        for side in (ahead, -ahead)
    )
    step = (wins - losses) / case.beta
    return off(limit, log_softmax(p + step), p, step, p / case.beta)


@exact(3, PAPER, "If π_w = π_l, nothing is learned")
def nothing_to_learn(case: Case) -> Array:
    """The limits of three losses."""
    problem = Contrastive(case.target, case.target)
    limits = [
        fixed_point(objective, case.reference, problem)
        for objective in (dpo(case.beta), ipo(case.beta), exponential(case.beta))
    ]
    return largest(*(off(limit, case.reference) for limit in limits))


@exact(
    3,
    OURS,
    "SimPO without margin, at equal lengths, converges to (π_w/π_l)^(1/β); under the power law, to q_{*/ref}",
)
def simpo_limit(case: Case) -> Array:
    """Stationarity of the limit, and the DID under the power law."""
    problem, log_weights = _contrastive(case)
    objective = simpo(case.beta, gamma=0)
    limit = fixed_point(objective, case.reference, problem)
    stationary = _imbalance(log_weights, case.beta * limit, _log_slope_of_logistic)
    under_law = fixed_point(objective, case.reference, _under_power_law(case))
    log_q = did(case.target, case.reference)
    return largest(
        stationary,
        off(
            under_law, log_q, case.reference, case.target, case.reference / case.beta, case.target / case.beta
        ),
    )


@exact(
    3,
    OURS,
    "SimPO per token, without margin: log π_∞(y) = |y| (log(π_w/π_l)(y) + c)/β, for the c that normalises",
)
def simpo_per_token_limit(case: Case) -> Array:
    """The rewards of the limit, at lengths of one to three tokens, and its normalisation."""
    problem, _ = _contrastive(case)
    lengths = 1 + jnp.arange(case.size) % 3
    objective = simpo(case.beta, gamma=0, length_normalised=True)
    limit = fixed_point(objective, case.reference, problem, lengths)
    h, data = case.beta * limit / lengths, case.target - case.third
    top = jnp.argmax(limit)
    return largest(
        off(h - h[top], data - data[top], data, case.beta * limit), off(logsumexp(limit), jnp.zeros(()))
    )


@exact(3, OURS, "IPO: log(π_∞/π_ref) = b (π_w − π_l)/(π_w + π_l) + const, so log-ratios differ by at most 2b")
def ipo_limit(case: Case) -> Array:
    """Stationarity in the reward of each sequence, relative to its mass, and the bound."""
    problem, _ = _contrastive(case)
    w, el = jnp.exp(case.target), jnp.exp(case.third)
    centre = 1 / (2 * case.beta)
    limit = fixed_point(ipo(case.beta), case.reference, problem)
    h = limit - case.reference
    h = (h - jnp.mean(h)) / centre
    share = jax.nn.sigmoid(case.target - case.third)
    force = h - share * jnp.sum(el * h) - (1 - share) * jnp.sum(w * h) - (2 * share - 1)
    b = 1 / (1 + jnp.sum((w - el) * (2 * share - 1)) / 2)
    rounded = limit / centre, case.reference / centre
    stationary = off(force, jnp.zeros_like(force), h, *rounded)
    too_wide = jnp.maximum(0, jnp.max(h) - jnp.min(h) - 2 * b)
    return largest(stationary, too_wide / (1 + jnp.max(jnp.abs(jnp.stack(rounded)))))


@exact(3, OURS, "The exponential loss converges to π_ref (π_w/π_l)^(1/(2β))")
def exponential_limit(case: Case) -> Array:
    """Stationarity."""
    problem, log_weights = _contrastive(case)
    limit = fixed_point(exponential(case.beta), case.reference, problem)
    h = case.beta * (limit - case.reference)
    return _imbalance(log_weights, h, lambda d: -d, case.beta * limit, case.beta * case.reference)


@exact(
    3,
    OURS,
    "f-DPO (forward KL, JS, alpha): β f′(π_∞/π_ref) = log(π_w/π_l) + const; one root gives the constant",
    sizes=(2, 8),
)
def fdpo_limit(case: Case) -> Array:
    """The error of the limit's rewards, relative to what rounding of log-probabilities may cause."""
    problem, _ = _contrastive(case)
    data = case.target - case.third
    worst = []
    for objective in (fdpo_forward_kl(case.beta), fdpo_js(case.beta), fdpo_alpha(case.beta, 0.5)):
        limit = fixed_point(objective, case.reference, problem)
        h = objective.reward(limit, case.reference, None)
        top = jnp.argmax(data)
        # How much a reward changes with a rounded logarithm.
        slope = jax.vmap(jax.grad(lambda p, r, o=objective: o.reward(p, r, None)))(limit, case.reference)
        rounding = jnp.abs(slope) * (1 + jnp.abs(limit) + jnp.abs(case.reference))
        error = jnp.abs((h - h[top]) - (data - data[top]))
        size = 1 + jnp.abs(data - data[top]) + jnp.max(jnp.abs(data)) + rounding + rounding[top]
        worst.append(error / size)
    return largest(*worst)


@exact(
    3,
    PAPER,
    "On labelled pairs, DPO converges to π_ref exp(r/β) for all samplers",
    sizes=(2, 8),
)
def labelled_limit(case: Case) -> Array:
    """Stationarity under two pairs of samplers."""
    limit = log_softmax(case.reference + case.reward / case.beta)
    h = case.beta * (limit - case.reference)
    worst = []
    for first, second in ((case.target, case.third), (case.reference, case.reference)):
        problem = Labelled(case.reward, first, second, separable=False)
        found = fixed_point(dpo(case.beta), case.reference, problem)
        worst.append(off(found, limit, case.reference, case.reward / case.beta))
        log_weights = problem.joint(case.size).log_probs
        rounded = case.beta * limit, case.beta * case.reference
        worst.append(_imbalance(log_weights, h, _log_slope_of_logistic, *rounded))
    return largest(*worst)


@claim(
    3,
    PAPER,
    "Only the log-ratio reward learns π*: JS(limit, π*) > 1e-6 for IPO, exponential, SimPO and f-DPO",
    sizes=(2, 8),
)
def only_the_log_ratio(case: Case) -> Array:
    """Whether all five other objectives miss the target."""
    problem = _under_power_law(case)
    others = (
        ipo(case.beta),
        exponential(case.beta),
        simpo(case.beta, gamma=0),
        fdpo_forward_kl(case.beta),
        fdpo_js(case.beta),
    )
    missed = [js(fixed_point(one, case.reference, problem), case.target) > 1e-6 for one in others]
    return jnp.all(jnp.stack(missed))


def _numbers(case: Case) -> np.random.Generator:
    """A NumPy generator with the instance's key for its seed."""
    return np.random.default_rng(np.asarray(jax.random.key_data(case.key)))


@exact(
    3,
    OURS,
    "The hinge (SLiC) has a minimiser with all rewards on a grid of unit spacing",
    most=100,
    sizes=(2, 3, 8),
)
def hinge_on_a_grid(case: Case) -> float:
    """By how much other rewards improve on the minimiser, as a share of its loss.

    Other rewards are those of the minimiser with any set raised by one, and a minimiser over real numbers. If
    the minimiser is said to be unique, raising any set must raise the loss.
    """
    # The policies are flattened, since linear programs are solved to 1e-10 of the largest weight.
    chosen, rejected = (log_softmax(p / jnp.maximum(1, -jnp.min(p) / 6)) for p in (case.target, case.third))
    weights = np.exp(np.asarray(chosen)[:, None] + np.asarray(rejected)[None, :])
    np.fill_diagonal(weights, 0)
    found = minimise_hinge(weights)
    if not found.solved or np.any(found.h != np.round(found.h)):
        return np.inf

    def loss(h: Float[np.ndarray, "*sets n"]) -> Float[np.ndarray, "*sets"] | np.float64:
        """The loss of one or more vectors of rewards."""
        return np.sum(weights * np.maximum(0, 1 - (h[..., :, None] - h[..., None, :])), axis=(-2, -1))

    sets = (np.arange(1, 2**case.size - 1)[:, None] >> np.arange(case.size)) & 1
    here, moved = loss(found.h), loss(found.h + sets)
    if found.spread == 0 and moved.min() <= here:
        return np.inf
    return float(max(0.0, here - moved.min(), here - loss(_hinge_by_slacks(weights))) / here)


def _hinge_by_slacks(weights: np.ndarray) -> np.ndarray:
    """Real rewards that minimise an expected hinge.

    They solve a linear program in the rewards and in slacks `≥ 1 − (h_i − h_j)`.
    """
    size = len(weights)
    winners, losers = np.nonzero(~np.eye(size, dtype=bool))
    pairs = np.arange(len(winners))
    constraint = np.zeros((len(pairs), size + len(pairs)))
    constraint[pairs, winners], constraint[pairs, losers] = -1, 1
    constraint[pairs, size + pairs] = -1
    cost = np.concatenate([np.zeros(size), weights[winners, losers] / weights.max()])
    bounds = [(None, None)] * size + [(0, None)] * len(pairs)
    solution: np.ndarray = linprog(cost, A_ub=constraint, b_ub=-np.ones(len(pairs)), bounds=bounds).x
    return solution[:size]


@exact(
    3,
    PAPER,
    "DPO has a minimiser on finite data iff a chain of wins leads from every sequence to every other (Ford)",
    most=200,
    sizes=(3, 8),
)
def finite_data_condition(case: Case) -> float:
    """1 if the graph of wins and an enumeration of all sets disagree, else 0.

    If a set of sequences never loses to the rest, its rewards can grow without bound while the loss falls.
    """
    numbers = _numbers(case)
    wins = numbers.random((case.size, case.size)) < numbers.uniform(0.2, 0.7)
    np.fill_diagonal(wins, False)
    if not wins.any():
        return 0.0
    pairs = Pairs(*(jnp.asarray(end)[None] for end in np.nonzero(wins)))
    connected = bool(compare(pairs, case.size, 1, both_ways=True).identified.all())
    sets = [
        np.array([(code >> k) & 1 for k in range(case.size)], bool) for code in range(1, 2**case.size - 1)
    ]
    bounded = all(wins[~inside][:, inside].any() for inside in sets)
    return float(connected != bounded)


@claim(
    3,
    PAPER,
    "On finite data with a minimiser, the mean JS(π̂, π*) falls like 1/n (log–log slope −1 ± 0.25)",
    most=6,
    sizes=(3,),
)
def finite_data_rate(case: Case) -> bool:
    """100 datasets of each size, from 250,000 to 16 million pairs, under the power law."""
    numbers = _numbers(case)
    table = np.exp(np.asarray(_under_power_law(case).joint(case.size).log_probs)).ravel()
    sizes = 250_000 * 4 ** np.arange(4)
    counts = np.stack([numbers.multinomial(n, table / table.sum(), size=100) for n in sizes])
    with np.errstate(divide="ignore"):
        tables = np.log(counts / sizes[:, None, None]).reshape(4, 100, case.size, case.size)
    solution = solve(dpo(case.beta), case.reference, Joint(tables))
    good = np.asarray(solution.certificate.identified).all(axis=-1) & np.asarray(
        solution.certificate.converged
    )
    if (good.sum(axis=1) < 50).any():
        return False
    usable = jnp.where(good[..., None], solution.log_probs, case.target)
    distance = np.asarray(js(usable, case.target))
    means = [distance[k][good[k]].mean() for k in range(len(sizes))]
    return bool(abs(np.polyfit(np.log(sizes), np.log(means), 1)[0] + 1) < 0.25)


@exact(
    3,
    OURS,
    "The limits of APO-zero and of KTO (z0 held) give no mass to sequences rejected more often than chosen",
    most=40,
    sizes=(3, 8),
)
def bounded_rewards_limit(case: Case) -> float:
    """By how much the loss falls if a share of the limit's mass moves to any other distribution."""
    beta = jnp.clip(case.beta, 0.05, 0.5)
    # The policies are flattened, since a certificate needs probabilities well above rounding.
    policies = case.reference, case.target, case.third
    reference, chosen, rejected = (log_softmax(p / jnp.maximum(1, -jnp.min(p) / 3)) for p in policies)
    problem = Contrastive(chosen, rejected)
    gain = np.exp(np.asarray(chosen)) - np.exp(np.asarray(rejected))
    if gain.max() <= 0:
        return 0.0
    others = _numbers(case).dirichlet(np.ones(case.size), size=200)
    steps = 10.0 ** -np.arange(6)
    lower = [0.0]
    # KTO gets half the beta, because it leaves less probability to the unlikely part of its support.
    for objective, scale in ((apo_zero(beta), beta), (kto(beta / 2), beta / 2)):
        solution = solve(objective, reference, problem, starts=2)
        if not bool(solution.certificate.converged):
            return np.inf
        p = np.exp(np.asarray(solution.log_probs))
        divergence = np.sum(xlogy(p, p) - p * np.asarray(reference))
        held = float(scale) * divergence if objective.has_baseline else 0.0

        def loss(q: np.ndarray, scale: float = float(scale), held: float = held) -> float:
            with np.errstate(divide="ignore"):
                reward = scale * (np.log(q) - np.asarray(reference))
            return -float(np.sum(gain * expit(reward - held)))

        lower += [loss(p) - loss((1 - step) * p + step * q) for q in others for step in steps]
    return max(lower)
