"""A batch of problems to solve, and how its solutions are put together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float, PyTree

from didsim._batches import as_runs, batched
from didsim._checks import Shape
from didsim._extremes import largest_magnitude
from didsim.fixed_points.certificate import Certificate, Method, Solution
from didsim.fixed_points.compiling import compiled, compiled_for_one_run
from didsim.fixed_points.newton import TOLERANCE, Found
from didsim.fixed_points.smoothing import has_kinks
from didsim.fixed_points.win_graph import Comparisons, compare
from didsim.objectives.objective import Objective
from didsim.pairwise.primitive import at_few_nodes
from didsim.preferences.explicit import Joint
from didsim.preferences.problem import Problem

DENSE = 1024  # the most numbers to solve for with N × N matrices
# A solver that stops at a log-probability below this was following a policy that has no limit.
_FAR = -300.0


class Task(eqx.Module):
    """A batch of problems to solve. All arrays have one axis of runs, except lengths, which all runs share.

    Attributes:
        measured: whether the certificates of closed forms hold the gradient at the solution.
        eps: the rounding of the numbers that were given. All arrays have float64.
    """

    objective: Objective
    reference: Float[Array, "runs sequences"]
    problem: Problem
    lengths: Array | None
    measured: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    @classmethod
    def over_runs(
        cls,
        objective: Objective,
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        batch: Shape,
        measured: bool,
        eps: float,
    ) -> "Task":
        return cls(
            objective=as_runs(objective, batch, 0),
            reference=as_runs(reference, batch, 1),
            problem=problem.over_runs(lambda leaf, event_ndim: as_runs(leaf, batch, event_ndim)),
            lengths=lengths,
            measured=measured,
            eps=eps,
        )

    @property
    def runs(self) -> int:
        return self.reference.shape[0]

    @property
    def size(self) -> int:
        return self.reference.shape[1]

    @property
    def moves(self) -> bool:
        """Whether the loss holds fixed what moves along with the policy: a baseline, or a sampler."""
        return self.objective.has_baseline or self.problem.online

    def tabulated(self) -> Problem:
        """The problems as tables of their pairs, where a loss costs less over these."""
        problem = self.problem
        if self.size > DENSE or problem.online:
            return problem
        return self.objective.tabulated(problem, self.size)


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
    log_probs: Array | np.ndarray,
    method: Method,
    *,
    found: Found | None = None,
    gradient: Any = None,
    duality_gap: Any = np.nan,
    unique: Any = True,
    has_others: Any = False,
    converged: Any = True,
    is_there: Any = True,
    starts: int = 1,
    agreed: Any = None,
    compared: Comparisons | None = None,
    limit: Any = np.nan,
    note: str = "",
) -> Solution:
    """The solutions of all runs. Whatever is not given is filled in.

    Args:
        task: the problems.
        log_probs: the policies.
        method: how they were found.
        found: where the solver stopped, if one was needed. It tells whether it converged.
        gradient: the largest entry of the gradient; by default it is computed.
        duality_gap: as in `Certificate`.
        unique: whether the minimiser is the only one, if the solver converged and no direction is level.
        has_others: whether there are others, beside those along directions that are level.
        converged: whether the solver converged, if it did not report what it found.
        is_there: whether there is a policy to report; NaN is put in the place of others.
        starts: the number of starts.
        agreed: whether they agreed.
        compared: which sequences the pairs compare, if this matters. A problem that they do not identify has
            no policy to report.
        limit: where gradient descent is known to end, beside unique minimisers.
        note: a remark.
    """
    if gradient is None:
        measured = task.measured and not has_kinks(task.objective)
        gradient = at_few_nodes(lambda: _gradient_norm(task, log_probs)) if measured else np.nan

    def of_runs(value: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(value), (task.runs,))

    shape, policies = (task.runs, task.size), np.asarray(log_probs)
    flat = of_runs(0 if found is None else found.flat)
    level = of_runs(0 if found is None else found.level)
    component = np.zeros(shape, int) if compared is None else compared.component
    identified = np.ones(shape, bool) if compared is None else compared.identified
    whole = identified.all(axis=-1)
    converged = of_runs(converged if found is None else found.converged)
    runs_off = ~converged & ((policies.min(axis=-1) < _FAR) | (flat > level)) & whole
    unique = of_runs(unique) & converged & (level == 0) & whole
    is_there = of_runs(is_there) & whole
    policies = np.where(is_there[:, None], policies, np.nan)
    certificate = Certificate(
        method=method,
        gradient_norm=of_runs(gradient),
        duality_gap=of_runs(duality_gap),
        last_step=of_runs(0.0 if found is None else found.step),
        steps=of_runs(0 if found is None else found.steps),
        finite=np.isfinite(policies).all(axis=-1) & converged,
        unique=unique,
        has_others=(of_runs(has_others) | (level > 0)) & converged & is_there,
        flat=level,
        converged=converged | ~whole,
        runs_off=runs_off,
        starts=starts,
        agreed=None if agreed is None else of_runs(agreed),
        component=component,
        identified=identified,
        limit=np.where(unique[:, None], policies, limit),
        note=note,
    )
    return Solution(on_device(policies), certificate)


def finished(solution: Solution, batch: Shape) -> Solution:
    """The solution with the batch axes of the arguments."""
    policies = batched(np.asarray(solution.log_probs), batch)
    return Solution(on_device(policies), batched(solution.certificate, batch))


def on_device(tree: PyTree) -> Any:
    """NumPy arrays as arrays of JAX. They can hold NaN even if JAX looks for NaN in all that it computes."""
    return jax.tree.map(jax.device_put, tree)


def in_dtype(tree: Any, dtype: np.dtype) -> Any:
    """A tree with its floating-point numbers in another dtype."""

    def converted(leaf: Any) -> Any:
        if not eqx.is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        # In NumPy, which may hold NaN even if JAX looks for NaN in all that it computes.
        changed = np.asarray(leaf).astype(dtype)
        return on_device(changed) if isinstance(leaf, jax.Array) else changed

    return jax.tree.map(converted, tree)


@compiled_for_one_run
def _gradient_norm(task: Task, log_probs: Array | np.ndarray) -> Array:
    """The largest entry of the gradient in logits, by magnitude."""
    problem = task.tabulated()

    @eqx.filter_vmap
    def norm(objective: Objective, reference: Array, problem: Problem, log_probs: Array) -> Array:
        def loss(logits: Array) -> Array:
            return objective.population_loss(log_softmax(logits), reference, problem, task.lengths)

        return largest_magnitude(jax.grad(loss)(log_probs))

    return norm(task.objective, task.reference, problem, log_probs)


def check_dense(task: Task, what: str) -> None:
    """Raise unless N × N matrices may be made."""
    if task.size > DENSE:
        raise ValueError(f"`problem` must have at most {DENSE} sequences for {what}; got one of {task.size}")


def random_starts(task: Task, starts: int) -> np.ndarray:
    """Starts for each run: zero, and normal ones of growing spread. All runs have the same ones."""
    shape = (starts, task.size)
    if starts == 1:
        return np.zeros((task.runs, *shape), task.reference.dtype)
    noise = np.asarray(jax.random.normal(jax.random.key(0), shape, task.reference.dtype))
    return np.broadcast_to(noise * np.arange(starts)[:, None] / 2, (task.runs, *shape))


class First(NamedTuple):
    """A first start of every run that was given.

    Attributes:
        log_probs: a policy.
        rewards: rewards to start from; None for the implicit rewards of this policy.
    """

    log_probs: Float[Array, "runs sequences"]
    rewards: Float[Array, "runs sequences"] | None


def with_start(guesses: np.ndarray, which: int, start: Array | np.ndarray | None) -> np.ndarray:
    """The starts of each run, with one that is given in place of a usual one.

    Args:
        guesses: the usual starts, `[runs, starts, numbers]`.
        which: the number of the start.
        start: this start of each run, `[runs, numbers]`, or None.
    """
    if start is None:
        return guesses
    guesses = np.array(guesses)
    guesses[:, which] = start
    return guesses


def best_of(
    task: Task, found: Found, ends: Array | np.ndarray
) -> tuple[Found, np.ndarray, np.ndarray | None]:
    """The start of each run that ended lowest, and whether all starts agree.

    If any start converged, only converged ones count. Starts agree if all converged, and at the same policy.
    Far out, where the gradient is rounding, a step may be tiny by chance. So a start that converged there
    counts only if all starts converged; otherwise its last step is taken as endless.

    All is in NumPy, in which a first call need not compile each operation.
    """
    runs, starts = found.value.shape
    of_starts, policies = jax.tree.map(np.asarray, found), np.asarray(ends)
    is_far = np.where(np.isfinite(policies), policies, 0).min(axis=-1) < _FAR
    by_chance = is_far & ~of_starts.converged.all(axis=1, keepdims=True)
    of_starts = of_starts._replace(step=np.where(by_chance, np.inf, of_starts.step))
    value = np.where(np.isfinite(of_starts.value), of_starts.value, np.inf)
    good = of_starts.converged & np.isfinite(value)
    value = np.where(good | ~good.any(axis=1, keepdims=True), value, np.inf)
    which = np.argmin(value, axis=1)
    best: Found = jax.tree.map(lambda leaf: leaf[np.arange(runs), which], of_starts)
    chosen = policies[np.arange(runs), which]
    if starts == 1:
        return best, chosen, None
    meet = [_meet(points, which) for points in (policies, np.asarray(rewards_at(task, ends)))]
    return best, chosen, (good & np.logical_and(*meet)).all(axis=1)


def _meet(ends: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Whether each start ended where the chosen one did.

    That is to within ten times the solver's tolerance, for log-probabilities and for implicit rewards. Of
    these two, a small beta makes the rewards alike, and a large one the log-probabilities.
    """
    chosen = ends[np.arange(len(ends)), which][:, None]
    with np.errstate(invalid="ignore"):
        apart = np.where(ends == chosen, 0, np.abs(ends - chosen)).max(axis=-1)
    size = np.where(np.isfinite(chosen), np.abs(chosen), 0).max(axis=-1)
    return apart <= 10 * TOLERANCE * np.maximum(1, size)


