"""Arguments of a diagnosis, checked without JAX, which a log does not need."""

import difflib
import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from didsim._files import local_path
from didsim.diagnostics.names import mapped

LOSS_TYPES = (
    *(
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_pair",
    ),
    *("aot_unpaired", "discopop", "apo_zero", "apo_down", "sft", "orpo", "simpo", "cpo", "kto", "kto_pair"),
)
"""Losses as TRL names them. The checks of the loss are for `sigmoid`, which is DPO's own."""


def files(name: str, value: Any) -> list[Path]:
    """One path or a list of paths, of files that are there."""
    one = isinstance(value, str | os.PathLike)
    listed = [value] if one else list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(path, str | os.PathLike) for path in listed):
        raise ValueError(
            f"`{name}` must be {'a path or a list of paths' if name == 'files' else 'a path'}; got {value!r}"
        )
    paths = [local_path(name, path) for path in listed]
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise ValueError(f"`{name}` must be a file; {path} {what}")
    return paths


def positive(name: str, value: Any) -> float:
    """A positive, finite number."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a positive number; got {value!r}")
    return float(value)


def loss_type(value: Any) -> None:
    """Raise `ValueError` unless the value is one of `LOSS_TYPES`."""
    if not isinstance(value, str) or value not in LOSS_TYPES:
        close = difflib.get_close_matches(str(value), LOSS_TYPES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"`loss_type` must be one of {', '.join(LOSS_TYPES)}; got {value!r}{hint}")


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
