"""What can be recorded along a training run: functions of its state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from didsim import _checks
from didsim._extremes import largest
from didsim._registry import Registry
from didsim.information import LogProbs, did_entropy, entropy, expectation, js, kl
from didsim.margins import check_order
from didsim.objectives.objective import Objective
from didsim.pairwise.forms import PiecewiseLinear
from didsim.policies import HasLogProbs
from didsim.preferences.problem import Problem


class Snapshot(eqx.Module):
    """The state of one run at one step. Metrics are functions of it. No batch axes.

    Attributes:
        policy: the policy with its current parameters.
        log_probs: its log-probabilities over the whole space.
        reference: the reference policy.
        target: the policy that the run is compared with, or None.
        chosen: the distribution of chosen sequences.
        rejected: the distribution of rejected sequences.
        problem: where pairs come from.
        objective: the objective that is minimised.
        lengths: number of tokens of every sequence, or None.
        loss: the exact loss, over the whole population or dataset.
        gradient: the direction that the optimiser gets, in the policy's parameters (`Objective.direction`).
            At a corner of the loss it is the subgradient in which the part with the corner has slope 0.
    """

    policy: HasLogProbs
    log_probs: LogProbs
    reference: LogProbs
    target: LogProbs | None
    chosen: LogProbs
    rejected: LogProbs
    problem: Problem
    objective: Objective
    lengths: Array | None
    loss: Float[Array, ""]
    gradient: PyTree

    def implicit_reward(self) -> Float[Array, " sequences"]:
        """The objective's implicit reward of every sequence."""
        return self.objective.reward.of_space(self.log_probs, self.reference, self.lengths)


Measure = Callable[[Snapshot], Array]
"""A function of a snapshot, for instance `lambda s: s.log_probs.max()`."""


@dataclass(frozen=True)
class Metric:
    """A function of a snapshot, and the facts about it.

    Attributes:
        measure: the function.
        long_name: what it measures, in a few words, which label its axis in pictures.
        units: "nats" or "1", or None where they are not known.
        needs_target: whether it compares with a target, so that a run without one cannot record it.
        needs_support: whether it needs a rejected distribution without zeros. Finite pairs have none, and
            cannot record it.
        needs_cover: whether it divides by the reference of every sequence, which must then have no zero.
        by_default: whether a `Record` that names no metrics records it.
    """

    measure: Measure
    long_name: str | None = None
    units: str | None = None
    needs_target: bool = False
    needs_support: bool = False
    needs_cover: bool = False
    by_default: bool = False

    def __post_init__(self) -> None:
        _checks.function("measure", self.measure, "a function of a Snapshot")
        for name in ("long_name", "units"):
            if getattr(self, name) is not None:
                _checks.instance(name, getattr(self, name), str, "words, or None")
        for name in ("needs_target", "needs_support", "by_default"):
            _checks.flag(name, getattr(self, name))

    def __call__(self, snapshot: Snapshot) -> Array:
        """The metric of a snapshot."""
        return self.measure(snapshot)


def metric_of(measure: Measure) -> Metric:
    """A function of a snapshot as a `Metric`; of a plain function nothing more is known."""
    return measure if isinstance(measure, Metric) else Metric(measure)


METRICS: Registry[Measure] = Registry("metric", {})
"""The metrics by name: the standard ones, and any that a user adds.

`METRICS["peak"] = lambda s: s.log_probs.max()` adds one. It is recorded where it is asked for by name, in
`Record(also=("peak",))` or in a study. A `Metric` in place of a plain function says more about it.
"""


def _standard(
    long_name: str, units: str = "nats", *, name: str | None = None, by_default: bool = True, **needs: bool
) -> Callable[[Measure], Measure]:
    """Register a function under its own name, or another, with the label of its axis.

    The function itself stays what its name in this module means, so that a metric can be pickled.
    """

    def register(measure: Any) -> Measure:
        METRICS[name or measure.__name__] = Metric(measure, long_name, units, by_default=by_default, **needs)
        return measure

    return register


@_standard("Exact loss", "1")
def loss(s: Snapshot) -> Array:
    """Exact loss."""
    return s.loss


