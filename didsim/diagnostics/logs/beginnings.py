"""What the first rows of a log tell, and a log on which nothing ever moves."""

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Number
from didsim.diagnostics.logs.evidence import LOG_2, Evidence, late_mean
from didsim.diagnostics.logs.log import Rows
from didsim.diagnostics.wording import short, signed

_AT_LOG_2 = 0.003  # half a step of bfloat16 at log 2 is 0.002
_ONE_VALUE = "one logged value; its spread over pairs is not logged"


def first_rewards(evidence: Evidence) -> Finding | None:
    """The reference is the initial policy, so the first rewards must be 0."""
    first = None if evidence.reference_free else _first_row(evidence)
    if first is None:
        return None
    at, chosen, rejected = first
    size = max(abs(chosen), abs(rejected))
    # Ten steps of DPO move a reward by less than 1, that is a log-ratio by less than 10 nats at beta 0.1.
    # Before the first step it is 0, but for rounding: 1 nat in a long response computed in bfloat16.
    if size <= 1 and not (size > 0.1 and at <= 1 and evidence.log.unit == "step"):
        return None
    numbers = {
        name: Number(value=value, unit="reward", no_interval=_ONE_VALUE)
        for name, value in (("chosen reward", chosen), ("rejected reward", rejected))
    }
    told = f"the first logged rewards are {signed(chosen)} (chosen) and {signed(rejected)} (rejected)"
    if size > 1:
        return Finding(
            name="reference_is_not_initial_policy",
            grade=Grade.WRONG,
            sentence=f"The reference is not the initial policy: {told}, where both should be 0.",
            reason="A reward is beta · log(π/π_ref). It is 0 for every response if the policy starts as the "
            "reference, and the first few steps cannot move it this far.",
            advice="Load the same weights, precision and adapter for both. Precomputed reference "
            "log-probabilities must come from the model that training starts from, with the same template "
            "and truncation. If the models are the same, the learning rate is far too high."
            + (
                " If the loss has no reference, as SimPO's, CPO's and ORPO's, say so with --loss-type."
                if max(chosen, rejected) < 0
                else ""
            ),
            numbers=numbers,
            step=at,
        )
    return Finding(
        name="first_rewards_are_not_zero",
        grade=Grade.LOOK,
        sentence=f"Policy and reference differ before the first update: {told}, where both should be 0.",
        reason="A reward is beta · log(π/π_ref), which is 0 before the first update. Dropout in the policy, "
        "low precision, or slightly different weights make it differ.",
        advice="Switch dropout off, or compute both models in the same precision.",
        numbers=numbers,
        step=at,
    )


def _first_row(evidence: Evidence) -> tuple[float, float, float] | None:
    """Place and mean rewards of the first row, if it is from before training has moved the policy far."""
    log = evidence.log
    starts = [row for row in map(_first_rewards_of, (log.train, log.held_out)) if row is not None]
    if not starts:
        return None
    first = min(starts, key=lambda row: row[0])
    end = max(float(rows.at[-1]) for rows, _ in evidence.sides())
    match log.unit:
        case "step":
            return first if first[0] <= max(10, 0.02 * end) else None
        case "epoch":
            return first if first[0] <= 0.05 else None
    return first if len(log.train) > 1 and first[0] == log.train.at[0] else None


def _first_rewards_of(rows: Rows) -> tuple[float, float, float] | None:
    at, chosen, rejected = rows.together("chosen_reward", "rejected_reward")
    return (float(at[0]), float(chosen[0]), float(rejected[0])) if len(at) else None


