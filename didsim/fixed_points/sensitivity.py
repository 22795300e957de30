"""How a minimiser moves with the numbers of its objective, and with the weights of its pairs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from didsim import _checks
from didsim._batches import batched
from didsim.fixed_points.certificate import Given, Solution, Verdict
from didsim.fixed_points.implicit import SINGULAR, gradient, irregular, respond
from didsim.fixed_points.task import Task, in_dtype
from didsim.objectives.objective import Objective
from didsim.objectives.reference import visible_reference
from didsim.preferences.explicit import Pairs
from didsim.preferences.problem import Problem


class Sensitivity(eqx.Module):
    """The derivatives of a minimiser's log-probabilities.

    Attributes:
        objective: for every number of the objective, by the path of its field (as "terms[0].reward.beta"),
            `∂ log π / ∂ number`, in nats per unit of the number. Where a number stands in several fields, as
            one weight of two terms, each field has its own derivative; they add up.
        weights: for every pair of `Pairs`, `∂ log π / ∂ w_k` with `w_k` its weight, as it is given; ones if
            none are. This is the influence of the pair on the policy: about what one more copy of it would
            add, and about what the policy would lose without it, for a weight of one. None for any other
            problem.

    Only ratios of weights count, so `Σ_k w_k ∂ log π / ∂ w_k = 0`. The derivative in the logarithm of a
    weight is `w_k` times the one in the weight.
    """

    objective: dict[str, Float[Array, "*batch sequences"]]
    weights: Float[Array, "*batch pairs sequences"] | None


def sensitivity(solution: Solution) -> Sensitivity:
    """How a minimiser moves with the numbers of its objective, and with the weights of its pairs.

    The derivatives are those of the implicit function theorem (`didsim.fixed_points.implicit`): with `F` the
    gradient of the loss in the logits and `A` its Jacobian, `∂ log π/∂θ = −(I − 1 pᵀ) A⁻¹ ∂F/∂θ`. Baselines
    and samplers move with the policy, though the loss is differentiated with these held fixed.

    For the weights of pairs, let `f_k` be the gradient of the loss of pair `k` alone. Weights are normalised,
    so `F = Σ_k w_k f_k / W` with `W = Σ_k w_k`, and `∂F/∂w_k = (f_k − F) / W`. At a minimiser `F = 0`, and
    the normalisation drops out:

        ∂ log π / ∂ w_k = −(I − 1 pᵀ) A⁻¹ f_k / W

    (Derived here. It is the influence function of Koh & Liang, "Understanding black-box predictions via
    influence functions", arXiv 1703.04730, for a policy. A baseline that depends on the pairs, as BCO's, adds
    a part to `∂F/∂w_k`, which is taken into account.)

    Every problem of a batch has its own derivatives. To differentiate in anything else (the reference, the
    problem, numbers that these are made of), use `jax.grad`, `jax.jacfwd` or `jax.jacrev` of
    `didsim.fixed_point`.

    Args:
        solution: what `didsim.solve` found, among all distributions.

    Returns:
        A `Sensitivity`. One matrix of N × N numbers is decomposed, O(N³), for all derivatives at once. Each
        number of the objective then costs one derivative of a gradient, O(N²); the weights of all pairs cost
        N of these, of O(N² + pairs) each.

    Raises:
        ValueError: the certificate does not prove a point at which the theorem holds. The pairs identify no
            minimiser, or the solver did not converge; there is more than one minimiser nearby, or one without
            full support; the loss has corners; its Jacobian is singular; there are more than 1,024 sequences,
            or a family of policies was searched.

    Examples:
        >>> import didsim
        >>> reference = np.log([0.5, 0.3, 0.2])
        >>> data = Pairs([0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2])
        >>> found = sensitivity(didsim.solve(didsim.cdpo(0.5, 0.1), reference, data))
        >>> sorted(found.objective)
        ['terms[0].kernel.smoothing', 'terms[0].reward.beta']
        >>> found.weights[0].round(3).tolist()  # one more win of 0 over 1
        [0.427, -0.64, -0.107]
    """
    _checks.instance("solution", solution, Solution, "a Solution, as didsim.solve gives")
    given = solution.given
    if given is None or (reason := _objection(solution, given)) is not None:
        why = "it does not say what was solved" if given is None else reason
        raise ValueError(f"`solution` must be a minimiser that can be differentiated; {why}")
    with jax.enable_x64(True):
        policies = np.asarray(solution.log_probs, np.float64)
        batch, size = policies.shape[:-1], policies.shape[-1]
        reference = visible_reference(given.reference, given.problem, given.objective.terms)
        problem = given.problem.weighted() if isinstance(given.problem, Pairs) else given.problem
        task = Task.over_runs(given.objective, reference, problem, given.lengths, batch, False, 0.0)
        found, regular = _derivatives(
            in_dtype(task, np.dtype("float64")), jnp.asarray(policies.reshape(-1, size))
        )
        if not np.all(regular):
            raise ValueError(f"`solution` must be a minimiser that can be differentiated; {SINGULAR}")
    rounded: Sensitivity = in_dtype(batched(found, batch), solution.log_probs.dtype)
    return rounded


def _objection(solution: Solution, given: Given) -> str | None:
    """Why the implicit function theorem is not known to hold at a solution; or None."""
    if solution.policy is not None:
        return "the best of a family of policies is not where the gradient in the logits vanishes"
    # Starts that disagree leave open whether this is the lowest minimum, but it is one.
    if solution.verdict not in (Verdict.MINIMISER, Verdict.STARTS_DISAGREE):
        return solution.objection()
    return irregular(given.objective, solution.log_probs.shape[-1])


@eqx.filter_jit
def _derivatives(task: Task, policies: Array) -> tuple[Sensitivity, Array]:
    """The derivatives of every run, and whether they exist."""
    response = respond(task, policies)

    def one(given: tuple[Objective, Array, Problem, Array, Array]) -> Sensitivity:
        objective, reference, problem, z, matrix = given
        numbers, rest = eqx.partition(objective, eqx.is_inexact_array)

        def of_numbers(numbers: PyTree) -> Array:
            return gradient(eqx.combine(numbers, rest), reference, problem, task.lengths, z)

        slopes = jax.tree_util.tree_leaves_with_path(jax.jacfwd(of_numbers)(numbers))
        by_path = {jax.tree_util.keystr(path).lstrip("."): matrix @ slope for path, slope in slopes}
        if not isinstance(problem, Pairs):
            return Sensitivity(by_path, None)

        def of_weights(weights: Array) -> Array:
            weighted = eqx.tree_at(lambda pairs: pairs.weights, problem, weights)
            return gradient(objective, reference, weighted, task.lengths, z)

        # A row of the answer at a time: pairs may be many, and sequences are not.
        _, pulled = jax.vjp(of_weights, problem.weights)
        return Sensitivity(by_path, jax.lax.map(lambda row: pulled(row)[0], matrix).T)

    found = jax.lax.map(one, (task.objective, task.reference, task.problem, policies, response.matrix))
    return found, response.regular
