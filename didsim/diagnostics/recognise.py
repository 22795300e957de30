"""Whether a file is a table of pairs or a training log, by its beginning."""

import csv
from pathlib import Path

import msgspec

from didsim.diagnostics.names import known_name

_HEAD = 1 << 16
_TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")


def is_pairs_table(path: Path, names: dict[str, str]) -> bool:
    """Whether a file holds a row for each preference pair. A log may have such columns, beside a loss.

    Args:
        path: the file, of which the beginning is read.
        names: our names for columns, each with the file's own.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ValueError(f"`files` must be files that can be read; {path}: {error.strerror}") from None
    if head.startswith(_TABLES):
        return True
    columns = _columns(head.decode("utf-8-sig", errors="replace").lstrip())
    ours = {theirs: mine for mine, theirs in names.items()}
    bare = {ours.get(column, column) for column in columns}
    of_a_log = {name.ours for name in map(known_name, columns) if name is not None}
    is_log = of_a_log & {"loss", "chosen_reward", "rejected_reward", "margin", "learning_rate", "grad_norm"}
    return {"chosen_logps", "rejected_logps"} <= bare and not is_log


def _columns(text: str) -> list[str]:
    """The columns of the first row of JSON lines, or of a CSV file."""
    line = text.partition("\n")[0].strip()
    if line.startswith("{"):
        try:
            return list(msgspec.json.decode(line, type=dict))
        except (msgspec.DecodeError, RecursionError):
            return []
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []
