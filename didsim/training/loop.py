"""The compiled program of `train`: all steps and records of a batch of runs.

Every array of a run has a first axis of runs. A chunk is one record and the steps until the next one.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree

from didsim.training.progress import tick
from didsim.training.step import Common, Given, Measured, Stepped, measure, prepared, step, step_along


class Runs(NamedTuple):
    """The state of all runs between two steps.

    Attributes:
        trained: the parameters of each run.
        state: the optimiser state of each run.
        taken: number of steps that the loop took.
        counted: number of steps that each run took before it failed.
        failed: whether each run has failed.
    """

    trained: PyTree
    state: PyTree
    taken: Int[Array, ""]
    counted: Int[Array, " runs"]
    failed: Bool[Array, " runs"]


class Result(NamedTuple):
    """The result of the program.

    Attributes:
        trained: the last finite parameters of each run.
        state: the optimiser state that belongs to them.
        evaluated: the parameters that `Common.evaluate` makes of both, or None.
        counted: number of steps that each run took before it failed.
        failed: whether each run failed.
        broken: for each record and run, whether the run had failed by then.
        metrics: for each metric, by name, an array `[records, runs, …]`. Its entries have no meaning where
            `broken`.
    """

    trained: PyTree
    state: PyTree
    evaluated: PyTree
    counted: Int[Array, " runs"]
    failed: Bool[Array, " runs"]
    broken: Bool[Array, "records runs"]
    metrics: dict[str, Array]


@eqx.filter_jit(donate="all-except-first")
def run_all(
    kept: tuple[Given, Common, Int[Array, " records"]], trained: PyTree, state: PyTree, *, mesh: Mesh | None
) -> Result:
    """Train all runs, on one device or spread over the devices of a mesh.

    Args:
        kept: the inputs of each run, the inputs that they share, and the number of steps after each record.
        trained: the parameters to start from. Their memory is reused.
        state: the optimiser states to start from. Their memory is reused.
        mesh: a mesh of one axis, or None for one device.
    """
    if mesh is None:
        return _loop(*kept, trained, state)
    given, common, counts = kept
    spread, rest = eqx.partition((given, trained, state), eqx.is_array)
    copied, constant = eqx.partition((common, counts), eqx.is_array)

    def on_device(spread: PyTree, copied: PyTree) -> Result:
        given, trained, state = eqx.combine(spread, rest)
        common, counts = eqx.combine(copied, constant)
        return _loop(given, common, counts, trained, state)

    (axis,) = mesh.axis_names
    runs: Any = PartitionSpec(axis)
    records: Any = PartitionSpec(None, axis)
    out_specs = Result(runs, runs, runs, counted=runs, failed=runs, broken=records, metrics=records)
    in_specs = (runs, PartitionSpec())
    return jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(
        spread, copied
    )


def _loop(given: Given, common: Common, counts: Array, trained: PyTree, state: PyTree) -> Result:
    """All chunks, one after another. `counts` is the number of steps of each."""
    given = eqx.filter_vmap(prepared)(given)
    num_runs = given.reference.shape[0]
    none, nowhere = jnp.zeros(num_runs, counts.dtype), jnp.zeros(num_runs, bool)
    start = Runs(trained, state, jnp.zeros((), counts.dtype), none, nowhere)
    # Outside the scan: on CPUs every step takes a third longer when the scan itself makes these zeros.
    blank = _blank(trained, state, given, common)
    end, (broken, metrics) = jax.lax.scan(
        lambda runs, n: _chunk(runs, n, blank, given, common), start, counts
    )
    evaluated = None if common.evaluate is None else jax.vmap(common.evaluate)(end.state, end.trained)
    return Result(end.trained, end.state, evaluated, end.counted, end.failed, broken, metrics)


def _chunk(
    runs: Runs, count: Array, blank: Measured, given: Given, common: Common
) -> tuple[Runs, tuple[Array, dict[str, Array]]]:
    """One record and the `count` steps after it. The record has `broken` and the metrics, as in `Result`."""
    end = runs.taken + count
    measured = jax.lax.cond(
        _is_over(runs, common),
        lambda _: blank,
        lambda runs: _measure_all(runs.trained, runs.state, given, common),
        runs,
    )
    runs = runs._replace(failed=runs.failed | measured.diverged)
    broken = runs.failed
    if given.minibatches is None and common.evaluate is None:
        # The first step uses the gradient of the record.
        runs = jax.lax.cond(
            (count > 0) & ~_is_over(runs, common),
            lambda runs: _first_step(runs, measured, given, common),
            lambda runs: runs,
            runs,
        )
    runs = jax.lax.while_loop(
        lambda runs: (runs.taken < end) & ~_is_over(runs, common),
        lambda runs: _step(runs, given, common),
        runs,
    )
    if common.meter is not None:
        jax.debug.callback(tick, common.meter, runs.taken)
    return runs, (broken, measured.metrics)


def _measure_all(trained: PyTree, state: PyTree, given: Given, common: Common) -> Measured:
    """One record of all runs."""
    each = eqx.if_array(0)
    recorded = trained if common.evaluate is None else jax.vmap(common.evaluate)(state, trained)
    return eqx.filter_vmap(measure, in_axes=(each, each, None))(recorded, given, common)


def _blank(trained: PyTree, state: PyTree, given: Given, common: Common) -> Measured:
    """A record of zeros, for the time after all runs have stopped."""
    shapes = jax.eval_shape(
        lambda trained, state: _measure_all(trained, state, given, common), trained, state
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _step(runs: Runs, given: Given, common: Common) -> Runs:
    each = eqx.if_array(0)
    step_all = eqx.filter_vmap(step, in_axes=(each, each, None, each, None))
    return _after(runs, step_all(runs.trained, runs.state, runs.taken, given, common), common)


def _first_step(runs: Runs, measured: Measured, given: Given, common: Common) -> Runs:
    each = eqx.if_array(0)
    step_all = eqx.filter_vmap(step_along, in_axes=(each, each, each, each, None))
    return _after(runs, step_all(runs.trained, runs.state, measured.slope, given, common), common)


def _after(runs: Runs, stepped: Stepped, common: Common) -> Runs:
    """The runs after one step. The step does not count for a run that failed in it or earlier."""
    trained, state, failed = stepped
    if not common.together:
        failed = failed | runs.failed
        trained = _where(runs.failed, runs.trained, trained)
        state = _where(runs.failed, runs.state, state)
    stopped = failed.any() if common.together else failed
    counted = jnp.where(stopped, runs.counted, runs.counted + 1)
    return Runs(trained, state, runs.taken + 1, counted, failed)


def _is_over(runs: Runs, common: Common) -> Array:
    return runs.failed.any() if common.together else runs.failed.all()


def _where(flags: Array, yes: PyTree, no: PyTree) -> PyTree:
    """For each run, `yes` if its flag is true, otherwise `no`. Trees of arrays with a first axis of runs."""

    def one(yes: Array, no: Array) -> Array:
        return jnp.where(flags.reshape(-1, *(1,) * (no.ndim - 1)), yes, no)

    return jax.tree.map(one, yes, no)
