"""`train`: a batch of runs inside one compiled program."""

import math
import numbers
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from didsim import _checks
from didsim._batches import as_runs, batched
from didsim._checks import Shape
from didsim._memory import PAIR, check_fits, fitting_int
from didsim.information import LogProbs, LogProbsLike
from didsim.objectives.objective import Objective, check_lengths
from didsim.objectives.reference import visible_reference
from didsim.objectives.rewards import Reward
from didsim.policies import HasLogProbs, partition
from didsim.preferences.problem import Problem, check_over
from didsim.training.loop import Result, run_all
from didsim.training.progress import progress_bar
from didsim.training.record import Record, metric_attributes
from didsim.training.run import Run, divergence_of
from didsim.training.step import Common, Given, Minibatches, Optimizer, initial_states


def train(
    policy: HasLogProbs,
    reference: LogProbsLike,
    problem: Problem,
    objective: Objective,
    optimizer: optax.GradientTransformation | Partial,
    steps: int,
    *,
    record: Record | None = None,
    batch_size: int | None = None,
    key: Key[Array, "*#batch"] | None = None,
    target: LogProbsLike | None = None,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    progress: bool | str = False,
    mesh: Mesh | None = None,
    on_divergence: Literal["raise", "record"] = "raise",
) -> Run:
    """Minimise an objective over a policy's parameters.

    The batch axes of all arguments (seeds, prompts, values of beta) broadcast together. Each index of that
    batch is a run of its own, with its own parameters and optimiser state. Runs do not affect one another,
    with one exception: by default all stop when one diverges (`on_divergence`). A policy without batch axes
    starts every run.

    All steps and records are one compiled program. New values of any array (another beta, seed, target) do
    not compile it again, unless they change whether labelled pairs are summed in two parts
    (`Labelled.separable`). Another shape or number of records compiles it again. So does another optimiser
    or metric, even one that computes the same: make each once and pass it to every call. To vary the
    learning rate without compiling, or to train with a batch of learning rates, give the optimiser its
    settings as arguments: `jax.tree_util.Partial(optax.adam, 0.03)`.

    All numbers have the dtype of the policy. In float32 the error of the exact gradient of a population is
    at most 3e-5 of its largest entry. Use float64 if the limit gives some sequences almost no probability.

    Args:
        policy: any module with `log_probs()`. If it is a `Policy`, the arrays that its method `trainable()`
            selects are trained. Otherwise all its floating-point arrays are trained.
        reference: log-probabilities of the reference policy, `[*batch, sequences]`. It may have a zero where
            no pair looks (`didsim.objectives.reference`); metrics that divide by it are then left out.
        problem: the source of pairs.
        objective: the objective to minimise. A batch of objectives has batch axes on its parameters.
        optimizer: any optax optimiser, line searches included, or a `jax.tree_util.Partial` of a function
            that makes one. The arguments of the `Partial` are numbers or arrays, with or without batch axes.
            `optax.contrib.sam` gets the gradient at its worse point over the same pairs. Of
            `optax.MultiSteps` give its `gradient_transformation()`. `optax.lookahead` is refused, as it
            trains two copies of the parameters; so are optimisers that keep a state in half precision. Of
            averaging optimisers see `Record(evaluate=…)`.
        steps: number of steps; 0 records only the start.
        record: when and what to record; see `Record`, which also has the defaults.
        batch_size: number of pairs that each step draws for its gradient. By default the gradient is exact,
            over the whole population or over all pairs of a dataset. Metrics are always exact.
        key: random key or a batch of keys; needed with `batch_size`.
        target: log-probabilities, `[*batch, sequences]`, that the metrics `…_target` compare the policy with.
            The default is the limit of DPO at the objective's `beta`, for a loss of labels on the log-ratio
            (DPO, cDPO, robust DPO, DPO-PG) and a population of full support. This limit is
            `reference · (chosen/rejected)^(1/beta)` for `Contrastive` pairs, and
            `reference · exp(reward/beta)` for labelled pairs, up to normalisation. In all other cases there
            is no default target.
        lengths: number of tokens of every sequence, `space.lengths`; see `Objective.loss`.
        progress: whether to show a progress bar, or its label.
        mesh: devices to spread the runs over, as a mesh of one axis. The number of devices must divide the
            number of runs. When a run diverges, only the runs on its device stop with it. With several
            processes (`jax.distributed`), each calls `train` with the same arguments and gets all runs.
        on_divergence: with "raise", all runs stop when one diverges, and the error is raised. With "record",
            the other runs go on. The run that diverged keeps its last finite parameters, its metrics are NaN
            from then on, and `Run.diverged_at` holds the step; metrics are then floating-point numbers.

    Returns:
        A `Run`. Each step costs one gradient of `Objective.loss` for each run; with minibatches, O(N +
        pairs). A record costs as much as its metrics. The loss costs about as much as a gradient, the reward
        accuracy O(N log N) (for labelled pairs, see `Labelled.expect`), the fraction ordered O(N log N), and
        every other metric O(N). With online pairs a record also computes their marginals
        (`Labelled.chosen_marginal`). The step after a record uses the gradient of the record. Parameters and
        optimiser states are updated in place.

    Raises:
        ValueError: a distribution is not normalised or has a zero that counts, shapes do not fit, `steps` is
            negative or 2^31 or more, the records or a minibatch are more than memory can hold, `key` is
            missing, the runs cannot be spread over the mesh, or an argument is of another kind. So is an
            optimiser that cannot train the parameters of a policy, or a field of the problem that is not
            static and holds no array or number.
        DivergenceError: with `on_divergence="raise"`, a gradient or the loss of a run became NaN or infinite.
            The loss over all pairs is checked at records, the loss of a minibatch at every step. The error
            holds all records until then.

    Examples:
        >>> import didsim
        >>> reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0)), 8)
        >>> problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta=0.5))
        >>> policy = didsim.EnergyBased(reference)
        >>> run = train(policy, reference, problem, didsim.dpo(0.5), optax.adam(0.1), 300)
        >>> run.metrics["js_to_target"].shape, bool(run.metrics["js_to_target"][-1] < 1e-6)
        ((31,), True)
    """
    record = Record() if record is None else record
    _check_kinds(
        policy, problem, objective, optimizer, steps, record, batch_size, key, progress, on_divergence
    )
    if not _checks.known((policy, reference, problem, objective, target, key, optimizer)):
        raise ValueError("`train` must be called outside jit, vmap and grad: it compiles itself")
    trained, fixed = partition(policy)
    _checks.dtypes("policy", trained)
    start = _checks.distribution("policy.log_probs()", policy.log_probs(), full_support=True)
    reference = _checks.distribution("reference", reference)
    _checks.same_sequences(policy=start, reference=reference)
    check_over(problem, "policy", start)
    covers_all = bool(jnp.isfinite(reference).all())
    reference = visible_reference(reference, problem, objective.terms)
    _checks.parameters("objective", objective, start.dtype)
    if target is None:
        target = _encoded_target(objective, reference, problem)
    else:
        target = _checks.distribution("target", target, full_support=True)
    batch = _batch_shape(start, reference, problem, objective, target, key, optimizer)
    lengths = check_lengths(lengths, start.shape[-1])
    metrics = record.resolve(
        has_target=target is not None, has_support=problem.has_full_support, covers_all=covers_all
    )
    trained = _parameters(trained, start.shape[:-1], batch)
    if mesh is not None:
        _check_mesh(mesh, batch)
    runs = _over_runs(batch, start.dtype)
    given = Given(
        reference=runs(reference, 1),
        target=runs(target, 1),
        problem=problem.over_runs(runs),
        objective=runs(objective, 0),
        optimizer=runs(optimizer, 0) if isinstance(optimizer, Partial) else optimizer,
        minibatches=_minibatches(batch_size, key, batch),
    )
    numbers = record.count(steps) * len(metrics) * math.prod(batch)
    check_fits(f"`record.every` = {record.every:,}: {record.count(steps):,} records", 4 * numbers)
    recorded = record.counts(steps)
    with progress_bar(progress, steps) as meter:
        common = Common(fixed, lengths, metrics, meter, on_divergence == "raise", record.evaluate)
        result = _run(given, common, recorded, trained, mesh)
    return _finished(result, common, recorded, batch)


