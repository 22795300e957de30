"""From files to a diagnosis."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from didsim.diagnostics import arguments
from didsim.diagnostics.findings import Diagnosis, Finding, Grade, Input, Number, Pictures, Unknown
from didsim.diagnostics.logs.checks import findings_of, input_of, unknowns_of
from didsim.diagnostics.logs.log import read_log
from didsim.diagnostics.logs.movement import chosen_displacement
from didsim.diagnostics.logs.pictures import pictures_of
from didsim.diagnostics.logs.settings import evidence_of
from didsim.diagnostics.names import PAIRS
from didsim.diagnostics.recognise import is_pairs_table

_WORST_FIRST = (Grade.WRONG, Grade.LOOK, Grade.FINE)


_OF_PAIRS = {
    "displacement": "How far chosen and rejected responses moved from the reference along training.",
    "pairs": "How far the two responses of each pair moved, a dot for a pair.",
    "calibration": "Left: the slope of held-out preferences on rewards, which is 1 at DPO's optimum. Right: "
    "how often the chosen response was preferred, against the probability that the rewards give it.",
    "length": "Displacement of the chosen response against its length.",
}


class _Part(NamedTuple):
    """What one file adds. `chosen` is how far its chosen responses moved in nats, and of which pairs."""

    source: Input
    findings: list[Finding]
    unknowns: list[Unknown]
    pictures: Sequence[Pictures] = ()
    chosen: tuple[str, Number] | None = None


def diagnose(
    files: str | Path | Sequence[str | Path] = (),
    pairs: str | Path | None = None,
    ref_samples: str | Path | None = None,
    policy_samples: str | Path | None = None,
    beta: float | None = None,
    loss_type: str | None = None,
    names: Mapping[str, str] | None = None,
    drop_bad: bool = False,
    seed: int = 0,
) -> Diagnosis:
    """Say what logs and tables of a preference-optimisation run show, and what they cannot tell.

    A log is read in any of the formats of `read_log`. A file is recognised by what is in it, so a table of
    pairs may stand among the logs.

    Args:
        files: one file or several: logs of trainers, or tables of pairs.
        pairs: a table with a row for each preference pair and checkpoint.
        ref_samples: a table of responses sampled from the reference.
        policy_samples: a table of responses sampled from the policy.
        beta: the coefficient of the run's rewards, `beta · log(π/π_ref)`. Displacement is then given in nats.
            By default it is what the log itself tells, if it does: in a column, in printed settings, or by
            how rewards change with log-probabilities.
        loss_type: the run's loss, as TRL names it; one of `LOSS_TYPES`. By default it is what printed
            settings say, or else DPO's, where nothing in the log contradicts it.
        names: our names, each with the file's own: `{"chosen_reward": "my/chosen"}`. `eval_loss` is our
            `loss` on held-out pairs.
        drop_bad: whether rows of tables with NaN or positive log-probabilities are dropped, not refused.
        seed: the seed of bootstraps over pairs.

    Returns:
        Findings, the most worrying first, each with its numbers, intervals and reason.

    Raises:
        ValueError: an argument is wrong, or a file cannot be read, is empty, cut off, or neither a log nor a
            table.

    A run of 90 steps in which both responses fall, the rejected one by more:

    Examples:
        >>> import json, pathlib, tempfile
        >>> rows = [
        ...     {"step": k, "loss": 0.69 - k / 300, "rewards/chosen": -k / 100, "rewards/rejected": -k / 50}
        ...     for k in range(0, 100, 10)
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = pathlib.Path(folder) / "log.json"
        ...     _ = log.write_text(json.dumps(rows))
        ...     diagnosis = diagnose(log, beta=0.1)
        >>> print(diagnosis.grade)
        fine
        >>> print(diagnosis.verdict.partition(": ")[2].partition(", and")[0])
        on training pairs the chosen responses end 8 nats below the reference
        >>> round(diagnosis.findings[0].numbers["rejected displacement, training pairs"].value, 3)
        -16.0
    """
    logs = arguments.files("files", files)
    tables = {
        name: arguments.file(name, path)
        for name, path in (("pairs", pairs), ("ref_samples", ref_samples), ("policy_samples", policy_samples))
        if path is not None
    }
    beta = None if beta is None else arguments.positive("beta", beta)
    if loss_type is not None:
        arguments.loss_type(loss_type)
    ours = arguments.mapping("names", names)
    if not isinstance(drop_bad, bool):
        raise ValueError(f"`drop_bad` must be True or False; got {drop_bad!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be an integer from 0 to 2³¹ − 1; got {seed!r}")
    if not logs and not tables:
        raise ValueError(f"`files` must be at least one file; got {files!r}")
    found = [path for path in logs if is_pairs_table(path, ours)]
    logs = [path for path in logs if path not in found]
    with_pairs = bool(found) or "pairs" in tables
    # A name that tables have, too, is that of the table's column if there is one.
    of_logs = {mine: theirs for mine, theirs in ours.items() if not (found or tables) or mine not in PAIRS}
    read = [evidence_of(read_log(path, of_logs), beta, loss_type) for path in logs]
    parts = [
        _Part(
            input_of(evidence),
            findings_of(evidence),
            unknowns_of(evidence, with_pairs=with_pairs),
            pictures_of(evidence, number),
            chosen_displacement(evidence),
        )
        for number, evidence in enumerate(read)
    ]
    of_tables = {mine: theirs for mine, theirs in ours.items() if mine in PAIRS}
    # Tables are of the run of the logs, if all of these have one beta.
    known = {beta, *(evidence.beta for evidence in read)} - {None}
    of_all = known.pop() if len(known) == 1 else None
    for path in [*found, *([tables["pairs"]] if "pairs" in tables else [])]:
        parts.append(_of_pairs(path, of_all, of_tables, drop_bad, seed))
    for name, samples_of in (("ref_samples", "reference"), ("policy_samples", "policy")):
        if name in tables:
            parts.append(_of_samples(tables[name], samples_of, of_tables, drop_bad, parts))
    return _together(parts)


def _of_pairs(path: Path, beta: float | None, names: dict[str, str], drop_bad: bool, seed: int) -> _Part:
    """What a table of pairs adds. It takes JAX, which is imported here and not for a log."""
    from didsim.diagnostics.pairs.diagnosis import diagnose_pairs
    from didsim.diagnostics.pairs.movement import chosen_displacement

    found = diagnose_pairs(path, beta=beta, names=names, drop_bad=drop_bad, seed=seed)

    def draw() -> Mapping[str, Any]:
        from didsim.diagnostics.pairs.figures import pair_figures

        return pair_figures(found.measured)

    return _Part(
        found.input,
        found.findings,
        found.unknowns,
        [Pictures(draw=draw, captions=_OF_PAIRS)],
        chosen_displacement(found.measured),
    )


def _of_samples(
    path: Path, samples_of: str, names: dict[str, str], drop_bad: bool, others: list[_Part]
) -> _Part:
    """What a table of samples adds. Those of the reference tell the fall to be expected of other files."""
    from didsim.diagnostics.samples.table import compare_with_expected_fall, diagnose_samples

    one = diagnose_samples(path, samples_of, names=names, drop_bad=drop_bad)
    if (expected := one.estimate.expected_fall) is not None:
        for part in others:
            if part.chosen is not None:
                pairs, number = part.chosen
                part.findings.append(compare_with_expected_fall(number, expected, pairs))
    return _Part(one.input, one.findings, one.unknowns)


def _together(parts: list[_Part]) -> Diagnosis:
    """One diagnosis of all files, the most worrying findings first."""
    findings = []
    counts = Counter(part.source.role for part in parts)
    for part in parts:
        for finding in part.findings:
            if counts[part.source.role] > 1:
                finding = msgspec.structs.replace(finding, sentence=f"{part.source.path}: {finding.sentence}")
            findings.append(finding)
    findings.sort(key=lambda finding: _WORST_FIRST.index(finding.grade))
    unknowns = [unknown for part in parts for unknown in part.unknowns] + _of_other_files(parts)
    return Diagnosis(
        inputs=tuple(part.source for part in parts),
        findings=tuple(findings),
        unknowns=tuple(dict.fromkeys(unknowns)),
        pictures=tuple(picture for part in parts for picture in part.pictures),
    )


def _of_other_files(parts: list[_Part]) -> list[Unknown]:
    """What only files of other kinds can tell."""
    roles = {part.source.role for part in parts}
    told = []
    if "pairs" not in roles:
        told.append(
            Unknown(
                what="which pairs moved, in which direction, and whether margins are calibrated",
                which_file="--pairs: a table with the log-probabilities of each pair",
            )
        )
    if "reference samples" not in roles:
        told.append(
            Unknown(
                what="how much of the fall was to be expected, KL(π_ref‖π), and the DID entropy",
                which_file="--ref-samples: responses of the reference, with `policy_logp` and `ref_logp`",
            )
        )
    return told
