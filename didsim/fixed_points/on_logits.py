"""The search over the logits of all sequences, for losses that have no shorter way."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array

from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.compiling import compiled
from didsim.fixed_points.hessians import Curvature
from didsim.fixed_points.lbfgs import minimise_large
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.newton_cg import minimise_convex
from didsim.fixed_points.smoothing import TEMPERATURES, has_kinks, smoothed
from didsim.fixed_points.task import (
    DENSE,
    First,
    Task,
    best_of,
    check_dense,
    compared_by,
    mass,
    over_starts,
    random_starts,
    solution_of,
    with_start,
)
from didsim.objectives.curvature import Expansion, InLogProbs
from didsim.objectives.objective import Objective
from didsim.objectives.terms import Single
from didsim.pairwise.primitive import at_few_nodes
from didsim.preferences.problem import Problem

# When all log-probabilities are shifted, a slope of this many roundings of the given numbers is none.
_NO_SLOPE = 1e2


def solve_bounded(task: Task, terms: tuple[Single, ...], starts: int, first: First | None = None) -> Solution:
    """Losses `1 − σ(±(h − z))` of single sequences alone, which put all mass where it pays."""
    reward = terms[0].reward
    one_reward = all(bool(eqx.tree_equal(term.reward, reward)) for term in terms[1:])
    one_baseline = all(bool(eqx.tree_equal(term.baseline, terms[0].baseline)) for term in terms[1:])
    if not (reward.is_log_ratio and one_reward and one_baseline):
        return solve_on_logits(task, starts, first)
    support = _gains(terms, task.problem, task.reference, task.eps) > 0
    # Where nothing is to be gained there is no such set.
    support = support | ~support.any(axis=-1, keepdims=True)
    note = "Sequences that are rejected more often than chosen, as the loss weighs them, get probability zero"
    return solve_on_logits(
        task,
        starts,
        first,
        support=support,
        unique=reward.has_concave_sigmoid & (not task.objective.has_baseline),
        note="" if bool(support.all()) else note,
    )


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(eqx.if_array(0), eqx.if_array(0), 0, None))
def _gains(terms: tuple[Single, ...], problem: Problem, reference: Array, eps: float) -> Array:
    """What each sequence adds to minus the loss, per unit of `σ(h − z)`, for losses `1 − σ(±(h − z))`."""
    total = gross = jnp.zeros_like(reference)
    for term in terms:
        of = problem.chosen_marginal if term.sequence == "chosen" else problem.rejected_marginal
        part = term.weighted(jnp.exp(of(reference.shape[-1])))
        total, gross = (total + part if term.push == "up" else total - part), gross + part
    # What is chosen as often as rejected has no gain but rounding.
    return jnp.where(jnp.abs(total) <= 8 * eps * gross, 0, total)


def solve_on_logits(
    task: Task,
    starts: int,
    first: First | None = None,
    support: Array | None = None,
    unique: np.ndarray | Array | None = None,
    note: str = "",
) -> Solution:
    """Newton's method on the logits of a policy over all sequences, or over those of a support.

    The policy of `first` takes the reference's place as the first start.
    """
    log_convex, convex = task.objective.is_convex_in_log_probs, task.objective.is_convex_in_logits
    noise = random_starts(task, 1 if convex and support is None else starts)
    starting = np.asarray(task.reference)[:, None] + noise
    guesses = jnp.asarray(with_start(starting, 0, None if first is None else first.log_probs))
    if task.size > DENSE:
        if task.objective.has_baseline or task.problem.online or support is not None:
            check_dense(task, "a loss that depends on the policy other than through its gradient")
        if convex and not has_kinks(task.objective) and task.objective.knows_own_curvature:
            method = Method.NEWTON_CG_ON_LOGITS
            found = at_few_nodes(lambda: _newton_cg(task, guesses))
        else:
            method = Method.LBFGS_ON_LOGITS
            found = _lbfgs(task, guesses)
    else:
        method = Method.NEWTON_ON_LOGITS
        task, found = rounding_kinks(task, guesses, lambda task, z: _newton_on_logits(task, z, support))
    ends = log_softmax(found.z if support is None else _masked(found.z, support[:, None]), axis=-1)
    best, policies, agreed = best_of(task, found, ends)
    if unique is None:
        unique = np.asarray(False)
        if log_convex and not task.objective.has_baseline:
            # A set of log-probabilities that sum to at most one is convex; see `solve`.
            slope = at_few_nodes(lambda: _shift_slope(task, jnp.asarray(policies)))
            unique = np.asarray(slope) <= max(1e-9, _NO_SLOPE * task.eps)
    return solution_of(
        task,
        policies,
        method,
        found=best,
        gradient=best.gradient,
        unique=unique,
        starts=guesses.shape[1],
        agreed=agreed,
        compared=compared_by(task),
        note=note,
    )


def rounding_kinks(task: Task, guesses: Array, newton: Callable[[Task, Array], Found]) -> tuple[Task, Found]:
    """Newton's method on the objective, or on ones whose kinks are rounded less and less; and the last."""
    if not has_kinks(task.objective):
        return task, newton(task, guesses)
    softer, z = task, guesses
    for temperature in TEMPERATURES:
        objective = smoothed(task.objective, jnp.full(task.runs, temperature, task.reference.dtype))
        softer = eqx.tree_at(lambda task: task.objective, task, objective)
        found = newton(softer, z)
        z = found.z
    return softer, found


