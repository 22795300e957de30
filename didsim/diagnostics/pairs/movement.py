"""What pairs say of where probability went: displacement, its course, and other responses."""

from collections.abc import Iterator

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Number
from didsim.diagnostics.pairs.measures import QUADRANTS, Measured
from didsim.diagnostics.pairs.saying import (
    checkpoint_text,
    draws_number,
    is_above,
    is_below,
    lowest_loss,
    turning_point,
)
from didsim.diagnostics.pairs.table import ARGMAX
from didsim.diagnostics.resampling import is_beyond
from didsim.diagnostics.wording import percent, said

_IDENTITY = (
    "For any policies, E_w[log(π/π_ref)] = KL(π_w‖π_ref) − KL(π_w‖π), where π_w is the distribution of "
    "chosen responses: the chosen log-probability falls exactly when the policy fits the chosen responses "
    "worse than the reference did."
)


def displacement(measured: Measured, beta: float | None) -> Iterator[Finding]:
    last = {name: draws[-1] for name, draws in measured.trained_on.items()}
    chosen, rejected = (draws_number(measured, last[name], "nats") for name in ("chosen", "rejected"))
    margin = draws_number(measured, last["margin"], "nats")
    numbers = {"chosen": chosen, "rejected": rejected, "margin": margin}
    for name in ("chosen", "rejected", "margin") if measured.held_out else ():
        numbers[f"{name}, held out"] = draws_number(measured, measured.judged[name][-1], "nats")
    # The fall of the chosen response, less what the margin gained.
    excess = draws_number(measured, -last["chosen"] - last["margin"], "nats")
    if is_below(chosen):
        reason = _IDENTITY + (
            " If the chosen responses are the reference's own samples, the first term is zero and a fall is "
            "certain: it is KL(π_ref‖π), however good the policy."
        )
        grade = Grade.LOOK if is_above(excess) else Grade.FINE
        advice = (
            "The chosen response lost more than the margin gained: both responses went down together. Stop "
            "earlier, raise beta, or add a term that holds the chosen response, such as SFT."
            if grade is Grade.LOOK
            else ""
        )
        what = "fell"
    elif is_above(chosen):
        reason = _IDENTITY + (
            " A rise beyond its interval proves KL(π_w‖π_ref) > 0: the chosen responses are not the "
            "reference's own samples."
        )
        grade, advice, what = Grade.FINE, "", "rose"
    else:
        reason, grade, advice, what = _IDENTITY, Grade.FINE, "", "did not move beyond chance"
    yield Finding(
        name="displacement",
        grade=grade,
        sentence=f"The chosen log-probability {what}: it is {said(chosen)} from the reference; the rejected "
        f"one is {said(rejected)} from it.",
        reason=reason,
        advice=advice,
        numbers=numbers,
    )
    if not is_above(margin):
        yield Finding(
            name="no_margin",
            grade=Grade.WRONG if is_below(margin) else Grade.LOOK,
            sentence=f"The chosen response gained no margin over the rejected one: {said(margin)}.",
            reason="Every preference loss rewards a margin above that of the reference.",
            advice="Check that chosen and rejected are not swapped, and that gradients reach the policy.",
            numbers={"margin": margin},
        )


def chosen_displacement(measured: Measured) -> tuple[str, Number]:
    """How far the chosen responses are from the reference, and of which pairs: held-out ones if any."""
    number = draws_number(measured, measured.judged["chosen"][-1], "nats")
    return ("held-out pairs" if measured.held_out else "the pairs"), number


def quadrants(measured: Measured, beta: float | None) -> Iterator[Finding]:
    shares = {name: draws_number(measured, measured.trained_on[name][-1], "share") for name in QUADRANTS}
    likeliest = max(shares, key=lambda name: shares[name].value)
    yield Finding(
        name="quadrants",
        grade=Grade.FINE,
        sentence="Directions from the reference: "
        + "; ".join(f"{name} in {percent(share)}" for name, share in shares.items())
        + f". Most pairs: {likeliest}.",
        reason="The loss sees only the difference of the two log-ratios, so either may move either way.",
        numbers=shares,
    )


def against_length(measured: Measured, beta: float | None) -> Iterator[Finding]:
    last = measured.trained_on
    numbers = {}
    for response in ("chosen", "rejected"):
        if f"{response} per token" in last:
            numbers[f"{response} per token"] = draws_number(
                measured, last[f"{response} per token"][-1], "nats per token"
            )
            further = last[f"{response} for each further token"][-1]
            numbers[f"{response} for each further token"] = draws_number(measured, further, "nats per token")
    if numbers:
        said_all = "; ".join(f"{name} {said(one)}" for name, one in numbers.items())
        yield Finding(
            name="displacement_against_length",
            grade=Grade.FINE,
            sentence=f"Displacement against length: {said_all}.",
            reason="A log-probability is a sum over tokens, so a shift of every token alike grows in "
            "proportion to length. The two numbers of a response then agree.",
            numbers=numbers,
        )


