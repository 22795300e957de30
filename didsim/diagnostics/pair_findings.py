"""What a pairs table says: the findings, each from its measurements, and what the table cannot say."""

from collections.abc import Callable, Iterator

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Number, Unknown
from didsim.diagnostics.pair_measures import QUADRANTS, Measured
from didsim.diagnostics.pair_table import ARGMAX, LENGTHS, REJECTED_POLICY, Pairs
from didsim.diagnostics.resampling import is_beyond, number

_IDENTITY = (
    "For any policies, E_w[log(π/π_ref)] = KL(π_w‖π_ref) − KL(π_w‖π), where π_w is the distribution of chosen "
    "responses: the chosen log-probability falls exactly when the policy fits the chosen responses worse than "
    "the reference did."
)

_SURE_OF_MEANS = 12.0
"""Nats. A mean over tokens is at most the log of the vocabulary's size, and that of 160,000 tokens is 12."""


def findings(measured: Measured, beta: float | None) -> list[Finding]:
    """All findings, in the order in which they are explained."""
    makers: tuple[Callable[[Measured, float | None], Iterator[Finding]], ...] = (
        _units,
        _prompts,
        _displacement,
        _quadrants,
        _length,
        _transient,
        _likeliest,
        _others,
        _calibration,
        _best_checkpoint,
        _power_law,
    )
    return [finding for maker in makers for finding in maker(measured, beta)]


def said(number: Number, digits: int = 3) -> str:
    """A number with its unit and interval, as text.

    >>> said(Number(value=-11.84, unit="nats", low=-12.31, high=-11.2))
    '−11.8 nats (95%: −12.3 to −11.2)'
    """

    def text(value: float) -> str:
        shown = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
        return shown.replace("-", "−")

    unit = "" if number.unit in ("", "share") else f" {number.unit}"
    if number.low is None or number.high is None:
        return f"{text(number.value)}{unit} (no interval: {number.no_interval})"
    return f"{text(number.value)}{unit} (95%: {text(number.low)} to {text(number.high)})"


def _of(measured: Measured, draws: np.ndarray, unit: str) -> Number:
    return number(draws, measured.clusters, unit)


def _is_below(one: Number, bound: float = 0.0) -> bool:
    return one.high is not None and one.high < bound


def _is_above(one: Number, bound: float = 0.0) -> bool:
    return one.low is not None and one.low > bound


def _step(measured: Measured, place: int) -> str:
    step = measured.steps[place]
    return f"step {step:g}" if measured.has_steps else f"checkpoint {place}"


def _which(measured: Measured) -> str:
    return "held-out pairs" if measured.held_out else "pairs (which may be the training pairs)"


def _units(measured: Measured, beta: float | None) -> Iterator[Finding]:
    policy, reference = measured.size["chosen_logps"], measured.size["ref_chosen_logps"]
    if max(policy, reference) > 8 * min(policy, reference):
        yield Finding(
            name="sums_beside_means",
            grade=Grade.WRONG,
            sentence=f"`chosen_logps` has a mean size of {policy:.3g} nats and `ref_chosen_logps` of "
            f"{reference:.3g}: one seems to be a sum over tokens and the other a mean.",
            reason="A policy that was trained from the reference has log-probabilities of the same order.",
            advice="Give all log-probabilities as sums over the response's tokens.",
        )
        return
    growth, length = measured.size_against_length, measured.mean_length
    # Sums over a few tokens are as small as means.
    if policy < _SURE_OF_MEANS and (length is None or length > 10) and (growth is None or growth < 0.5):
        evidence = (
            f"they grow with length to the power {growth:.2g}, and sums have a power near 1"
            if growth is not None
            else "no lengths are given to tell"
        )
        yield Finding(
            name="means_over_tokens",
            grade=Grade.LOOK,
            sentence=f"Are these log-probabilities means over tokens? Their mean size is {policy:.3g} nats, and "
            f"{evidence}.",
            reason="DPO's reward is beta times a sum over tokens. With means, every number in nats here is one "
            "per token, and slopes are too large by about the length.",
            advice="If they are means, multiply each by the length of its response.",
        )


