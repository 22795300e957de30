"""A batch of problems to solve, and how its solutions are put together."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float

from didsim._batches import as_runs
from didsim._batches import batched as batched
from didsim._checks import Shape
from didsim.fixed_points.certificate import Certificate, Method, Solution
from didsim.fixed_points.newton import Found
from didsim.fixed_points.smoothing import has_kinks
from didsim.fixed_points.win_graph import Comparisons, compare
from didsim.information import js
from didsim.objectives.objective import Objective
from didsim.preferences.problem import Problem

DENSE = 1024  # the most numbers to solve for with N × N matrices


class Task(eqx.Module):
    """A batch of problems to solve. All arrays have one axis of runs, except lengths, which all runs share.

    Attributes:
        measured: whether the certificates of closed forms hold the gradient at the solution.
    """

    objective: Objective
    reference: Float[Array, "runs sequences"]
    problem: Problem
    lengths: Array | None
    measured: bool = eqx.field(static=True)

    @classmethod
    def over_runs(
        cls,
        objective: Objective,
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        batch: Shape,
        measured: bool,
    ) -> "Task":
        return cls(
            objective=as_runs(objective, batch, 0),
            reference=as_runs(reference, batch, 1),
            problem=problem.over_runs(lambda leaf, event_ndim: as_runs(leaf, batch, event_ndim)),
            lengths=lengths,
            measured=measured,
        )

    @property
    def runs(self) -> int:
        return self.reference.shape[0]

    @property
    def size(self) -> int:
        return self.reference.shape[1]


def compared_by(task: Task) -> Comparisons | None:
    """Which sequences the pairs compare; None unless the loss is of differences of rewards alone."""
    terms, problem = task.objective.terms, task.problem
    if problem.online or problem.compares_all or not all(term.is_of_differences for term in terms):
        return None
    # One term that rises on both sides is enough to hold two sequences together.
    falls = [np.broadcast_to(term.kernel.falls_for_ever, task.runs) for term in terms]
    return compare(problem, task.size, task.runs, both_ways=np.logical_and.reduce(falls))


def solution_of(
    task: Task,
    log_probs: Array,
    method: Method,
    *,
    found: Found | None = None,
    gradient: Array | None = None,
    duality_gap: Any = jnp.nan,
    finite: Any = None,
    unique: Any = True,
    converged: Any = True,
    starts: int = 1,
    agreed: Any = None,
    compared: Comparisons | None = None,
    note: str = "",
) -> Solution:
    """The solutions of all runs. Whatever is not given is filled in."""
    if found is not None:
        converged = found.converged
    if gradient is None:
        gradient = _gradient_norm(task, log_probs)
    if finite is None:
        finite = jnp.isfinite(log_probs).all(axis=-1) & converged

    def of_runs(value: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(value), (task.runs,))

    shape = (task.runs, task.size)
    certificate = Certificate(
        method=method,
        gradient_norm=gradient,
        duality_gap=of_runs(duality_gap),
        last_step=of_runs(0.0 if found is None else found.step),
        finite=of_runs(finite),
        unique=None if unique is None else of_runs(unique),
        converged=of_runs(converged),
        starts=starts,
        agreed=None if agreed is None else of_runs(agreed),
        component=jnp.zeros(shape, int) if compared is None else jnp.asarray(compared.component),
        identified=jnp.ones(shape, bool) if compared is None else jnp.asarray(compared.identified),
        note=note,
    )
    return Solution(log_probs, certificate)


@eqx.filter_jit
def _gradient_norm(task: Task, log_probs: Array) -> Array:
    """The largest entry of the gradient in logits, by magnitude; NaN at a loss with corners."""
    problem = task.problem
    if has_kinks(task.objective) or not task.measured:
        return jnp.full(task.runs, jnp.nan)
    if task.size <= DENSE and not problem.online:
        problem = problem.joint(task.size)

    @eqx.filter_vmap
    def norm(objective: Objective, reference: Array, problem: Problem, log_probs: Array) -> Array:
        def loss(logits: Array) -> Array:
            return objective.population_loss(log_softmax(logits), reference, problem, task.lengths)

        return jnp.max(jnp.abs(jax.grad(loss)(log_probs)))

    return norm(task.objective, task.reference, problem, log_probs)


def check_dense(task: Task, what: str) -> None:
    """Raise unless N × N matrices may be made."""
    if task.size > DENSE:
        raise ValueError(f"`problem` must have at most {DENSE} sequences for {what}; got one of {task.size}")


def random_starts(task: Task, starts: int) -> Array:
    """Starts for each run: zero, and normal ones of growing spread."""
    shape = (task.runs, starts, task.size)
    noise = jax.random.normal(jax.random.key(0), shape, task.reference.dtype)
    return noise * jnp.arange(starts)[:, None] / 2


def best_of(found: Found, ends: Array) -> tuple[Found, Array, Array | None]:
    """The start of each run that ended lowest, and whether all starts agree.

    If any start converged, only converged ones count.
    """
    runs, starts = found.value.shape
    value = jnp.where(jnp.isfinite(found.value), found.value, jnp.inf)
    good = found.converged & jnp.isfinite(value)
    value = jnp.where(good | ~good.any(axis=1, keepdims=True), value, jnp.inf)
    which = jnp.argmin(value, axis=1)
    best: Found = jax.tree.map(lambda leaf: leaf[jnp.arange(runs), which], found)
    chosen = ends[jnp.arange(runs), which]
    if starts == 1:
        return best, chosen, None
    usable = jnp.where(jnp.isnan(ends), jnp.log(1 / ends.shape[-1]), ends)
    apart = jax.jit(js)(usable, jnp.where(jnp.isnan(chosen), jnp.log(1 / ends.shape[-1]), chosen)[:, None])
    return best, chosen, (good & (apart < 1e-9)).all(axis=1)


def over_starts(one: Callable[[Any, Any, Array], Found]) -> Callable[[Any, Any, Array], Found]:
    """A solver of one problem from one start, for all runs and starts."""
    return jax.vmap(jax.vmap(one, (None, None, 0)))


def mass(problem: Problem, like: Array) -> Array:
    """How often each sequence is chosen or rejected."""
    size = like.shape[-1]
    both = jnp.logaddexp(problem.chosen_marginal(size), problem.rejected_marginal(size))
    return jnp.exp(both).astype(like.dtype)


def gradient_rule(task: Task) -> Solution:
    """The solution of a gradient rule: none, and a note that says why."""
    note = (
        "A gradient rule minimises nothing. It rests where its loss can fall no further without lowering the "
        "chosen likelihood: at a minimiser of the loss plus some multiple of the chosen negative "
        "log-likelihood. Which one depends on the start; `didsim.train` finds it"
    )
    nothing = jnp.full_like(task.reference, jnp.nan)
    return solution_of(task, nothing, Method.NONE, converged=False, finite=False, unique=False, note=note)