def _check_kinds(
    policy: HasLogProbs,
    problem: Problem,
    objective: Objective,
    optimizer: Optimizer,
    steps: int,
    record: Record,
    batch_size: int | None,
    key: Any,
    progress: bool | str,
    on_divergence: str,
) -> None:
    """Raise `ValueError` for an argument of the wrong kind."""
    _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
    _checks.numeric_fields("problem", problem)
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    _check_optimizer(optimizer)
    if not hasattr(policy, "log_probs") or not jax.tree.leaves(partition(policy)[0]):
        raise ValueError(
            f"`policy` must be a module with log_probs() and floating-point arrays to train; got {policy!r}"
        )
    _checks.count("steps", steps, 0)
    _checks.one_of("on_divergence", on_divergence, ("raise", "record"))
    if not isinstance(progress, bool | str):
        raise ValueError(f"`progress` must be True, False or a label; got {progress!r}")
    _checks.instance("record", record, Record, "a Record")
    if batch_size is not None:
        fitting_int("batch_size", batch_size, PAIR)
        if key is None:
            raise ValueError("`key` must be given with `batch_size`; got None")


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
                    f"`optimizer` must be a Partial whose arguments are numbers or arrays; got {leaf!r}. Set "
                    "a flag or a schedule inside a function of your own, as in Partial(lambda rate: …, 0.1)"
                )
        try:
            made = jax.tree.map(lambda leaf: jnp.ravel(leaf)[0], optimizer)()
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"`optimizer` must make an optimiser of its arguments: {error}") from error
    if isinstance(made, optax.MultiSteps):
        raise ValueError(
            "`optimizer` must be an optimiser; got optax.MultiSteps, whose method gradient_transformation() "
            "gives one"
        )
    _checks.instance(
        "optimizer", made, optax.GradientTransformation, "an optax optimiser, or a Partial that makes one"
    )


