"""Files of tables: JSONL, CSV, Parquet or Arrow, which is told by content, in batches of pyarrow.

Needs pyarrow, from the extra `parquet`, which is imported when a table is read.
"""

import csv
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import numpy as np

_PEEK = 1 << 20
"""Bytes of the beginning of a text file that say which columns it has."""

_BLOCK = 8 << 20
"""Bytes of text that are parsed at a time. A row may not be longer."""


_MARKS = {b"PAR1": "Parquet", b"ARROW1": "Arrow file", b"\xff\xff\xff\xff": "Arrow stream"}


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


class File(NamedTuple):
    """A file that holds a table.

    Attributes:
        path: where it is.
        format: "JSONL", "CSV", "Parquet", "Arrow file" or "Arrow stream".
        columns: its columns, with the kind of values that each seems to hold: "number", "word" or "flag".
    """

    path: Path
    format: str
    columns: dict[str, str]

    def batches(self, kinds: Mapping[str, str]) -> Iterator[Any]:
        """Batches of rows, with the wanted columns.

        Args:
            kinds: "number", or "label" for values of any kind, for each wanted column.

        Raises:
            ValueError: the file cannot be read, or is cut off.
        """
        with _refusing(self.path, self.format):
            yield from _batches(self.path, self.format, kinds, self.columns)


def open_table(path: Path) -> File:
    """A file that holds a table: its format and its columns, not yet its rows.

    Raises:
        ValueError: the file cannot be read, is empty, cut off or in no known format.
        ImportError: pyarrow is not installed.
    """
    arrow()
    with _refusing(path, "such"):
        form, head = _format_of(path)
    with _refusing(path, form):
        return File(path, form, _columns_of(path, form, head))


@contextmanager
def _refusing(path: Path, form: str) -> Iterator[None]:
    """Errors of reading, each as a `ValueError` that names the file."""
    try:
        yield
    except OSError as error:  # pyarrow's own errors of files are among these
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except arrow().ArrowException as error:
        raise ValueError(f"{path} is no whole {form} table: {_one_line(error)}") from None


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


def _columns_of(path: Path, kind: str, head: bytes) -> dict[str, str]:
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


def encoded(column: Any) -> tuple[np.ndarray, Any]:
    """The number of the distinct value in each row, −1 if missing, and the distinct values."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    coded = column.dictionary_encode().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0)
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), coded.dictionary


def hint(name: str, there: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, there, 1)
    return f"; the nearest is {near[0]!r}" if near else f"; its columns are {listed(there)}"


def listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