def _prompts(measured: Measured, beta: float | None) -> Iterator[Finding]:
    if len(measured.steps) > 1 and measured.prompts_in_common < 0.9:
        yield Finding(
            name="checkpoints_of_different_prompts",
            grade=Grade.LOOK,
            sentence=f"The first and the last checkpoint share {measured.prompts_in_common:.0%} of their prompts.",
            reason="A change between checkpoints can then be a change of prompts.",
            advice="Evaluate every checkpoint on the same prompts.",
        )


def _displacement(measured: Measured, beta: float | None) -> Iterator[Finding]:
    last = {name: draws[-1] for name, draws in measured.trained_on.items()}
    chosen, rejected = (_of(measured, last[name], "nats") for name in ("chosen", "rejected"))
    margin = _of(measured, last["margin"], "nats")
    numbers = {"chosen": chosen, "rejected": rejected, "margin": margin}
    for name in ("chosen", "rejected", "margin") if measured.held_out else ():
        numbers[f"{name}, held out"] = _of(measured, measured.judged[name][-1], "nats")
    # The fall of the chosen response, less what the margin gained.
    excess = _of(measured, -last["chosen"] - last["margin"], "nats")
    if _is_below(chosen):
        reason = _IDENTITY + (
            " If the chosen responses are the reference's own samples, the first term is zero and a fall is "
            "certain: it is KL(π_ref‖π), however good the policy."
        )
        grade = Grade.LOOK if _is_above(excess) else Grade.FINE
        advice = (
            "The chosen response lost more than the margin gained: both responses went down together. Stop "
            "earlier, raise beta, or add a term that holds the chosen response, such as SFT."
            if grade is Grade.LOOK
            else ""
        )
        what = "fell"
    elif _is_above(chosen):
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
        sentence=f"The chosen log-probability {what}: it is {said(chosen)} from the reference; the rejected one "
        f"is {said(rejected)} from it.",
        reason=reason,
        advice=advice,
        numbers=numbers,
    )
    if not _is_above(margin):
        yield Finding(
            name="no_margin",
            grade=Grade.WRONG if _is_below(margin) else Grade.LOOK,
            sentence=f"The chosen response gained no margin over the rejected one: {said(margin)}.",
            reason="Every preference loss rewards a margin above that of the reference.",
            advice="Check that chosen and rejected are not swapped, and that gradients reach the policy.",
            numbers={"margin": margin},
        )


def _quadrants(measured: Measured, beta: float | None) -> Iterator[Finding]:
    shares = {name: _of(measured, measured.trained_on[name][-1], "share") for name in QUADRANTS}
    likeliest = max(shares, key=lambda name: shares[name].value)
    yield Finding(
        name="quadrants",
        grade=Grade.FINE,
        sentence="Directions from the reference: "
        + "; ".join(f"{name} in {_percent(share)}" for name, share in shares.items())
        + f". Most pairs: {likeliest}.",
        reason="The loss sees only the difference of the two log-ratios, so either may move either way.",
        numbers=shares,
    )


def _percent(share: Number) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.1%}"
    return f"{share.value:.1%} (95%: {share.low:.1%} to {share.high:.1%})"


def _length(measured: Measured, beta: float | None) -> Iterator[Finding]:
    last = measured.trained_on
    numbers = {}
    for response in ("chosen", "rejected"):
        if f"{response} per token" in last:
            numbers[f"{response} per token"] = _of(
                measured, last[f"{response} per token"][-1], "nats per token"
            )
            further = last[f"{response} for each further token"][-1]
            numbers[f"{response} for each further token"] = _of(measured, further, "nats per token")
    if numbers:
        said_all = "; ".join(f"{name} {said(one)}" for name, one in numbers.items())
        yield Finding(
            name="displacement_against_length",
            grade=Grade.FINE,
            sentence=f"Displacement against length: {said_all}.",
            reason="A log-probability is a sum over tokens, so a shift of every token alike grows in proportion "
            "to length. The two numbers of a response then agree.",
            numbers=numbers,
        )


def _places(measured: Measured, places: np.ndarray) -> Number:
    """The step of a turning point, with its interval over resamples."""
    steps = measured.steps[places].astype(float)
    return number(steps, measured.clusters, "")


