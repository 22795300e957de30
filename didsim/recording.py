"""What is recorded along a training run: when, and which functions of the state."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import optax
from jaxtyping import Array, Float, PyTree

from didsim import _checks
from didsim.composition import Objective
from didsim.information import (
    LogProbs,
    did_entropy,
    entropy,
    expectation,
    js,
    kl,
)
from didsim.margins import check_order
from didsim.pairwise import PiecewiseLinear
from didsim.policies import Policy
from didsim.preferences import Problem


class Snapshot(eqx.Module):
    """The state of one run at one step, which metrics are functions of. No batch axes.

    Attributes:
        policy: the policy with its current parameters.
        log_probs: its log-probabilities over the whole space.
        reference: the reference policy.
        target: what the run is compared with, or None.
        chosen: the distribution of chosen sequences.
        rejected: that of rejected ones.
        problem: where pairs come from.
        objective: what is minimised.
        lengths: number of tokens of every sequence, or None.
        loss: the exact loss, over the whole population or dataset.
        gradient: its gradient in the policy's parameters, as the objective has it used.
    """

    policy: Policy
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
        return self.objective.reward(self.log_probs, self.reference, self.lengths)


Metric = Callable[[Snapshot], Array]


def loss(s: Snapshot) -> Array:
    """Exact loss."""
    return s.loss


def gradient_norm(s: Snapshot) -> Array:
    """Euclidean norm of the exact loss's gradient."""
    return optax.tree.norm(s.gradient)


def kl_to_target(s: Snapshot) -> Array:
    """KL(learned ‖ target)."""
    return kl(s.log_probs, _target(s))


def kl_from_target(s: Snapshot) -> Array:
    """KL(target ‖ learned)."""
    return kl(_target(s), s.log_probs)


def js_to_target(s: Snapshot) -> Array:
    """JS(learned, target)."""
    return js(s.log_probs, _target(s))


def policy_entropy(s: Snapshot) -> Array:
    """Entropy of the learned policy."""
    return entropy(s.log_probs)


def learned_did_entropy(s: Snapshot) -> Array:
    """DID entropy of the learned policy against the reference."""
    return did_entropy(s.log_probs, s.reference)


def chosen_logps(s: Snapshot) -> Array:
    """Expected log-likelihood of chosen sequences."""
    return expectation(s.chosen, s.log_probs)


def rejected_logps(s: Snapshot) -> Array:
    """Expected log-likelihood of rejected sequences."""
    return expectation(s.rejected, s.log_probs)


def chosen_displacement(s: Snapshot) -> Array:
    """Change of the chosen log-likelihood from the reference."""
    return expectation(s.chosen, s.log_probs - s.reference)


def rejected_displacement(s: Snapshot) -> Array:
    """Change of the rejected log-likelihood from the reference."""
    return expectation(s.rejected, s.log_probs - s.reference)


def margin_learned(s: Snapshot) -> Array:
    """Expected log-margin of the learned policy on sampled pairs."""
    return _margin(s, s.log_probs)


def margin_reference(s: Snapshot) -> Array:
    """Expected log-margin of the reference on sampled pairs."""
    return _margin(s, s.reference)


def margin_rejected(s: Snapshot) -> Array:
    """Expected log-margin of the rejected-sampling distribution on sampled pairs."""
    return _margin(s, s.rejected)


def margin_target(s: Snapshot) -> Array:
    """Expected log-margin of the target on sampled pairs."""
    return _margin(s, _target(s))


def fraction_ordered(s: Snapshot) -> Array:
    """Share of pairs on which learned, reference and rejected are log-margin ordered."""
    return check_order(s.log_probs, s.reference, s.rejected).fraction


def reward_margin(s: Snapshot) -> Array:
    """Expected implicit reward of the chosen less that of the rejected."""
    return _margin(s, s.implicit_reward())


def reward_accuracy(s: Snapshot) -> Array:
    """Share of sampled pairs whose chosen sequence has the larger implicit reward; ties count half."""
    return s.problem.expect(_WIN, s.implicit_reward())


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "loss": loss,
        "gradient_norm": gradient_norm,
        "kl_to_target": kl_to_target,
        "kl_from_target": kl_from_target,
        "js_to_target": js_to_target,
        "policy_entropy": policy_entropy,
        "did_entropy": learned_did_entropy,
        "chosen_logps": chosen_logps,
        "rejected_logps": rejected_logps,
        "chosen_displacement": chosen_displacement,
        "rejected_displacement": rejected_displacement,
        "margin_learned": margin_learned,
        "margin_reference": margin_reference,
        "margin_rejected": margin_rejected,
        "margin_target": margin_target,
        "fraction_ordered": fraction_ordered,
        "reward_margin": reward_margin,
        "reward_accuracy": reward_accuracy,
    }
)
"""The standard metrics by name, in nats but for shares, the gradient norm and the loss."""

