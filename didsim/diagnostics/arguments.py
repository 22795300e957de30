"""Arguments of a diagnosis, checked without JAX, which a log does not need."""

import difflib
import numbers
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from didsim._files import local_path
from didsim.diagnostics.names import mapped

LOSS_TYPES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
    *("aot_pair", "aot_unpaired", "discopop", "apo_zero", "apo_down", "sft", "orpo", "simpo", "cpo", "kto"),
    "kto_pair",
)
"""Losses as TRL names them. The checks of the loss are for `sigmoid`, which is DPO's own."""


def file(name: str, value: Any) -> Path:
    """The path of a file that is there."""
    path = local_path(name, value)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "is not there"
        raise ValueError(f"`{name}` must be a file; {path} {what}")
    return path


def files(name: str, value: Any) -> list[Path]:
    """Paths of files that are there, from one path or a list of them."""
    if isinstance(value, str | os.PathLike):
        return [file(name, value)]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in value):
        raise ValueError(f"`{name}` must be a path or a list of paths; got {value!r}")
    return [file(name, one) for one in value]


def positive(name: str, value: Any) -> float:
    """A positive, finite number."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= sys.float_info.max:
        raise ValueError(f"`{name}` must be a positive number; got {value!r}")
    return float(value)


def loss_type(value: Any) -> None:
    """Raise `ValueError` unless the value is one of `LOSS_TYPES`."""
    one_of("loss_type", value, LOSS_TYPES)


def one_of(name: str, value: Any, options: Sequence[str]) -> None:
    """Raise `ValueError` unless the value is one of some words; the message has the nearest of them."""
    if not isinstance(value, str) or value not in options:
        close = difflib.get_close_matches(str(value), options, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"`{name}` must be one of {', '.join(options)}; got {value!r}{hint}")


def mapping(name: str, value: Any) -> dict[str, str]:
    """Our names with the file's columns, or nothing for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(one, str) for pair in value.items() for one in pair
    ):
        raise ValueError(f"`{name}` must map our names to columns; got {value!r}")
    mapped(value)
    return dict(value)