def _losses(measured: Measured) -> np.ndarray:
    return measured.judged.get("loss", measured.judged["best loss"])


def _transient(measured: Measured, beta: float | None) -> Iterator[Finding]:
    chosen = measured.trained_on["chosen"]
    looks = len(chosen)
    top = int(np.argmax(chosen[:, 0]))
    if not 0 < top < looks - 1:
        return
    if not (is_beyond(chosen[top] - chosen[0], looks) and is_beyond(chosen[top] - chosen[-1], looks)):
        return
    numbers = {
        "peak": _places(measured, np.argmax(chosen, axis=0)),
        "rise": _of(measured, chosen[top] - chosen[0], "nats"),
        "fall": _of(measured, chosen[top] - chosen[-1], "nats"),
    }
    turned = ""
    if measured.held_out:
        numbers["lowest held-out loss"] = turn = _places(measured, np.argmin(_losses(measured), axis=0))
        peak = numbers["peak"]
        if None not in (turn.low, turn.high, peak.low, peak.high):
            apart = turn.low > peak.high or turn.high < peak.low  # type: ignore[operator]
            where = "elsewhere" if apart else "at the same place, as far as the intervals tell"
            unit = "step" if measured.has_steps else "checkpoint"
            turned = f" The held-out loss turned {where}: at {unit} {said(turn)}."
    yield Finding(
        name="rise_then_fall",
        grade=Grade.LOOK,
        sentence=f"The chosen log-probability first rose by {said(numbers['rise'])} until "
        f"{_step(measured, top)}, then fell by {said(numbers['fall'])}.{turned}",
        reason=_IDENTITY + " After the peak the policy fits the chosen responses worse with every step.",
        advice="Compare checkpoints around the peak by held-out loss before taking the last one.",
        numbers=numbers,
        step=float(measured.steps[top]),
    )


def _likeliest(measured: Measured, beta: float | None) -> Iterator[Finding]:
    series = measured.trained_on
    if ARGMAX not in series or len(measured.steps) < 2:
        return
    gain = _of(measured, series[ARGMAX][-1] - series[ARGMAX][0], "nats")
    chosen = _of(measured, series["chosen_logps"][-1] - series["chosen_logps"][0], "nats")
    gap = series[ARGMAX] - series["chosen_logps"]
    widened = _of(measured, gap[-1] - gap[0], "nats")
    if not _is_above(widened):
        return
    yield Finding(
        name="mass_to_likeliest_tokens",
        grade=Grade.LOOK,
        sentence=f"Probability went to the most likely tokens: along the chosen responses their log-probability "
        f"changed by {said(gain)} since the first checkpoint, that of the chosen tokens by {said(chosen)}. The gap "
        f"widened by {said(widened)}.",
        reason="A step down the log-probability of a rejected response gives most of the freed probability to "
        "what is likeliest already, and where the policy is peaked most other responses lose: the squeezing "
        "effect (Ren and Sutherland, arXiv 2407.10490).",
        advice="Fewer steps, a larger beta, or SFT on both responses first.",
        numbers={"likeliest": gain, "chosen": chosen, "widening": widened},
    )


def _others(measured: Measured, beta: float | None) -> Iterator[Finding]:
    known = {"chosen_logps", "rejected_logps", ARGMAX}
    series = measured.trained_on
    names = [name for name in series if name.endswith("_logps") and name not in known]
    if not names or len(measured.steps) < 2:
        return
    changes = {name: _of(measured, series[name][-1] - series[name][0], "nats") for name in names}
    rejected = _of(measured, series["rejected_logps"][-1] - series["rejected_logps"][0], "nats")
    down = [name for name, change in changes.items() if _is_below(change)]
    yield Finding(
        name="other_responses",
        grade=Grade.LOOK if len(down) == len(names) else Grade.FINE,
        sentence=f"Since the first checkpoint {len(down)} of {len(names)} kinds of other responses fell beyond "
        f"chance, and the rejected ones changed by {said(rejected)}: "
        + "; ".join(f"{name.removesuffix('_logps')} {said(change)}" for name, change in changes.items())
        + ".",
        reason="Probabilities add up to one: if everything that is watched falls, something that is not watched "
        "rises.",
        advice="Log `argmax_logps`, to see whether the most likely tokens gain it." if ARGMAX not in series else "",
        numbers={name.removesuffix("_logps"): change for name, change in changes.items()}
        | {"rejected": rejected},
    )


