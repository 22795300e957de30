"""What can be recorded along a training run: functions of its state."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import optax
from jaxtyping import Array, Float, PyTree

from didsim.information import LogProbs, did_entropy, entropy, expectation, js, kl
from didsim.margins import check_order
from didsim.objectives.objective import Objective
from didsim.pairwise.forms import PiecewiseLinear
from didsim.policies import Policy
from didsim.preferences.problem import Problem


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
        return self.objective.reward.of_space(self.log_probs, self.reference, self.lengths)


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


_WIN = PiecewiseLinear(knots=(0.0,), above=(1.0,))


def _target(s: Snapshot) -> Array:
    if s.target is None:
        raise ValueError("`target` must be given for this metric; got None")
    return s.target


def _margin(s: Snapshot, values: Array) -> Array:
    return expectation(s.chosen, values) - expectation(s.rejected, values)
