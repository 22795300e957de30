"""The training loop: a batch of runs inside one compiled program."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from didsim import _checks
from didsim._checks import Shape
from didsim.fixed_points import fixed_point
from didsim.information import LogProbs, LogProbsLike
from didsim.kernels import Logistic
from didsim.objectives import Objective, check_lengths, dpo
from didsim.policies import Policy
from didsim.preferences import Contrastive, Labelled, Pairs, Problem
from didsim.progress import progress_bar, tick
from didsim.recording import Metric, Record, Snapshot, metric_attributes
from didsim.rewards import LogRatio


class Run(eqx.Module):
    """What `train` hands back.

    Attributes:
        policy: the trained policy, with the batch axes of the run.
        steps: the steps that were recorded, from 0.
        metrics: for each metric an array `[*batch, records, …]`.
    """

    policy: Policy
    steps: Int[np.ndarray, " records"]
    metrics: dict[str, Array]

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
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    record: Record | None = None,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    target: LogProbsLike | None = None,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    progress: bool | str = False,
) -> Run:
    """Minimise an objective over a policy's parameters.

    All batch axes of the arguments (seeds, prompts, values of beta) broadcast together, and each entry is a
    run of its own with its own optimiser state, which no other touches, except that all stop when one
    diverges. A policy without batch axes starts every run. The whole of it, steps and records, is one
    compiled program. New values of any array (another beta, seed, target) do not compile it again; another
    shape or number of records does, and so does another optimiser or metric, even one just like it: make them
    once.

    Args:
        policy: any module with `log_probs()`; its floating-point arrays are trained, those of
            `policy.trainable()` where it has that method.
        reference: the reference policy's log-probabilities.
        problem: where pairs come from.
        objective: what is minimised; a batch of objectives has batch axes on its parameters.
        optimizer: any optax optimiser, line searches included.
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

    Returns:
        A `Run`. Each step costs one gradient: O(N²) for a population, O(N + pairs) for `Pairs` and
        minibatches, per run. A record costs what its metrics do: those of the loss, its gradient, the reward
        accuracy and the fraction ordered are sums over all pairs of a population, the others O(N).

    Raises:
        ValueError: a distribution is not normalised or has a zero, shapes do not fit, `steps < 0`, or `key`
            is missing.
        DivergenceError: the loss or its gradient became NaN or infinite, in any run of the batch. The error
            holds all records until then.

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
    _checks.instance("optimizer", optimizer, optax.GradientTransformation, "an optax optimiser")
    if not hasattr(policy, "log_probs") or not jax.tree.leaves(_partition(policy)[0]):
        raise ValueError(
            f"`policy` must be a module with log_probs() and floating-point arrays to train; got {policy!r}"
        )
    if not _checks.known((policy, reference, problem, objective, target, key)):
        raise ValueError("`train` must be called outside jit, vmap and grad: it compiles itself")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ValueError(f"`steps` must be an integer of at least 0; got {steps!r}")
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
    batch = _batch_shape(start, reference, problem, objective, target, key)
    lengths = check_lengths(lengths, size)
    metrics = record.resolve(
        has_target=target is not None,
        has_support=_has_full_support(problem),
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
    keys = None
    if key is not None:
        one_key = _checks.key("key", key)
        keys = jax.random.split(one_key, batch).reshape(-1) if one_key.ndim == 0 else runs(one_key, 0)
    records = [0, *range(record.every, steps, record.every), *([steps] if steps else [])]
    with progress_bar(progress, steps) as meter:
        result = _run(
            trained,
            fixed,
            runs(reference, 1),
            runs(target, 1),
            runs(problem, 1),
            runs(objective, 0),
            lengths,
            keys,
            jnp.diff(jnp.asarray(records), prepend=0),
            meter,
            optimizer=optimizer,
            metrics=metrics,
            batch_size=batch_size,
        )
        trained, taken, failed, broken, recorded = jax.block_until_ready(result)

    def batched(leaf: Array) -> Array:
        return leaf.reshape(*batch, *leaf.shape[1:])

    kept = int(np.argmax(broken)) if broken.any() else len(records)
    run = Run(
        policy=eqx.combine(jax.tree.map(batched, trained), fixed),
        steps=np.asarray(records[:kept]),
        metrics={name: batched(jnp.moveaxis(recorded[name][:kept], 0, 1)) for name in metrics},
    )
    if failed.any():
        raise _divergence(run, int(taken), np.asarray(batched(failed)))
    return run


@eqx.filter_jit
def _run(
    trained: PyTree,
    fixed: PyTree,
    reference: Array,
    target: Array | None,
    problem: Problem,
    objective: Objective,
    lengths: Array | None,
    keys: Array | None,
    counts: Array,
    meter: Array | None,
    *,
    optimizer: optax.GradientTransformation,
    metrics: dict[str, Metric],
    batch_size: int | None,
) -> tuple[PyTree, Array, Array, Array, dict[str, Array]]:
    """Train all runs; `counts` holds the number of steps before each record."""
    size = reference.shape[-1]
    update = optax.with_extra_args_support(optimizer).update
    marginals = jax.vmap(
        lambda p: tuple(
            marginal.astype(reference.dtype)
            for marginal in (p.chosen_marginal(size), p.rejected_marginal(size))
        )
    )(problem)

    def loss_of(
        reference: Array, problem: Problem, objective: Objective, chosen: Array
    ) -> Callable[[PyTree], Array]:
        def loss(trained: PyTree) -> Array:
            log_probs = eqx.combine(trained, fixed).log_probs()
            return objective.population_loss(log_probs, reference, problem, lengths, chosen)

        return loss

    def step(
        trained: PyTree,
        state: PyTree,
        reference: Array,
        problem: Problem,
        objective: Objective,
        chosen: Array,
        key: Array | None,
        index: Array,
    ) -> tuple[PyTree, PyTree, Array]:
        if batch_size is not None and key is not None:
            problem = problem.sample(jax.random.fold_in(key, index), batch_size)
            chosen = problem.chosen_marginal(size)
        loss = loss_of(reference, problem, objective, chosen)
        value, gradient = jax.value_and_grad(loss)(trained)
        updates, new_state = update(gradient, state, trained, value=value, grad=gradient, value_fn=loss)
        new = optax.apply_updates(trained, updates)
        # A minibatch's loss is cheap; a population's, which its gradient does not need, is left to records.
        good = _all_finite((gradient, new) if batch_size is None else (value, gradient, new))
        # A run that fails keeps its last finite parameters.
        keep = lambda new, old: jnp.where(good, new, old)  # noqa: E731
        return jax.tree.map(keep, new, trained), jax.tree.map(keep, new_state, state), ~good

    def measure(
        trained: PyTree,
        reference: Array,
        target: Array | None,
        problem: Problem,
        objective: Objective,
        chosen: Array,
        rejected: Array,
    ) -> tuple[dict[str, Array], Array]:
        policy = eqx.combine(trained, fixed)
        loss = loss_of(reference, problem, objective, chosen)
        value, gradient = jax.value_and_grad(loss)(trained)
        snapshot = Snapshot(
            policy=policy,
            log_probs=policy.log_probs(),
            reference=reference,
            target=target,
            chosen=chosen,
            rejected=rejected,
            problem=problem,
            objective=objective,
            lengths=lengths,
            loss=value,
            gradient=gradient,
        )
        values = {name: jnp.asarray(metric(snapshot)) for name, metric in metrics.items()}
        # With minibatches a sum over all pairs is not asked for, unless by a metric.
        return values, ~jnp.isfinite(value) if batch_size is None else jnp.zeros((), bool)

    def measure_all(trained: PyTree) -> tuple[dict[str, Array], Array]:
        return jax.vmap(measure)(trained, reference, target, problem, objective, *marginals)

    def advance(carry: tuple[PyTree, ...], count: Array) -> tuple[PyTree, ...]:
        end = carry[2] + count

        def take(carry: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
            trained, state, taken, _ = carry
            in_axes = (0, 0, 0, 0, 0, 0, 0, None)
            trained, state, failed = jax.vmap(step, in_axes=in_axes)(
                trained, state, reference, problem, objective, marginals[0], keys, taken
            )
            return trained, state, jnp.where(failed.any(), taken, taken + 1), failed

        def goes_on(carry: tuple[PyTree, ...]) -> Array:
            return (carry[2] < end) & ~carry[3].any()

        return jax.lax.while_loop(goes_on, take, carry)

    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure_all, trained)[0]
    )

    def chunk(
        carry: tuple[PyTree, ...], count: Array
    ) -> tuple[tuple[PyTree, ...], tuple[Array, dict[str, Array]]]:
        carry = advance(carry, count)
        trained, state, taken, failed = carry
        values, unmeasurable = jax.lax.cond(failed.any(), lambda _: (blank, failed), measure_all, trained)
        failed = failed | unmeasurable
        if meter is not None:
            jax.debug.callback(tick, meter, taken)
        return (trained, state, taken, failed), (failed.any(), values)

    num_runs = reference.shape[0]
    carry = (
        trained,
        jax.vmap(optimizer.init)(trained),
        jnp.zeros((), counts.dtype),
        jnp.zeros(num_runs, bool),
    )
    (trained, _, taken, failed), (broken, recorded) = jax.lax.scan(chunk, carry, counts)
    return trained, taken, failed, broken, recorded


def _encoded_target(objective: Objective, reference: Array, problem: Problem) -> LogProbs | None:
    """DPO's limit at the objective's beta, where that is what its preferences encode."""
    reward = objective.reward
    if not (isinstance(reward, LogRatio) and isinstance(objective.kernel, Logistic)):
        return None
    if not isinstance(problem, Contrastive | Labelled) or not _has_full_support(problem):
        return None
    return fixed_point(dpo(reward.beta), reference, problem)


def _has_full_support(problem: Problem) -> bool:
    """Whether every sequence can be chosen and rejected: no distribution of a population has a zero."""
    if isinstance(problem, Pairs):
        return False
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(problem))


def _batch_shape(
    start: Array,
    reference: Array,
    problem: Problem,
    objective: Objective,
    target: Array | None,
    key: Array | None,
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
        return jnp.broadcast_to(leaf, (*batch, *event)).reshape(-1, *event)

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
