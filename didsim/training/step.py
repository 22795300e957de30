"""One run: its pairs, its loss, one step of its optimiser, and one record.

No array here has an axis of runs: `loop` maps these functions over the runs.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Key, PyTree

from didsim.information import LogProbs, expectation
from didsim.objectives.objective import Objective
from didsim.policies import Policy
from didsim.preferences.problem import Problem
from didsim.training.metrics import Metric, Snapshot

Marginals: TypeAlias = tuple[LogProbs, LogProbs]
Optimizer: TypeAlias = optax.GradientTransformation | Partial


class Minibatches(eqx.Module):
    """How a run draws the pairs of each step.

    Attributes:
        key: random key; each step folds in its number.
        size: number of pairs.
    """

    key: Key[Array, ""]
    size: int = eqx.field(static=True)


class Given(eqx.Module):
    """What one run is given.

    Attributes:
        reference: log-probabilities of the reference policy.
        target: log-probabilities that metrics compare the policy with, or None.
        problem: where pairs come from.
        objective: what is minimised.
        optimizer: an optax optimiser, or a `Partial` that makes one.
        minibatches: how each step draws its pairs; None takes the gradient over all pairs.
        marginals: the chosen and the rejected marginal of the problem, which `prepared` computes. They stay
            None for online pairs, whose marginals depend on the policy.
    """

    reference: LogProbs
    target: LogProbs | None
    problem: Problem
    objective: Objective
    optimizer: Optimizer
    minibatches: Minibatches | None
    marginals: Marginals | None = None


class Common(eqx.Module):
    """What all runs have in common.

    Attributes:
        fixed: the part of the policy that is not trained.
        lengths: number of tokens of every sequence, or None.
        metrics: the functions that are recorded, by name.
        meter: the number of the progress bar, or None without a bar.
        together: whether all runs stop when one diverges.
    """

    fixed: PyTree
    lengths: Array | None
    metrics: dict[str, Metric]
    meter: Array | None
    together: bool = eqx.field(static=True)


class Source(NamedTuple):
    """Where the pairs of one step come from, and their marginals if those are already computed."""

    problem: Problem
    marginals: Marginals | None


class Slope(NamedTuple):
    """The loss at some parameters, and its gradient as the objective uses it (`Objective.direction`)."""

    loss: Float[Array, ""]
    gradient: PyTree


class Measured(NamedTuple):
    """One record: metrics by name, the slope over all pairs, and whether the run has diverged."""

    metrics: dict[str, Array]
    slope: Slope
    diverged: Bool[Array, ""]


class Stepped(NamedTuple):
    """The parameters and optimiser state after a step, and whether it failed: then both are those before."""

    trained: PyTree
    state: PyTree
    failed: Bool[Array, ""]


def prepared(given: Given) -> Given:
    """The same run, with all that its problem can compute before the first step."""
    problem = given.problem.prepared()
    marginals = None if problem.online else _marginals(problem, given.reference)
    return dataclasses.replace(given, problem=problem, marginals=marginals)


@eqx.filter_jit
def initial_states(trained: PyTree, optimizers: Optimizer) -> PyTree:
    """The optimiser's state before the first step, for arrays that have an axis of runs first."""
    return eqx.filter_vmap(lambda one, optimizer: _made(optimizer).init(one), out_axes=0)(trained, optimizers)


def step(trained: PyTree, state: PyTree, index: Array, given: Given, common: Common) -> Stepped:
    """The step after `index` others, over all pairs or over a minibatch."""
    source = _all_pairs(trained, given, common)
    if given.minibatches is not None:
        key = jax.random.fold_in(given.minibatches.key, index)
        pairs = source.problem.sample(key, given.minibatches.size)
        source = Source(pairs, _marginals(pairs, given.reference))
    slope = _slope(trained, source, given, common)
    return _update(trained, state, slope, _loss_near(trained, source, given, common), given)


def step_along(trained: PyTree, state: PyTree, slope: Slope, given: Given, common: Common) -> Stepped:
    """A step over all pairs whose slope is already known."""
    source = _all_pairs(trained, given, common)
    return _update(trained, state, slope, _loss_near(trained, source, given, common), given)


def measure(trained: PyTree, given: Given, common: Common) -> Measured:
    """One record. The slope is exact: over all pairs, also where steps draw minibatches."""
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
    # With minibatches the sum over all pairs must stay unused, as it may take minutes, unless a metric asks.
    exact = given.minibatches is None
    return Measured(values, slope, ~jnp.isfinite(slope.loss) if exact else jnp.zeros((), bool))


def _policy(trained: PyTree, common: Common) -> Policy:
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
    """All pairs of the problem; for online pairs, those of the policy with these parameters."""
    log_probs = _policy(trained, common).log_probs()
    reward = given.objective.reward.of_space(log_probs, given.reference, common.lengths)
    return Source(given.problem.at(log_probs, reward), given.marginals)


def _loss_near(trained: PyTree, source: Source, given: Given, common: Common) -> Callable[[PyTree], Array]:
    """The loss as a function of parameters, with baselines held at those of `trained`."""
    held = _policy(trained, common).log_probs()

    def loss(trained: PyTree) -> Array:
        log_probs = _policy(trained, common).log_probs()
        return given.objective.population_loss(
            log_probs, given.reference, source.problem, common.lengths, source.marginals, held
        )

    return loss


def _slope(trained: PyTree, source: Source, given: Given, common: Common) -> Slope:
    loss, gradient = jax.value_and_grad(_loss_near(trained, source, given, common))(trained)

    def chosen_gradient() -> PyTree:
        chosen, _ = _marginals_of(source, given)
        return jax.grad(lambda trained: expectation(chosen, _policy(trained, common).log_probs()))(trained)

    return Slope(loss, given.objective.direction(gradient, chosen_gradient))


def _update(
    trained: PyTree, state: PyTree, slope: Slope, loss: Callable[[PyTree], Array], given: Given
) -> Stepped:
    """One update by the optimiser; it fails when its gradient or the new parameters are not finite."""
    value, gradient = slope
    # A line search evaluates `loss`, that of the very pairs that the gradient was taken over.
    updates, new_state = _made(given.optimizer).update(
        gradient, state, trained, value=value, grad=gradient, value_fn=loss
    )
    new = optax.apply_updates(trained, updates)
    # A minibatch's loss is cheap. The loss over all pairs is not, and its gradient does not need it: only
    # records look at it.
    good = _all_finite((gradient, new) if given.minibatches is None else (value, gradient, new))
    new, new_state = jax.tree.map(
        lambda new, old: jnp.where(good, new, old), (new, new_state), (trained, state)
    )
    return Stepped(new, new_state, ~good)


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
