"""Where gradient descent ends on pairs that identify no minimiser.

Some sequences may win against others and never lose to them. Then the loss has no minimiser: it falls as long
as their rewards part. Still the policy can tend to a limit.

Let the kernel be convex, and let its slope tend to zero as a difference grows. Divide the sequences into the
strong components of the graph of wins (`win_graph`). The infimum of the loss is the sum of two parts: the
minimum over the pairs inside each component, and the infimum of the kernel for each pair across two
components. Rewards come as close to it as you like: let the components keep their own minimisers, and move
each component far above those that it wins against. Gradient descent with small steps brings a convex loss to
its infimum, so that each part tends to its own. Hence

- inside a component, the differences of rewards tend to those that minimise the loss of its own pairs;
- across components, the reward of the winner less that of the loser grows without end.

**One source.** If comparisons join all sequences, and only one component is unbeaten, a chain of wins leads
from it to every other. All others then fall below it without end. The limit has all mass on this component,
with the policy whose rewards minimise the loss of its own pairs.

**Sequences that are never compared with these.** Let the reward have the same slope for all sequences. Then
the normaliser cancels, and the gradient in the logits sums to zero over each set of sequences that
comparisons join. So each such set keeps the sum of its logits, which is that of the reference. In a set with
one source the source therefore rises without end, past every set that is one component alone, whose logits
converge. If there is no set with losers, the sums alone fix the limit, and every sequence keeps a positive
probability. If there are two sets with losers, their speeds would decide, and the limit is not known here.

(Derived here.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from didsim.fixed_points.compiling import compiled
from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import Curvature
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.task import DENSE, Task, over_starts
from didsim.fixed_points.win_graph import Comparisons
from didsim.objectives.kernels import Kernel
from didsim.objectives.terms import Term
from didsim.preferences.explicit import Joint
from didsim.preferences.problem import Problem

_LARGE = 1e4  # a difference of rewards at which the slopes of logistic and exponential losses are 0


def limit_of_descent(
    task: Task, pair: Term, problem: Problem, compared: Comparisons
) -> Float[np.ndarray, "runs sequences"]:
    """The limit of gradient descent from the reference, as log-probabilities; NaN where it is not known.

    It is not computed beyond 1,024 sequences. It costs as much as Newton's method on the rewards.
    """
    unknown = np.full((task.runs, task.size), np.nan, task.reference.dtype)
    open_runs = ~np.asarray(compared.identified.all(axis=-1))
    if not (open_runs.any() and pair.kernel.convex and task.size <= DENSE):
        return unknown
    keeps = _what_keeps_mass(compared, _levels_off(pair.kernel, jnp.full_like(task.reference[:, 0], _LARGE)))
    if not _has_same_slopes(pair, task.lengths):
        keeps &= (compared.together == compared.together[:, :1]).all(axis=-1, keepdims=True)
    known = np.asarray(open_runs & keeps.any(axis=-1))
    if not known.any():
        return unknown
    # All sequences stand in where nothing is known, so that the program has something to solve.
    keeps = np.where(known[:, None], keeps, True)
    shown = jnp.asarray(keeps), jnp.asarray(compared.together)
    found = _minimised(pair.kernel, problem, *shown)
    policy = _policy(pair, task.reference, task.lengths, found.z, *shown)
    known &= np.asarray(found.converged)
    return np.where(known[:, None], policy, unknown)


def _what_keeps_mass(
    compared: Comparisons, levels_off: Bool[np.ndarray, " runs"]
) -> Bool[np.ndarray, "runs sequences"]:
    """The sequences that keep a positive probability; none where that is not known."""
    keeps = np.zeros_like(compared.identified)
    for run, (component, together, unbeaten) in enumerate(
        zip(compared.component, compared.together, compared.unbeaten, strict=True)
    ):
        parted = [one for one in np.unique(together) if len(np.unique(component[together == one])) > 1]
        if not parted:
            keeps[run] = True
        elif len(parted) == 1 and levels_off[run]:
            sources = unbeaten & (together == parted[0])
            keeps[run] = sources & (len(np.unique(component[sources])) == 1)
    return keeps


def _levels_off(kernel: Kernel, large: Array) -> Bool[np.ndarray, " runs"]:
    """Whether a convex loss is level at a large difference. It is then level at every larger one."""
    return np.asarray(eqx.filter_vmap(lambda kernel, d: jax.grad(kernel)(d) == 0)(kernel, large))


def _has_same_slopes(pair: Term, lengths: Array | None) -> bool:
    """Whether the normaliser cancels in all differences of rewards."""
    of_one_length = lengths is None or len(np.unique(np.asarray(lengths))) == 1
    return pair.reward.has_one_slope or (pair.reward.affine and of_one_length)


@compiled
def _minimised(kernel: Kernel, problem: Problem, keeps: Array, joined: Array) -> Found:
    """The rewards that minimise the loss of the pairs among `keeps`."""
    size = keeps.shape[-1]

    def one(given: tuple[Kernel, Joint, Array, Array], start: Array) -> Found:
        kernel, table, keeps, joined = given
        kept = jax.tree.map(lambda one: jnp.where(keeps[:, None] & keeps, one, -jnp.inf), table)
        # A row for each set of joined sequences, and for each sequence that does not count. Its sum is held.
        held = jnp.where(keeps, joined, size + jnp.arange(size))
        rows = jnp.arange(2 * size)[:, None] == held
        joins = held[:, None] == held

        def loss(h: Array, _: Array) -> Array:
            return kernel.expect(kept, h) + jnp.sum((rows @ h) ** 2) / 2

        def curvature(h: Array) -> Curvature:
            found = kernel.curvature(kept, h, h)
            return Curvature(
                found.chosen + found.rejected + rows.T @ (rows @ h), Dense(found.hessian() + joins)
            )

        idle = jnp.zeros((0, size), start.dtype)
        return minimise(loss, start, idle, moves=False, curvature=curvature)

    starts = jnp.zeros((*keeps.shape[:-1], 1, size))
    found = over_starts(one, (kernel, problem.joint(size), keeps, joined), starts)
    first: Found = jax.tree.map(lambda leaf: leaf[:, 0], found)
    return first


@eqx.filter_jit
def _policy(
    pair: Term, reference: Array, lengths: Array | None, h: Array, keeps: Array, joined: Array
) -> Array:
    """The policies with some rewards where `keeps`, in which each joined set keeps the sum of its logits."""

    def one(pair: Term, reference: Array, h: Array, keeps: Array, joined: Array) -> Array:
        z = pair.reward.policy(jnp.where(keeps, h, -jnp.inf), reference, lengths)
        whole = jnp.all(keeps)
        same = joined[:, None] == joined
        owed = same @ (reference - jnp.where(whole, z, 0)) / jnp.sum(same, axis=-1)
        return jnp.where(whole, jax.nn.log_softmax(jnp.where(whole, z, 0) + owed), z)

    return eqx.filter_vmap(one)(pair, reference, h, keeps, joined)
