"""From a table of pairs to its findings."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from didsim import _checks
from didsim.diagnostics import arguments
from didsim.diagnostics.findings import Finding, Input, Unknown
from didsim.diagnostics.pairs.findings import findings, unknowns
from didsim.diagnostics.pairs.measures import Measured, measure
from didsim.diagnostics.pairs.table import read_pairs


class PairsDiagnosis(NamedTuple):
    """What a pairs table says.

    Attributes:
        input: the file that was read.
        findings: what it shows.
        unknowns: what it cannot tell.
        measured: the measurements, for pictures.
    """

    input: Input
    findings: list[Finding]
    unknowns: list[Unknown]
    measured: Measured


def diagnose_pairs(
    path: str | Path,
    *,
    beta: float | None = None,
    names: Mapping[str, str] | None = None,
    drop_bad: bool = False,
    seed: int = 0,
    resamples: int = 1000,
) -> PairsDiagnosis:
    """Read a pairs table and say what it shows of the training run.

    A row is a preference pair at a checkpoint. Columns are `chosen_logps`, `rejected_logps`,
    `ref_chosen_logps` and `ref_rejected_logps`: log-probabilities of whole responses, in nats, under the
    policy and under the reference. These are optional: `step` or `checkpoint`, `split` (`train`, or any
    other word for held out), `prompt_id`, `chosen_length`, `rejected_length`, `argmax_logps` (the most
    likely token at each position of the chosen response, summed), and `rejected_policy_chosen_logps` and
    `rejected_policy_rejected_logps` (under the policy that wrote the rejected responses). Other columns that
    end in `_logps` are taken for other responses.

    Intervals are of 95%, by a bootstrap that draws whole prompts. It takes about 1 s for a million pairs.

    Args:
        path: a file in JSONL, CSV, Parquet or Arrow.
        beta: beta of the run; without it, the calibrated beta is given and not judged.
        names: their name for each of our names that differs.
        drop_bad: whether rows with impossible numbers are left out; by default they are an error.
        seed: seed of the bootstrap.
        resamples: number of resamples, at least 100.

    Raises:
        ValueError: an argument is wrong, or the table cannot be read (see `read_pairs`).
        ImportError: pyarrow is not installed.
    """
    beta = None if beta is None else arguments.positive("beta", beta)
    drop_bad = _checks.flag("drop_bad", drop_bad)
    seed = _checks.integer("seed", seed, 0, 2**31 - 1)
    resamples = _checks.integer("resamples", resamples, 100, 100_000)
    if names is not None:
        _checks.instance("names", names, Mapping, "their name for each of our names")
    pairs = read_pairs(path, names=names, drop_bad=drop_bad)
    measured = measure(pairs, beta=beta, resamples=resamples, seed=seed)
    return PairsDiagnosis(pairs.input, findings(measured, beta), unknowns(pairs, measured, beta), measured)
