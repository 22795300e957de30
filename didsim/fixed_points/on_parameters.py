"""The search over the parameters of a policy: the minimiser in its family."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from didsim._checks import Shape
from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.on_logits import rounding_kinks
from didsim.fixed_points.task import (
    DENSE,
    Task,
    batched,
    best_of,
    compared_by,
    gradient_rule,
    over_starts,
    solution_of,
)
from didsim.objectives.objective import Objective
from didsim.policies import Policy
from didsim.preferences.problem import Problem


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
        return batched(gradient_rule(task), batch)

    def log_probs_of(z: Array) -> Array:
        return eqx.combine(unravel(z), fixed).log_probs()

    idle = flat.size - int(jnp.linalg.matrix_rank(jax.jacfwd(log_probs_of)(flat)))
    convex = policy.has_linear_logits and task.objective.is_convex_in_logits
    starts = 1 if convex else starts
    noise = jax.random.normal(jax.random.key(0), (task.runs, starts, flat.size), flat.dtype)
    guesses = flat + noise.at[:, 0].set(0)

    compared = compared_by(task) if policy.holds_all else None

    @eqx.filter_jit
    def newton(task: Task, guesses: Array) -> Found:
        def one(given: tuple[Objective, Array, Problem], _: None, start: Array) -> Found:
            objective, reference, problem = given

            def loss(z: Array, held: Array) -> Array:
                return objective.population_loss(
                    log_probs_of(z), reference, problem, task.lengths, held=log_probs_of(held)
                )

            # How much the loss curves at the given policy.
            curves = jnp.abs(jnp.diag(jax.jacfwd(jax.grad(loss))(flat, flat)))
            moves = objective.has_baseline or problem.online
            return minimise(loss, start, idle, moves=moves, mass=curves)

        return over_starts(one)((task.objective, task.reference, task.problem), None, guesses)

    task, found = rounding_kinks(task, guesses, newton)
    best, ends, agreed = best_of(found, jax.vmap(jax.vmap(log_probs_of))(found.z))
    solution = solution_of(
        task,
        ends,
        Method.NEWTON_ON_PARAMETERS,
        found=best,
        gradient=best.gradient,
        unique=best.converged if convex else None,
        starts=starts,
        agreed=agreed,
        compared=compared,
    )
    solution, parameters = batched((solution, jax.vmap(unravel)(best.z)), batch)
    return Solution(solution.log_probs, solution.certificate, eqx.combine(parameters, fixed))
