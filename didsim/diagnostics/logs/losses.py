"""What the loss tells: whether it can be DPO's, whether it diverged, and whether it holds on other pairs."""

import math

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Number
from didsim.diagnostics.logs.evidence import (
    LOG_2,
    Evidence,
    half_units,
    late,
    late_mean,
    mean_number,
    softplus,
)
from didsim.diagnostics.logs.log import Rows
from didsim.diagnostics.wording import short, signed

_FAR = 5
_NO_PAIRS = "the mean of one evaluation; its spread over pairs is not logged"
_BROKEN = (
    "loss",
    "chosen_reward",
    "rejected_reward",
    "margin",
    "chosen_logps",
    "rejected_logps",
    "grad_norm",
)


def not_finite(evidence: Evidence) -> Finding | None:
    """NaN or infinity in the log, and where it first stands."""
    first: tuple[float, str] | None = None
    for rows, _ in evidence.sides():
        for name in _BROKEN:
            if name in rows.broken:
                here = (float(rows.at[rows.broken[name][0]]), name)
                first = here if first is None or here[0] < first[0] else first
    if first is None:
        return None
    at, name = first
    broken = {one for rows, _ in evidence.sides() for one in rows.broken}
    # Half precision skips a step whose gradient overflows. If it never recovers, the weights are lost.
    norms = evidence.log.train.broken.get("grad_norm", np.empty(0))
    few = len(norms) < 2 or len(norms) <= (len(evidence.log.train) - norms[0]) / 2
    only_norm = broken == {"grad_norm"} and few
    column = name.replace("_", " ")
    return Finding(
        name="not_finite",
        grade=Grade.LOOK if only_norm else Grade.WRONG,
        sentence=f"The {column} is NaN or infinite from {evidence.log.where(at)} on"
        + (", while the loss stays finite." if only_norm else ": the run is lost from there."),
        reason="Half precision scales gradients and skips a step whose gradient overflows; a few such steps "
        "do no harm."
        if only_norm
        else "Once a weight is NaN, so is every number after it. A trainer that filters NaN may go on "
        "logging a loss of 0.",
        advice="If it comes again and again, train in bfloat16 or lower the learning rate."
        if only_norm
        else "Go back to a checkpoint before that. Lower the learning rate, clip the gradient, and look for "
        "a response without tokens in the batches just before.",
        step=at,
    )


def divergence(evidence: Evidence) -> Finding | None:
    """A loss that leaves for good the height at which it started, or spikes and comes back."""
    side = evidence.main("loss")
    if side is None:
        return None
    rows = side[0]
    at, loss = rows.together("loss")
    # DPO's loss is log 2 at the reference. At five times that the average pair is ranked wrongly with odds of
    # 31 to 1, as exp(5 log 2) − 1 = 31. Other losses are compared with their own start.
    limit = _FAR * max(float(loss[0]), LOG_2)
    high = np.flatnonzero(loss > limit)
    if not len(high):
        return None
    start = int(high[0])
    # A single row may be a batch of one or two pairs; it counts if it is far above the limit.
    alone = float(loss[start:].max()) < 4 * limit
    stays = float(np.median(loss[start:])) > limit and not (alone and start == len(loss) - 1)
    if not stays and alone and len(high) == 1:
        return None
    where = evidence.log.where(float(at[start]))
    rate = rows.columns.get("learning_rate", np.empty(0))
    told = f" The learning rate reached {np.nanmax(rate):.3g} in this log." if np.isfinite(rate).any() else ""
    numbers = {
        "first loss": Number(value=float(loss[0]), unit="nats", no_interval="one logged value"),
        "highest loss": Number(value=float(loss.max()), unit="nats", no_interval="one logged value"),
    }
    usual = (
        f"Lower the learning rate and clip the gradient.{told} DPO is usually run at 5e-7 to 5e-6, with "
        "LoRA up to 5e-5."
    )
    if stays:
        return Finding(
            name="divergence",
            grade=Grade.WRONG,
            sentence=f"The run diverges at {where}: the loss goes from {short(float(loss[0]))} to "
            f"{short(float(loss[start]))} and reaches {short(float(loss.max()))}.",
            reason="A policy that stays at the reference has DPO's loss at log 2 = 0.6931. A loss far above "
            "means that the average pair is ranked wrongly with high confidence.",
            advice=f"Go back to a checkpoint before {where}. {usual}",
            numbers=numbers,
            step=float(at[start]),
        )
    peak = int(np.argmax(loss))
    return Finding(
        name="loss_spike",
        grade=Grade.LOOK,
        sentence=f"The loss spikes to {short(float(loss[peak]))} at {evidence.log.where(float(at[peak]))} "
        "and comes back.",
        reason="A few steps ranked the average pair wrongly with high confidence. That is one bad batch, or "
        "a step that was too long.",
        advice=usual,
        numbers=numbers,
        step=float(at[peak]),
    )


