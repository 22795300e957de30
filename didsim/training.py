"""The training loop: a batch of runs inside one compiled program."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from didsim import _checks
from didsim._checks import Shape
from didsim.composition import Objective, check_lengths
from didsim.fixed_points import fixed_point
from didsim.information import LogProbs, LogProbsLike, expectation
from didsim.kernels import Logistic
from didsim.objectives import dpo
from didsim.online import Online
from didsim.policies import Policy
from didsim.preferences import Contrastive, Labelled, Problem
from didsim.progress import progress_bar, tick
from didsim.recording import Metric, Record, Snapshot, metric_attributes
from didsim.rewards import LogRatio
from didsim.terms import Pair


class Run(eqx.Module):
    """What `train` hands back.

    Attributes:
        policy: the trained policy, with the batch axes of the run.
        steps: the steps that were recorded, from 0.
        metrics: for each metric an array `[*batch, records, …]`.
        diverged_at: the number of steps that each run took before it diverged, −1 for one that did not.
    """

    policy: Policy
    steps: Int[np.ndarray, " records"]
    metrics: dict[str, Array]
    diverged_at: Int[np.ndarray, "*batch"]

    def to_dataset(self, batch_dims: Sequence[str] = ()) -> xr.Dataset:
        """The metrics as a labelled dataset, with dimensions `(*batch_dims, "step")`.

        Raises:
            ValueError: `batch_dims` does not name every batch axis, or a metric is not a scalar per step.
        """
        variables = {}
        for name, values in self.metrics.items():
            if values.ndim != len(batch_dims) + 1:
                raise ValueError(
                    f"`batch_dims` must name every batch axis of scalar metrics; metric {name!r} has "
                    f"shape {values.shape}, and batch_dims is {tuple(batch_dims)}"
                )
            dims = (*batch_dims, "step")
            variables[name] = (dims, np.asarray(values), metric_attributes(name))
        return xr.Dataset(variables, coords={"step": ("step", self.steps, {"long_name": "Step"})})


class DivergenceError(FloatingPointError):
    """Training met a loss or a gradient that is not finite.

    Attributes:
        run: what was recorded until then, with the last policy whose parameters are finite.
        step: the number of steps that were taken before.
        failed: which runs of the batch diverged, a boolean array of the batch's shape.
    """

    def __init__(self, message: str, run: Run, step: int, failed: np.ndarray):
        super().__init__(message)
        self.run = run
        self.step = step
        self.failed = failed


def train(
    policy: Policy,
    reference: LogProbsLike,
    problem: Problem,
    objective: Objective,
    optimizer: optax.GradientTransformation | Partial,
    steps: int,
    *,
    record: Record | None = None,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    target: LogProbsLike | None = None,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    progress: bool | str = False,
    mesh: Mesh | None = None,
    on_divergence: Literal["raise", "record"] = "raise",
) -> Run:
    """Minimise an objective over a policy's parameters.

    All batch axes of the arguments (seeds, prompts, values of beta) broadcast together, and each entry is a
    run of its own with its own optimiser state, which no other touches, except that all stop when one
    diverges (`on_divergence`). A policy without batch axes starts every run. The whole of it, steps and
    records, is one compiled program. New values of any array (another beta, seed, target) do not compile it
    again, unless they change whether labelled pairs are summed in two parts (`Labelled.separable`); another
    shape or number of records does, and so does another optimiser or metric, even one just like it: make
    them once. For another learning rate, or a batch of them, give the optimiser with its settings apart:
    `jax.tree_util.Partial(optax.adam, 0.03)`.

    All numbers are in the dtype of the policy. In float32 a population's gradient is good to 3e-5 of its
    largest entry, at worst: a limit that gives some sequences next to no probability wants float64.

    Args:
        policy: any module with `log_probs()`; its floating-point arrays are trained, those of
            `policy.trainable()` where it has that method.
        reference: the reference policy's log-probabilities.
        problem: where pairs come from.
        objective: what is minimised; a batch of objectives has batch axes on its parameters.
        optimizer: any optax optimiser, line searches included; or a `jax.tree_util.Partial` of a function
            that makes one from numbers, whose arguments are arrays as any other, with batch axes or without.
        steps: number of steps; 0 records the start alone.
        record: when and what to record; every 10 steps, all standard metrics, by default.
        batch_size: number of pairs drawn from the problem for each step's gradient; None is the exact
            gradient of the population loss, or of all pairs of a dataset. Metrics are always exact.
        key: random key, needed with `batch_size`.
        target: what the metrics `…_target` compare with. By default, for DPO and cDPO on a population of
            full support, the policy that the preferences encode at the objective's `beta`, DPO's limit
            `reference · (chosen/rejected)^(1/beta)` or `reference · exp(reward/beta)`; otherwise none.
        lengths: number of tokens of every sequence, `space.lengths`; see `Objective.loss`.
        progress: whether to show a progress bar, or its label.
        mesh: devices to spread the runs over, a mesh of one axis; the number of runs must be a multiple of
            theirs. Runs of one device then go on when one of another diverges. With several processes
            (`jax.distributed`), each calls `train` with the same arguments and gets the whole result.
        on_divergence: "raise" stops all runs when one diverges, and raises; with "record" the others go on,
            the one that diverged keeps its last finite parameters, its metrics are NaN from then on, and
            `Run.diverged_at` says when. Metrics are then floating-point numbers.

    Returns:
        A `Run`. Each step costs one gradient of `Objective.loss`, O(N + pairs) with minibatches, per run. A
        record costs what its metrics do: O(N), but for the loss, which costs about as a gradient, the reward
        accuracy, O(N log N) or, for labelled pairs, O(N²), and the fraction ordered, O(N²); online pairs
        have new marginals at every record (`Labelled.chosen_marginal`). The gradient that is recorded is the
        next step's own. Parameters and optimiser state are updated in place.

    Raises:
        ValueError: a distribution is not normalised or has a zero, shapes do not fit, `steps < 0`, `key`
            is missing, or runs cannot be spread over the mesh.
        DivergenceError: the gradient became NaN or infinite in any run of the batch, or the loss, which is
            looked at in records, and with minibatches that of the minibatch at every step. The error holds
            all records until then. Not raised with `on_divergence="record"`.

    >>> import didsim
    >>> reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0)), 8)
    >>> problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta=0.5))
    >>> policy = didsim.EnergyBased(reference)
    >>> run = train(policy, reference, problem, dpo(0.5), optax.adam(0.1), 300)
    >>> run.metrics["js_to_target"].shape, bool(run.metrics["js_to_target"][-1] < 1e-6)
    ((31,), True)
    """
    _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    _check_optimizer(optimizer)
    if not hasattr(policy, "log_probs") or not jax.tree.leaves(_partition(policy)[0]):
        raise ValueError(
            f"`policy` must be a module with log_probs() and floating-point arrays to train; got {policy!r}"
        )
    if not _checks.known((policy, reference, problem, objective, target, key, optimizer)):
        raise ValueError("`train` must be called outside jit, vmap and grad: it compiles itself")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ValueError(f"`steps` must be an integer of at least 0; got {steps!r}")
    if on_divergence not in ("raise", "record"):
        raise ValueError(f"`on_divergence` must be 'raise' or 'record'; got {on_divergence!r}")
    together = on_divergence == "raise"
    record = Record() if record is None else record
    _checks.instance("record", record, Record, "a Record")
    start = _checks.distribution("policy.log_probs()", policy.log_probs(), full_support=True)
    reference = _checks.distribution("reference", reference, full_support=True)
    if batch_size is not None:
        batch_size = _checks.positive_int("batch_size", batch_size)
        if key is None:
            raise ValueError("`key` must be given with `batch_size`; got None")
    _checks.same_sequences(policy=start, reference=reference)
    problem.check_size(start.shape[-1])
    if target is None:
        target = _encoded_target(objective, reference, problem)
    else:
        target = _checks.distribution("target", target, full_support=True)
    size = start.shape[-1]
    batch = _batch_shape(start, reference, problem, objective, target, key, optimizer)
    lengths = check_lengths(lengths, size)
    metrics = record.resolve(
        has_target=target is not None,
        has_support=problem.has_full_support,
    )

    def runs(tree: PyTree, event_ndim: int) -> PyTree:
        """Arrays broadcast to the batch, flattened to one axis of runs, floats in the policy's dtype."""

        def one(leaf: Array) -> Array:
            event = leaf.shape[leaf.ndim - event_ndim :]
            leaf = jnp.broadcast_to(leaf, (*batch, *event)).reshape(-1, *event)
            return leaf.astype(start.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(one, tree)

    trained, fixed = _partition(policy)
    trained = _replicate(trained, start.shape[:-1], batch)
    if isinstance(optimizer, Partial):
        optimizer = runs(jax.tree.map(jnp.asarray, optimizer), 0)
    keys = None
    if key is not None:
        one_key = _checks.key("key", key)
        keys = jax.random.split(one_key, batch).reshape(-1) if one_key.ndim == 0 else runs(one_key, 0)
    if mesh is not None:
        _check_mesh(mesh, batch)
    records = [0, *range(record.every, steps, record.every), *([steps] if steps else [])]
    with progress_bar(progress, steps) as meter:
        data = _Data(
            runs(reference, 1), runs(target, 1), problem.over_runs(runs), runs(objective, 0), optimizer
        )
        state = _initial_state(trained, optimizer)
        if mesh is not None:
            over_runs = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
            data, keys, trained, state = _put((data, keys, trained, state), over_runs)
        counts = jnp.diff(jnp.asarray(records), append=records[-1])
        given = (data, keys), (fixed, lengths, counts, meter)
        options = _Options(batch_size, together)
        result = _run(given, trained, state, metrics=metrics, options=options, mesh=mesh)
        if mesh is not None and jax.process_count() > 1:
            result = process_allgather(result, tiled=True)
        trained, ended, failed, broken, recorded = jax.block_until_ready(result)
        ended, failed, broken = np.asarray(ended), np.asarray(failed), np.asarray(broken)

    def batched(leaf: Array) -> Array:
        return leaf.reshape(*batch, *leaf.shape[1:])

    kept = len(records)
    if together and broken.any():
        kept = int(np.argmax(broken.any(axis=1)))
    elif broken.any():
        recorded = {name: _without(values, broken) for name, values in recorded.items()}
    run = Run(
        policy=eqx.combine(jax.tree.map(batched, trained), fixed),
        steps=np.asarray(records[:kept], dtype=int),
        metrics={name: batched(jnp.moveaxis(recorded[name][:kept], 0, 1)) for name in metrics},
        diverged_at=np.where(failed, ended, -1).reshape(batch),
    )
    if together and failed.any():
        raise _divergence(run, int(ended[failed].min()), failed.reshape(batch))
    return run


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


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if eqx.is_array(leaf) else leaf, tree)