def nothing_reaches_the_loss(evidence: Evidence) -> Finding | None:
    """Rewards that are exactly 0 in every row: the loss does not see the policy move."""
    rows = evidence.log.train if len(evidence.log.train) else evidence.log.held_out
    rewards = [rows.columns[name] for name in ("chosen_reward", "rejected_reward", "margin") if name in rows]
    if not rewards or any(np.any(one[np.isfinite(one)] != 0) for one in rewards):
        return None
    # The rewards of the first step are 0 in every run.
    if len(rows) < 5 and not (len(rows) >= 2 and evidence.log.unit == "step" and rows.at[-1] >= 10):
        return None
    loss = rows.columns.get("loss", np.empty(0))
    loss = loss[np.isfinite(loss)]
    at_log_2 = bool(len(loss)) and bool(np.all(np.abs(loss - LOG_2) < _AT_LOG_2))
    stays = " and the loss stays at log 2 = 0.6931" if at_log_2 else ""
    where = evidence.log.where(float(rows.at[-1]))
    cause, why, advice = _cause_of_zeros(evidence)
    return Finding(
        name="nothing_reaches_the_loss",
        grade=Grade.WRONG,
        sentence=f"Nothing reaches the loss: rewards are exactly 0{stays} up to {where}, so {cause}.",
        reason="The loss sees the policy only through beta · (log π − log π_ref), which is 0 for all pairs "
        f"if beta is 0, if π_ref is π, or if no token is counted. {why}",
        advice=advice,
        numbers={"logged rows": Number(value=len(rows), no_interval="a count")},
    )


def _cause_of_zeros(evidence: Evidence) -> tuple[str, str, str]:
    """What makes rewards 0, as far as the other columns tell: the cause, why it is that one, what to do."""
    train, held_out = evidence.log.train, evidence.log.held_out
    aliased = (
        "Give the trainer a reference of its own: a frozen copy, or a policy whose adapter is switched off."
    )
    for rows in (train, held_out):
        _, chosen, rejected = rows.together("chosen_logps", "rejected_logps")
        if len(chosen) and not chosen.any() and not rejected.any():
            return (
                "every token of the responses is masked",
                "The log-probabilities of the responses are exactly 0: they are sums over no token.",
                "Look at the labels of one batch. Truncation to a prompt that fills the whole length does "
                "this.",
            )
        _, policy, reference = rows.together("chosen_logps", "ref_chosen_logps")
        if len(policy) and np.allclose(policy, reference, rtol=1e-6, atol=1e-6):
            return (
                "the reference is the policy itself",
                "The log-probabilities of policy and reference are the same in every row.",
                aliased,
            )
        if len(policy):
            return (
                "beta is 0 or the logged reference log-probabilities are ignored",
                "The log-probabilities of policy and reference differ in the log, and the rewards do not "
                "show it.",
                "Check beta, and that precomputed reference log-probabilities are what the loss uses.",
            )
    rate, norm, beta = (
        train.columns.get(name, np.empty(0)) for name in ("learning_rate", "grad_norm", "beta")
    )
    if (len(beta) and not np.nan_to_num(beta).any()) or evidence.log.stated.betas == (0.0,):
        return "beta is 0", "The log itself says beta 0.", "Set beta; 0.1 is usual."
    if len(rate) and not np.nan_to_num(rate).any():
        return (
            "the policy never moves",
            "The learning rate is 0 in every row.",
            "Check the schedule and its number of steps.",
        )
    if len(norm) and np.isfinite(norm).any() and not np.nan_to_num(norm).any():
        return (
            "beta is 0, or nothing that is trained reaches the loss",
            "The gradient is exactly 0 in every row, as with beta 0, frozen weights, or masked tokens.",
            "Check beta, which weights require gradients, and the labels of one batch.",
        )
    both = "beta is 0 or the reference log-probabilities come from the policy itself"
    if len(norm) and np.nanmedian(norm) > 0:
        return (
            both,
            "The gradient norm is above 0. With beta 0 the gradient of DPO's loss is exactly 0, which "
            "speaks for a reference that is the policy.",
            f"{aliased} Check beta.",
        )
    return (
        both + ", or every token is masked",
        "The log has no gradient norm and no log-probabilities, which would tell which of these it is.",
        f"Check beta, the labels of one batch, and the reference. {aliased}",
    )