def below_jensen(evidence: Evidence) -> Finding | None:
    """A loss below the least that sigmoid DPO can have at the logged mean margin."""
    if not evidence.may_be_sigmoid:
        return None
    for rows, words in evidence.sides():
        at, loss, margin = rows.together("loss", "margin")
        if not len(at):
            continue
        # Both numbers were rounded, and bfloat16 is off by up to 0.4%.
        bound = softplus(-(margin + half_units(margin))) * 0.99
        below = loss + half_units(loss) < bound
        share = float(below.mean())
        if share == 0 or (share < 0.5 and below.sum() < 3):
            continue
        worst = int(np.argmin(np.where(below, loss - bound, np.inf)))
        least, seen = float(softplus(-margin[worst])), float(loss[worst])
        where = f" at {evidence.log.where(float(at[worst]))}" if len(at) > 1 else ""
        mostly = share >= 0.5
        how_often = "in every row" if share == 1 else f"in {100 * share:.2g}% of the rows"
        often = f", {how_often}" if len(at) > 1 else ""
        return Finding(
            name="below_jensen_bound",
            grade=Grade.WRONG if mostly and evidence.loss_type == "sigmoid" else Grade.LOOK,
            sentence=f"The loss is not plain sigmoid DPO on the logged margins: on {words} it is "
            f"{short(seen)}{where}, below {short(least)}, the least that a mean margin of "
            f"{signed(margin[worst])} allows{often}.",
            reason="softplus is convex, so by Jensen's inequality the mean of softplus(−margin) is at least "
            "softplus of minus the mean margin, whatever the pairs are.",
            advice="It may be another loss (--loss-type), a weighted one, or a loss divided by something. "
            "Margins may be in another unit, such as nats without beta."
            if mostly
            else "If only some rows are below, loss and margins may be means over different pairs: older "
            "trainers log the margins of one process only.",
            numbers={
                "share of rows below the bound": Number(
                    value=share, unit="share", no_interval="a count of rows"
                ),
                "loss": Number(value=seen, unit="nats", no_interval="one logged value"),
                "least loss at that margin": Number(value=least, unit="nats", no_interval="computed from it"),
            },
            step=float(at[worst]),
        )
    return None