def _check_mesh(mesh: Mesh, batch: Shape) -> None:
    _checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    runs = math.prod(batch)
    if len(mesh.axis_names) != 1 or runs % mesh.size:
        raise ValueError(
            f"`mesh` must have one axis, and a number of devices that divides {runs} runs; got axes "
            f"{dict(mesh.shape)}"
        )


def _check_optimizer(optimizer: optax.GradientTransformation | Partial) -> None:
    made = optimizer
    if isinstance(optimizer, Partial):
        for leaf in jax.tree.leaves(optimizer):
            if isinstance(leaf, bool) or not isinstance(leaf, numbers.Real | Array | np.ndarray):
                raise ValueError(
                    f"`optimizer` must be a Partial whose arguments are numbers or arrays; got {leaf!r}. A "
                    "flag or a schedule belongs in a function of one's own, Partial(lambda rate: …, 0.1)"
                )
        made = jax.tree.map(lambda leaf: jnp.ravel(leaf)[0], optimizer)()
    _checks.instance(
        "optimizer", made, optax.GradientTransformation, "an optax optimiser, or a Partial that makes one"
    )


def _encoded_target(objective: Objective, reference: Array, problem: Problem) -> LogProbs | None:
    """DPO's limit at the objective's beta, where that is what its preferences encode."""
    if len(objective.terms) > 1:
        return None
    (term,) = objective.terms
    if not (isinstance(term, Pair) and isinstance(term.kernel, Logistic)):
        return None
    reward = term.reward
    if not isinstance(reward, LogRatio) or reward.per_token or term.chosen_reward is not None:
        return None
    if not isinstance(problem, Contrastive | Labelled | Online) or not problem.has_full_support:
        return None
    return fixed_point(dpo(reward.beta), reference, problem)


