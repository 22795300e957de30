"""The compiled program of `train`: all steps and records of a batch of runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from didsim.information import expectation
from didsim.objectives.objective import Objective
from didsim.preferences.problem import Problem
from didsim.training.metrics import Metric, Snapshot
from didsim.training.progress import tick


class _Options(NamedTuple):
    """What a run is compiled for: the number of pairs of a minibatch, and whether all runs stop together."""

    batch_size: int | None
    together: bool


def _without(values: Array, broken: np.ndarray) -> Array:
    """Records `[records, runs, …]` with NaN for those of runs that had diverged."""
    return jnp.where(broken.reshape(*broken.shape, *(1,) * (values.ndim - 2)), jnp.nan, values)


class _Data(eqx.Module):
    """What a run is given, each array with one leading axis of runs."""

    reference: Array
    target: Array | None
    problem: Problem
    objective: Objective
    optimizer: optax.GradientTransformation | Partial

    @property
    def axes(self) -> "_Data":
        """Which leaves have the axis of runs: all arrays, none of an optimiser's functions."""
        return jax.tree.map(lambda leaf: 0 if eqx.is_array(leaf) else None, self)


@eqx.filter_jit
def _initial_state(trained: PyTree, optimizer: optax.GradientTransformation | Partial) -> PyTree:
    axes = jax.tree.map(lambda leaf: 0 if eqx.is_array(leaf) else None, optimizer)
    return jax.vmap(lambda trained, optimizer: _made(optimizer).init(trained), (0, axes))(trained, optimizer)


def _made(optimizer: optax.GradientTransformation | Partial) -> optax.GradientTransformationExtraArgs:
    made = optimizer() if isinstance(optimizer, Partial) else optimizer
    return optax.with_extra_args_support(made)


_Result = tuple[PyTree, Array, Array, Array, dict[str, Array]]


@eqx.filter_jit(donate="all-except-first")
def _run(
    given: tuple[tuple[_Data, Array | None], tuple[Any, ...]],
    trained: PyTree,
    state: PyTree,
    *,
    metrics: dict[str, Metric],
    options: _Options,
    mesh: Mesh | None,
) -> _Result:
    """Train all runs, on one device or spread over those of a mesh."""
    spread, same = given
    if mesh is None:
        return _loop(spread, same, trained, state, metrics, options)
    (axis,) = mesh.axis_names
    arrays, rest = eqx.partition((spread, trained, state), eqx.is_array)
    shared, constant = eqx.partition(same, eqx.is_array)

    def on_device(arrays: PyTree, shared: PyTree) -> _Result:
        spread, trained, state = eqx.combine(arrays, rest)
        return _loop(spread, eqx.combine(shared, constant), trained, state, metrics, options)

    runs, nothing = PartitionSpec(axis), PartitionSpec()
    records = PartitionSpec(None, axis)
    out_specs = (runs, runs, runs, records, records)
    specs: Any = {"in_specs": (runs, nothing), "out_specs": out_specs}
    return jax.shard_map(on_device, mesh=mesh, check_vma=False, **specs)(arrays, shared)


