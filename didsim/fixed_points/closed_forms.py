"""Minimisers that a formula gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from didsim.fixed_points.certificate import Method, Solution
from didsim.fixed_points.task import Task, solution_of
from didsim.objectives.expected_reward import reward_of
from didsim.objectives.objective import Objective
from didsim.objectives.terms import Term
from didsim.preferences.problem import Problem


def closed_form(
    objective: Objective, reference: Array, problem: Problem, lengths: Array | None
) -> Array | None:
    """The policy whose reward minimises the expected kernel, from a formula; None if there is no formula.

    No value is looked at, so that it works under `jit`. The result is right for a problem that compares all
    sequences.
    """
    if has_expected_reward(objective):
        return objective.reward.policy(reward_of(problem), reference, lengths)
    pair = objective.difference_term
    if pair is None or (problem.online and not pair.kernel.calibrated):
        return None
    h = pair.kernel.best_reward(problem.offline())
    return None if h is None else pair.reward.policy(h, reference, lengths)


def solve_closed_form(task: Task, pair: Term, problem: Problem) -> Solution | None:
    """The closed form with its certificate; None if there is none. The problem must compare all sequences."""
    h = best_rewards(pair, problem)
    if h is None:
        return None
    method = Method.ONE_ROOT if pair.reward.inverse_needs_root(task.lengths) else Method.CLOSED_FORM
    return solution_of(task, policy_of(task, pair, h), method)


def solve_likelihood(task: Task) -> Solution:
    """The cross-entropy to the chosen distribution is smallest at that distribution."""
    chosen = jax.vmap(lambda problem: problem.chosen_marginal(task.size))(task.problem)
    return solution_of(task, chosen.astype(task.reference.dtype), Method.CLOSED_FORM)


def has_expected_reward(objective: Objective) -> bool:
    """Whether the objective is the expected reward of a policy, less its divergence, and nothing else."""
    return len(objective.terms) == 1 and objective.terms[0].is_expected_reward


def solve_expected_reward(task: Task) -> Solution:
    """The best policy for the reward of the labels, `reference · exp(r/beta)`."""
    rewards = jnp.broadcast_to(reward_of(task.problem).astype(task.reference.dtype), task.reference.shape)
    return solution_of(task, policy_of(task, task.objective.terms[0], rewards), Method.CLOSED_FORM)


@eqx.filter_jit
def policy_of(task: Task, pair: Term, h: Array) -> Array:
    """The policies whose rewards are `h`."""
    return pair.reward.policy(h, task.reference, task.lengths)


@eqx.filter_jit
def best_rewards(pair: Term, problem: Problem) -> Array | None:
    """The rewards that minimise a loss of differences, if a formula gives them; see `Kernel.best_reward`."""
    return pair.kernel.best_reward(problem)
