"""The search over the logits of all sequences, for losses that have no shorter way."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.nn import log_softmax
from jaxtyping import Array

from didsim.fixed_points.arrow import Arrow
from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.compiling import compiled
from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import Curvature
from didsim.fixed_points.lbfgs import minimise_large
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.newton_cg import minimise_by_products
from didsim.fixed_points.smoothing import TEMPERATURES, has_kinks, smoothed
from didsim.fixed_points.task import (
    DENSE,
    First,
    Task,
    at_few_nodes_of_one,
    best_of,
    check_dense,
    compared_by,
    mass,
    over_starts,
    random_starts,
    solution_of,
    with_start,
)
from didsim.objectives.curvature import Expansion
from didsim.objectives.objective import Objective
from didsim.objectives.terms import Single
from didsim.pairwise.primitive import at_few_nodes
from didsim.preferences.problem import Problem

# When all log-probabilities are shifted, a slope of this many roundings of the given numbers is none.
_NO_SLOPE = 1e2


def solve_bounded(task: Task, terms: tuple[Single, ...], starts: int, first: First | None = None) -> Solution:
    """Losses `1 − σ(±(h − z))` of single sequences alone, which put all mass where it pays."""
    reward = terms[0].reward
    parts = [(term.reward, term.baseline) for term in terms]
    if not (reward.is_log_ratio and all(_same(part, parts[0]) for part in parts[1:])):
        return solve_on_logits(task, starts, first)
    support = np.asarray(_gains(terms, task.problem, task.reference, task.eps)) > 0
    # Where nothing is to be gained there is no such set.
    support = support | ~support.any(axis=-1, keepdims=True)
    note = "Sequences that are rejected more often than chosen, as the loss weighs them, get probability zero"
    return solve_on_logits(
        task,
        starts,
        first,
        support=support,
        unique=np.asarray(reward.has_concave_sigmoid) & (not task.objective.has_baseline),
        note="" if support.all() else note,
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
    support: np.ndarray | None = None,
    unique: np.ndarray | Array | None = None,
    note: str = "",
) -> Solution:
    """Newton's method on the logits of a policy over all sequences, or over those of a support.

    The policy of `first` takes the reference's place as the first start.
    """
    # A loss that moves with the policy may have several ends, even if it is convex at each of them.
    log_convex = task.objective.is_convex_in_log_probs and not task.moves
    convex = task.objective.is_convex_in_logits and not task.moves
    noise = random_starts(task, 1 if convex and support is None else starts)
    starting = np.asarray(task.reference)[:, None] + noise
    guesses = jnp.asarray(with_start(starting, 0, None if first is None else first.log_probs))
    by_baseline = _has_one_baseline(task)
    has_arrow = task.objective.is_separate and not task.problem.online
    if has_arrow and by_baseline == task.objective.has_baseline:
        method = Method.NEWTON_ON_LOGITS
        kept = None if support is None else jnp.asarray(support)
        task, found = rounding_kinks(task, guesses, lambda task, z: _newton_by_sequence(task, z, kept))
    elif task.size > DENSE:
        if task.moves:
            check_dense(task, "a loss that depends on the policy other than through its gradient")
        if task.objective.knows_own_curvature and not has_kinks(task.objective):
            method = Method.NEWTON_CG_ON_LOGITS
            found = at_few_nodes_of_one(lambda: _newton_cg(task, guesses), guesses)
        else:
            method = Method.LBFGS_ON_LOGITS
            found = _lbfgs(task, guesses)
    else:
        method = Method.NEWTON_ON_LOGITS
        task, found = rounding_kinks(task, guesses, lambda task, z: _newton_on_logits(task, z, by_baseline))
    ends = np.asarray(found.z)
    ends = ends if support is None else np.where(support[:, None], ends, -np.inf)
    # In NumPy, in which a first call need not compile each operation.
    best, policies, agreed = best_of(task, found, scipy.special.log_softmax(ends, axis=-1))
    if unique is None:
        # The solver tells if a minimum is level. If it is not, a convex loss has no other.
        unique = np.asarray(convex)
        if log_convex and not convex:
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


def _has_one_baseline(task: Task) -> bool:
    """Whether all that the loss holds fixed is one number, a baseline."""
    if task.problem.online or not task.objective.has_baselines_alone:
        return False
    held = [term for term in task.objective.terms if isinstance(term, Single) and term.has_baseline]
    baselines = [(term.reward, term.baseline) for term in held]
    return all(_same(one, baselines[0]) for one in baselines[1:])


def _same(one: Any, other: Any) -> bool:
    """Whether two parts of an objective are equal. In NumPy, which compiles nothing."""
    return bool(eqx.tree_equal(*jax.tree.map(np.asarray, (one, other))))


@compiled
def _newton_by_sequence(task: Task, guesses: Array, support: Array | None) -> Found:
    has_baseline = task.objective.has_baseline

    def one(given: tuple[Objective, Array, Problem, Array | None], start: Array) -> Found:
        objective, reference, problem, support = given
        kept = jnp.ones(len(start), bool) if support is None else support
        marginals = problem.chosen_marginal(len(start)), problem.rejected_marginal(len(start))

        def loss(z: Array, held: Array) -> Array:
            # Logits that count for nothing are held at zero, so that the Hessian has no holes.
            anchor = jnp.sum(jnp.where(kept, 0, z) ** 2) / 2
            log_probs, held = (log_softmax(_masked(logits, kept)) for logits in (z, held))
            return anchor + objective.population_loss(
                log_probs, reference, problem, task.lengths, marginals, held
            )

        def curvature(z: Array) -> Curvature:
            log_probs = log_softmax(_masked(z, kept))
            found = objective.own_derivatives(log_probs, reference, problem, task.lengths, marginals)
            p, total = jnp.exp(log_probs), jnp.sum(found.first)
            gradient = jnp.where(kept, found.first - p * total, z)
            hessian = Arrow(found.second, total, p, kept)
            return Curvature(gradient, hessian, hessian.by_magnitude)

        # The logit of one sequence alone changes nothing.
        can_move = kept & (jnp.sum(kept) > 1)
        return minimise(
            loss,
            start,
            kept[None].astype(start.dtype),
            moves=has_baseline,
            by_baseline=has_baseline,
            curvature=curvature,
            mass=jnp.where(can_move, mass(problem, reference), 0),
        )

    return over_starts(one, (task.objective, task.reference, task.problem, support), guesses)


@compiled
def _newton_on_logits(task: Task, guesses: Array, by_baseline: bool) -> Found:
    online, moves = task.problem.online, task.moves

    def one(given: tuple[Objective, Array, Problem], start: Array) -> Found:
        objective, reference, problem = given
        size = reference.shape[-1]
        marginals, weights = None, None
        if not online:
            weights = mass(problem, reference)
            marginals = problem.chosen_marginal(size), problem.rejected_marginal(size)

        def loss(z: Array, held: Array) -> Array:
            return objective.population_loss(
                log_softmax(z), reference, problem, task.lengths, marginals, log_softmax(held)
            )

        def curvature(z: Array) -> Curvature:
            found = objective.in_log_probs(log_softmax(z), reference, problem, task.lengths, marginals)
            return Curvature(
                found.gradient_in_logits(z),
                Dense(found.in_logits(z)),
                lambda share: Dense(found.by_magnitude(share).in_logits(z)),
            )

        return minimise(
            loss,
            start,
            jnp.ones((1, size), start.dtype),
            moves=moves,
            by_baseline=by_baseline,
            curvature=curvature,
            mass=weights,
        )

    return over_starts(one, (task.objective, task.reference, task.tabulated()), guesses)


@compiled
def _newton_cg(task: Task, guesses: Array) -> Found:
    def one(given: tuple[Objective, Array, Problem], start: Array) -> Found:
        objective, reference, problem = given
        # Once, as those of labelled pairs take O(N²).
        marginals = problem.chosen_marginal(len(start)), problem.rejected_marginal(len(start))

        def around(z: Array) -> Expansion:
            return objective.expansion(z, reference, problem, task.lengths, marginals)

        convex = task.objective.is_convex_in_logits
        weights = None if convex else mass(problem, start) + jnp.exp(reference)
        return minimise_by_products(around, start, weights)

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
