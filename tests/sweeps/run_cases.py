"""What several test files of this folder share."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec

import didsim

TABLES: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 3},
    "steps": 400,
    "record": {"every": 100, "metrics": ["js_to_target", "loss"]},
}
AXES: dict[str, Any] = {"problem.rejected": ["optimal", "uniform"], "seed": {"start": 0, "count": 300}}
# Blocks of a few cells.
MEMORY = 60_000


def sweep_of(axes: dict[str, Any] | None = None, **changes: Any) -> didsim.Sweep:
    return didsim.Sweep({**TABLES, **changes}, AXES if axes is None else axes)


SCRIPT = textwrap.dedent(
    """
    import json, sys
    import didsim
    tables, axes, path, memory = json.loads(sys.argv[1])
    print(didsim.run_sweep(didsim.Sweep(tables, axes), path, memory=memory, progress=True), flush=True)
    """
)


def start(path: Path, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """A study in a process of its own, which compiles from a cache."""
    given = msgspec.json.encode([TABLES, AXES, str(path), MEMORY]).decode()
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
