"""Where chosen and rejected responses went: displacement, collapse, separable data, and what a reward is."""

import math

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Number
from didsim.diagnostics.logs.evidence import Evidence, half_units, late, late_mean, mean_number, proportion
from didsim.diagnostics.logs.log import Rows, TrainingLog
from didsim.diagnostics.wording import short, signed

_ODDS = math.log(20)
_SMALL = 0.1


def displacement(evidence: Evidence) -> Finding | None:
    """How far chosen and rejected responses are from the reference, in nats if beta is known."""
    side = evidence.main("chosen_reward")
    if side is None or "rejected_reward" not in side[0] or evidence.reference_free:
        return None
    rows, words = side
    chosen, rejected = late_mean(rows, "chosen_reward"), late_mean(rows, "rejected_reward")
    if (
        chosen is None
        or rejected is None
        or (chosen == 0 and rejected == 0)
        or collapse(evidence) is not None
    ):
        return None
    margin = chosen - rejected
    # The pair moved apart by the margin and together by the rest. It is the common fall that is worth a look:
    # there the chosen responses lost more than they won over the rejected ones. A reward of −0.1 is a factor
    # of e for a response at beta 0.1.
    falls = chosen < -_SMALL and -chosen > margin
    if falls:
        sentence = (
            f"The chosen responses are displaced: on {words} they end {evidence.placed(chosen)}, a fall "
            f"larger than their margin over the rejected ones, {evidence.moved(margin)}."
        )
        advice = (
            "A fall as such is no fault. Compare with samples of the reference (--ref-samples), which give "
            "the expected fall. If the chosen responses should stay likely, add an SFT term or use "
            "DPO-positive."
        )
    else:
        sentence = _path(evidence, rows, words)
        advice = ""
    return Finding(
        name="chosen_displaced" if falls else "displacement",
        grade=Grade.LOOK if falls else Grade.FINE,
        sentence=sentence,
        reason="With π_w the distribution of the chosen responses, E_w log(π/π_ref) = KL(π_w‖π_ref) − "
        "KL(π_w‖π): the chosen fall exactly when the policy fits them worse than the reference did. "
        "Responses that come from the reference have to fall when anything is learned; a mean rise proves "
        "that they are not the reference's own.",
        advice=advice,
        numbers=_displacements(evidence),
    )


def chosen_displacement(evidence: Evidence) -> tuple[str, Number] | None:
    """How far chosen responses are from the reference in nats, and of which pairs; held-out ones first."""
    if evidence.beta is None or evidence.reference_free:
        return None
    found = [(words, _displaced(evidence, rows, "chosen")) for rows, words in evidence.sides()]
    return next(((words, number) for words, number in reversed(found) if number is not None), None)


def _path(evidence: Evidence, rows: Rows, words: str) -> str:
    """From where to where chosen and rejected went, in a sentence."""
    parts = []
    for name, who in (("chosen_reward", "the chosen responses"), ("rejected_reward", "the rejected ones")):
        column = rows.columns[name][np.isfinite(rows.columns[name])]
        first, last = float(column[0]), float(late(column).mean())
        if rows is evidence.log.held_out and len(column) > 1 and first * last > 0:
            parts.append(f"{who} went from {_distance(evidence, first)} to {evidence.placed(last)}")
        else:
            parts.append(f"{who} end {evidence.placed(last)}")
    return f"On {words} {parts[0]}, and {parts[1]}."


def _distance(evidence: Evidence, reward: float) -> str:
    return signed(reward) if evidence.beta is None else short(abs(reward) / evidence.beta)


def _displacements(evidence: Evidence) -> dict[str, Number]:
    numbers = {}
    unit, scale = ("reward", 1.0) if evidence.beta is None else ("nats", 1 / evidence.beta)
    for rows, words in evidence.sides():
        for who in ("chosen", "rejected"):
            number = _displaced(evidence, rows, who)
            if number is None:
                continue
            numbers[f"{who} displacement, {words}"] = number
            length = late_mean(rows, f"{who}_length")
            if length and evidence.beta is not None:
                values = _last(evidence, rows, f"{who}_reward")
                numbers[f"{who} displacement per token, {words}"] = mean_number(
                    values, "nats per token", scale / length
                )
        if late_mean(rows, "margin") is not None:
            numbers[f"margin, {words}"] = mean_number(_last(evidence, rows, "margin"), unit, scale)
    return numbers


