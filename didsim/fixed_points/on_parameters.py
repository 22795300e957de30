"""The search over the parameters of a policy: the minimiser in its family."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from didsim._batches import batched
from didsim._checks import Shape
from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.compiling import compiled
from didsim.fixed_points.hessians import is_rounding
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.on_logits import rounding_kinks
from didsim.fixed_points.task import (
    DENSE,
    Task,
    best_of,
    compared_by,
    finished,
    gradient_rule,
    on_device,
    over_starts,
    solution_of,
)
from didsim.objectives.objective import Objective
from didsim.policies import Policy
from didsim.preferences.problem import Problem
from didsim.preferences.prompts import stays_in_prompts


def solve_on_parameters(task: Task, policy: Policy, starts: int, batch: Shape) -> Solution:
    """The minimiser in the family of a policy, by Newton's method on its parameters."""
    if policy.log_probs().shape != (task.size,):
        raise ValueError(
            f"`policy` must be one policy over {task.size} sequences; its log-probabilities have shape "
            f"{policy.log_probs().shape}"
        )
    trained, fixed = eqx.partition(policy, policy.trainable())
    flat, unravel = ravel_pytree(trained)
    if flat.size > DENSE:
        raise ValueError(f"`policy` must have at most {DENSE} parameters to solve for; got {flat.size}")
    if task.objective.is_gradient_rule:
        return finished(gradient_rule(task), batch)

    def log_probs_of(z: Array) -> Array:
        return eqx.combine(unravel(z), fixed).log_probs()

    idle = _null_space(np.asarray(jax.jacfwd(log_probs_of)(flat)))
    convex = is_convex(policy, task.objective, task.problem)
    starts = 1 if convex else starts
    noise = np.array(jax.random.normal(jax.random.key(0), (starts, flat.size), flat.dtype))
    noise[0] = 0
    guesses = jnp.asarray(np.broadcast_to(np.asarray(flat) + noise, (task.runs, *noise.shape)))

    compared = compared_by(task) if policy.holds_all else None

    task, found = rounding_kinks(task, guesses, lambda task, z: _newton(task, trained, fixed, idle, z))
    best, ends, agreed = best_of(task, found, jax.vmap(jax.vmap(log_probs_of))(found.z))
    solution = solution_of(
        task,
        ends,
        Method.NEWTON_ON_PARAMETERS,
        found=best,
        gradient=best.gradient,
        unique=convex,
        # Parameters that were still moving would be those at which rounding stopped them.
        is_there=best.converged,
        starts=starts,
        agreed=agreed,
        compared=compared,
    )
    found_none = np.isnan(solution.log_probs).any(axis=-1)

    def of_family(leaf: Array) -> np.ndarray:
        parameters = np.array(leaf)
        parameters[found_none] = np.nan
        return parameters

    parameters = on_device(batched(jax.tree.map(of_family, jax.vmap(unravel)(best.z)), batch))
    solution = finished(solution, batch)
    return Solution(solution.log_probs, solution.certificate, eqx.combine(parameters, fixed))


def is_convex(policy: Policy, objective: Objective, problem: Problem) -> bool:
    """Whether a loss is proven to be convex in the parameters of a policy.

    A margin between responses to two prompts has the normalisers of both, and is not linear. A loss that
    moves with the policy, by a baseline or a sampler, may have several ends, even if it is convex at each.
    """
    if objective.has_baseline or problem.online:
        return False
    linear = policy.has_linear_logits and objective.is_convex_in_logits
    return linear and stays_in_prompts(problem, policy.prompts, policy.log_probs().shape[-1])


@compiled
def _newton(task: Task, trained: Policy, fixed: Policy, idle: Array, guesses: Array) -> Found:
    flat, unravel = ravel_pytree(trained)

    def log_probs_of(z: Array) -> Array:
        return eqx.combine(unravel(z), fixed).log_probs()

    def one(given: tuple[Objective, Array, Problem], start: Array) -> Found:
        objective, reference, problem = given

        def loss(z: Array, held: Array) -> Array:
            return objective.population_loss(
                log_probs_of(z), reference, problem, task.lengths, held=log_probs_of(held)
            )

        # How much the loss curves at the given policy, and the size of the terms that add up to it.
        curves = jnp.abs(jnp.diag(jax.jacfwd(jax.grad(loss))(flat, flat)))
        slopes = jnp.abs(jax.jacfwd(log_probs_of)(flat))
        in_logits = objective.curvature(log_probs_of(flat), reference, problem, task.lengths)
        size = jnp.sum(slopes * (jnp.abs(in_logits) @ slopes), axis=0)
        curves = jnp.where(is_rounding(curves, size), 0, curves)
        return minimise(loss, start, idle, moves=task.moves, mass=curves, size=size)

    return over_starts(one, (task.objective, task.reference, task.problem), guesses)


def _null_space(matrix: np.ndarray) -> Array:
    """Orthonormal directions, one in each row, that a matrix maps to zero."""
    return jnp.asarray(scipy.linalg.null_space(matrix).T, matrix.dtype)