def _calibration(measured: Measured, beta: float | None) -> Iterator[Finding]:
    slopes = measured.judged["slope"]
    accuracy = _of(measured, measured.judged["accuracy"][-1], "share")
    last = slopes[-1]
    if np.isnan(last[0]):
        return
    if np.isinf(last[0]):
        way = "as labelled" if last[0] > 0 else "against its label"
        numbers, before = {"accuracy": accuracy}, ""
        if (finite := np.flatnonzero(np.isfinite(slopes[:, 0]))).size:
            place = int(finite[-1])
            numbers["last finite beta"] = then = _of(measured, slopes[place], "")
            before = (
                f" The last finite one is at {_step(measured, place)}: the beta that would have been right there "
                f"is {said(then)}."
            )
        yield Finding(
            name="separable",
            grade=Grade.LOOK if last[0] > 0 else Grade.WRONG,
            sentence=f"Each of the {_which(measured)} is ranked {way} at the last checkpoint, so no slope is "
            f"finite there.{before}",
            reason="The likelihood of separable pairs grows with the slope without end, and so does DPO's margin "
            "on such pairs.",
            advice="Judge on more pairs that were held out. If these are training pairs, stop early or "
            "regularise.",
            numbers=numbers,
        )
        return
    right_beta = _of(measured, last, "")
    numbers = {"beta that would have been right": right_beta, "accuracy": accuracy}
    explained = (
        "At DPO's population optimum P(chosen is preferred) = σ(h), with h the difference of the implicit rewards, "
        "so the slope c of a logistic fit of held-out labels on h is 1. Then c·h is the best reward on this ray, "
        "and since π ∝ π_ref exp(r/β), the policy is the optimum for the beta c·β."
    )
    if beta is None:
        yield Finding(
            name="calibration",
            grade=Grade.WRONG if _is_below(right_beta) else Grade.FINE,
            sentence=f"On {_which(measured)}, the beta at which the rewards would be calibrated is "
            f"{said(right_beta)}.",
            reason=explained,
            advice="Compare it with the beta of the run: a smaller one than that means undertraining, a larger "
            "one overconfidence.",
            numbers=numbers,
        )
        return
    slope = _of(measured, last / beta, "")
    numbers = {"slope": slope, **numbers, "loss": _of(measured, measured.judged["loss"][-1], "nats")}
    if _is_below(slope):
        grade, verdict = Grade.WRONG, "the policy ranks them worse than chance"
        advice = "Check that chosen and rejected are not swapped, and that training and held-out pairs agree."
    elif _is_below(slope, 1):
        grade, verdict = Grade.LOOK, "below 1: the policy is overconfident"
        advice = (
            "Stop earlier or regularise. The policy π_ref · (π/π_ref)^c, which stays nearer to the reference, "
            f"would be calibrated at beta {beta:g}."
        )
    elif _is_above(slope, 1):
        grade, verdict = Grade.LOOK, "above 1: the policy is undertrained"
        advice = "Train longer. The margins are smaller than the preferences warrant."
    else:
        grade, verdict, advice = Grade.FINE, "compatible with 1: the rewards are calibrated", ""
    yield Finding(
        name="calibration",
        grade=grade,
        sentence=f"On {_which(measured)}, the slope is {said(slope)}, {verdict}. The beta that would have been "
        f"right is {said(right_beta)}.",
        reason=explained,
        advice=advice,
        numbers=numbers,
    )


