"""How a minimiser moves with what it is a minimiser of: the implicit function theorem.

Let `F(z; θ) = ∂L/∂z` be the gradient of the loss in the logits of the policy. Baselines and samplers are held
fixed in the derivative, and belong to the policy of these logits. At a minimiser `F = 0`. If a number `θ` of
the objective, of the reference or of the problem changes by `dθ`, then

    A dz = −(∂F/∂θ) dθ,    A = ∂F/∂z,    d log π = (I − 1 pᵀ) dz,    p = π.

`A` is the Hessian (`Objective.curvature`). Where a baseline or a sampler moves with the policy, `A` has one
more part, and is not symmetric.

A constant added to all logits changes nothing, so `A 1 = 0`. The entries of `F` add up to zero for all `z`,
so `1ᵀ A = 0`. Therefore `1 1ᵀ` is added to `A`. The sum is regular if `A` maps no other direction to zero,
and its solution for a right-hand side that adds up to zero is a solution for `A`, too. `A` is first scaled to
a unit diagonal, so that it does not matter how improbable a sequence is. (Derived here.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, Bool, Float, PyTree

from didsim import _checks
from didsim._checks import Shape
from didsim.fixed_points.smoothing import has_kinks
from didsim.fixed_points.task import DENSE, Task
from didsim.objectives.objective import Objective
from didsim.objectives.reference import visible_reference
from didsim.preferences.explicit import Pairs
from didsim.preferences.problem import Marginals, Problem

# A Jacobian of unit diagonal whose condition number is larger than this counts as singular.
_SINGULAR = 1e12


class Response(NamedTuple):
    """How log-probabilities respond to a change of the gradient, for each run.

    Attributes:
        matrix: `−(I − 1 pᵀ) A⁻¹`: times a change `dF` of the gradient at a fixed policy, this is the change
            of the minimiser's log-probabilities.
        regular: whether `A` is regular, so that the minimiser is the only one near it, and moves smoothly.
    """

    matrix: Float[Array, "runs n n"]
    regular: Bool[Array, " runs"]


def differentiable(
    find: Callable[[Objective, Array, Problem], Array],
    objective: Objective,
    reference: Array,
    problem: Problem,
    lengths: Array | None,
    batch: Shape,
) -> Float[Array, "*batch sequences"]:
    """The minimiser that a function finds, with the derivatives that the implicit function theorem gives.

    Args:
        find: the minimiser of an objective, a reference and a problem, all of them known, `[*batch, n]`.
        objective: the objective; its numbers may be traced.
        reference: the reference, as it was given.
        problem: the problem.
        lengths: number of tokens of every sequence, or None.
        batch: the batch axes of all arguments.
    """
    free, rest = eqx.partition((objective, reference, problem), eqx.is_inexact_array)

    @jax.custom_jvp
    def minimiser(free: PyTree) -> Array:
        return find(*eqx.combine(free, rest))

    @minimiser.defjvp
    def moved(primals: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[Array, Array]:
        (free,), (change,) = primals, tangents
        found = minimiser(free)
        objective, reference, problem = eqx.combine(free, rest)
        size = reference.shape[-1]
        if (reason := irregular(objective, size)) is not None:
            raise ValueError(f"`objective` must have a minimiser that can be differentiated; {reason}")
        # Linear in the change: JAX transposes it, and must find the precision there that it has here.
        precision = jnp.zeros(0).dtype
        visible = visible_reference(reference, problem, objective.terms)
        log_probs = found.reshape(-1, size)

        def task_of(free: PyTree) -> Task:
            objective, given, problem = eqx.combine(free, rest)
            shown = jnp.where(jnp.isneginf(reference), visible, given)
            return Task.over_runs(objective, shown, problem, lengths, batch, False, 0.0)

        with jax.enable_x64(True):
            response = respond(_as(task_of(free), jnp.float64), log_probs.astype(jnp.float64))
        if _checks.known(response.regular) and not bool(response.regular.all()):
            raise ValueError(f"`objective` must have a minimiser that can be differentiated; {SINGULAR}")
        task, task_change = eqx.filter_jvp(lambda free: _as(task_of(free), precision), (free,), (change,))
        push = _pushed(task, task_change, log_probs.astype(precision))
        tangent = jnp.einsum("rij,rj->ri", response.matrix.astype(precision), push)
        return found, tangent.reshape(found.shape).astype(found.dtype)

    return minimiser(free)


SINGULAR = "the Jacobian of the gradient in the logits is singular there"


def irregular(objective: Objective, size: int) -> str | None:
    """Why the implicit function theorem does not apply to an objective, whatever its minimiser; or None."""
    if has_kinks(objective):
        return "the loss has corners, and its minimiser may sit in one"
    if size > DENSE:
        return f"it takes N × N matrices, for at most {DENSE} sequences; got {size}"
    return None


@eqx.filter_jit
def respond(task: Task, log_probs: Float[Array, "runs n"]) -> Response:
    """How each run's minimiser responds to a change of the gradient. O(N³)."""

    def one(given: tuple[Objective, Array, Problem, Array]) -> Response:
        objective, reference, problem, z = given
        if objective.has_baseline or problem.online:
            jacobian = jax.jacfwd(lambda z: gradient(objective, reference, problem, task.lengths, z))(z)
        else:
            pairs, marginals = _counted(objective, problem, z.shape[-1])
            jacobian = objective.curvature(z, log_softmax(reference), pairs, task.lengths, marginals)
        diagonal = jnp.abs(jnp.diag(jacobian))
        scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
        constant = 1 / scale
        constant = constant / jnp.linalg.norm(constant)
        scaled = jacobian * scale[:, None] * scale + jnp.outer(constant, constant)
        inverse = jnp.linalg.inv(scaled)
        condition = jnp.linalg.norm(scaled, 1) * jnp.linalg.norm(inverse, 1)
        moves = -scale[:, None] * inverse * scale
        # Relative to the most probable sequence, whose own small moves would else be lost to rounding.
        moves = moves - moves[jnp.argmax(z)]
        return Response(moves - jnp.exp(z) @ moves, condition < _SINGULAR)

    # One at a time: see `over_starts`.
    return jax.lax.map(one, (task.objective, task.reference, task.problem, log_probs))


