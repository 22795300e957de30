"""One run: its pairs, its loss, one step of its optimiser, and one record.

Arrays here belong to one run. They have no axis of runs, since `loop` maps these functions over the runs.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Key, PyTree

from didsim import _checks
from didsim.information import LogProbs, expectation
from didsim.objectives.objective import Objective
from didsim.policies import HasLogProbs
from didsim.preferences.problem import Marginals, Problem
from didsim.training.metrics import Measure, Snapshot

Optimizer: TypeAlias = optax.GradientTransformation | Partial


class Minibatches(eqx.Module):
    """How a run draws the pairs of each step.

    Attributes:
        key: random key. Each step folds its number into the key.
        size: number of pairs of one step.
    """

    key: Key[Array, "*runs"]
    size: int = eqx.field(static=True)


class Given(eqx.Module):
    """The inputs of one run.

    Attributes:
        reference: log-probabilities of the reference policy.
        target: log-probabilities that metrics compare the policy with, or None.
        problem: the source of pairs.
        objective: the objective to minimise.
        optimizer: an optax optimiser, or a `Partial` that makes one.
        minibatches: how each step draws its pairs; None takes the gradient over all pairs.
        marginals: the distributions of the chosen and of the rejected sequence, which `prepared` computes.
            For online pairs they depend on the policy, and stay None.
    """

    reference: LogProbs
    target: LogProbs | None
    problem: Problem
    objective: Objective
    optimizer: Optimizer
    minibatches: Minibatches | None
    marginals: Marginals | None = None


class Common(eqx.Module):
    """The inputs that all runs share.

    Attributes:
        fixed: the part of the policy that is not trained.
        lengths: number of tokens of every sequence, or None.
        metrics: the functions to record, by name.
        meter: the number that identifies the progress bar, or None without a bar.
        together: whether all runs stop when one diverges.
        evaluate: what makes the parameters to record of the optimiser's state and the trained parameters, or
            None where these are recorded.
    """

    fixed: PyTree
    lengths: Array | None
    metrics: Mapping[str, Measure]
    meter: Array | None
    together: bool = eqx.field(static=True)
    evaluate: Callable[[PyTree, PyTree], PyTree] | None = None


class Source(NamedTuple):
    """The source of the pairs of one step, and its marginals (chosen, rejected) if already computed."""

    problem: Problem
    marginals: Marginals | None


class Slope(NamedTuple):
    """The loss at some parameters, and the direction that the optimiser gets (`Objective.direction`)."""

    loss: Float[Array, ""]
    gradient: PyTree


class Measured(NamedTuple):
    """One record: the metrics by name, the slope over all pairs, and whether the loss shows a divergence."""

    metrics: dict[str, Array]
    slope: Slope
    diverged: Bool[Array, ""]


class Stepped(NamedTuple):
    """The parameters and optimiser state after a step. If the step failed, they are unchanged."""

    trained: PyTree
    state: PyTree
    failed: Bool[Array, ""]


def prepared(given: Given) -> Given:
    """The same inputs, with everything computed that the steps can share."""
    problem = given.problem.prepared()
    marginals = None if problem.online else _marginals(problem, given.reference)
    return dataclasses.replace(given, problem=problem, marginals=marginals)


@eqx.filter_jit
def initial_states(trained: PyTree, optimizers: Optimizer) -> PyTree:
    """The optimiser states before the first step. Here arrays do have a first axis of runs."""

    def one_state(one: PyTree, optimizer: Optimizer) -> PyTree:
        with _told_of_optimizer():
            state = _made(optimizer).init(one)
        _checks.dtypes("optimizer", state)
        return state

    return eqx.filter_vmap(one_state, out_axes=0)(trained, optimizers)


def step(trained: PyTree, state: PyTree, index: Array, given: Given, common: Common) -> Stepped:
    """Step number `index`, counted from 0, over all pairs or over a minibatch."""
    source = _all_pairs(trained, given, common)
    if given.minibatches is not None:
        key = jax.random.fold_in(given.minibatches.key, index)
        pairs = source.problem.sample(key, given.minibatches.size)
        source = Source(pairs, _marginals(pairs, given.reference))
    return _update(trained, state, _slope(trained, source, given, common), source, given, common)


def step_along(trained: PyTree, state: PyTree, slope: Slope, given: Given, common: Common) -> Stepped:
    """A step over all pairs, along a slope that is already known."""
    source = _all_pairs(trained, given, common)
    return _update(trained, state, slope, source, given, common)


def measure(trained: PyTree, given: Given, common: Common) -> Measured:
    """One record. Its slope is over all pairs, even if steps draw minibatches."""
    policy = _policy(trained, common)
    source = _all_pairs(trained, given, common)
    slope = _slope(trained, source, given, common)
    chosen, rejected = _marginals_of(source, given)
    snapshot = Snapshot(
        policy=policy,
        log_probs=policy.log_probs(),
        reference=given.reference,
        target=given.target,
        chosen=chosen,
        rejected=rejected,
        problem=source.problem,
        objective=given.objective,
        lengths=common.lengths,
        loss=slope.loss,
        gradient=slope.gradient,
    )
    values = {name: jnp.asarray(metric(snapshot)) for name, metric in common.metrics.items()}
    # With minibatches, only a metric may use the loss over all pairs: computing it can take minutes.
    exact = given.minibatches is None
    return Measured(values, slope, ~jnp.isfinite(slope.loss) if exact else jnp.zeros((), bool))


def _policy(trained: PyTree, common: Common) -> HasLogProbs:
    return eqx.combine(trained, common.fixed)


def _made(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    made = optimizer() if isinstance(optimizer, Partial) else optimizer
    return optax.with_extra_args_support(made)


def _marginals(problem: Problem, like: Array) -> Marginals:
    size = like.shape[-1]
    chosen, rejected = problem.chosen_marginal(size), problem.rejected_marginal(size)
    return chosen.astype(like.dtype), rejected.astype(like.dtype)


def _marginals_of(source: Source, given: Given) -> Marginals:
    return _marginals(source.problem, given.reference) if source.marginals is None else source.marginals


def _all_pairs(trained: PyTree, given: Given, common: Common) -> Source:
    """The problem itself, or for an online problem the pairs of the policy with these parameters."""
    log_probs = _policy(trained, common).log_probs()
    reward = given.objective.reward.of_space(log_probs, given.reference, common.lengths)
    return Source(given.problem.at(log_probs, reward), given.marginals)


def _loss_near(trained: PyTree, source: Source, given: Given, common: Common) -> Callable[[PyTree], Array]:
    """The loss as a function of parameters. Its baselines are fixed at their values for `trained`."""
    held = _policy(trained, common).log_probs()

    def loss(trained: PyTree) -> Array:
        log_probs = _policy(trained, common).log_probs()
        return given.objective.population_loss(
            log_probs, given.reference, source.problem, common.lengths, source.marginals, held
        )

    return loss


def _slope(trained: PyTree, source: Source, given: Given, common: Common) -> Slope:
    return _slope_of(_loss_near(trained, source, given, common), trained, source, given, common)


def _slope_of(
    loss: Callable[[PyTree], Array], trained: PyTree, source: Source, given: Given, common: Common
) -> Slope:
    value, gradient = jax.value_and_grad(loss)(trained)

    def chosen_gradient() -> PyTree:
        chosen, _ = _marginals_of(source, given)
        return jax.grad(lambda trained: expectation(chosen, _policy(trained, common).log_probs()))(trained)

    return Slope(value, given.objective.direction(gradient, chosen_gradient))


def _update(
    trained: PyTree, state: PyTree, slope: Slope, source: Source, given: Given, common: Common
) -> Stepped:
    """One update by the optimiser. It fails if the gradient or the new parameters are not finite.

    With minibatches it also fails if the loss is not finite.
    """
    value, gradient = slope
    loss = _loss_near(trained, source, given, common)

    def gradient_at(trained: PyTree, *_: Any) -> PyTree:
        return _slope_of(loss, trained, source, given, common).gradient

    def loss_at(trained: PyTree, grad_fn: Any = None) -> Array:
        # optax's line searches refuse extra arguments that the loss does not name.
        return loss(trained)

    # A line search evaluates the loss, and a sharpness-aware optimiser its gradient, over the same pairs.
    extra = {"value": value, "grad": gradient, "value_fn": loss_at, "grad_fn": gradient_at}
    update = _made(given.optimizer).update
    with _told_of_optimizer():
        updates, new_state = update(gradient, state, trained, **_taken(update, extra))
    new = optax.apply_updates(trained, updates)
    # The loss over all pairs is costly, and its gradient does not need it. So only records check it.
    good = _all_finite((gradient, new) if given.minibatches is None else (value, gradient, new))
    new, new_state = jax.tree.map(
        lambda new, old: jnp.where(good, new, old), (new, new_state), (trained, state)
    )
    return Stepped(new, new_state, ~good)


def _taken(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Those of some extra arguments that the update of an optimiser takes."""
    parameters = inspect.signature(update).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {name: one for name, one in extra.items() if takes_all or name in parameters}


@contextmanager
def _told_of_optimizer() -> Iterator[None]:
    """Say of an error inside an optimiser that it is one of the argument `optimizer`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"`optimizer` must train the parameters of a policy; it raises {type(error).__name__}: {error}"
        ) from error


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