def another_term(evidence: Evidence) -> Finding | None:
    """A loss that holds more than the sigmoid part, such as a likelihood of the chosen responses."""
    for rows, words in evidence.sides():
        loss, margin, accuracy, nll = (
            late_mean(rows, name) for name in ("loss", "margin", "accuracy", "nll")
        )
        if loss is None or margin is None or not evidence.may_be_sigmoid:
            continue
        sigmoid = float(softplus(-margin))
        sure = accuracy is not None and accuracy >= (0.95 if nll else 0.99)
        # Pairs that are all ranked right have losses below log 2, most of them near the mean margin's.
        unlike = loss > 5 * sigmoid + 0.02 and sure
        above = bool(nll) and loss > LOG_2 + 0.02 and margin > 0.05
        if not (unlike or above):
            continue
        numbers = {
            "loss": mean_number(late(rows.columns["loss"]), "nats"),
            "sigmoid part if all pairs were alike": Number(
                value=sigmoid, unit="nats", no_interval="computed from the mean margin"
            ),
        }
        weight = ""
        if nll:
            numbers["excess over the sigmoid part, per nat of nll"] = Number(
                value=(loss - sigmoid) / nll,
                no_interval="pairs differ, so it is an upper estimate of the weight",
            )
            weight = f", and the rest is {short((loss - sigmoid) / nll)} times the logged nll of {short(nll)}"
        return Finding(
            name="loss_holds_another_term",
            grade=Grade.LOOK,
            sentence=f"The loss holds another term than DPO's: on {words} it is {short(loss)}, where the "
            f"sigmoid part would be near {sigmoid:.1g} at a mean margin of {signed(margin)}{weight}.",
            reason="The sigmoid part of a pair is softplus(−margin). "
            + (
                "With a logged likelihood term beside it, that is the natural rest."
                if nll
                else f"All pairs are ranked right, and still the loss is {short(loss)}; without another "
                "term a large share of the pairs would need margins near 0."
            ),
            advice="An SFT term (rpo_alpha, pref_ftx, or a mix of losses) holds the chosen likelihood up. "
            "If it was not meant, remove it. If it was, judge DPO by the margins and not by this loss.",
            numbers=numbers,
        )
    return None


def heavy_tail(evidence: Evidence) -> Finding | None:
    """A training loss above log 2 although the mean margin is positive."""
    rows = evidence.log.train
    loss, margin, nll = (late_mean(rows, name) for name in ("loss", "margin", "nll"))
    if loss is None or margin is None or nll or not evidence.may_be_sigmoid or evidence.times_log_2 != 1:
        return None
    # To second order the mean loss is log 2 − margin/2 + variance/8: it takes a variance above 0.16.
    if loss < LOG_2 + 0.02 or margin < 0.01 or loss > _FAR * LOG_2:
        return None
    return Finding(
        name="confidently_wrong_pairs",
        grade=Grade.LOOK,
        sentence=f"Some pairs are ranked wrongly with high confidence: the training loss ends at "
        f"{short(loss)}, above log 2 = 0.6931, although the mean margin is {signed(margin)}.",
        reason="softplus(−margin) grows linearly for wrong pairs and vanishes for right ones. With a "
        "positive mean margin a loss above log 2 needs a heavy tail of large negative margins.",
        advice="Look at the pairs with the lowest margins: labels may be wrong, or responses truncated. "
        "Label smoothing (cDPO, robust DPO) bounds what such pairs do. --pairs shows them.",
        numbers={
            "training loss": mean_number(late(rows.columns["loss"]), "nats"),
            "training margin": mean_number(late(rows.columns["margin"]), "reward"),
        },
    )


def no_generalisation(evidence: Evidence) -> Finding | None:
    """A held-out loss above log 2, which the reference itself has."""
    held_out, train = evidence.log.held_out, evidence.log.train
    at, losses = held_out.together("loss")
    if not len(at) or not evidence.may_be_sigmoid or evidence.times_log_2 is None or "nll" in held_out:
        return None
    loss = float(losses[-1])
    if not loss > LOG_2 + 0.005 or loss < _late_or(train, "loss", 0) - 0.02:
        return None
    numbers = {"held-out loss": Number(value=loss, unit="nats", no_interval=_NO_PAIRS)}
    told = []
    for rows, side in ((train, "training"), (held_out, "held-out")):
        for name in ("margin", "accuracy"):
            if name in rows:
                values = late(rows.columns[name])[-1 if side == "held-out" else 0 :]
                numbers[f"{side} {name}"] = mean_number(values, "reward" if name == "margin" else "share")
                sign = signed if name == "margin" else short
                told.append(f"{side} {name} {sign(float(values.mean()))}")
    learned = _late_or(train, "margin", math.nan)
    best = int(np.argmin(losses))
    turned = losses[best] < LOG_2 - 0.005 and best < len(losses) - 1
    stop = f"The best evaluation was at {evidence.log.where(float(at[best]))}: stop there. " if turned else ""
    above = f"the held-out loss is {short(loss)}, above log 2 = 0.6931, which the reference itself has "
    above += f"({', '.join(told)})" if told else ""
    reason = (
        "The reference has margin 0 and loss log 2 on any pairs. A policy with a higher held-out loss "
        "predicts unseen preferences worse than one that learned nothing."
    )
    if _ranks(held_out, learned):
        return Finding(
            name="overconfident_on_held_out_pairs",
            grade=Grade.LOOK,
            sentence=f"The policy ranks held-out pairs but is far too sure of it: {above.strip()}.",
            reason=f"{reason} As most pairs are ranked right, a tail of pairs that are wrong with high "
            "confidence makes up the loss.",
            advice=f"{stop}Use fewer epochs, a larger beta, or label smoothing. --pairs shows how much too "
            "sure it is.",
            numbers=numbers,
            step=float(at[best]) if turned else None,
        )
    fits = "The policy fits its training pairs" if learned > 0 else "The policy has left the reference"
    return Finding(
        name="no_generalisation",
        grade=Grade.WRONG,
        sentence=f"{fits} and does not generalise: {above.strip()}.",
        reason=reason,
        advice=f"{stop}Use more or cleaner pairs, fewer epochs, a larger beta, or a lower learning rate.",
        numbers=numbers,
        step=float(at[best]) if turned else None,
    )


