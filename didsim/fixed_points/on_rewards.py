"""The search over implicit rewards: minimisers of a loss of differences of one reward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.closed_forms import best_rewards, policy_of, solve_closed_form
from didsim.fixed_points.compiling import compiled
from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import Curvature
from didsim.fixed_points.hinge import minimise_hinge
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.newton_cg import minimise_by_products
from didsim.fixed_points.separable import limit_of_descent
from didsim.fixed_points.task import (
    DENSE,
    First,
    Task,
    at_few_nodes_of_one,
    best_of,
    check_dense,
    mass,
    over_starts,
    random_starts,
    rewards_at,
    solution_of,
    table_of,
    with_start,
)
from didsim.fixed_points.win_graph import Comparisons, compare
from didsim.objectives.curvature import Expansion, by_magnitude, expanded
from didsim.objectives.kernels import Logistic
from didsim.objectives.rewards import LogRatio, Scalar
from didsim.objectives.terms import Pair, Term
from didsim.preferences.explicit import Joint
from didsim.preferences.problem import Problem

# From rewards of this size other losses are level, so that no step leads back.
_LEVEL = 30.0


def solve_on_rewards(task: Task, pair: Term, starts: int, first: First | None = None) -> Solution:
    """The minimiser of a loss of differences of one implicit reward, by what its kernel is known to be.

    If Newton's method is needed, `first` gives the rewards to start from first.
    """
    problem = task.problem.offline()
    kernel = pair.kernel
    compared = None
    if not problem.compares_all:
        compared = compare(problem, task.size, task.runs, both_ways=kernel.falls_for_ever)
    if kernel.hinge_margin is not None:
        return _by_linear_program(task, pair, kernel.hinge_margin, problem, compared)
    if problem.compares_all and (solution := solve_closed_form(task, pair, problem)) is not None:
        return solution
    return _by_newton(task, pair, problem, starts, compared, first)


def _by_linear_program(
    task: Task, pair: Term, margin: Scalar, problem: Problem, compared: Comparisons | None
) -> Solution:
    check_dense(task, "a hinge, whose linear program has a variable for every pair")
    tables = np.exp(np.asarray(table_of(problem, task.size).log_probs))
    tables = np.broadcast_to(tables, (task.runs, task.size, task.size))
    found = [minimise_hinge(table) for table in tables]
    solved = np.array([one.solved for one in found])
    h = np.where(solved[:, None], np.stack([one.h for one in found]), 0)
    spread = np.array([one.spread for one in found])
    return solution_of(
        task,
        policy_of(task, pair, margin[..., None] * jnp.asarray(h, task.reference.dtype)),
        Method.LINEAR_PROGRAM,
        duality_gap=np.array([one.gap for one in found]),
        unique=spread == 0,
        has_others=spread > 0,
        converged=solved,
        is_there=solved,
        compared=compared,
    )


def _by_newton(
    task: Task,
    pair: Term,
    problem: Problem,
    starts: int,
    compared: Comparisons | None,
    first: First | None,
) -> Solution:
    """A second-order method on the rewards themselves, in which the loss of a convex kernel is convex."""
    if compared is not None and not compared.identified.all(axis=-1).any():
        return _open(task, pair, problem, compared)
    convex = pair.kernel.convex
    whole = np.ones(task.runs, bool) if compared is None else compared.identified.all(axis=-1)
    identified = jnp.asarray(whole)
    guesses = random_starts(task, 1 if convex else starts)
    if guesses.shape[1] > 1:
        guesses = with_start(guesses, 1, _of_logistic_loss(task, problem, identified, guesses[:, 1]))
    guesses = with_start(guesses, 0, None if first is None else _first_rewards(task, first))
    method = _method(task, pair)
    found = _SOLVERS[method](pair, problem, identified, jnp.asarray(guesses))
    ends = jax.vmap(lambda h: policy_of(task, pair, h), 1, 1)(found.z)
    best, policies, agreed = best_of(task, found, ends)
    return solution_of(
        task,
        policies,
        method,
        found=best,
        unique=convex,
        starts=guesses.shape[1],
        agreed=agreed,
        compared=compared,
        limit=np.nan if compared is None else limit_of_descent(task, pair, problem, compared),
    )


def _method(task: Task, pair: Term) -> Method:
    return Method.NEWTON_ON_REWARDS if task.size <= DENSE else Method.NEWTON_CG_ON_REWARDS


def _of_logistic_loss(task: Task, problem: Problem, identified: Array, others: np.ndarray) -> np.ndarray:
    """The rewards that minimise the logistic loss of the pairs, which is convex.

    If none do, or if they are too far out, `others` are returned.
    """
    likelihood = Pair(LogRatio(jnp.ones(task.runs)), Logistic())
    if problem.compares_all and (best := best_rewards(likelihood, problem)) is not None:
        known = np.asarray(best, others.dtype)
        known = known - known.mean(axis=-1, keepdims=True)
        return np.where(np.abs(known).max(axis=-1, keepdims=True) < _LEVEL, known, others)
    zero = jnp.zeros_like(task.reference)[:, None]
    found = _SOLVERS[_method(task, likelihood)](likelihood, problem, identified, zero)
    # In NumPy, in which a first call need not compile each operation.
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], found)
    rewards: np.ndarray = np.where(found.converged[:, None], found.z, others)
    return rewards


def _first_rewards(task: Task, first: First) -> Array:
    return rewards_at(task, first.log_probs[:, None])[:, 0] if first.rewards is None else first.rewards


def _open(task: Task, pair: Term, problem: Problem, compared: Comparisons) -> Solution:
    """What is known if no problem has a minimiser that its pairs identify."""
    return solution_of(
        task,
        task.reference,
        _method(task, pair),
        gradient=np.nan,
        compared=compared,
        limit=limit_of_descent(task, pair, problem, compared),
    )


@compiled
def _newton(pair: Term, problem: Problem, identified: Bool[Array, " runs"], guesses: Array) -> Found:
    table = problem.joint(guesses.shape[-1])

    def one(given: tuple[Term, Joint], start: Array) -> Found:
        pair, table = given

        def curvature(h: Array) -> Curvature:
            found = pair.kernel.curvature(table, h, h)
            hessian = found.hessian()
            return Curvature(
                found.chosen + found.rejected,
                Dense(hessian),
                lambda share: Dense(by_magnitude(hessian, share)),
            )

        return minimise(
            lambda h, _: pair.kernel.expect(table, h),
            start,
            jnp.ones((1, len(start)), start.dtype),
            moves=False,
            curvature=curvature,
            mass=mass(table, start),
        )

    return over_starts(_where_identified(one), (identified, (pair, table)), guesses)


def _newton_cg(pair: Term, problem: Problem, identified: Bool[Array, " runs"], guesses: Array) -> Found:
    return at_few_nodes_of_one(lambda: _by_products(pair, problem, identified, guesses), guesses)


@compiled
def _by_products(pair: Term, problem: Problem, identified: Bool[Array, " runs"], guesses: Array) -> Found:
    def one(given: tuple[Term, Problem], start: Array) -> Found:
        pair, problem = given

        def around(h: Array) -> Expansion:
            return expanded(
                lambda h: pair.kernel.expect(problem, h),
                h,
                lambda: pair.kernel.own_curvature(problem, h),
            )

        weights = None if pair.kernel.convex else mass(problem, start)
        return minimise_by_products(around, start, weights)

    return over_starts(_where_identified(one), (identified, (pair, problem)), guesses)


_SOLVERS = {
    Method.NEWTON_ON_REWARDS: _newton,
    Method.NEWTON_CG_ON_REWARDS: _newton_cg,
}


def _where_identified(solver: Callable[[Any, Array], Found]) -> Callable[[Any, Array], Found]:
    """A solver that finds nothing, at no cost, for a problem that its pairs do not identify."""

    def found(given: tuple[Array, Any], start: Array) -> Found:
        identified, problem = given
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(solver, problem, start)
        )
        return jax.lax.cond(identified, lambda: solver(problem, start), lambda: nothing)

    return found
