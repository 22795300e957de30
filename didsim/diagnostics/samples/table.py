"""Diagnosing a table of samples: responses that the reference or the policy wrote, scored under both."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from didsim import _checks
from didsim.diagnostics.findings import Finding, Grade, Input, Number, Unknown
from didsim.diagnostics.samples.estimate import DidEntropyEstimate, estimate_did_entropy
from didsim.diagnostics.tables import Column, read_table, rows_to_keep
from didsim.diagnostics.wording import said

COLUMNS = (
    Column("policy_logp", required=True, aliases=("policy_logps",)),
    Column("ref_logp", required=True, aliases=("ref_logps", "reference_logp", "reference_logps")),
    Column("length"),
    Column("prompt_id", "label"),
)


class SamplesDiagnosis(NamedTuple):
    """What a table of samples says.

    Attributes:
        input: the file that was read.
        findings: what it shows.
        unknowns: what it cannot tell.
        estimate: the estimate, also where it is refused.
    """

    input: Input
    findings: list[Finding]
    unknowns: list[Unknown]
    estimate: DidEntropyEstimate


def diagnose_samples(
    path: str | Path,
    samples_of: str,
    *,
    names: Mapping[str, str] | None = None,
    drop_bad: bool = False,
) -> SamplesDiagnosis:
    """Read a table of samples and say what it shows of the training run.

    A row is a response. Columns are `policy_logp` and `ref_logp`, log-probabilities of the whole response in
    nats, and optionally `length` in tokens and `prompt_id`.

    Args:
        path: a file in JSONL, CSV, Parquet or Arrow.
        samples_of: "policy" or "reference", which of them wrote the responses.
        names: their name for each of our names that differs.
        drop_bad: whether rows with impossible numbers are left out; by default they are an error.

    Raises:
        ValueError: an argument is wrong, the file cannot be read or lacks a required column, or a number is
            impossible.
        ImportError: pyarrow is not installed.
    """
    _checks.one_of("samples_of", samples_of, ("policy", "reference"))
    drop_bad = _checks.flag("drop_bad", drop_bad)
    if names is not None:
        _checks.instance("names", names, Mapping, "their name for each of our names")
    table = read_table(path, COLUMNS, names)
    keep = rows_to_keep(table, drop_bad, positive=("length",))
    numbers = {name: values[keep] for name, values in table.numbers.items()}
    prompts = table.labels["prompt_id"][keep] if "prompt_id" in table.labels else None
    notes = [] if keep.all() else [f"{(~keep).sum():,} rows had impossible numbers and were left out."]
    if prompts is None:
        notes.append("No `prompt_id`: all samples are taken for those of one prompt.")
    if keep.sum() < 2:
        raise ValueError(f"{table.path} must have at least 2 samples; got {keep.sum()}")
    estimate = estimate_did_entropy(
        numbers["policy_logp"],
        numbers["ref_logp"],
        samples_of=samples_of,
        lengths=numbers.get("length"),
        prompts=prompts,
    )
    given = Input(
        path=str(table.path),
        role="reference samples" if samples_of == "reference" else "policy samples",
        format=table.format,
        rows=table.rows,
        notes=tuple(notes),
    )
    return SamplesDiagnosis(given, _findings(estimate), _unknowns(estimate, samples_of), estimate)


def _findings(estimate: DidEntropyEstimate) -> list[Finding]:
    found = []
    if estimate.expected_fall is not None:
        found.append(
            Finding(
                name="expected_fall",
                grade=Grade.FINE,
                sentence=f"The log-probability of the reference's own responses fell by "
                f"{said(estimate.expected_fall)}.",
                reason="Its expectation is KL(π_ref‖π), which is positive for any policy other than the "
                "reference. Chosen responses that the reference wrote fall by this much.",
                numbers={"expected fall": estimate.expected_fall},
            )
        )
    if estimate.divergence is not None:
        found.append(
            Finding(
                name="divergence",
                grade=Grade.FINE,
                sentence=f"The policy is {said(estimate.divergence)} from the reference in KL(π‖π_ref).",
                reason="It is the mean of log π − log π_ref over the policy's own responses.",
                numbers={"divergence": estimate.divergence},
            )
        )
    if estimate.entropy is not None:
        numbers = {
            "DID entropy": estimate.entropy,
            "effective samples": Number(value=estimate.effective_samples, no_interval="a count"),
        }
        per_token = ""
        if estimate.per_token is not None:
            numbers["DID entropy per token"] = estimate.per_token
            per_token = f", or {said(estimate.per_token)}"
        found.append(
            Finding(
                name="did_entropy",
                grade=Grade.FINE,
                sentence=f"The entropy of the Differential Information Distribution is "
                f"{said(estimate.entropy)}{per_token}. {estimate.samples:,} samples count for "
                f"{estimate.effective_samples:.0f} of equal weight"
                f"{' (median over prompts)' if estimate.prompts > 1 else ''}.",
                reason="The distribution is q ∝ π/π_ref. The lower its entropy, the fewer responses hold "
                "what was learned.",
                numbers=numbers,
            )
        )
    return found


def _unknowns(estimate: DidEntropyEstimate, samples_of: str) -> list[Unknown]:
    found = []
    if estimate.refused:
        found.append(
            Unknown(
                what=f"the entropy of the Differential Information Distribution: {estimate.refused}",
                which_file=f"more samples of the {samples_of} for each prompt",
            )
        )
    elif estimate.per_token is None:
        found.append(Unknown(what="the DID entropy per token", which_file="a column `length` in the samples"))
    return found


def compare_with_expected_fall(chosen: Number, expected_fall: Number, pairs: str = "the pairs") -> Finding:
    """The fall of the chosen responses in the pairs beside that of the reference's own responses.

    Args:
        chosen: mean displacement of chosen responses, in nats: `numbers["chosen"]` of the finding
            "displacement".
        expected_fall: KL(π_ref‖π), from samples of the reference.
        pairs: which pairs they are of, in words.

    Raises:
        ValueError: an argument is no `Number`, or `pairs` is no text.
    """
    _checks.instance("chosen", chosen, Number, "a Number")
    _checks.instance("pairs", pairs, str, "text")
    _checks.instance("expected_fall", expected_fall, Number, "a Number")
    value = chosen.value + expected_fall.value
    if chosen.low is None or expected_fall.low is None:
        difference = Number(value=value, unit="nats", no_interval="one of the two numbers has none")
    else:
        half = float(np.hypot(_half_width(chosen), _half_width(expected_fall)))
        difference = Number(value=value, unit="nats", low=value - half, high=value + half)
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        verdict = "as much as the reference's own responses fell: what was to be expected"
        grade = Grade.FINE
    elif value > 0:
        verdict = (
            "less than the reference's own responses fell: they are not the reference's, and were reinforced"
        )
        grade = Grade.FINE
    else:
        verdict = (
            "more than the reference's own responses fell: they are not the reference's, and were pushed down"
        )
        grade = Grade.LOOK
    return Finding(
        name="fall_beside_expected",
        grade=grade,
        sentence=f"The chosen responses of {pairs} moved by {said(chosen)}, where the reference's own fell "
        f"by {said(expected_fall)}. That is {verdict}.",
        reason="If the reference wrote the chosen responses, both numbers estimate −KL(π_ref‖π).",
        numbers={"chosen": chosen, "expected fall": expected_fall, "difference": difference},
    )


def _half_width(one: Number) -> float:
    return 0.0 if one.low is None or one.high is None else (one.high - one.low) / 2