def rise_then_fall(measured: Measured, beta: float | None) -> Iterator[Finding]:
    chosen = measured.trained_on["chosen"]
    looks = len(chosen)
    top = int(np.argmax(chosen[:, 0]))
    if not 0 < top < looks - 1:
        return
    if not (is_beyond(chosen[top] - chosen[0], looks) and is_beyond(chosen[top] - chosen[-1], looks)):
        return
    unit = "step" if measured.has_steps else "checkpoint"
    numbers = {
        f"{unit} of the peak": turning_point(measured, np.argmax(chosen, axis=0)),
        "rise": draws_number(measured, chosen[top] - chosen[0], "nats"),
        "fall": draws_number(measured, chosen[top] - chosen[-1], "nats"),
    }
    turned = ""
    if measured.held_out:
        numbers[f"{unit} of the lowest held-out loss"] = turn = lowest_loss(measured)
        peak = numbers[f"{unit} of the peak"]
        if None not in (turn.low, turn.high, peak.low, peak.high):
            apart = turn.low > peak.high or turn.high < peak.low  # type: ignore[operator]
            where = "elsewhere" if apart else "at the same place, as far as the intervals tell"
            turned = f" The held-out loss turned {where}: at {unit} {said(turn)}."
    yield Finding(
        name="rise_then_fall",
        grade=Grade.LOOK,
        sentence=f"The chosen log-probability first rose by {said(numbers['rise'])} until "
        f"{checkpoint_text(measured, top)}, then fell by {said(numbers['fall'])}.{turned}",
        reason=_IDENTITY
        + " So the last policy fits the chosen responses worse than the one at the peak did.",
        advice="Compare checkpoints around the peak by held-out loss before taking the last one.",
        numbers=numbers,
        step=float(measured.steps[top]),
    )


def likeliest_tokens(measured: Measured, beta: float | None) -> Iterator[Finding]:
    series = measured.trained_on
    if ARGMAX not in series or len(measured.steps) < 2:
        return
    gain = draws_number(measured, series[ARGMAX][-1] - series[ARGMAX][0], "nats")
    chosen = draws_number(measured, series["chosen_logps"][-1] - series["chosen_logps"][0], "nats")
    gap = series[ARGMAX] - series["chosen_logps"]
    widened = draws_number(measured, gap[-1] - gap[0], "nats")
    if not is_above(widened):
        return
    yield Finding(
        name="mass_to_likeliest_tokens",
        grade=Grade.LOOK,
        sentence=f"Probability went to the most likely tokens: along the chosen responses their "
        f"log-probability changed by {said(gain)} since the first checkpoint, that of the chosen tokens by "
        f"{said(chosen)}. The gap widened by {said(widened)}.",
        reason="A step down the log-probability of a rejected response gives most of the freed probability "
        "to what is likeliest already, and where the policy is peaked most other responses lose: the "
        "squeezing effect (Ren and Sutherland, arXiv 2407.10490).",
        advice="Fewer steps, a larger beta, or SFT on both responses first.",
        numbers={"likeliest": gain, "chosen": chosen, "widening": widened},
    )


def other_responses(measured: Measured, beta: float | None) -> Iterator[Finding]:
    known = {"chosen_logps", "rejected_logps", ARGMAX}
    series = measured.trained_on
    names = [name for name in series if name.endswith("_logps") and name not in known]
    if not names or len(measured.steps) < 2:
        return
    changes = {name: draws_number(measured, series[name][-1] - series[name][0], "nats") for name in names}
    rejected = draws_number(measured, series["rejected_logps"][-1] - series["rejected_logps"][0], "nats")
    down = [name for name, change in changes.items() if is_below(change)]
    yield Finding(
        name="other_responses",
        grade=Grade.LOOK if len(down) == len(names) else Grade.FINE,
        sentence=f"Since the first checkpoint {len(down)} of {len(names)} kinds of other responses fell "
        f"beyond chance, and the rejected ones changed by {said(rejected)}: "
        + "; ".join(f"{name.removesuffix('_logps')} {said(change)}" for name, change in changes.items())
        + ".",
        reason="Probabilities add up to one: if everything that is watched falls, something that is not "
        "watched rises.",
        advice="Log `argmax_logps`, to see whether the most likely tokens gain it."
        if ARGMAX not in series
        else "",
        numbers={name.removesuffix("_logps"): change for name, change in changes.items()}
        | {"rejected": rejected},
    )