@compiled
def rewards_at(task: Task, ends: Array | np.ndarray) -> Array:
    """The implicit rewards of policies `[runs, starts, sequences]`."""

    @eqx.filter_vmap
    def of_run(objective: Objective, reference: Array, ends: Array) -> Array:
        return jax.vmap(lambda one: objective.reward.of_space(one, reference, task.lengths))(ends)

    return of_run(task.objective, task.reference, ends)


def over_starts(one: Callable[[Any, Array], Found], given: Any, guesses: Array) -> Found:
    """What a solver of one problem finds from one start, for all runs and starts, one after the other.

    Each goes on until it has converged, and no longer. Several at once would all do what one of them needs,
    such as a decomposition into eigenvalues. That takes two to five times as long, also for few sequences.
    And jaxlib 0.10 hands a batch of matrices to the threads that run the program, and waits for them in one
    of these: two batches side by side can occupy all threads, and wait for each other for ever.

    Args:
        one: the solver, a function of a problem and a start.
        given: the problems, with an axis of runs.
        guesses: the starts, `[runs, starts, numbers]`.
    """

    def from_all_starts(run: tuple[Any, Array]) -> Found:
        given, starts = run
        return jax.lax.map(lambda start: one(given, start), starts)

    return jax.lax.map(from_all_starts, (given, guesses))


def at_few_nodes_of_one(search: Callable[[], Found], guesses: Array) -> Found:
    """A search by products, first `at_few_nodes` if there is one start.

    Of several random starts some need more nodes, so that a try at few is wasted.
    """
    return at_few_nodes(search) if guesses.shape[1] == 1 else search()


@compiled
def table_of(problem: Problem, size: int) -> Joint:
    """The table of all pairs. It sums to one only up to the rounding of the numbers that were given."""
    return problem.joint(size)


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
    return solution_of(
        task,
        task.reference,
        Method.NONE,
        gradient=np.nan,
        unique=False,
        converged=False,
        is_there=False,
        note=note,
    )
