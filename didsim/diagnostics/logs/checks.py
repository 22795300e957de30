"""All that is found in a log alone, and what a log cannot tell."""

from didsim.diagnostics.findings import Finding, Input, Unknown
from didsim.diagnostics.logs import beginnings, losses, movement
from didsim.diagnostics.logs.evidence import Evidence
from didsim.diagnostics.logs.settings import contradicted

# Causes stand before what they cause: of two findings that are as bad, the first one is the verdict.
CHECKS = (
    losses.not_finite,
    beginnings.nothing_reaches_the_loss,
    beginnings.first_rewards,
    losses.divergence,
    movement.rewards_fit,
    movement.wrong_direction,
    losses.no_generalisation,
    movement.collapse,
    beginnings.loss_of_another_scale,
    beginnings.another_loss,
    losses.below_jensen,
    losses.another_term,
    losses.heavy_tail,
    movement.displacement,
    movement.separable,
    losses.overfitting,
    losses.clamped_kl,
    beginnings.nothing_learned,
    contradicted,
    movement.several_runs,
    movement.margin_grows,
    movement.reference_free,
)


def findings_of(evidence: Evidence) -> list[Finding]:
    """What a log shows, causes first."""
    return [found for check in CHECKS if (found := check(evidence)) is not None]


def input_of(evidence: Evidence) -> Input:
    """The log, as a file that was read."""
    log = evidence.log
    notes = log.notes
    if evidence.beta is not None and evidence.beta_source != "given":
        notes += (f"beta is {evidence.beta:.4g}: {evidence.beta_source}",)
    return Input(path=str(log.path), role="log", format=log.format, rows=log.rows, notes=notes)


def unknowns_of(evidence: Evidence, *, with_pairs: bool) -> list[Unknown]:
    """What this log leaves open, and which option or file would tell.

    Args:
        evidence: the log.
        with_pairs: whether a table of pairs is diagnosed, too. What it lacks it tells itself.
    """
    log = evidence.log
    told = []
    if evidence.beta is None and not evidence.reference_free:
        told.append(
            Unknown(what="how many nats the rewards are", which_file="--beta, as training was run with")
        )
    if not with_pairs and not any("chosen_length" in rows for rows, _ in evidence.sides()):
        told.append(
            Unknown(
                what="how much of the displacement falls on each token",
                which_file="a log or a pairs table with chosen_length and rejected_length",
            )
        )
    if not len(log.held_out):
        told.append(
            Unknown(
                what="whether it holds on pairs not trained on",
                which_file="a log with evaluations of held-out pairs",
            )
        )
    if not len(log.train):
        told.append(
            Unknown(
                what="how training itself went",
                which_file="trainer_state.json, or the console log of the run",
            )
        )
    return told