def _masked(z: Array, support: Array) -> Array:
    return jnp.where(support, z, -jnp.inf)


@compiled
def _newton_on_logits(task: Task, guesses: Array, support: Array | None) -> Found:
    online = task.problem.online
    moves = task.objective.has_baseline or online
    by_baselines = task.objective.has_baselines_alone and not online

    def one(given: tuple[Objective, Array, Problem, Array | None], start: Array) -> Found:
        objective, reference, problem, support = given
        size = reference.shape[-1]
        marginals, weights = None, None
        kept = jnp.ones(size, bool) if support is None else support
        can_move = kept & (jnp.sum(kept) > 1)  # the logit of one sequence alone changes nothing
        if not online:
            weights = mass(problem, reference)
            if support is not None:
                weights = jnp.where(can_move, weights, 0)
            marginals = problem.chosen_marginal(size), problem.rejected_marginal(size)

        def loss(z: Array, held: Array) -> Array:
            anchor = jnp.zeros((), z.dtype)
            if support is not None:
                # Logits that count for nothing are held at zero, so that the Hessian has no holes.
                anchor = jnp.sum(jnp.where(support, 0, z) ** 2) / 2
                z, held = _masked(z, support), _masked(held, support)
            log_probs = log_softmax(z)
            loss = objective.population_loss(
                log_probs, reference, problem, task.lengths, marginals, log_softmax(held)
            )
            return loss + anchor

        def curvature(z: Array) -> Curvature:
            logits = z if support is None else _masked(z, support)
            found = objective.in_log_probs(log_softmax(logits), reference, problem, task.lengths, marginals)

            def hessian(found: InLogProbs) -> Array:
                # Where nothing can move there is rounding in place of a zero.
                inside = can_move[:, None] & can_move
                return jnp.where(inside, found.in_logits(logits), jnp.diag(jnp.where(kept, 0, 1.0)))

            gradient = jnp.where(kept, found.gradient_in_logits(logits), z)
            return Curvature(gradient, hessian(found), lambda: hessian(found.by_magnitude()))

        idle = kept[None].astype(start.dtype)
        return minimise(
            loss,
            start,
            idle,
            moves=moves,
            by_baselines=by_baselines,
            curvature=curvature,
            mass=weights,
        )

    return over_starts(one, (task.objective, task.reference, task.tabulated(), support), guesses)


@compiled
def _newton_cg(task: Task, guesses: Array) -> Found:
    def one(given: tuple[Objective, Array, Problem], start: Array) -> Found:
        objective, reference, problem = given
        # Once, as those of labelled pairs take O(N²).
        marginals = problem.chosen_marginal(len(start)), problem.rejected_marginal(len(start))

        def around(z: Array) -> Expansion:
            return objective.expansion(z, reference, problem, task.lengths, marginals)

        return minimise_convex(around, start)

    return over_starts(one, (task.objective, task.reference, task.problem), guesses)


@compiled
def _lbfgs(task: Task, guesses: Array) -> Found:
    def one(given: tuple[Objective, Array, Problem], start: Array) -> Found:
        objective, reference, problem = given
        marginals = problem.chosen_marginal(len(start)), problem.rejected_marginal(len(start))

        def loss(z: Array) -> Array:
            return objective.population_loss(log_softmax(z), reference, problem, task.lengths, marginals)

        return minimise_large(loss, start, mass(problem, start) + jnp.exp(reference))

    return over_starts(one, (task.objective, task.reference, task.problem), guesses)


@compiled
def _shift_slope(task: Task, log_probs: Array) -> Array:
    """How the loss grows with a constant added to all log-probabilities."""

    @eqx.filter_vmap
    def slope(objective: Objective, reference: Array, problem: Problem, log_probs: Array) -> Array:
        def loss(shift: Array) -> Array:
            return objective.population_loss(
                log_probs + shift, reference, problem, task.lengths, held=log_probs
            )

        return jax.grad(loss)(jnp.zeros((), log_probs.dtype))

    return slope(task.objective, task.reference, task.tabulated(), log_probs)
