"""Files of training logs, recognised by what is in them and read into records: one for each logged line."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from didsim.diagnostics.logs.bars import is_bar, records_of_bars
from didsim.diagnostics.logs.stated import Stated, stated_in
from didsim.diagnostics.names import SHARED, known_name

Record = dict[str, Any]

_FLAT = re.compile(r"\{[^{}\n]*\}")
_DISK = re.compile(r"^Step (\d+) \| (.+)$", re.MULTILINE)
_ITEM = re.compile(
    r"""["']([^"']+)["']\s*:\s*(?:[\w.]+\()?["']?([-+]?(?:\d[\d.eE+-]*|\.\d[\d.eE+-]*|nan|inf))"""
)
_NOT_IN_JSON = ("nan", "inf", "NaN", "Infinity")
_OF_PYTHON = {"None": "null", "True": "true", "False": "false"}
_OF_TRAINING = ("training_loss", "epoch", "step", "learning_rate", "grad_norm")
_HEAD = re.compile(r"^[ \t]*(\|.+\|)[ \t]*\r?\n[ \t]*\|[ \t:|-]+\|[ \t\r]*$", re.MULTILINE)
_EVENTS = b"brain.Event:"
_FEW = 12


class Records(NamedTuple):
    """What a file holds.

    Attributes:
        format: the format that was recognised.
        records: numbers by column, one record for each logged line.
        notes: what was left out, one sentence each.
        stated: settings that the text around the records states.
    """

    format: str
    records: list[Record]
    notes: tuple[str, ...] = ()
    stated: Stated = Stated()


def read_records(path: Path, data: bytes, own: Collection[str] = ()) -> Records:
    """The records of a log, whatever its format.

    Args:
        path: the file.
        data: what is in it.
        own: columns that the user named.

    Raises:
        ValueError: the file is empty or cut off, or it is no log.
    """
    if not data.strip():
        raise ValueError(f"{path} is empty")
    if _EVENTS in data[:64]:
        from didsim.diagnostics.logs.tensorboard import read_events

        return Records("TensorBoard event file", read_events(path))
    text = _text(path, data)
    if re.match(r'\s*(\{\s*["}]|\[\s*[\{\]])', text):
        return _json_lines(path, text) if _is_json_lines(text) else _json(path, text)
    if (head := _table_of_card(text, own)) is not None:
        return Records("model card", _card(text, head, own), stated=stated_in(text[: head.start()]))
    if _is_csv(text):
        return Records("CSV", _csv(path, text.lstrip()))
    return _console(path, text, own)._replace(stated=stated_in(text))


def _is_known(key: str, own: Collection[str]) -> bool:
    return key in own or known_name(key) is not None


def _text(path: Path, data: bytes) -> str:
    is_wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as PowerShell writes what it redirects
    text = data.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")
    if "\0" in text:
        raise ValueError(f"{path} is not a training log: it is no text, and no TensorBoard event file")
    return text


def _is_json_lines(text: str) -> bool:
    lines = text.lstrip().split("\n", 1)
    return _object(lines[0]) is not None and len(lines) == 2 and bool(lines[1].strip())


def _object(line: str) -> Record | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json(path: Path, text: str) -> Records:
    """A trainer's state with its `log_history`, a list of records, or one record."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON, so it may be cut off: {error}") from None
    if isinstance(found, dict) and "log_history" in found:
        return Records("trainer_state.json", _checked(path, found["log_history"]))
    return Records("JSON", _checked(path, found if isinstance(found, list) else [found]))


def _json_lines(path: Path, text: str) -> Records:
    try:
        return Records("JSON lines", _checked(path, msgspec.json.Decoder().decode_lines(_quoted(text))))
    except (msgspec.DecodeError, RecursionError):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and _object(line) is None:
                raise ValueError(
                    f"{path}, line {number}: not whole JSON, so the file may be cut off here"
                ) from None
    return Records(
        "JSON lines", [record for line in text.splitlines() if (record := _object(line)) is not None]
    )


def _quoted(text: str) -> str:
    """JSON in which NaN and infinity, which are none of its numbers but are what Python writes, are words."""
    for word in _NOT_IN_JSON:
        if word in text:
            for written in (word, f"-{word}"):
                text = text.replace(f": {written}", f': "{written}"').replace(f":{written}", f':"{written}"')
    return text


def _checked(path: Path, found: Any) -> list[Record]:
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise ValueError(f"{path} is not a training log: it holds no list of records")
    return found


def _table_of_card(text: str, own: Collection[str]) -> re.Match[str] | None:
    """The head of the first Markdown table that has a step or an epoch, and a metric."""
    for head in _HEAD.finditer(text) if "|" in text and "--" in text else ():
        cells = [cell for cell in _cells(head[1]) if _is_known(cell, own)]
        places = [cell for cell in cells if cell.lower() in SHARED]
        if places and len(cells) > len(places):
            return head
    return None


def _card(text: str, head: re.Match[str], own: Collection[str]) -> list[Record]:
    """The training results of a model card. All of its metrics but the training loss are of evaluations."""
    keys = [
        cell if cell in own or re.sub(r"\s+", "_", cell.lower()) in _OF_TRAINING else f"eval_{cell}"
        for cell in _cells(head[1])
    ]
    records = []
    for line in text[head.end() :].splitlines()[1:]:
        if not line.strip().startswith("|"):
            break
        records.append({key: cell for key, cell in zip(keys, _cells(line), strict=False) if _is_number(cell)})
    return records


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _is_csv(text: str) -> bool:
    """Whether the first lines are rows of a table, with as many cells in each."""
    try:
        rows = list(csv.reader(text.lstrip().split("\n", 3)[:3]))
    except csv.Error:
        return False
    header = rows[0] if rows else []
    if (
        len(header) < 2
        or is_bar(",".join(header))
        or "{" in header[0]
        or any("{'" in cell or '{"' in cell for cell in header)
    ):
        return False
    widths = {len(row) for row in rows if row}
    return any(map(_in_panel, header)) or (len(rows) > 1 and widths == {len(header)})


def _csv(path: Path, text: str) -> list[Record]:
    """A table with a header, such as wandb exports: a history, or a panel's `RUN - METRIC` columns."""
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise ValueError(f"{path} is not a table that can be read: {error}") from None
    keys = [_in_panel(cell) or cell for cell in header]
    runs = {cell.rpartition(" - ")[0] for cell in header if _in_panel(cell) and " - " in cell}
    if len(runs) > 1:
        raise ValueError(f"{path} holds {len(runs)} runs ({', '.join(sorted(runs)[:_FEW])}); export one")
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(header):
            raise ValueError(
                f"{path}, line {number}: {len(row)} cells under {len(header)} columns, so the file may be "
                "cut off here"
            )
    return [{key: cell for key, cell in zip(keys, row, strict=True) if cell} for row in rows if row]


def _in_panel(cell: str) -> str:
    """The metric of a column, without the name of the run; empty if it is none that is known."""
    metric = cell.rpartition(" - ")[2]
    return "" if known_name(metric) is None else metric


def _console(path: Path, text: str, own: Collection[str]) -> Records:
    """What a trainer printed among other lines: dictionaries, `Step 7 | loss:0.6 …`, or progress bars."""
    found = _FLAT.findall(text)
    records = _dictionaries(found)
    telling = {layout: any(_is_known(key, own) for key in layout) for layout in set(map(tuple, records))}
    kept = records if all(telling.values()) else [one for one in records if telling[tuple(one)]]
    if kept:
        left = len(found) - len(kept)
        notes = (f"{left} of {len(found)} dictionaries hold no known metric",) if left else ()
        return Records("console", kept, notes)
    told = [
        {"step": step, **dict(one.rsplit(":", 1) for one in rest.split() if ":" in one)}
        for step, rest in _DISK.findall(text)
    ]
    if told or (told := records_of_bars(text)):
        return Records("console", told)
    raise ValueError(
        f"{path} is not a training log. Logs are trainer_state.json, a model card with a table, a console "
        "log with a dictionary a line, a CSV file of wandb, a TensorBoard event file, or JSON lines"
    )


def _dictionaries(found: list[str]) -> list[Record]:
    """Python's dictionaries, all at once if they are as trainers print them."""
    joined = _quoted(f"[{','.join(found)}]".replace("'", '"'))
    for word, of_json in _OF_PYTHON.items():
        joined = joined.replace(f": {word}", f": {of_json}")
    try:
        records = msgspec.json.decode(joined)
    except (msgspec.DecodeError, RecursionError):
        records = [dict(_items(one)) for one in found]
    return [record for record in records if isinstance(record, dict)]


def _items(text: str) -> Iterable[tuple[str, str]]:
    """Names and numbers of a dictionary, however its numbers are wrapped: `tensor(0.69)`, `'0.69'`."""
    return [(name, value) for name, value in _ITEM.findall(text) if _is_number(value)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