def _encoded_target(objective: Objective, reference: Array, problem: Problem) -> LogProbs | None:
    """The policy that the preferences encode at the objective's beta; None if it is not known.

    It is known if the objective scores labels with a log-ratio reward, and the problem compares all pairs.
    """
    term, problem = objective.difference_term, problem.offline()
    if term is None or not (term.kernel.scores_labels and term.reward.is_log_ratio):
        return None
    encoded = problem.encoded_reward()
    if encoded is None or not problem.compares_all:
        return None
    return _policy_of(term.reward, encoded, reference)


@eqx.filter_jit
def _policy_of(reward: Reward, h: Array, reference: Array) -> Array:
    return reward.policy(h, reference, None)


def _batch_shape(
    start: Array,
    reference: Array,
    problem: Problem,
    objective: Objective,
    target: Array | None,
    key: Array | None,
    optimizer: optax.GradientTransformation | Partial,
) -> Shape:
    """The common batch shape of all inputs."""
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


def _parameters(trained: PyTree, own: Shape, batch: Shape) -> PyTree:
    """Parameters of batch shape `own`, copied for every run of the batch."""

    def one(leaf: Array) -> Array:
        if leaf.shape[: len(own)] != own:
            raise ValueError(
                f"`policy` must have its batch axes {own} first in every trained array; "
                f"got one of shape {leaf.shape}"
            )
        # This must be a copy, since the program reuses the memory of its parameters.
        return jnp.array(as_runs(leaf, batch, leaf.ndim - len(own)))

    return jax.tree.map(one, trained)


def _over_runs(batch: Shape, dtype: DTypeLike) -> Callable[[PyTree, int], Any]:
    """`as_runs` for the batch. The function also casts floating-point arrays to `dtype`."""

    def runs(tree: PyTree, event_ndim: int) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            as_runs(tree, batch, event_ndim),
        )

    return runs


def _minibatches(batch_size: int | None, key: Array | None, batch: Shape) -> Minibatches | None:
    """One key for each run: the given keys if there is a batch of them, otherwise splits of the one key."""
    if batch_size is None or key is None:
        return None
    keys = jax.random.split(key, batch).reshape(-1) if key.ndim == 0 else as_runs(key, batch, 0)
    return Minibatches(keys, int(batch_size))


def _run(given: Given, common: Common, recorded: np.ndarray, trained: PyTree, mesh: Mesh | None) -> Result:
    """Call the compiled program, and wait for it."""
    state = initial_states(trained, given.optimizer)
    if any(isinstance(one, optax.LookaheadState) for one in _nodes(state)):
        raise ValueError(
            "`optimizer` must train one copy of the parameters; optax.lookahead has two, a fast and a slow "
            "one. optax.contrib.schedule_free averages parameters instead, and Record(evaluate=…) takes them"
        )
    if mesh is not None:
        sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
        given, trained, state = jax.tree.map(
            lambda leaf: jax.device_put(leaf, sharding) if eqx.is_array(leaf) else leaf,
            (given, trained, state),
        )
    counts = jnp.diff(jnp.asarray(recorded), append=recorded[-1])
    result = run_all((given, common, counts), trained, state, mesh=mesh)
    if mesh is not None and jax.process_count() > 1:
        result = process_allgather(result, tiled=True)
    return jax.block_until_ready(result)


def _nodes(tree: PyTree) -> list[Any]:
    """All states of optimisers inside of a state."""

    def is_node(one: Any) -> bool:
        return isinstance(one, optax.LookaheadState)

    return jax.tree.leaves(tree, is_leaf=is_node)


def _finished(result: Result, common: Common, recorded: np.ndarray, batch: Shape) -> Run:
    """The `Run` that `train` returns. If all stop when one diverges, the error holds it instead."""
    counted, failed, broken = (np.asarray(x) for x in (result.counted, result.failed, result.broken))
    metrics, kept = result.metrics, len(recorded)
    if broken.any():
        if common.together:
            kept = int(np.argmax(broken.any(axis=1)))
        else:
            metrics = {name: _without(values, broken) for name, values in metrics.items()}
    run = Run(
        policy=eqx.combine(batched(result.trained, batch), common.fixed),
        steps=recorded[:kept],
        metrics={name: batched(jnp.moveaxis(metrics[name][:kept], 0, 1), batch) for name in common.metrics},
        diverged_at=np.where(failed, counted, -1).reshape(batch),
        state=batched(result.state, batch),
        evaluated=None
        if result.evaluated is None
        else eqx.combine(batched(result.evaluated, batch), common.fixed),
        attributes=tuple(
            (name, tuple(metric_attributes(name, one).items())) for name, one in common.metrics.items()
        ),
    )
    if common.together and failed.any():
        raise divergence_of(run, int(counted[failed].min()), failed.reshape(batch))
    return run


def _without(values: Array, broken: np.ndarray) -> Array:
    """The records `[records, runs, …]`, with NaN where `broken`."""
    blank = broken.reshape(*broken.shape, *(1,) * (values.ndim - 2))
    # Not in JAX, which would take the NaN for a mistake if it is asked to look for mistakes.
    return jax.device_put(np.where(blank, np.nan, values).astype(jnp.result_type(values, float)))