def _best_checkpoint(measured: Measured, beta: float | None) -> Iterator[Finding]:
    losses = _losses(measured)
    if len(losses) < 2 or not measured.held_out:
        return
    place = int(np.nanargmin(losses[:, 0]))
    kind = "sigmoid loss" if "loss" in measured.judged else "sigmoid loss at the best beta"
    numbers = {
        "best step": _places(measured, np.argmin(losses, axis=0)),
        "loss at the best": _of(measured, losses[place], "nats"),
        "loss at the last": _of(measured, losses[-1], "nats"),
        "difference": _of(measured, losses[-1] - losses[place], "nats"),
    }
    worse = is_beyond(losses[-1] - losses[place], len(losses))
    yield Finding(
        name="best_checkpoint",
        grade=Grade.LOOK if worse else Grade.FINE,
        sentence=f"The held-out {kind} is lowest at {_step(measured, place)}"
        + (
            f"; at the last checkpoint it is higher by {said(numbers['difference'])}."
            if worse
            else ", and no later checkpoint is worse beyond chance."
        ),
        reason="The held-out loss is what DPO minimises, on pairs that it has not seen.",
        advice=f"Take {_step(measured, place)}." if worse else "",
        numbers=numbers,
        step=float(measured.steps[place]),
    )


def _power_law(measured: Measured, beta: float | None) -> Iterator[Finding]:
    if "exponent" not in measured.trained_on:
        return
    last = {name: draws[-1] for name, draws in measured.trained_on.items()}
    ordered, held = _of(measured, last["ordered"], "share"), _of(measured, last["power law"], "share")
    exponent = _of(measured, last["exponent"], "")
    off = beta is not None and (_is_below(exponent, beta) or _is_above(exponent, beta))
    compare = "" if beta is None else f" Beta is {beta:g}."
    yield Finding(
        name="power_law",
        grade=Grade.LOOK if off else Grade.FINE,
        sentence=f"The margin rises from the rejected policy over the reference to the policy in "
        f"{_percent(ordered)} of the pairs. The exponent of a power law is {said(exponent)}, and it explains "
        f"{_percent(held)} of the reference's steps.{compare}",
        reason="DPO learns a target exactly if π_ref/π_l ∝ (π/π_ref)^β: then every pair is log-margin ordered, "
        "with the exponent beta.",
        numbers={"ordered": ordered, "exponent": exponent, "explained": held},
    )


def unknowns(pairs: Pairs, measured: Measured, beta: float | None) -> list[Unknown]:
    """What the table does not say, and which column or file would."""
    numbers, found = pairs.numbers, []
    if beta is None:
        found.append(
            Unknown(what="whether the rewards are calibrated: beta is not known", which_file="--beta, as trained")
        )
    if not all(name in numbers for name in LENGTHS):
        found.append(
            Unknown(
                what="displacement per token: the lengths are missing",
                which_file="columns `chosen_length` and `rejected_length` in the pairs table",
            )
        )
    if pairs.held_out is None or not pairs.held_out.any():
        found.append(
            Unknown(
                what="generalisation: no pair is known to be held out",
                which_file="a column `split`, and pairs that were not trained on",
            )
        )
    if not measured.has_steps:
        found.append(
            Unknown(what="the course of training", which_file="a column `step`, and pairs at several checkpoints")
        )
    if _starts_at_reference(pairs):
        found.append(
            Unknown(
                what="the true reference: the reference columns equal the policy at the first checkpoint, which "
                "may stand in for it",
                which_file="log-probabilities under the reference that training used",
            )
        )
    if not pairs.has_prompts:
        found.append(
            Unknown(what="which pairs share a prompt", which_file="a column `prompt_id` in the pairs table")
        )
    if REJECTED_POLICY[0] not in numbers or REJECTED_POLICY[1] not in numbers:
        found.append(
            Unknown(
                what="log-margin order and the power law",
                which_file=f"columns `{REJECTED_POLICY[0]}` and `{REJECTED_POLICY[1]}`: both responses under the "
                "policy that wrote the rejected ones",
            )
        )
    found.append(
        Unknown(
            what="how much of the fall was to be expected, KL(π_ref‖π), and the entropy of what was learned",
            which_file="--ref-samples: samples of the reference with `policy_logp` and `ref_logp`",
        )
    )
    return found


def _starts_at_reference(pairs: Pairs) -> bool:
    first = next(pairs.checkpoints())
    return len(pairs.steps) > 1 and all(
        np.array_equal(pairs.numbers[name][first], pairs.numbers[f"ref_{name}"][first])
        for name in ("chosen_logps", "rejected_logps")
    )
