"""The pairs table, a row for each preference pair and checkpoint: read, checked, sorted by checkpoint."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from didsim.diagnostics.findings import Input
from didsim.diagnostics.tables import Column, Table, read_table, rows_to_keep

POLICY = ("chosen_logps", "rejected_logps")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
LENGTHS = ("chosen_length", "rejected_length")
REJECTED_POLICY = ("rejected_policy_chosen_logps", "rejected_policy_rejected_logps")
ARGMAX = "argmax_logps"

COLUMNS = (
    Column("chosen_logps", required=True, aliases=("policy_chosen_logps", "logps/chosen")),
    Column("rejected_logps", required=True, aliases=("policy_rejected_logps", "logps/rejected")),
    Column("ref_chosen_logps", required=True, aliases=("reference_chosen_logps",)),
    Column("ref_rejected_logps", required=True, aliases=("reference_rejected_logps",)),
    Column("step", aliases=("checkpoint", "global_step")),
    Column("split", "label"),
    Column("prompt_id", "label"),
    Column("chosen_length"),
    Column("rejected_length"),
    Column(REJECTED_POLICY[0]),
    Column(REJECTED_POLICY[1]),
    Column(ARGMAX),
)
"""The columns of a pairs table. Every other column whose name ends in `_logps` is of other responses."""


class Pairs(NamedTuple):
    """A pairs table, sorted by checkpoint.

    Attributes:
        input: what was read.
        numbers: the columns of numbers by our names, among them those of other responses.
        others: names of the columns of other responses.
        steps: the step of each checkpoint, in order; NaN if the table does not say.
        starts: the first row of each checkpoint, and then the number of rows.
        prompt: the number of the prompt of each row.
        prompts: the number of prompts.
        held_out: which rows are held out; None if the table does not say.
        has_prompts: whether the table says which prompt a row is of.
        bad_rows: the number of rows that were left out.
    """

    input: Input
    numbers: dict[str, np.ndarray]
    others: tuple[str, ...]
    steps: np.ndarray
    starts: np.ndarray
    prompt: np.ndarray
    prompts: int
    held_out: np.ndarray | None
    has_prompts: bool
    bad_rows: int

    def checkpoints(self) -> Iterator[slice]:
        """The rows of each checkpoint."""
        for first, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield slice(first, end)


def read_pairs(path: str | Path, *, names: Mapping[str, str] | None = None, drop_bad: bool = False) -> Pairs:
    """Read and check a pairs table.

    It takes about 20 bytes of memory for each row and column that is read.

    Args:
        path: a file in JSONL, CSV, Parquet or Arrow.
        names: their name for each of our names that differs.
        drop_bad: whether rows with impossible numbers are left out. By default they are an error.

    Raises:
        ValueError: the file cannot be read, or lacks a required column; a log-probability is missing, not
            finite or positive, or a length is not positive; or rows of several checkpoints are mixed.
        ImportError: pyarrow is not installed.
    """
    table = read_table(path, COLUMNS, names, more="_logps")
    known = {column.name for column in COLUMNS}
    others = tuple(name for name in table.numbers if name not in known)
    keep = rows_to_keep(table, drop_bad, positive=LENGTHS, any_number=("step",))
    bad_rows = int((~keep).sum())
    numbers = {name: values[keep] if bad_rows else values for name, values in table.numbers.items()}
    notes = []
    if bad_rows:
        notes.append(f"{bad_rows:,} of {table.rows:,} rows had impossible numbers and were left out.")
    if renamed := [f"{theirs} as {ours}" for ours, theirs in table.found.items() if ours != theirs]:
        notes.append(f"Read {', '.join(renamed)}.")
    has_prompts = "prompt_id" in table.labels
    if has_prompts:
        prompt = table.labels["prompt_id"][keep]
        if (prompt < 0).any():
            raise ValueError(f"{table.path}: {(prompt < 0).sum():,} rows have no `prompt_id`")
    else:
        prompt = _pair_numbers(numbers)
        notes.append("No `prompt_id`: intervals take every pair for a prompt of its own.")
    held_out = _held_out(table, keep, notes)
    if "step" not in numbers:
        _check_one_checkpoint(table.path, numbers, prompt)
    step = numbers.pop("step", np.full(keep.sum(), np.nan))
    order = (
        None
        if (np.isnan(step) | (np.diff(step, prepend=step[0]) >= 0)).all()
        else np.argsort(step, kind="stable")
    )
    if order is not None:
        step, prompt = step[order], prompt[order]
        held_out = None if held_out is None else held_out[order]
        for name in numbers:
            numbers[name] = numbers[name][order]
    new = np.flatnonzero(np.diff(step) > 0) + 1
    starts = np.concatenate([[0], new, [len(step)]])
    given = Input(
        path=str(table.path), role="pairs", format=table.format, rows=table.rows, notes=tuple(notes)
    )
    return Pairs(
        given,
        numbers,
        others,
        step[starts[:-1]],
        starts,
        prompt,
        int(prompt.max()) + 1,
        held_out,
        has_prompts,
        bad_rows,
    )


def _pair_numbers(numbers: dict[str, np.ndarray]) -> np.ndarray:
    """A number for each pair. A pair has the same reference log-probabilities at every checkpoint."""
    import pyarrow as pa

    chosen, rejected = (numbers[name].view(np.int64) for name in REFERENCE)
    with np.errstate(over="ignore"):
        mixed = chosen * np.int64(0x9E3779B97F4A7C15 - 2**64) ^ rejected
    return pa.array(mixed).dictionary_encode().indices.to_numpy()


def _held_out(table: Table, keep: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Which rows are held out: those whose `split` does not begin with "train"."""
    if "split" not in table.labels:
        return None
    words = table.words["split"]
    is_train = np.array([word.lower().startswith("train") for word in words])
    if held := [word for word, one in zip(words, is_train, strict=True) if not one]:
        notes.append(f"Taken for held out: rows whose `split` is {' or '.join(map(repr, held))}.")
    codes = table.labels["split"][keep]
    if (codes < 0).any():
        raise ValueError(f"{table.path}: {(codes < 0).sum():,} rows have no `split`")
    return ~is_train[codes]


def _check_one_checkpoint(path: Path, numbers: dict[str, np.ndarray], prompt: np.ndarray) -> None:
    """Refuse a table in which one pair has several log-probabilities under the policy."""
    pair = _pair_numbers(numbers)
    pairs = int(pair.max()) + 1
    if pairs == len(pair):
        return
    policy = numbers["chosen_logps"]
    most, least = np.full(pairs, -np.inf), np.full(pairs, np.inf)
    np.maximum.at(most, pair, policy)
    np.minimum.at(least, pair, policy)
    if (mixed := int((most > least).sum())) > pairs / 10:
        raise ValueError(
            f"{path} holds several checkpoints and does not say which row is of which: {mixed:,} pairs have "
            "more than one `chosen_logps` for the same reference. A column `step` would tell them apart; "
            "--map step=… names it"
        )