def _displaced(evidence: Evidence, rows: Rows, who: str) -> Number | None:
    """How far a response is from the reference at the end."""
    if f"{who}_reward" not in rows:
        return None
    unit, scale = ("reward", 1.0) if evidence.beta is None else ("nats", 1 / evidence.beta)
    return mean_number(_last(evidence, rows, f"{who}_reward"), unit, scale)


def _last(evidence: Evidence, rows: Rows, name: str) -> np.ndarray:
    """The values at the end of training; of evaluations the last one, which is of all held-out pairs."""
    values = late(rows.columns[name])
    return values[-1:] if rows is evidence.log.held_out else values


def collapse(evidence: Evidence) -> Finding | None:
    """A loss near 0 with both rewards deep below 0: the policy left chosen and rejected responses alike."""
    side = evidence.main("chosen_reward")
    if side is None or evidence.reference_free:
        return None
    rows, words = side
    loss, chosen, rejected = (late_mean(rows, name) for name in ("loss", "chosen_reward", "rejected_reward"))
    if loss is None or chosen is None or rejected is None:
        return None
    # Odds of 20 to 1, twice: a pair ranked right with these odds has loss log(1 + 1/20), and exp(reward) of
    # the chosen is 1/20.
    if loss > math.log1p(1 / 20) or chosen > -_ODDS or rejected > -_ODDS:
        return None
    return Finding(
        name="saturated_collapse",
        grade=Grade.WRONG,
        sentence=f"The loss is saturated and both responses collapse together: on {words} the loss is "
        f"{loss:.3f}, the chosen responses are {evidence.placed(chosen)}, and the rejected "
        f"{evidence.placed(rejected)}.",
        reason="The loss sees only the margin. Once that is large, nothing in the loss says where the "
        "probability goes, and here it went to responses that are neither chosen nor rejected.",
        advice="Stop earlier, use a larger beta or a lower learning rate, or add an SFT term on the chosen "
        "responses. Read what the model now writes.",
        numbers=_displacements(evidence),
    )