def nothing_learned(evidence: Evidence) -> Finding | None:
    """Rewards that are not 0, and still a loss that has not left log 2."""
    rows = evidence.log.train
    loss, margin = late_mean(rows, "loss"), late_mean(rows, "margin")
    if loss is None or margin is None or not evidence.may_be_sigmoid or len(rows) < 20:
        return None
    if not rows.columns["margin"].any() or (evidence.log.unit == "step" and rows.at[-1] < 50):
        return None
    # A margin of 0.02 moves the probability that chosen beats rejected by half a percent, the loss by 0.01.
    if abs(loss - LOG_2) > 0.01 or abs(margin) > 0.02:
        return None
    where = evidence.log.where(float(rows.at[-1]))
    return Finding(
        name="nothing_learned",
        grade=Grade.LOOK,
        sentence=f"Almost nothing was learned up to {where}: the loss is {loss:.4f}, still log 2, and the "
        f"margin {signed(margin)}.",
        reason="For small margins DPO's loss is log 2 − margin/2, so the policy has hardly left the "
        "reference on these pairs.",
        advice="Raise the learning rate, or train longer. A policy kept in bfloat16 loses small updates to "
        "rounding. If held-out log-probabilities do move, chosen and rejected may be labelled at random.",
        numbers={"margin": Number(value=margin, unit="reward", no_interval="it is near 0 by any measure")},
    )


def loss_of_another_scale(evidence: Evidence) -> Finding | None:
    """A first loss of several times log 2, or of a part of it, as micro-batches were added or divided by."""
    times = evidence.times_log_2
    if evidence.loss_type not in (None, "sigmoid") or times is None or times == 1:
        return None
    at, loss = evidence.log.train.together("loss")
    count = round(max(times, 1 / times))
    what = f"{count} times log 2: the log holds sums over {count} micro-batches, not means"
    if times < 1:
        what = f"log 2 over {count}: the loss was divided by {count} once too often"
    return Finding(
        name="loss_of_another_scale",
        grade=Grade.LOOK,
        sentence=f"The first loss is {short(float(loss[0]))}, which is {what}.",
        reason="At a margin of 0, where training starts, DPO's loss is log 2 = 0.6931 for each pair."
        + (" NCA's and BCO's losses begin at twice that." if count == 2 and times > 1 else ""),
        advice=f"{'Divide' if times > 1 else 'Multiply'} the loss by {count} to compare it. Check whether "
        "the gradient has the same factor: the learning rate then is not what it seems.",
        numbers={"first loss": Number(value=float(loss[0]), unit="nats", no_interval=_ONE_VALUE)},
        step=float(at[0]),
    )


def another_loss(evidence: Evidence) -> Finding | None:
    """A first loss at a margin of 0 that is no multiple of log 2: the loss is none of DPO's scale."""
    rows = evidence.log.train
    if not evidence.may_be_sigmoid or evidence.times_log_2 is not None or "nll" in rows:
        return None
    at, loss, margin = rows.together("loss", "margin")
    first = float(loss[0])
    if abs(first - 1) < 0.02:
        like = "The hinge loss and APO begin at 1. "
    elif first > 1:
        like = f"IPO begins at 1/(2 beta)², which fits beta {short(0.5 / first**0.5)}. "
    else:
        like = ""
    return Finding(
        name="loss_is_another_one",
        grade=Grade.LOOK,
        sentence=f"The loss is not plain sigmoid DPO: the first one is {short(first)} at a margin of "
        f"{signed(float(margin[0]))}, where DPO's is log 2 = 0.6931.",
        reason=f"At a margin of 0, where training starts, DPO's loss is log 2 for each pair. {like}A "
        "term that is added, such as SFT, moves the start, too.",
        advice="Say which loss it is with --loss-type. Checks of the loss are for sigmoid DPO alone.",
        numbers={"first loss": Number(value=first, unit="nats", no_interval=_ONE_VALUE)},
        step=float(at[0]),
    )
