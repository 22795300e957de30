"""What a run of a sweep would compute, as a table for the terminal."""

import math

from rich.table import Table

from didsim._memory import size_text
from didsim._text import literal
from didsim.sweeps.axes import word
from didsim.sweeps.grid import Sweep


def plan(sweep: Sweep, memory: int) -> Table:
    """What a run of a sweep would compute, with blocks of at most `memory` bytes.

    Raises:
        ValueError: a cell takes more memory than that, and more than this machine has.
    """
    sweep.check_fits(memory)
    steps = sweep.count_steps()
    shape = sweep.block_shape(sweep.cells_within(memory))
    blocks = sweep.blocks(shape)
    table = Table("", "")
    for axis in sweep.axes:
        few = len(axis.labels) <= 6
        labels = axis.labels if few else (axis.labels[0], axis.labels[-1])
        values = (", " if few else " … ").join(map(word, labels))
        table.add_row(literal(axis.key), literal(f"{len(axis.values)}: {values}"))
    numbers = sweep.size * steps * len(sweep.metrics)
    rows = {
        "cells": f"{sweep.size:,}",
        "sequences": ", ".join(f"{size:,}" for size in sweep.sizes),
        "records": f"{steps:,} steps of {len(sweep.metrics)} metrics",
        "blocks": f"{len(blocks):,} of {' × '.join(map(str, shape)) or '1'} cells",
        "compiled programs": f"{sweep.programs:,}",
        "memory of a block": size_text(sweep.cell_bytes() * math.prod(shape))
        + (f", more than the {size_text(memory)} asked for" if sweep.cell_bytes() > memory else "")
        + (", and up to 1 GiB for limits" if sweep.has_limits else ""),
        "on disk, at most": size_text(8 * numbers),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