COUNTS_PAIRS = frozenset({"fraction_ordered", "reward_accuracy"})
NEEDS_SUPPORT = frozenset({"margin_rejected", "fraction_ordered"})
NEEDS_TARGET = frozenset({"kl_to_target", "kl_from_target", "js_to_target", "margin_target"})
_UNITLESS = frozenset({"gradient_norm", "fraction_ordered", "reward_accuracy", "loss"})


class Record:
    """When and what to record.

    Args:
        every: steps between records. The start and the last step are always recorded.
        metrics: functions of a `Snapshot` by name, each giving an array. By default the standard ones,
            `METRICS`, but for two: `reward_accuracy` and `fraction_ordered` count pairs, which costs more
            than the training between two records does. Those that need a target, or a rejected
            distribution without zeros, are left out where there is none. To record one of one's own and
            all others: `Record(metrics={**METRICS, "peak": lambda s: s.log_probs.max()})`.
        also: which of those two to record beside the default ones. With `metrics` they stand there.

    Raises:
        ValueError: `also` names another metric or comes with `metrics`, `every` is below 1, a metric is not a
            function, or one is named "step".
    """

    every: int
    metrics: Mapping[str, Metric] | None
    also: frozenset[str]

    def __init__(
        self, every: int = 10, metrics: Mapping[str, Metric] | None = None, also: Iterable[str] = ()
    ):
        self.every = _checks.positive_int("every", every)
        self.also = frozenset(also)
        if unknown := sorted(self.also - COUNTS_PAIRS):
            raise ValueError(f"`also` must be some of {', '.join(sorted(COUNTS_PAIRS))}; got {unknown}")
        if metrics is not None:
            _checks.instance("metrics", metrics, Mapping, "functions of a Snapshot by name")
            if self.also:
                raise ValueError(
                    "`also` adds to the default metrics, and must be empty beside `metrics`; got "
                    f"{sorted(self.also)}"
                )
        for name, metric in (metrics or {}).items():
            if name == "step":
                raise ValueError("`metrics` must not use the name 'step', which is that of their axis")
            if not callable(metric):
                raise ValueError(
                    f"`metrics` must map names to functions of a Snapshot; got {metric!r} for {name!r}"
                )
        self.metrics = metrics

    def resolve(self, *, has_target: bool, has_support: bool) -> dict[str, Metric]:
        """The metrics of a run, which may have a target, and a rejected distribution without zeros.

        Raises:
            ValueError: a standard metric was asked for by name that needs what there is not.
        """
        needs = {
            "target": frozenset() if has_target else NEEDS_TARGET,
            "problem": frozenset() if has_support else NEEDS_SUPPORT,
        }
        if self.metrics is None:
            lacking = (COUNTS_PAIRS - self.also).union(*needs.values())
            return {name: metric for name, metric in METRICS.items() if name not in lacking}
        for name, metric in self.metrics.items():
            for argument, names in needs.items():
                if metric in [METRICS[one] for one in names]:
                    expected = "given" if argument == "target" else "one that can reject every sequence"
                    raise ValueError(f"`{argument}` must be {expected} for the metric {name!r}")
        return dict(self.metrics)


def metric_attributes(name: str) -> dict[str, Any]:
    """The long name and units of a metric, for a labelled dataset."""
    if name not in METRICS:
        return {"long_name": name}
    text = METRICS[name].__doc__ or name
    return {
        "long_name": text.rstrip("."),
        "units": "1" if name in _UNITLESS else "nats",
    }


_WIN = PiecewiseLinear(knots=(0.0,), above=(1.0,))


def _target(s: Snapshot) -> Array:
    if s.target is None:
        raise ValueError("`target` must be given for this metric; got None")
    return s.target


def _margin(s: Snapshot, values: Array) -> Array:
    return expectation(s.chosen, values) - expectation(s.rejected, values)