def separable(evidence: Evidence) -> Finding | None:
    """Every training pair is ranked right, and the margin still grows."""
    rows = evidence.log.train
    accuracy = late_mean(rows, "accuracy")
    at, margin = rows.together("margin")
    if accuracy is None or len(at) < 6 or accuracy < 0.99:
        return None
    end, before = (
        float(late(margin).mean()),
        float(margin[len(margin) // 2 : -max(1, len(margin) // 4)].mean()),
    )
    if end < 1.05 * before or end < 1:
        return None
    return Finding(
        name="separable_data",
        grade=Grade.LOOK,
        sentence=f"The training pairs are separable: {100 * accuracy:.3g}% are ranked right and the margin "
        f"still grows, from {signed(before)} in the third quarter to {signed(end)}.",
        reason="On pairs that can all be ranked right DPO's loss has no finite minimiser: scaling every "
        "margin up lowers it for ever. didsim.solve says the same of finite sets of pairs.",
        advice="Stop early, by the held-out loss, or regularise: label smoothing, IPO, or a larger beta.",
        numbers={
            "training accuracy": mean_number(late(rows.columns["accuracy"]), "share"),
            "training margin": mean_number(late(margin), "reward"),
        },
    )


def wrong_direction(evidence: Evidence) -> Finding | None:
    """A mean margin on training pairs that ends below 0: training did the opposite of what it should."""
    rows = evidence.log.train
    if late_mean(rows, "margin") is None:
        return None
    number = mean_number(late(rows.columns["margin"]), "reward")
    if number.value > -_SMALL or (number.high is not None and number.high > 0):
        return None
    return Finding(
        name="training_prefers_the_rejected",
        grade=Grade.WRONG,
        sentence=f"Training prefers the rejected responses: the margin on its own training pairs ends at "
        f"{signed(number.value)}, and the loss should raise it.",
        reason="The gradient of DPO's loss raises the margin of every pair in a batch. On training pairs "
        "the mean margin falls only if columns are swapped, a sign is wrong, or the steps are far too long.",
        advice="Check that chosen and rejected are not swapped in the data or in the collator, then the "
        "learning rate.",
        numbers={"training margin": number},
    )


def margin_grows(evidence: Evidence) -> Finding | None:
    """The margin went up, as it should."""
    side = evidence.main("margin")
    if side is None:
        return None
    rows, words = side
    margin, accuracy = late_mean(rows, "margin"), late_mean(rows, "accuracy")
    if margin is None or margin <= 0:
        return None
    right = "" if accuracy is None else f" and {100 * accuracy:.3g}% of the pairs ranked right"
    return Finding(
        name="margin_is_positive",
        grade=Grade.FINE,
        sentence=f"The margin on {words} ends at {signed(margin)}{right}.",
        reason="The margin is what DPO's loss rewards: beta times the log-ratio of the chosen response less "
        "that of the rejected one.",
        numbers={f"margin, {words}": mean_number(late(rows.columns["margin"]), "reward")},
    )


def implied_beta(log: TrainingLog) -> float | None:
    """The beta that links rewards and log-probabilities of the log, if one number links them everywhere.

    Where reference log-probabilities are logged, `reward = beta · (logps − ref_logps)`. Where they are not,
    the evaluations tell: they are on the same pairs each time, so from one to the next rewards change by
    beta times the change in log-probabilities.
    """
    slopes = []
    for who in ("chosen", "rejected"):
        for rows in (log.train, log.held_out):
            _, reward, policy, reference = rows.together(f"{who}_reward", f"{who}_logps", f"ref_{who}_logps")
            slopes += proportion(policy - reference, reward)
        _, reward, policy = log.held_out.together(f"{who}_reward", f"{who}_logps")
        if len(reward) > 2:
            slopes += proportion(policy - policy.mean(), reward - reward.mean())
    if not slopes or max(slopes) > 1.03 * min(slopes):
        return None
    return float(np.median(slopes))


def rewards_fit(evidence: Evidence) -> Finding | None:
    """Rewards must be beta times the difference of log-probabilities, where all three are known."""
    beta = evidence.beta
    for rows, words in evidence.sides():
        for who in ("chosen", "rejected"):
            at, reward, policy, reference = rows.together(f"{who}_reward", f"{who}_logps", f"ref_{who}_logps")
            ratio = policy - reference
            if not len(at) or not ratio.any() or not reward.any():
                continue
            factor = beta if beta is not None else float(ratio @ reward) / float(ratio @ ratio)
            allowed = half_units(reward) + abs(factor) * (half_units(policy) + half_units(reference))
            off = np.abs(reward - factor * ratio) > allowed + 0.02 * np.abs(factor * ratio)
            if off.mean() < 0.5:
                continue
            worst = int(np.argmax(np.abs(reward - factor * ratio)))
            logged, expected = signed(float(reward[worst])), signed(float(factor * ratio[worst]))
            told = f"{logged} is logged and {expected} expected"
            named = f"{short(factor)}" if beta is not None else "any one beta"
            return _misfit(
                f"The {who} rewards on {words} are not {named} times the logged log-ratios: {told} at "
                f"{evidence.log.where(float(at[worst]))}.",
                float(at[worst]),
            )
    found = implied_beta(evidence.log)
    if found is not None and beta is not None and abs(found / beta - 1) > 0.05:
        return _misfit(
            f"The rewards do not fit beta {short(beta)}: in this log they change by {short(found)} per nat "
            "of the log-probabilities.",
            None,
        )
    return None


def _misfit(sentence: str, step: float | None) -> Finding:
    return Finding(
        name="rewards_are_not_beta_log_ratios",
        grade=Grade.WRONG,
        sentence=sentence,
        reason="DPO's implicit reward is beta · (log π − log π_ref), for every pair and so for every mean.",
        advice="Check beta, which reference the log-probabilities are of, and whether one of them is a mean "
        "per token and the other a sum.",
        step=step,
    )


def reference_free(evidence: Evidence) -> Finding | None:
    """Rewards without a reference, which tell no displacement."""
    if not evidence.reference_free or evidence.main("chosen_reward") is None:
        return None
    return Finding(
        name="rewards_without_a_reference",
        grade=Grade.FINE,
        sentence="The rewards hold no reference: they are beta times log-probabilities of the policy, so "
        "they do not tell how far responses moved.",
        reason="SimPO, CPO and ORPO compare log-probabilities themselves. Where their rewards start depends "
        "on the responses alone.",
    )


def several_runs(evidence: Evidence) -> Finding | None:
    """Steps that go back: the file holds more than one run."""
    log = evidence.log
    if log.runs == 1:
        return None
    return Finding(
        name="several_runs_in_one_log",
        grade=Grade.LOOK,
        sentence=f"The log holds {log.runs} runs, as its {log.unit}s go back, and only the last one is "
        "diagnosed here.",
        reason="A trainer appends to its log when it is started again, or when it goes on from a checkpoint.",
        advice="If these are two runs, split the file. If training went on from a checkpoint, drop the rows "
        "that were repeated.",
    )