def _loop(
    spread: tuple[_Data, Array | None],
    same: tuple[Any, ...],
    trained: PyTree,
    state: PyTree,
    metrics: dict[str, Metric],
    options: _Options,
) -> _Result:
    """Take all steps and records; the third of `same` holds the number of steps after each record."""
    (data, keys), (fixed, lengths, counts, meter) = spread, same
    size = data.reference.shape[-1]
    batch_size, together = options
    exact = batch_size is None
    data = eqx.tree_at(lambda one: one.problem, data, jax.vmap(lambda p: p.prepared())(data.problem))
    axes = data.axes

    def marginals_of(problem: Problem) -> tuple[Array, Array]:
        chosen, rejected = problem.chosen_marginal(size), problem.rejected_marginal(size)
        return chosen.astype(data.reference.dtype), rejected.astype(data.reference.dtype)

    marginals = None if data.problem.online else jax.vmap(marginals_of)(data.problem)

    def log_probs_of(trained: PyTree) -> Array:
        return eqx.combine(trained, fixed).log_probs()

    def current(trained: PyTree, data: _Data) -> Problem:
        """Where pairs come from while the policy is this one."""
        log_probs = log_probs_of(trained)
        return data.problem.at(log_probs, data.objective.reward(log_probs, data.reference, lengths))

    def loss_at(
        trained: PyTree, data: _Data, problem: Problem, marginals: tuple[Array, Array] | None
    ) -> Callable[[PyTree], Array]:
        """The loss near these parameters: of the pairs and with the baselines of their policy."""
        held = log_probs_of(trained)

        def loss(trained: PyTree) -> Array:
            return data.objective.population_loss(
                log_probs_of(trained), data.reference, problem, lengths, marginals, held
            )

        return loss

    def value_and_direction(
        trained: PyTree, data: _Data, problem: Problem, marginals: tuple[Array, Array] | None
    ) -> tuple[Array, PyTree]:
        """The loss, and its gradient as the objective has it used."""
        value, gradient = jax.value_and_grad(loss_at(trained, data, problem, marginals))(trained)

        def chosen_gradient() -> PyTree:
            chosen = problem.chosen_marginal(size) if marginals is None else marginals[0]
            return jax.grad(lambda trained: expectation(chosen, log_probs_of(trained)))(trained)

        return value, data.objective.direction(gradient, chosen_gradient)

    def update(
        trained: PyTree,
        state: PyTree,
        data: _Data,
        loss: Callable[[PyTree], Array],
        value: Array,
        gradient: PyTree,
    ) -> tuple[PyTree, PyTree, Array]:
        """One step of the optimiser, and whether it failed; a run that fails keeps its last parameters."""
        updates, new_state = _made(data.optimizer).update(
            gradient, state, trained, value=value, grad=gradient, value_fn=loss
        )
        new = optax.apply_updates(trained, updates)
        # A minibatch's loss is cheap; a population's, which its gradient does not need, is left to records.
        good = _all_finite((gradient, new) if exact else (value, gradient, new))
        keep = lambda new, old: jnp.where(good, new, old)  # noqa: E731
        return jax.tree.map(keep, new, trained), jax.tree.map(keep, new_state, state), ~good

    def step(
        trained: PyTree,
        state: PyTree,
        data: _Data,
        marginals: tuple[Array, Array] | None,
        key: Array | None,
        index: Array,
    ) -> tuple[PyTree, PyTree, Array]:
        problem = current(trained, data)
        if not exact and key is not None:
            assert batch_size is not None
            problem = problem.sample(jax.random.fold_in(key, index), batch_size)
            marginals = marginals_of(problem)
        found = value_and_direction(trained, data, problem, marginals)
        return update(trained, state, data, loss_at(trained, data, problem, marginals), *found)

    def measure(
        trained: PyTree, data: _Data, marginals: tuple[Array, Array] | None
    ) -> tuple[dict[str, Array], Array, PyTree, Array]:
        """The metrics, the exact loss and gradient, and whether the loss is not finite."""
        policy = eqx.combine(trained, fixed)
        problem = current(trained, data)
        value, gradient = value_and_direction(trained, data, problem, marginals)
        chosen, rejected = marginals_of(problem) if marginals is None else marginals
        snapshot = Snapshot(
            policy=policy,
            log_probs=policy.log_probs(),
            reference=data.reference,
            target=data.target,
            chosen=chosen,
            rejected=rejected,
            problem=problem,
            objective=data.objective,
            lengths=lengths,
            loss=value,
            gradient=gradient,
        )
        values = {name: jnp.asarray(metric(snapshot)) for name, metric in metrics.items()}
        # With minibatches a sum over all pairs is not asked for, unless by a metric.
        unmeasurable = ~jnp.isfinite(value) if exact else jnp.zeros((), bool)
        return values, value, gradient, unmeasurable

    def measure_all(trained: PyTree) -> tuple[dict[str, Array], Array, PyTree, Array]:
        return jax.vmap(measure, (0, axes, 0))(trained, data, marginals)

    def measured_update(trained: PyTree, state: PyTree, data: _Data, marginals: Any, *found: Any) -> Any:
        # A line search looks along the loss of the pairs that the gradient was taken of.
        loss = loss_at(trained, data, current(trained, data), marginals)
        return update(trained, state, data, loss, *found)

    def take(carry: _Carry) -> _Carry:
        found = jax.vmap(step, (0, 0, axes, 0, 0, None))(
            carry.trained, carry.state, data, marginals, keys, carry.taken
        )
        return after(carry, *found)

    def after(carry: _Carry, trained: PyTree, state: PyTree, failed: Array) -> _Carry:
        """The carry after one step, which does not count for a run that failed in it."""
        if not together:
            failed = failed | carry.failed
            keep = lambda new, old: jnp.where(_like(carry.failed, new), old, new)  # noqa: E731
            trained = jax.tree.map(keep, trained, carry.trained)
            state = jax.tree.map(keep, state, carry.state)
        counts = failed.any() if together else failed
        ended = jnp.where(counts, carry.ended, carry.ended + 1)
        return _Carry(trained, state, carry.taken + 1, ended, failed)

    def is_over(carry: _Carry) -> Array:
        return carry.failed.any() if together else carry.failed.all()

    def chunk(carry: _Carry, count: Array) -> tuple[_Carry, tuple[Array, dict[str, Array]]]:
        """One record, and the steps that follow it; the first of them takes the record's own gradient."""
        values, loss, gradient, unmeasurable = jax.lax.cond(
            is_over(carry), lambda _: blank, measure_all, carry.trained
        )
        carry = carry._replace(failed=carry.failed | unmeasurable)
        broken = carry.failed
        end = carry.taken + count
        if exact:

            def first(carry: _Carry) -> _Carry:
                found = jax.vmap(measured_update, (0, 0, axes, 0, 0, 0))(
                    carry.trained, carry.state, data, marginals, loss, gradient
                )
                return after(carry, *found)

            carry = jax.lax.cond((count > 0) & ~is_over(carry), first, lambda carry: carry, carry)
        carry = jax.lax.while_loop(lambda c: (c.taken < end) & ~is_over(c), take, carry)
        if meter is not None:
            jax.debug.callback(tick, meter, carry.taken)
        return carry, (broken, values)

    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure_all, trained))
    num_runs = data.reference.shape[0]
    nothing = jnp.zeros((), counts.dtype)
    start = _Carry(trained, state, nothing, jnp.zeros(num_runs, counts.dtype), jnp.zeros(num_runs, bool))
    end, (broken, recorded) = jax.lax.scan(chunk, start, counts)
    return end.trained, end.ended, end.failed, broken, recorded


class _Carry(NamedTuple):
    trained: PyTree
    state: PyTree
    taken: Array  # steps of the loop
    ended: Array  # steps that each run took before it failed
    failed: Array


def _like(flags: Array, leaf: Array) -> Array:
    """A flag for each run, with as many axes as an array that has one of runs first."""
    return flags.reshape(-1, *(1,) * (leaf.ndim - 1))


def spread_over(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """The tree with its arrays placed on devices."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if eqx.is_array(leaf) else leaf, tree)


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
