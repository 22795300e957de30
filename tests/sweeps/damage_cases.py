"""A small store with cells of every status, and what is done to its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from didsim import Sweep, open_results
from didsim.sweeps.results import Summary, summarise
from didsim.sweeps.store import open_store

TABLES: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 1},
    "steps": 4,
    "record": {"every": 2, "metrics": ["loss", "js_to_target"]},
}


def sweep_of(**changes: Any) -> Sweep:
    axes = {"problem.rejected": ["uniform", "optimal"], "space.eos": [True, False], "seed": range(1, 7)}
    return Sweep({**TABLES, **changes}, axes)


def results_of(cells: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    found = {name: random.normal(size=(cells, 3)) for name in TABLES["record"]["metrics"]}
    diverged = np.where(np.arange(cells) == 1, 2, -1)
    return {**found, "steps": np.array([0, 2, 4]), "diverged_at": diverged}


def fill(path: Path) -> None:
    """A store in which one block is pending, and in each other a cell diverged and one failed."""
    sweep, random = sweep_of(), np.random.default_rng(0)
    store = open_store(sweep, path, 3)
    for block in sweep.blocks(store.block_shape)[1:]:
        store.write(block, results_of(3, random), {2: "it could not be"})


def read(path: Path) -> tuple[xr.Dataset, Summary]:
    """All that can be read of a store."""
    return open_results(path).load(), summarise(path)


def is_same(one: tuple[xr.Dataset, Summary], other: tuple[xr.Dataset, Summary]) -> bool:
    return one[0].identical(other[0]) and one[1] == other[1]


def files_in(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file() and one.stat().st_size)


def flip(bit: int) -> Callable[[bytes], bytes]:
    def flipped(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flipped