def _ranks(held_out: Rows, learned: float) -> bool:
    """Whether held-out pairs are ranked clearly better than by chance."""
    if "accuracy" in held_out:
        return bool(late(held_out.columns["accuracy"])[-1] >= 0.6)
    return "margin" in held_out and bool(late(held_out.columns["margin"])[-1] > max(0.0, 0.5 * learned))


def _late_or(rows: Rows, name: str, default: float) -> float:
    found = late_mean(rows, name)
    return default if found is None else found


def overfitting(evidence: Evidence) -> Finding | None:
    """A held-out loss that turned, while it still is below log 2."""
    at, losses = evidence.log.held_out.together("loss")
    if len(at) < 3 or (evidence.may_be_sigmoid and losses[-1] > LOG_2 + 0.005):
        return None
    best = int(np.argmin(losses))
    # Evaluations are on the same pairs each time and hardly scatter; 5% is above the rounding of any log.
    if best == len(at) - 1 or losses[-1] < 1.05 * losses[best] + 0.005:
        return None
    return Finding(
        name="held_out_loss_turned",
        grade=Grade.LOOK,
        sentence=f"The held-out loss turned: it was lowest, {short(float(losses[best]))}, at "
        f"{evidence.log.where(float(at[best]))} and ends at {short(float(losses[-1]))}.",
        reason="From there on, what the policy learns of its training pairs makes it worse on others.",
        advice=f"Take the checkpoint at {evidence.log.where(float(at[best]))}.",
        numbers={
            "lowest held-out loss": Number(value=float(losses[best]), no_interval=_NO_PAIRS),
            "last held-out loss": Number(value=float(losses[-1]), no_interval=_NO_PAIRS),
        },
        step=float(at[best]),
    )


def clamped_kl(evidence: Evidence) -> Finding | None:
    """KTO's reference point, which is a divergence and is clamped at 0 where its estimate is negative."""
    side = evidence.main("kl")
    if side is None:
        return None
    kl = side[0].columns["kl"]
    kl = kl[np.isfinite(kl)][1:]  # at the first step it is 0
    share = float((kl <= 0).mean()) if len(kl) else 0.0
    if len(kl) < 3 or share < 0.5:
        return None
    return Finding(
        name="kl_clamped_at_zero",
        grade=Grade.LOOK,
        sentence=f"KTO's reference point is clamped at 0 in {100 * share:.0f}% of the rows.",
        reason="KTO estimates KL(π‖π_ref) from mismatched pairs and clamps it at 0. A negative estimate "
        "means that the policy gives responses to other prompts less probability than the reference did, as "
        "it does where all likelihoods fall.",
        advice="Larger batches make the estimate less noisy. If it stays at 0, the loss has no baseline, "
        "and chosen and rejected responses are judged against the reference alone.",
        numbers={"share of rows at 0": Number(value=share, unit="share", no_interval="a count of rows")},
    )