@eqx.filter_jit
def _pushed(task: Task, change: Task, log_probs: Float[Array, "runs n"]) -> Float[Array, "runs n"]:
    """How the gradient at fixed policies changes with the tasks."""

    def gradients(task: Task) -> Array:
        def one(given: tuple[Objective, Array, Problem, Array]) -> Array:
            objective, reference, problem, z = given
            return gradient(objective, reference, problem, task.lengths, z)

        return jax.lax.map(one, (task.objective, task.reference, task.problem, log_probs))

    changed: Array = eqx.filter_jvp(gradients, (task,), (change,))[1]
    return changed


def gradient(
    objective: Objective, reference: Array, problem: Problem, lengths: Array | None, z: Float[Array, " n"]
) -> Float[Array, " n"]:
    """The gradient of the loss in the logits, for one run.

    Its own derivatives see baselines and samplers move.
    """
    pairs, marginals = problem, None
    if not problem.online:
        pairs, marginals = _counted(objective, problem, z.shape[-1])

    def loss(z: Array, held: Array) -> Array:
        return objective.population_loss(
            log_softmax(z), log_softmax(reference), pairs, lengths, marginals, log_softmax(held)
        )

    return jax.grad(loss)(z, z)


def _counted(objective: Objective, problem: Problem, size: int) -> tuple[Problem, Marginals]:
    """A problem as a table, with its marginals.

    A weight of zero is taken as a tiny one. The logarithm of a zero has no derivative. But the loss has one
    in the weight of a pair that does not count yet, or of the other order of a pair.
    """

    def some(node: Any) -> Any:
        if not isinstance(node, Pairs):
            return node
        pairs = node.ordered() if node.tied is None else node
        if pairs.weights is None:
            return pairs
        limits = jnp.finfo(pairs.weights.dtype)
        least = float(limits.tiny / limits.eps)
        return eqx.tree_at(lambda pairs: pairs.weights, pairs, pairs.weights + least)

    problem = jax.tree.map(some, problem, is_leaf=lambda node: isinstance(node, Pairs))
    marginals = problem.chosen_marginal(size), problem.rejected_marginal(size)
    return objective.tabulated(problem, size), marginals


def _as(task: Task, dtype: Any) -> Task:
    """A task with its floating-point numbers in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, task)
