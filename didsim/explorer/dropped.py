"""A training log that a user drops on the page, as one curve."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from didsim.diagnostics.logs.log import TrainingLog, read_log
from didsim.explorer.problems import numbers

LARGEST = 64 * 2**20


def curve_of(data: bytes, name: str) -> dict[str, Any]:
    """The log-likelihood of chosen responses along a log, less its first value.

    Rewards of chosen responses, which are beta times that, stand in if the log has no log-likelihoods.

    Args:
        data: the file.
        name: what the file is called, for messages.

    Raises:
        ValueError: the file is no log of a known format, is too large, or tells nothing of chosen responses.
    """
    name = Path(name).name or "pasted text"
    if len(data) > LARGEST:
        raise ValueError(f"{name} has {len(data):,} bytes; a log may have {LARGEST:,}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(data)
        try:
            log = read_log(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from None
    return {"name": name, "format": log.format, "unit": log.unit, **_chosen(log, name)}


def _chosen(log: TrainingLog, name: str) -> dict[str, Any]:
    for column, label, unit in (
        ("chosen_logps", "chosen log-likelihood", "nats"),
        ("chosen_reward", "chosen reward", "beta × nats"),
    ):
        for rows in (log.train, log.held_out):
            at, *values = rows.together(column)
            if len(at) > 1 and values:
                return {
                    "label": label,
                    "measure": unit,
                    "at": numbers(at),
                    "values": numbers(np.asarray(values[0]) - (values[0][0] if unit == "nats" else 0)),
                }
    raise ValueError(f"{name} ({log.format}) has no curve of chosen responses with two points or more")
