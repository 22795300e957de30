"""Minimisers of losses of differences of one implicit reward."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from didsim.fixed_points.certificate import Solution
from didsim.fixed_points.closed_forms import best_reward
from didsim.fixed_points.convexity import has_convex_kernel, is_one_sided
from didsim.fixed_points.hinge import minimise_hinge
from didsim.fixed_points.lbfgs import minimise_large
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.task import (
    DENSE,
    Task,
    best_of,
    check_dense,
    mass,
    over_starts,
    random_starts,
    solution_of,
)
from didsim.fixed_points.win_graph import Comparisons, compare
from didsim.objectives.kernels import Hinge
from didsim.objectives.rewards import DivergenceSlope, LogProb, LogRatio
from didsim.objectives.terms import Pair
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled
from didsim.preferences.online import Online
from didsim.preferences.problem import Problem


def solve_differences(task: Task, pair: Pair, starts: int) -> Solution:
    """A loss of differences of one implicit reward."""
    problem = task.problem.uniform() if isinstance(task.problem, Online) else task.problem
    kernel = pair.kernel
    full = isinstance(problem, Contrastive | Labelled) and problem.has_full_support
    compared = None
    if not full:
        compared = compare(problem, task.size, task.runs, both_ways=is_one_sided(pair))
    if isinstance(kernel, Hinge):
        return _hinge(task, pair, problem, compared)
    if full:
        assert isinstance(problem, Contrastive | Labelled)
        h = _best_reward(pair, problem)
        if h is not None:
            by_root = isinstance(pair.reward, DivergenceSlope) or (
                task.lengths is not None
                and isinstance(pair.reward, LogRatio | LogProb)
                and pair.reward.per_token
            )
            method = "closed form, one root" if by_root else "closed form"
            return solution_of(task, _policy_of(task, pair, h), method, compared=compared)
    return _where_identified(_reward_by_newton(task, pair, problem, starts, compared))


def _where_identified(solution: Solution) -> Solution:
    """NaN for problems whose pairs do not hold all rewards together: there is nothing to converge to."""
    known = solution.certificate
    whole = known.identified.all(axis=-1)
    certificate = eqx.tree_at(
        lambda c: (c.finite, c.unique, c.converged),
        known,
        (
            known.finite & whole,
            None if known.unique is None else known.unique & whole,
            known.converged | ~whole,
        ),
        is_leaf=lambda leaf: leaf is None,
    )
    return Solution(jnp.where(whole[:, None], solution.log_probs, jnp.nan), certificate)


@eqx.filter_jit
def _best_reward(pair: Pair, problem: Contrastive | Labelled) -> Array | None:
    return best_reward(pair.kernel, problem)


@eqx.filter_jit
def _policy_of(task: Task, pair: Pair, h: Array) -> Array:
    return pair.reward.policy(h, task.reference, task.lengths)


def _hinge(task: Task, pair: Pair, problem: Problem, compared: Comparisons | None) -> Solution:
    check_dense(task, "a hinge, whose linear program has a variable for every pair")
    assert isinstance(pair.kernel, Hinge)
    tables = np.exp(np.asarray(problem.joint(task.size).log_probs, float))
    tables = np.broadcast_to(tables, (task.runs, task.size, task.size))
    found = [minimise_hinge(table) for table in tables]
    h = jnp.asarray(np.stack([one.h for one in found]), task.reference.dtype)
    solved = np.array([one.solved for one in found])
    spread = np.array([one.spread for one in found])
    finite = np.isfinite(h).all(axis=-1) & solved
    return solution_of(
        task,
        _policy_of(task, pair, pair.kernel.delta[..., None] * h),
        "linear program",
        duality_gap=np.array([one.gap for one in found]),
        converged=solved,
        finite=finite,
        unique=spread == 0,
        compared=compared,
    )


def _reward_by_newton(
    task: Task, pair: Pair, problem: Problem, starts: int, compared: Comparisons | None
) -> Solution:
    """A second-order method on the rewards themselves, in which a convex kernel's loss is convex."""
    convex = has_convex_kernel(pair)
    guesses = random_starts(task, 1 if convex else starts)
    if task.size > DENSE:
        found, method = _lbfgs_on_rewards(pair, problem, guesses), "L-BFGS on rewards"
    else:
        found, method = _newton_on_rewards(pair, problem.joint(task.size), guesses), "Newton on rewards"
    ends = jax.vmap(lambda h: _policy_of(task, pair, h), 1, 1)(found.z)
    best, ends, agreed = best_of(found, ends)
    return solution_of(
        task,
        ends,
        method,
        found=best,
        unique=best.converged if convex else None,
        starts=guesses.shape[1],
        agreed=agreed,
        compared=compared,
    )


@eqx.filter_jit
def _newton_on_rewards(pair: Pair, problem: Problem, guesses: Array) -> Found:
    def one(pair: Pair, problem: Problem, start: Array) -> Found:
        weights = mass(problem, start)
        return minimise(lambda h, _: pair.kernel.expect(problem, h), start, 1, moves=False, mass=weights)

    return over_starts(one)(pair, problem, guesses)


@eqx.filter_jit
def _lbfgs_on_rewards(pair: Pair, problem: Problem, guesses: Array) -> Found:
    def one(pair: Pair, problem: Problem, start: Array) -> Found:
        return minimise_large(lambda h: pair.kernel.expect(problem, h), start, mass(problem, start))

    return over_starts(one)(pair, problem, guesses)