@_standard("Gradient norm", "1")
def gradient_norm(s: Snapshot) -> Array:
    """Euclidean norm of the exact loss's gradient."""
    return optax.tree.norm(s.gradient)


@_standard("KL(learned ‖ target)", needs_target=True)
def kl_to_target(s: Snapshot) -> Array:
    """KL(learned ‖ target)."""
    return kl(s.log_probs, _target(s))


@_standard("KL(target ‖ learned)", needs_target=True)
def kl_from_target(s: Snapshot) -> Array:
    """KL(target ‖ learned)."""
    return kl(_target(s), s.log_probs)


@_standard("JS(learned, target)", needs_target=True)
def js_to_target(s: Snapshot) -> Array:
    """JS(learned, target)."""
    return js(s.log_probs, _target(s))


@_standard("Policy entropy")
def policy_entropy(s: Snapshot) -> Array:
    """Entropy of the learned policy."""
    return entropy(s.log_probs)


@_standard("Largest probability", "1")
def largest_probability(s: Snapshot) -> Array:
    """The learned probability of the sequence that is likeliest now."""
    return jnp.exp(largest(s.log_probs, axis=-1))


@_standard("DID entropy", name="did_entropy", needs_cover=True)
def learned_did_entropy(s: Snapshot) -> Array:
    """DID entropy of the learned policy against the reference."""
    return did_entropy(s.log_probs, s.reference)


@_standard("Chosen log-likelihood")
def chosen_logps(s: Snapshot) -> Array:
    """Expected log-likelihood of chosen sequences."""
    return expectation(s.chosen, s.log_probs)


@_standard("Rejected log-likelihood")
def rejected_logps(s: Snapshot) -> Array:
    """Expected log-likelihood of rejected sequences."""
    return expectation(s.rejected, s.log_probs)


@_standard("Chosen displacement")
def chosen_displacement(s: Snapshot) -> Array:
    """Change of the chosen log-likelihood from the reference."""
    return expectation(s.chosen, s.log_probs - s.reference)


@_standard("Rejected displacement")
def rejected_displacement(s: Snapshot) -> Array:
    """Change of the rejected log-likelihood from the reference."""
    return expectation(s.rejected, s.log_probs - s.reference)


@_standard("Log-margin, learned")
def margin_learned(s: Snapshot) -> Array:
    """Expected log-margin of the learned policy on sampled pairs."""
    return _margin(s, s.log_probs)


@_standard("Log-margin, reference")
def margin_reference(s: Snapshot) -> Array:
    """Expected log-margin of the reference on sampled pairs."""
    return _margin(s, s.reference)


@_standard("Log-margin, rejected", needs_support=True)
def margin_rejected(s: Snapshot) -> Array:
    """Expected log-margin of the rejected-sampling distribution on sampled pairs."""
    return _margin(s, s.rejected)


@_standard("Log-margin, target", needs_target=True)
def margin_target(s: Snapshot) -> Array:
    """Expected log-margin of the target on sampled pairs."""
    return _margin(s, _target(s))


@_standard("Share of pairs ordered", "1", by_default=False, needs_support=True, needs_cover=True)
def fraction_ordered(s: Snapshot) -> Array:
    """Share of pairs on which learned, reference and rejected are log-margin ordered."""
    return check_order(s.log_probs, s.reference, s.rejected).fraction


@_standard("Reward margin")
def reward_margin(s: Snapshot) -> Array:
    """Expected implicit reward of the chosen less that of the rejected."""
    return _margin(s, s.implicit_reward())


@_standard("Reward accuracy", "1", by_default=False)
def reward_accuracy(s: Snapshot) -> Array:
    """Share of sampled pairs whose chosen sequence has the larger implicit reward; ties count half."""
    return s.problem.expect(WIN, s.implicit_reward())


WIN = PiecewiseLinear(knots=(0.0,), above=(1.0,))
"""1 for a positive difference of rewards, and a half for a difference of zero."""


def _target(s: Snapshot) -> Array:
    if s.target is None:
        raise ValueError("`target` must be given for this metric; got None")
    return s.target


def _margin(s: Snapshot, values: Array) -> Array:
    return expectation(s.chosen, values) - expectation(s.rejected, values)
