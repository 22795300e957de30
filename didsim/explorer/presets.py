"""States that teach something. Each has a sentence on what to notice, which changes with the numbers.

A sentence is one of three, chosen by a number: whether it is below, at or above a threshold. Words in
braces stand for numbers that the page has at the moment: `{displacement}`, `{beta}`, or `{learned.0}`, the
share of the first response. The page fills them in, so that a sentence follows a finger, and also in the
static export.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike

from didsim.explorer.state import State
from didsim.families import mixture
from didsim.preferences import optimal_rejected

_DIGITS = 6
_NAMES = ["Best", "Good", "Fair", "Poor"]
_REFERENCE = [0.05, 0.25, 0.4, 0.3]
_TARGET = [0.6, 0.2, 0.1, 0.1]
_BETA = 0.1


class Notice(Struct, frozen=True, kw_only=True):
    """What to notice, in three cases.

    Attributes:
        number: the number that decides, by its name on the page.
        threshold: what it is compared with.
        below: the sentence if the number is less.
        at: the sentence if the two are equal to within 0.005.
        above: the sentence if the number is more.
        otherwise: the sentence if there is no such number, as the pairs identify no limit.
    """

    number: str
    threshold: float = 0.0
    below: str
    at: str
    above: str
    otherwise: str = "The pairs identify no limit of full support, so that this number does not exist here."


class Preset(Struct, frozen=True, kw_only=True):
    """A state with its title and its sentence."""

    title: str
    state: State
    notice: Notice


def shares(values: ArrayLike) -> list[float]:
    """Probabilities as a link holds them."""
    found: list[float] = np.round(np.asarray(values, float), _DIGITS).tolist()
    return found


def _towards(chosen: list[float], beta: float) -> list[float]:
    """Rejected shares with which DPO at `beta` goes from the reference to the target.

    If chosen responses come from the reference, this is the optimal rejected-sampling distribution. Otherwise
    the reference in front of the bracket is replaced by the chosen distribution. (Derived here: the limit
    `reference · (chosen/rejected)^(1/beta)` is then the target.)
    """
    reference, target, log_chosen = (jnp.log(jnp.array(p)) for p in (_REFERENCE, _TARGET, chosen))
    moved = optimal_rejected(reference, target, beta) - reference + log_chosen
    return shares(jnp.exp(moved) / jnp.sum(jnp.exp(moved)))


def _state(**changed: Any) -> State:
    """A state that goes from the reference to the target, with some fields changed."""
    fields: dict[str, Any] = {
        "reference": _REFERENCE,
        "chosen": _REFERENCE,
        "target": _TARGET,
        "beta": _BETA,
    } | changed
    fields.setdefault("rejected", _towards(fields["chosen"], fields["beta"]))
    return State(names=_NAMES, **fields)


def _same() -> Preset:
    return Preset(
        title="Chosen = reference",
        state=_state(rejected=[0.2, 0.3, 0.3, 0.2], target=[], beta=1.0),
        notice=Notice(
            number="displacement",
            below="The reference itself wrote the chosen responses. Then their log-likelihood falls, by "
            "{loss} nats here, whatever you reject: any policy but the reference explains them worse.",
            at="Chosen and rejected responses are alike, so that nothing is learned and nothing falls. Drag "
            "any rejected bar: from here it can only fall.",
            above="The chosen responses are no longer the reference's own. Now they rise, by {displacement} "
            "nats. As long as they were the reference's own, they could only fall.",
        ),
    )


def _twelvefold() -> Preset:
    return Preset(
        title="Best answer up, mean down",
        state=_state(),
        notice=Notice(
            number="displacement",
            below="{name.0} goes from {reference.0} to {learned.0}, {factor.0} times as likely. Yet the mean "
            "log-likelihood of chosen responses falls by {loss} nats, since only {chosen.0} of them are "
            "{name.0}.",
            at="{name.0} goes from {reference.0} to {learned.0}, and the mean log-likelihood of chosen "
            "responses stays where it was.",
            above="{name.0} goes from {reference.0} to {learned.0}, and {chosen.0} of chosen responses are "
            "{name.0}: enough for their mean log-likelihood to rise, by {displacement} nats.",
        ),
    )


def _preferred() -> Preset:
    return Preset(
        title="Preferred, yet falling",
        state=_state(
            reference=[0.25, 0.25, 0.25, 0.25],
            chosen=[0.5, 0.28, 0.12, 0.1],
            rejected=[0.2, 0.25, 0.25, 0.3],
            target=[],
            beta=0.5,
        ),
        notice=Notice(
            number="factor.1",
            threshold=1.0,
            below="{name.1} makes up {chosen.1} of chosen and {rejected.1} of rejected responses, and goes "
            "from {reference.1} to {learned.1}. It is not enough to be preferred: others are preferred more, "
            "and all shares sum to one.",
            at="{name.1} makes up {chosen.1} of chosen and {rejected.1} of rejected responses, and stays at "
            "{learned.1}: this is the break-even point.",
            above="{name.1} makes up {chosen.1} of chosen and {rejected.1} of rejected responses. That is "
            "now enough to rise, from {reference.1} to {learned.1}.",
        ),
    )


def _half_way() -> Preset:
    chosen = shares(jnp.exp(mixture(jnp.log(jnp.array(_TARGET)), jnp.log(jnp.array(_REFERENCE)), 0.5)))
    return Preset(
        title="Chosen half-way to the target",
        state=_state(chosen=chosen, beta=1.0),
        notice=Notice(
            number="displacement",
            below="Chosen responses lie {kl_chosen_reference} nats from the reference and "
            "{kl_chosen_learned} from the learned policy. The reference is nearer, so that they "
            "fall, by {loss} nats. Drag the chosen {name.0} up to turn the sign.",
            at="Chosen responses are as far from the reference as from the learned policy, "
            "{kl_chosen_learned} nats: they neither rise nor fall.",
            above="Chosen responses lie {kl_chosen_reference} nats from the reference and "
            "{kl_chosen_learned} from the learned policy. The learned policy is nearer, so "
            "that they rise, by {displacement} nats. Drag the chosen {name.0} down to turn the sign.",
        ),
    )


def _overshoot() -> Preset:
    return Preset(
        title="Beta overshoots",
        state=_state(rejected=_towards(_REFERENCE, 0.5), beta=0.2),
        notice=Notice(
            number="beta",
            threshold=0.5,
            below="These pairs lead to the target at beta = 0.5. At beta = {beta} the same pairs lead past "
            "it: {name.0} ends at {learned.0} where the target has {target.0}.",
            at="At beta = {beta} these pairs lead to the target itself: {name.0} ends at {learned.0}.",
            above="These pairs lead to the target at beta = 0.5. At beta = {beta} training ends before it: "
            "{name.0} ends at {learned.0} where the target has {target.0}.",
        ),
    )


def _identical() -> Preset:
    return Preset(
        title="Identical pairs",
        state=_state(chosen=_TARGET, rejected=_TARGET),
        notice=Notice(
            number="change",
            at="Chosen and rejected responses come from the same distribution, however good it is. Wins and "
            "losses cancel, and DPO ends at the reference: nothing is learned.",
            below="",
            above="The smallest difference counts: chosen and rejected responses now differ, and at beta = "
            "{beta} the largest change of a share is {change_share}.",
        ),
    )


def _simpo() -> Preset:
    return Preset(
        title="SimPO learns the DID",
        state=_state(objective="simpo"),
        notice=Notice(
            number="without_reference",
            threshold=0.5,
            below="With the reference in the loss, {name.0} ends at {learned.0}, and the target has "
            "{target.0}. Switch back to simpo to see what is learned without it.",
            at="",
            above="SimPO has no reference in its loss. It ends at the differential information itself, with "
            "{learned.0} on {name.0}, and not at the target, which has {target.0}. DPO learns the target "
            "from the same pairs.",
        ),
    )


def _broken() -> Preset:
    return Preset(
        title="Power law broken",
        state=_state(rejected=[0.25, 0.25, 0.25, 0.25]),
        notice=Notice(
            number="distance",
            at="The learned policy is the target: rejected responses obey the power law.",
            below="",
            above="Rejected responses do not obey the power law of the target. {name.2} ends at {learned.2} "
            "and {name.0} at {learned.0}, where the target has {target.2} and {target.0}: {distance} of all "
            "probability is in the wrong place.",
        ),
    )


def _sixty() -> Preset:
    return Preset(
        title="60 pairs",
        state=_state(
            chosen=shares((np.array(_REFERENCE) + np.array(_TARGET)) / 2),
            rejected=_REFERENCE,
            target=[],
            pairs=60,
        ),
        notice=Notice(
            number="unidentified_count",
            at="With {pairs} pairs every response has won and lost often enough for a limit: the chosen "
            "log-likelihood ends at {displacement} nats.",
            below="",
            above="In these {pairs} pairs {unidentified} {are} not tied to the others by wins and losses "
            "both. The chosen log-likelihood first gets as high as {peak} nats, and then falls without end: "
            "{last} after {steps} steps.",
        ),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "twelvefold": _twelvefold,
    "same": _same,
    "preferred": _preferred,
    "half_way": _half_way,
    "overshoot": _overshoot,
    "identical": _identical,
    "simpo": _simpo,
    "broken": _broken,
    "sixty": _sixty,
}
"""The presets by the name that a link gives them. The first is shown at the start."""
