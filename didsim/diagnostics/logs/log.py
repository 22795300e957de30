"""A training log as columns of numbers, for training pairs and for held-out ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from didsim.diagnostics import arguments
from didsim.diagnostics.logs.formats import Record, Records, read_records
from didsim.diagnostics.logs.stated import Stated
from didsim.diagnostics.names import KNOWN, PREFERENCE, SHARED, Name, Role, known_name, mapped, suggestions

_MANY = 30


@dataclass(frozen=True, eq=False)
class Rows:
    """What was logged of one set of pairs: a row for each logged line that tells of it.

    Attributes:
        at: where in training each row is, in the log's own units (`TrainingLog.unit`).
        columns: by our name, a number for each row; NaN where none was logged, or none that is finite. A name
            is `in` the rows if its column has a finite number.
        broken: by our name, the rows in which NaN or infinity was logged.
    """

    at: np.ndarray
    columns: dict[str, np.ndarray]
    broken: dict[str, np.ndarray]

    def __contains__(self, name: str) -> bool:
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())

    def __len__(self) -> int:
        return len(self.at)

    def together(self, *names: str) -> tuple[np.ndarray, ...]:
        """The places of the rows that have all of these columns, and the columns there; empty without one."""
        if not all(name in self.columns for name in names):
            return (np.empty(0),) * (1 + len(names))
        columns = [self.columns[name] for name in names]
        whole = np.all(np.isfinite(columns), axis=0)
        return self.at[whole], *(column[whole] for column in columns)


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """A log of a training run.

    Attributes:
        path: the file.
        format: the format that was recognised.
        unit: what counts training: "step", "epoch" or, if the log has neither, "row".
        train: what was logged of batches of training pairs.
        held_out: what was logged of evaluations.
        runs: how many runs the file holds; the last one is kept.
        rows: the number of rows that were read.
        notes: what was left out or taken for granted, one sentence each.
        stated: settings that the text of the log states.
    """

    path: Path
    format: str
    unit: str
    train: Rows
    held_out: Rows
    runs: int
    rows: int
    notes: tuple[str, ...]
    stated: Stated = field(default_factory=Stated)

    def where(self, at: float) -> str:
        """A place in training, in words: "step 300"."""
        return f"{self.unit} {at:.10g}"


def read_log(path: Path | str, names: Mapping[str, str] | None = None) -> TrainingLog:
    """Read the log of a trainer, recognised by what is in it.

    Formats: `trainer_state.json`, a model card's table, console output with a dictionary a line, CSV as wandb
    exports it, a TensorBoard event file (with the extra `tensorboard`), JSON lines.

    Args:
        path: the file.
        names: our names for columns with names that no trainer known to us uses: ours, then the file's.

    Raises:
        ValueError: the file cannot be read, is empty, cut off, no log, or a log without any preference
            metric. The message says what is there.
    """
    given, names = arguments.file("path", path), arguments.mapping("names", names)
    try:
        data = given.read_bytes()
    except OSError as error:
        raise ValueError(f"{given} cannot be read: {error.strerror}") from None
    return log_of_records(given, read_records(given, data, names.values()), names)


def log_of_records(path: Path, found: Records, names: Mapping[str, str]) -> TrainingLog:
    """The log that records make.

    Raises:
        ValueError: none of the records has a preference metric.
    """
    # A summary of the whole run has averages under the names of the last step's numbers.
    records = [one for one in found.records if "train_runtime" not in one or len(found.records) == 1]
    keys = list(dict.fromkeys(key for layout in dict.fromkeys(map(tuple, records)) for key in layout))
    wanted = _columns(path, keys, names)
    if not any(name in PREFERENCE for _, name in wanted):
        raise ValueError(_nothing(path, found, keys))
    numbers = {place: _numbers(records, key) for place, key in wanted.items()}
    unit, at = _places(numbers, len(records))
    starts = np.flatnonzero(np.diff(at) < 0) + 1
    first = int(starts[-1]) if len(starts) else 0
    train, held_out = (_rows(role, numbers, at, first) for role in ("train", "eval"))
    notes = [*found.notes]
    if len(starts):
        notes.append(
            f"{unit}s go back in row {first + 1}: {len(starts) + 1} runs, of which the last alone is "
            f"diagnosed (rows {first + 1} to {len(at)})"
        )
    missing = [name for name in KNOWN if not any(ours == name for _, ours in wanted)]
    strangers = [key for key in keys if known_name(key) is None and key not in names.values()]
    notes += suggestions(strangers, missing)
    runs, rows = len(starts) + 1, len(records)
    return TrainingLog(path, found.format, unit, train, held_out, runs, rows, tuple(notes), found.stated)


def _columns(path: Path, keys: list[str], names: Mapping[str, str]) -> dict[tuple[Role, str], str]:
    """For each role and name of ours the file's column: the user's own, or the most telling one."""
    own = mapped(names)
    for column, meant in own.items():
        if column not in keys and meant.ours in KNOWN:
            raise ValueError(
                f"`names` must map to columns of the file; {path} has no {column!r}. It has {_list(keys)}"
            )
    found: dict[tuple[Role, str], tuple[int, str]] = {}
    for key in keys:
        name = own.get(key) or known_name(key)
        if name is not None:
            place: tuple[Role, str] = _place(name)
            found[place] = min(found.get(place, (name.rank, key)), (name.rank, key), key=lambda one: one[0])
    return {place: key for place, (_, key) in found.items()}


def _place(name: Name) -> tuple[Role, str]:
    return ("train" if name.ours in SHARED else name.role), name.ours


def _numbers(records: list[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """A column, with NaN for what is no finite number, and the rows in which NaN or infinity was logged."""
    raw = [record.get(key) for record in records]
    try:
        column = np.array([math.nan if value is None else float(value) for value in raw])
    except (TypeError, ValueError, OverflowError):
        raw = [_number(value) for value in raw]
        column = np.array([math.nan if value is None else value for value in raw])
    bad = np.flatnonzero(~np.isfinite(column))
    column[bad] = math.nan
    return column, np.array([row for row in bad.tolist() if raw[row] is not None], int)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _places(
    numbers: dict[tuple[Role, str], tuple[np.ndarray, np.ndarray]], size: int
) -> tuple[str, np.ndarray]:
    """What counts training, and where each record is. One without a place is where the one before it was."""
    for unit in SHARED:
        if ("train", unit) in numbers:
            at = numbers["train", unit][0]
            known = np.isfinite(at)
            if known.any():
                last = np.maximum.accumulate(np.where(known, np.arange(size), -1))
                return unit, np.where(last < 0, 0.0, at[last])
    return "row", np.arange(1.0, size + 1)


def _rows(
    role: Role, numbers: dict[tuple[Role, str], tuple[np.ndarray, np.ndarray]], at: np.ndarray, first: int
) -> Rows:
    """The rows of the last run in which something of one role was logged."""
    own = {ours: pair for (of, ours), pair in numbers.items() if of == role and ours not in SHARED}
    told = np.zeros(len(at), bool)
    for column, bad in own.values():
        told |= np.isfinite(column)
        told[bad] = True
    told[:first] = False
    place = np.cumsum(told) - 1
    columns = {ours: column[told] for ours, (column, _) in own.items()}
    broken = {ours: place[bad[bad >= first]] for ours, (_, bad) in own.items() if (bad >= first).any()}
    # A column of which the last run has nothing is none of its columns.
    columns = {ours: one for ours, one in columns.items() if np.isfinite(one).any() or ours in broken}
    chosen, rejected, margin = (columns.get(name) for name in ("chosen_reward", "rejected_reward", "margin"))
    if chosen is not None and rejected is not None and margin is None:
        columns["margin"] = chosen - rejected
    elif chosen is not None and margin is not None and rejected is None:
        columns["rejected_reward"] = chosen - margin
    elif rejected is not None and margin is not None and chosen is None:
        columns["chosen_reward"] = rejected + margin
    return Rows(at[told], columns, broken)


def _nothing(path: Path, found: Records, keys: list[str]) -> str:
    told = suggestions(keys, PREFERENCE)
    hint = f" {'; '.join(told)}." if told else ""
    return (
        f"{path} ({found.format}) holds no preference metric, such as rewards/chosen, rewards/margins or "
        f"logps/chosen. It has {_list(keys)}.{hint} A summary of a run has none; trainer_state.json and the "
        "console log have them. --map chosen_reward=COLUMN names a column"
    )


def _list(keys: list[str]) -> str:
    return (
        ", ".join(keys[:_MANY]) + (f" and {len(keys) - _MANY} more" if len(keys) > _MANY else "") or "nothing"
    )
