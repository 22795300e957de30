"""Tables in JSONL, CSV, Parquet or Arrow, read in batches into columns. Which of these is told by content.

Needs pyarrow, from the extra `parquet`, which is imported when a table is read.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from didsim._files import local_path
from didsim._tables import encoded, hint, listed, open_table

_NAMED_ROWS = 5


class Column(NamedTuple):
    """A column that a reader knows.

    Attributes:
        name: our name for it.
        kind: "number", or "label" for integers or words that tell rows apart.
        required: whether a table without it is refused.
        aliases: names that others give to it.
    """

    name: str
    kind: str = "number"
    required: bool = False
    aliases: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table that was read.

    Attributes:
        path: the file.
        format: "JSONL", "CSV", "Parquet", "Arrow file" or "Arrow stream".
        rows: the number of rows.
        numbers: columns of numbers in double precision by our names; a missing value is NaN.
        labels: columns of labels by our names, as the number of the distinct label in each row; −1 if
            missing.
        words: the distinct labels of each column of labels, as words.
        found: their name of each column that was read, by our name.
    """

    path: Path
    format: str
    rows: int
    numbers: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    words: dict[str, list[str]]
    found: dict[str, str]


def read_table(
    path: str | Path,
    columns: Sequence[Column],
    names: Mapping[str, str] | None = None,
    *,
    more: str = "",
    argument: str = "path",
) -> Table:
    """Read the known columns of a table, and no others.

    Args:
        path: the file.
        columns: the columns to read.
        names: their name for each of our names that differs, as `--map ours=theirs` gives them.
        more: if given, also read every column of numbers whose name ends with this.
        argument: what the path is called in messages.

    Raises:
        ValueError: the file cannot be read, is empty, cut off or in no known format, lacks a required column,
            or has text in a column of numbers. The message says which columns there are.
        ImportError: pyarrow is not installed.
    """
    path = local_path(argument, path)
    if names and not all(isinstance(word, str) for pair in names.items() for word in pair):
        raise ValueError(f"`names` must give their name, a word, for each of our names; got {names!r}")
    file = open_table(path)
    found = _find(path, columns, names or {}, file.columns)
    by_name = {column.name: column for column in columns}
    others = [name for name in file.columns if more and name.endswith(more) and name not in found.values()]
    kinds = {theirs: by_name[ours].kind for ours, theirs in found.items()} | dict.fromkeys(others, "number")
    chunks: dict[str, list[Any]] = {name: [] for name in kinds}
    for batch in file.batches(kinds):
        for name in kinds:
            chunks[name].append(_numbers(path, name, batch[name], kinds[name]))
    rows = sum(map(len, next(iter(chunks.values()), [])))
    if not rows:
        raise ValueError(f"{path} has no rows")
    ours = {theirs: name for name, theirs in found.items()} | {name: name for name in others}
    numbers, labels, words = {}, {}, {}
    for theirs, name in ours.items():
        if kinds[theirs] == "number":
            numbers[name] = np.concatenate(chunks.pop(theirs))
        else:
            labels[name], words[name] = _labels(chunks.pop(theirs))
    return Table(path, file.format, rows, numbers, labels, words, found)


def rows_to_keep(
    table: Table, drop_bad: bool, *, positive: Sequence[str] = (), any_number: Sequence[str] = ()
) -> np.ndarray:
    """Which rows have only numbers that can be. The others are an error that counts and names them.

    Args:
        table: the table.
        drop_bad: whether there is no error as long as a row remains.
        positive: columns of numbers above zero, such as lengths.
        any_number: columns of any finite numbers. All others are log-probabilities, which are not positive.

    Raises:
        ValueError: a row has an impossible number and `drop_bad` is false, or every row has one.
    """
    keep = np.ones(table.rows, bool)
    reasons = []
    for name, values in table.numbers.items():
        faults = {"missing or not finite": ~np.isfinite(values)}
        if name in positive:
            faults["not positive"] = values <= 0
        elif name not in any_number:
            faults["positive"] = (values > 0) & (values < np.inf)
        for fault, rows in faults.items():
            if count := int(rows.sum()):
                first = ", ".join(str(row + 1) for row in np.flatnonzero(rows)[:_NAMED_ROWS])
                dots = ", …" if count > _NAMED_ROWS else ""
                reasons.append(f"`{name}` is {fault} in {count:,} (rows {first}{dots})")
                keep &= ~rows
    if not keep.any():
        raise ValueError(f"{table.path} has no row with possible numbers: {'; '.join(reasons)}")
    if reasons and not drop_bad:
        raise ValueError(
            f"{table.path} has impossible numbers in {(~keep).sum():,} of {table.rows:,} rows: "
            f"{'; '.join(reasons)}. --drop-bad goes on without these rows"
        )
    return keep


def _find(
    path: Path, columns: Sequence[Column], names: Mapping[str, str], there: Mapping[str, str]
) -> dict[str, str]:
    """Their name of each known column, by our name."""
    ours = [column.name for column in columns]
    for name, theirs in names.items():
        if name not in ours:
            raise ValueError(f"--map {name}={theirs}: there is no {name!r} to map; there are {listed(ours)}")
        if theirs not in there:
            raise ValueError(f"--map {name}={theirs}: {path} has no column {theirs!r}{hint(theirs, there)}")
    found: dict[str, str] = {}
    missing: list[str] = []
    for column in columns:
        candidates = (names.get(column.name, column.name), *column.aliases)
        if present := [name for name in candidates if name in there]:
            found[column.name] = present[0]
        elif column.required:
            missing.append(column.name)
    if missing:
        free = [name for name in there if name not in found.values()]
        mends = []
        for name in missing:
            near = difflib.get_close_matches(name, free, 1, 0.4)
            mends += [f"--map {name}={near[0]}"] if near else []
            free = [one for one in free if one not in near]
        mend = f". The nearest names: {' '.join(mends)}" if mends else ""
        plural = "s" if len(missing) > 1 else ""
        raise ValueError(
            f"{path} has no column{plural} {listed(missing)}; its columns are {listed(there)}{mend}"
        )
    return found


def _numbers(path: Path, name: str, column: Any, kind: str) -> Any:
    """A column of a batch in double precision; a label stays as it is."""
    import pyarrow as pa

    if kind == "label":
        return column
    of = column.type
    if pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of):
        raise ValueError(
            f"{path}: column {name!r} holds lists, one number for each token; sum them over the response"
        )
    if not (pa.types.is_floating(of) or pa.types.is_integer(of) or pa.types.is_null(of)):
        raise ValueError(f"{path}: column {name!r} must hold numbers; it holds values of type {of}")
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _labels(chunks: list[Any]) -> tuple[np.ndarray, list[str]]:
    """The number of the distinct label in each row, and the labels as words if they are not too many."""
    import pyarrow as pa

    codes, values = encoded(pa.chunked_array(chunks))
    return codes, [str(word) for word in values[:1000].to_pylist()]
