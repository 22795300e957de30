"""Tables in JSONL, CSV, Parquet or Arrow, read in batches into columns. Which of these is told by content.

Needs pyarrow, from the extra `parquet`, which is imported when a table is read.
"""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from didsim._files import local_path

_PEEK = 1 << 20
"""Bytes of the beginning of a text file that say which columns it has."""

_BLOCK = 8 << 20
"""Bytes of text that are parsed at a time. A row may not be longer."""


def arrow() -> ModuleType:
    """The package pyarrow.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        import pyarrow
    except ImportError:
        raise ImportError(
            "tables are read by pyarrow, which is not installed; it comes with pip install 'didsim[parquet]'"
        ) from None
    return pyarrow


_NAMED_ROWS = 5

_MARKS = {b"PAR1": "Parquet", b"ARROW1": "Arrow file", b"\xff\xff\xff\xff": "Arrow stream"}


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
    pa = arrow()
    path = local_path(argument, path)
    if names and not all(isinstance(word, str) for pair in names.items() for word in pair):
        raise ValueError(f"`names` must give their name, a word, for each of our names; got {names!r}")
    kind = "such"
    try:
        kind, head = _format_of(path)
        there = _look_into(path, kind, head)
        found = _find(path, columns, names or {}, there)
        by_name = {column.name: column for column in columns}
        others = [name for name in there if more and name.endswith(more) and name not in found.values()]
        kinds = {theirs: by_name[ours].kind for ours, theirs in found.items()} | dict.fromkeys(
            others, "number"
        )
        chunks: dict[str, list[Any]] = {name: [] for name in kinds}
        for batch in _batches(path, kind, kinds, there):
            for name in kinds:
                chunks[name].append(_numbers(path, name, batch[name], kinds[name]))
    except OSError as error:  # pyarrow's own errors of files are among these
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no whole {kind} table: {_one_line(error)}") from None
    rows = sum(map(len, next(iter(chunks.values()), [])))
    if not rows:
        raise ValueError(f"{path} has no rows")
    ours = {theirs: name for name, theirs in found.items()} | {name: name for name in others}
    numbers, labels, words = {}, {}, {}
    for theirs, name in ours.items():
        if kinds[theirs] == "number":
            numbers[name] = np.concatenate(chunks.pop(theirs))
        else:
            labels[name], words[name] = _encoded(chunks.pop(theirs))
    return Table(path, kind, rows, numbers, labels, words, found)


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


def _format_of(path: Path) -> tuple[str, bytes]:
    """The format of a file, and its beginning."""
    with path.open("rb") as file:
        head = file.read(_PEEK)
    for mark, kind in _MARKS.items():
        if head.startswith(mark):
            return kind, head
    if not head.strip():
        raise ValueError(f"{path} is empty")
    if head.lstrip().startswith(b"{"):
        return "JSONL", head
    header = head.partition(b"\n")[0].decode("utf-8-sig", "replace")
    if "," not in header or "\ufffd" in header or "\0" in header:
        raise ValueError(f"{path} is no table in JSONL, CSV, Parquet or Arrow; it begins {header[:40]!r}")
    return "CSV", head


def _look_into(path: Path, kind: str, head: bytes) -> dict[str, str]:
    """The columns of a file, with the kind of values that each seems to hold."""
    import pyarrow.ipc
    import pyarrow.parquet

    if kind == "Parquet":
        return _kinds(pyarrow.parquet.read_schema(path))
    if kind == "Arrow file":
        with pyarrow.ipc.open_file(path) as reader:
            return _kinds(reader.schema)
    if kind == "Arrow stream":
        with pyarrow.ipc.open_stream(path) as reader:
            return _kinds(reader.schema)
    if kind == "JSONL":
        return _keys(path, head)
    header = head.partition(b"\n")[0].decode("utf-8-sig").strip()
    return dict.fromkeys(next(csv.reader([header])), "word")


def _kinds(schema: Any) -> dict[str, str]:
    import pyarrow.types

    return {
        field.name: "number"
        if pyarrow.types.is_floating(field.type) or pyarrow.types.is_integer(field.type)
        else "word"
        for field in schema
    }


_JSON_KINDS = {int: "number", float: "number", bool: "flag"}


def _keys(path: Path, head: bytes) -> dict[str, str]:
    """The keys of the first objects of a file of JSON lines."""
    lines = [line for line in head.splitlines()[:100] if line.strip()]
    found: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for number, line in enumerate(lines):
        try:
            row = msgspec.json.decode(line.replace(b"NaN", b"null"))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number and number == len(lines) - 1 and len(head) == _PEEK:
                break  # the line goes on after what was read
            raise ValueError(f"{path}, line {number + 1}, is no JSON object: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number + 1}, is no JSON object; got {str(row)[:60]}")
        for key, value in row.items():
            if value is not None:
                found.setdefault(key, _JSON_KINDS.get(type(value), "word"))
            else:
                unknown.setdefault(key, "number")  # the key alone, or NaN
    return unknown | found


def _find(
    path: Path, columns: Sequence[Column], names: Mapping[str, str], there: Mapping[str, str]
) -> dict[str, str]:
    """Their name of each known column, by our name."""
    ours = [column.name for column in columns]
    for name, theirs in names.items():
        if name not in ours:
            raise ValueError(f"--map {name}={theirs}: there is no {name!r} to map; there are {_list(ours)}")
        if theirs not in there:
            raise ValueError(f"--map {name}={theirs}: {path} has no column {theirs!r}{_hint(theirs, there)}")
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
            f"{path} has no column{plural} {_list(missing)}; its columns are {_list(there)}{mend}"
        )
    return found


def _hint(name: str, there: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, there, 1)
    return f"; the nearest is {near[0]!r}" if near else f"; its columns are {_list(there)}"


def _list(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _batches(path: Path, kind: str, kinds: Mapping[str, str], there: Mapping[str, str]) -> Iterator[Any]:
    """Batches of rows, with the wanted columns."""
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.ipc

    if kind == "Arrow stream":
        with pa.ipc.open_stream(path) as reader:
            yield from reader
        return
    if kind == "JSONL":
        yield from _json_batches(path, kinds, there)
        return
    if kind == "CSV":
        yield from _csv_batches(path, kinds)
        return
    data = pa.dataset.dataset(path, format=_checked_parquet() if kind == "Parquet" else "ipc")
    yield from data.scanner(columns=list(kinds), batch_size=1 << 18).to_batches()


def _checked_parquet() -> Any:
    """Parquet whose pages are held against their checksums, if it has them."""
    import pyarrow.dataset

    options = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    return pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=options)


def _csv_batches(path: Path, kinds: Mapping[str, str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv

    types = {name: pa.float64() if one == "number" else pa.string() for name, one in kinds.items()}
    reading = pa.csv.ReadOptions(block_size=_BLOCK)
    converting = pa.csv.ConvertOptions(
        column_types=types, include_columns=list(kinds), strings_can_be_null=True
    )
    with pa.csv.open_csv(path, reading, convert_options=converting) as reader:
        yield from reader


def _json_batches(path: Path, kinds: Mapping[str, str], there: Mapping[str, str]) -> Iterator[Any]:
    """JSON lines. A label may be a word in one file and a number in another."""
    import pyarrow as pa
    import pyarrow.json

    types = {"number": pa.float64(), "word": pa.string(), "flag": pa.bool_()}
    schema = pa.schema(
        [(name, types["number" if kinds[name] == "number" else there[name]]) for name in kinds]
    )
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    with pa.json.open_json(path, pa.json.ReadOptions(block_size=_BLOCK), options) as reader:
        yield from reader


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


def _encoded(chunks: list[Any]) -> tuple[np.ndarray, list[str]]:
    """The number of the distinct label in each row, and the labels as words if they are not too many."""
    import pyarrow as pa

    whole = pa.chunked_array(chunks)
    if pa.types.is_dictionary(whole.type):
        whole = whole.cast(whole.type.value_type)
    encoded = whole.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, [str(word) for word in encoded.dictionary[:1000].to_pylist()]


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
