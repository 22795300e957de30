"""A measurement in a fresh process, which prints its result as one line of JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_LEFT_OUT = {"JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"}


def in_fresh_process(module: str, *arguments: object) -> dict[str, Any]:
    """What `python -m module arguments…` prints as its last line, read as JSON.

    No compiled program is taken from a cache that JAX may keep between processes. Modules are loaded as by
    default, where Python keeps their bytecode.

    Raises:
        RuntimeError: the process failed; the message holds what it wrote.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
