"""What every picture shows, in one file of its folder: `findings.json`, with an entry for each experiment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from didsim._files import written_whole

FILE = "findings.json"


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader of a picture wants to know.

    Attributes:
        title: what the picture is of.
        finding: what it shows, in Markdown. Its numbers are those of the data.
        command: the command that draws it.
        seconds: the time that the command took.
        pictures: the files of the pictures; the first is that of the finding.
        facts: the numbers of sequences, of seeds or instances, and of steps.
    """

    title: str
    finding: str
    command: str
    seconds: int
    pictures: tuple[str, ...]
    facts: dict[str, int]


def read_findings(folder: Path) -> dict[str, Finding]:
    """The findings of a folder by experiment; none if there is no file yet.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Finding])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or delete it and run `python -m experiments all`"
        ) from None


def write_finding(folder: Path, name: str, finding: Finding) -> None:
    """Put the finding of an experiment into the file of a folder. All others stay as they are.

    Raises:
        ValueError: the file is damaged; then it stays as it is.
        OSError: it cannot be written.
    """
    entries: Mapping[str, Any] = msgspec.to_builtins(read_findings(folder) | {name: finding})
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    with written_whole(folder / FILE) as (draft,):
        draft.write_text(text + "\n", encoding="utf-8")
