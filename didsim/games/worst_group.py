"""The policy whose worst group is best off: a game against an adversary who chooses the group."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softmax
from jaxtyping import Array, Float, PyTree

from didsim import _checks
from didsim._extremes import largest, largest_magnitude
from didsim.fixed_points.certificate import NoMinimiserError, Solution
from didsim.fixed_points.on_parameters import is_convex
from didsim.fixed_points.solve import solve
from didsim.information import LogProbs, LogProbsLike
from didsim.objectives.objective import Objective
from didsim.objectives.worst_group import worst_group
from didsim.policies import EnergyBased, Policy, partition
from didsim.preferences.mixture import Mixture
from didsim.preferences.problem import Problem

_TEMPERATURES = 10.0 ** -np.arange(9)


class GroupSolution(eqx.Module):
    """The policy whose largest loss of a group is smallest, and what is proven of it.

    Attributes:
        log_probs: its log-probabilities.
        policy: the given policy with these; None if none was given.
        losses: the loss of each group.
        weights: the adversary's weight of each group, which sum to one. Groups that are better off than the
            worst have weight zero, but for the temperature.
        gap: the largest loss, less a lower bound on the largest loss of any policy (of the family). The bound
            is the least mean loss under `weights`. NaN unless the losses are proven convex in the parameters.
        gradient_norm: the largest entry of the gradient of this mean loss, by magnitude; the bound holds for
            a gradient of zero.
    """

    log_probs: LogProbs
    policy: Policy | None
    losses: Float[np.ndarray, " groups"]
    weights: Float[np.ndarray, " groups"]
    gap: float
    gradient_norm: float


def solve_worst_group(
    objective: Objective,
    reference: LogProbsLike,
    problem: Mixture,
    *,
    policy: Policy | None = None,
) -> GroupSolution:
    """The minimiser of the largest loss of any group, `min_π max_g L_g(π)`, with a duality gap.

    The minimisers of `worst_group(objective, T)` are found for falling temperatures `T`, down to 1e-8, each
    from the one before. At each of them the mean loss under the weights `α_g ∝ w_g exp(L_g/T)` has the same
    gradient, which is zero. If the losses are convex, the policy minimises this mean loss, and no policy can
    have a smaller largest loss than that mean. So `gap = max_g L_g − Σ_g α_g L_g` bounds what is left to
    gain. (Derived here.) The policy with the smallest largest loss is returned.

    Args:
        objective: the loss, as `dpo(beta)`.
        reference: the reference policy.
        problem: a `Mixture` of one problem for each group, without batch axes. Its weights are those that the
            temperatures pull to, and must be positive.
        policy: a policy whose family is searched, as in `solve`; by default all distributions are.

    Returns:
        The policy, the losses of groups, and the certificate. It costs nine calls of `solve`.

    Raises:
        ValueError: an argument is wrong, or `solve` refuses it.
        NoMinimiserError: no temperature has a minimiser.

    Examples:
        >>> from didsim import Labelled, dpo
        >>> uniform = jnp.log(jnp.full(2, 0.5))
        >>> raters = [Labelled(jnp.array([r, 0.0]), uniform, uniform) for r in (2.0, -1.0)]
        >>> both = Mixture(tuple(raters), jnp.log(jnp.array([0.9, 0.1])))
        >>> found = solve_worst_group(dpo(1.0), uniform, both)
        >>> [round(float(loss), 4) for loss in found.losses], found.gap < 1e-7  # they agree on log 2 alone
        ([0.6931, 0.6931], True)
    """
    _checks.instance("problem", problem, Mixture, "a Mixture, with one problem for each group")
    if problem.batch_shape or not np.isfinite(np.asarray(problem.log_weights)).all():
        raise ValueError(
            "`problem` must be one Mixture, without batch axes, whose weights are positive; got batch shape "
            f"{problem.batch_shape} and log-weights {problem.log_weights}"
        )
    found: list[GroupSolution] = []
    last: Solution | None = None
    for temperature in _TEMPERATURES:
        robust = worst_group(objective, temperature)
        if policy is not None:
            begun = policy if last is None else last.policy
            last = solve(robust, reference, problem, policy=begun, starts=1)
        else:
            last = solve(robust, reference, problem, starts=1, start=last)
        if (objection := last.objection()) is not None and not found:
            raise NoMinimiserError(f"`objective` has no minimiser to begin with: {objection}", last)
        if objection is not None:
            break
        found.append(_described(last, objective, reference, problem, temperature))
    return min(found, key=lambda one: one.losses.max())


def _described(
    solution: Solution, objective: Objective, reference: LogProbsLike, problem: Mixture, temperature: float
) -> GroupSolution:
    """The losses of groups at a minimiser, the adversary's answer to it, and the gap."""
    policy = EnergyBased(solution.log_probs) if solution.policy is None else solution.policy
    trained, fixed = partition(policy)

    def losses_of(trained: PyTree) -> Array:
        log_probs = eqx.combine(trained, fixed).log_probs()
        return group_losses(objective, log_probs, reference, problem)

    losses = losses_of(trained)
    weights = softmax(problem.log_weights + losses / temperature)
    slope = jax.grad(lambda trained: jnp.vdot(weights, losses_of(trained)))(trained)
    steepest = max(float(largest_magnitude(leaf)) for leaf in jax.tree.leaves(slope))
    proven = is_convex(policy, objective, problem)
    gap = float(jnp.vdot(weights, largest(losses) - losses)) if proven else np.nan
    return GroupSolution(
        solution.log_probs, solution.policy, np.asarray(losses), np.asarray(weights), gap, steepest
    )


def group_losses(
    objective: Objective, policy_logps: LogProbsLike, reference: LogProbsLike, problem: Problem
) -> Float[Array, "*batch groups"]:
    """The loss of an objective on the pairs of each group of a mixture.

    As a metric of `didsim.train` it has an axis of groups:
    `lambda s: group_losses(dpo(0.1), s.log_probs, s.reference, s.problem)`.

    Raises:
        ValueError: `problem` is not a `Mixture`, or `Objective.loss` refuses the rest.

    Examples:
        >>> from didsim import Contrastive, dpo
        >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
        >>> both = Mixture((Contrastive(p, q), Contrastive(q, p)), p)
        >>> [round(float(loss), 4) for loss in group_losses(dpo(1.0), q, p, both)]
        [1.388, 0.5091]
    """
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    if not isinstance(problem, Mixture):
        raise ValueError(f"`problem` must be a Mixture, with one problem for each group; got {problem!r}")
    losses = [objective.loss(policy_logps, reference, one) for one in problem.problems]
    return jnp.stack(jnp.broadcast_arrays(*losses), axis=-1)
