"""What pairs say of the preferences that were learned: calibration, the best checkpoint, the power law."""

from collections.abc import Iterator

import numpy as np

from didsim.diagnostics.findings import Finding, Grade
from didsim.diagnostics.pairs.measures import Measured
from didsim.diagnostics.pairs.saying import (
    checkpoint_text,
    draws_number,
    is_above,
    is_below,
    judged_losses,
    judged_text,
    lowest_loss,
)
from didsim.diagnostics.resampling import is_beyond
from didsim.diagnostics.wording import percent, said


def calibration(measured: Measured, beta: float | None) -> Iterator[Finding]:
    slopes = measured.judged["slope"]
    accuracy = draws_number(measured, measured.judged["accuracy"][-1], "share")
    last = slopes[-1]
    if np.isnan(last[0]):
        return
    if np.isinf(last[0]):
        way = "as labelled" if last[0] > 0 else "against its label"
        numbers, before = {"accuracy": accuracy}, ""
        if (finite := np.flatnonzero(np.isfinite(slopes[:, 0]))).size:
            place = int(finite[-1])
            numbers["last finite beta"] = then = draws_number(measured, slopes[place], "")
            before = (
                f" The last finite one is at {checkpoint_text(measured, place)}: the beta that would have "
                f"been right there is {said(then)}."
            )
        yield Finding(
            name="separable",
            grade=Grade.LOOK if last[0] > 0 else Grade.WRONG,
            sentence=f"Each of the {judged_text(measured)} is ranked {way} at the last checkpoint, so no "
            f"slope is finite there.{before}",
            reason="The likelihood of separable pairs grows with the slope without end, and so does DPO's "
            "margin on such pairs.",
            advice="Judge on more pairs that were held out. If these are training pairs, stop early or "
            "regularise.",
            numbers=numbers,
        )
        return
    right_beta = draws_number(measured, last, "")
    numbers = {"beta that would have been right": right_beta, "accuracy": accuracy}
    explained = (
        "At DPO's population optimum P(chosen is preferred) = σ(h), with h the difference of the implicit "
        "rewards, so the slope c of a logistic fit of held-out labels on h is 1. Then c·h is the best reward "
        "on this ray, and since π ∝ π_ref exp(r/β), the policy is the optimum for the beta c·β."
    )
    if beta is None:
        yield Finding(
            name="calibration",
            grade=Grade.WRONG if is_below(right_beta) else Grade.FINE,
            sentence=f"On {judged_text(measured)}, the beta at which the rewards would be calibrated is "
            f"{said(right_beta)}.",
            reason=explained,
            advice="Compare it with the beta of the run: a smaller one than that means undertraining, a "
            "larger one overconfidence.",
            numbers=numbers,
        )
        return
    slope = draws_number(measured, last / beta, "")
    numbers = {"slope": slope, **numbers, "loss": draws_number(measured, measured.judged["loss"][-1], "nats")}
    if is_below(slope):
        grade, verdict = Grade.WRONG, "the policy ranks them worse than chance"
        advice = "Check that chosen and rejected are not swapped, and that training and held-out pairs agree."
    elif is_below(slope, 1):
        grade, verdict = Grade.LOOK, "below 1: the policy is overconfident"
        advice = (
            "Stop earlier or regularise. The policy π_ref · (π/π_ref)^c, which stays nearer to the "
            f"reference, would be calibrated at beta {beta:g}."
        )
    elif is_above(slope, 1):
        grade, verdict = Grade.LOOK, "above 1: the policy is undertrained"
        advice = "Train longer. The margins are smaller than the preferences warrant."
    else:
        grade, verdict, advice = Grade.FINE, "compatible with 1: the rewards are calibrated", ""
    yield Finding(
        name="calibration",
        grade=grade,
        sentence=f"On {judged_text(measured)}, the slope is {said(slope)}, {verdict}. The beta that would "
        f"have been right is {said(right_beta)}.",
        reason=explained,
        advice=advice,
        numbers=numbers,
    )


def best_checkpoint(measured: Measured, beta: float | None) -> Iterator[Finding]:
    losses = judged_losses(measured)
    if len(losses) < 2 or not measured.held_out:
        return
    place = int(np.nanargmin(losses[:, 0]))
    kind = "sigmoid loss" if "loss" in measured.judged else "sigmoid loss at the best beta"
    numbers = {
        "best step": lowest_loss(measured),
        "loss at the best": draws_number(measured, losses[place], "nats"),
        "loss at the last": draws_number(measured, losses[-1], "nats"),
        "difference": draws_number(measured, losses[-1] - losses[place], "nats"),
    }
    worse = is_beyond(losses[-1] - losses[place], len(losses))
    yield Finding(
        name="best_checkpoint",
        grade=Grade.LOOK if worse else Grade.FINE,
        sentence=f"The held-out {kind} is lowest at {checkpoint_text(measured, place)}"
        + (
            f"; at the last checkpoint it is higher by {said(numbers['difference'])}."
            if worse
            else ". The last checkpoint is not worse by more than picking the lowest of "
            f"{len(losses)} can bring about by chance."
        ),
        reason="The held-out loss is what DPO minimises, on pairs that it has not seen.",
        advice=f"Take {checkpoint_text(measured, place)}." if worse else "",
        numbers=numbers,
        step=float(measured.steps[place]),
    )


def power_law(measured: Measured, beta: float | None) -> Iterator[Finding]:
    if "exponent" not in measured.trained_on:
        return
    last = {name: draws[-1] for name, draws in measured.trained_on.items()}
    ordered, held = (
        draws_number(measured, last["ordered"], "share"),
        draws_number(measured, last["power law"], "share"),
    )
    exponent = draws_number(measured, last["exponent"], "")
    off = beta is not None and (is_below(exponent, beta) or is_above(exponent, beta))
    compare = "" if beta is None else f" Beta is {beta:g}."
    yield Finding(
        name="power_law",
        grade=Grade.LOOK if off else Grade.FINE,
        sentence=f"The margin rises from the rejected policy over the reference to the policy in "
        f"{percent(ordered)} of the pairs. The exponent of a power law is {said(exponent)}, and it explains "
        f"{percent(held)} of the reference's steps.{compare}",
        reason="DPO learns a target exactly if π_ref/π_l ∝ (π/π_ref)^β: then every pair is log-margin "
        "ordered, with the exponent beta.",
        numbers={"ordered": ordered, "exponent": exponent, "explained": held},
    )
