"""What a run of a sweep would compute, as a table for the terminal."""

import math

from rich.table import Table

from didsim._text import literal
from didsim.sweeps.axes import word
from didsim.sweeps.grid import Sweep


def plan(sweep: Sweep, memory: int) -> Table:
    """What a run of a sweep would compute, with blocks of at most `memory` bytes."""
    shape = sweep.block_shape(sweep.cells_within(memory))
    blocks = sweep.blocks(shape)
    table = Table("", "")
    for axis in sweep.axes:
        labels = [word(label) for label in axis.labels]
        values = ", ".join(labels) if len(labels) <= 6 else f"{labels[0]} … {labels[-1]}"
        table.add_row(literal(axis.key), literal(f"{len(axis.values)}: {values}"))
    numbers = sweep.size * len(sweep.steps) * len(sweep.metrics)
    rows = {
        "cells": f"{sweep.size:,}",
        "sequences": ", ".join(f"{size:,}" for size in sweep.sizes),
        "records": f"{len(sweep.steps):,} steps of {len(sweep.metrics)} metrics",
        "blocks": f"{len(blocks):,} of {' × '.join(map(str, shape)) or '1'} cells",
        "compiled programs": f"{sweep.programs:,}",
        "memory of a block": _size(sweep.cell_bytes() * math.prod(shape))
        + (", and up to 1 GiB for limits" if sweep.has_limits else ""),
        "on disk, at most": _size(8 * numbers),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _size(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"