def _batch_shape(
    start: Array,
    reference: Array,
    problem: Problem,
    objective: Objective,
    target: Array | None,
    key: Array | None,
    optimizer: optax.GradientTransformation | Partial,
) -> Shape:
    """The common batch shape of all that a run takes."""
    distributions = {"policy": start, "reference": reference}
    if target is not None:
        distributions["target"] = target
    _checks.same_sequences(**distributions)
    shapes = {name: array.shape[:-1] for name, array in distributions.items()}
    shapes["problem"] = problem.batch_shape
    shapes["objective"] = objective.batch_shape
    if key is not None:
        shapes["key"] = _checks.key("key", key).shape
    if isinstance(optimizer, Partial):
        settings = [jnp.shape(leaf) for leaf in jax.tree.leaves(optimizer)]
        shapes["optimizer"] = _checks.broadcast(**{f"optimizer[{k}]": one for k, one in enumerate(settings)})
    return _checks.broadcast(**shapes)


def _partition(policy: Policy) -> tuple[PyTree, PyTree]:
    """The arrays of a policy that are trained, and all else of it."""
    if isinstance(policy, Policy):
        return eqx.partition(policy, policy.trainable())
    return eqx.partition(policy, eqx.is_inexact_array)


def _replicate(trained: PyTree, own: Shape, batch: Shape) -> PyTree:
    """Parameters of batch shape `own`, broadcast to `batch` and flattened to one axis of runs."""

    def one(leaf: Array) -> Array:
        if leaf.shape[: len(own)] != own:
            raise ValueError(
                f"`policy` must have its batch axes {own} first in every trained array; "
                f"got one of shape {leaf.shape}"
            )
        event = leaf.shape[len(own) :]
        leaf = leaf.reshape(*(1,) * (len(batch) - len(own)), *leaf.shape)
        # A copy, as the caller's own array must outlive its use as a buffer.
        return jnp.array(jnp.broadcast_to(leaf, (*batch, *event)).reshape(-1, *event))

    return jax.tree.map(one, trained)


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _divergence(run: Run, step: int, failed: np.ndarray) -> DivergenceError:
    where = f"{failed.sum()} of {failed.size} runs" if failed.ndim else "the run"
    first = tuple(int(k) for k in np.argwhere(failed)[0]) if failed.ndim else ()
    parameters = jax.tree.leaves(_partition(run.policy)[0])
    largest = max(float(jnp.abs(leaf[first]).max()) for leaf in parameters)
    until = f"until step {run.steps[-1]}" if len(run.steps) else "nothing"
    return DivergenceError(
        f"the loss or its gradient is not finite at step {step} in {where}"
        + (f", first at batch index {first}" if first else "")
        + f". The largest parameter there is {largest:.3g}. It may be that the learning rate is too large, "
        "that the objective has no finite minimiser and its policy runs off, or that a difference of "
        "implicit rewards is past what the dtype holds (the exponential loss overflows at 88 nats in "
        f"float32); a smaller learning rate or float64 tells which. What was recorded, {until}, is in this "
        "error's `run`.",
        run,
        step,
        failed,
    )
