"""What a pairs table says: the findings, each from its measurements, and what the table cannot say."""

from collections.abc import Callable, Iterator

import numpy as np

from didsim.diagnostics.findings import Finding, Grade, Unknown
from didsim.diagnostics.pairs import movement, preferences
from didsim.diagnostics.pairs.measures import Measured
from didsim.diagnostics.pairs.table import LENGTHS, REJECTED_POLICY, Pairs

NAMES = (
    *("sums_beside_means", "means_over_tokens", "checkpoints_of_different_prompts"),
    *("displacement", "no_margin", "quadrants", "displacement_against_length", "rise_then_fall"),
    *("mass_to_likeliest_tokens", "other_responses"),
    *("calibration", "separable", "best_checkpoint", "power_law"),
)
"""The names of all findings."""

_SURE_OF_MEANS = 12.0
"""Nats. A mean over tokens is at most the log of the vocabulary's size, and that of 160,000 tokens is 12."""


def findings(measured: Measured, beta: float | None) -> list[Finding]:
    """All findings, in the order in which they are explained."""
    makers: tuple[Callable[[Measured, float | None], Iterator[Finding]], ...] = (
        _units,
        _prompts,
        movement.displacement,
        movement.quadrants,
        movement.against_length,
        movement.rise_then_fall,
        movement.likeliest_tokens,
        movement.other_responses,
        preferences.calibration,
        preferences.best_checkpoint,
        preferences.power_law,
    )
    return [finding for maker in makers for finding in maker(measured, beta)]


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
            sentence=f"Are these log-probabilities means over tokens? Their mean size is {policy:.3g} nats, "
            f"and {evidence}.",
            reason="DPO's reward is beta times a sum over tokens. With means, every number in nats here is "
            "one per token, and slopes are too large by about the length.",
            advice="If they are means, multiply each by the length of its response.",
        )


def _prompts(measured: Measured, beta: float | None) -> Iterator[Finding]:
    if len(measured.steps) > 1 and measured.prompts_in_common < 0.9:
        yield Finding(
            name="checkpoints_of_different_prompts",
            grade=Grade.LOOK,
            sentence=f"The first and the last checkpoint share {measured.prompts_in_common:.0%} of their "
            f"prompts.",
            reason="A change between checkpoints can then be a change of prompts.",
            advice="Evaluate every checkpoint on the same prompts.",
        )


def unknowns(pairs: Pairs, measured: Measured, beta: float | None) -> list[Unknown]:
    """What the table does not say, and which column or file would."""
    numbers, found = pairs.numbers, []
    if beta is None:
        found.append(
            Unknown(
                what="whether the rewards are calibrated: beta is not known", which_file="--beta, as trained"
            )
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
            Unknown(
                what="the course of training", which_file="a column `step`, and pairs at several checkpoints"
            )
        )
    if _starts_at_reference(pairs):
        found.append(
            Unknown(
                what="the true reference: the reference columns equal the policy at the first checkpoint, "
                "which may stand in for it",
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
                which_file=f"columns `{REJECTED_POLICY[0]}` and `{REJECTED_POLICY[1]}`: both responses under "
                f"the policy that wrote the rejected ones",
            )
        )
    return found


def _starts_at_reference(pairs: Pairs) -> bool:
    first = next(pairs.checkpoints())
    return len(pairs.steps) > 1 and all(
        np.array_equal(pairs.numbers[name][first], pairs.numbers[f"ref_{name}"][first])
        for name in ("chosen_logps", "rejected_logps")
    )
