"""Text that others wrote is shown as it is: the terminal obeys none of it."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import didsim
from didsim.cli import app
from didsim.sweeps.plan import plan
from didsim.sweeps.store import open_store
from tests.sweeps.damage_cases import TABLES
from tests.sweeps.study_cases import entry

RUNNER = CliRunner()
NAME = "[x] [red]odd[/] :skull: \x1b[31m"
SHOWN = r"[x] [red]odd[/] :skull: \x1b[31m"
REASON = "no [y]; [/bold]\x1b]0;title\x07\nseed=0: all is well\r"


def sweep_of() -> didsim.Sweep:
    return didsim.Sweep(TABLES, {"problem.rejected": ["uniform", NAME], "seed": [0, 1]})


def test_names_and_reasons_in_a_store(tmp_path: Path) -> None:
    path = tmp_path / "[bold]study\x1b[5m.zarr"
    with entry(didsim.REJECTED, NAME, didsim.REJECTED["uniform"]):
        sweep = sweep_of()
        store = open_store(sweep, path, 1)
        blocks = sweep.blocks(store.block_shape)
        store.write(blocks[-1], {}, {0: REASON})
        numbers = {name: np.zeros((1, 3)) for name in sweep.metrics}
        diverged = {"steps": np.array([0, 2, 4]), "diverged_at": np.array([2])}
        store.write(blocks[-2], {**numbers, **diverged})
    result = RUNNER.invoke(app, ["show", str(path)])
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    at = lines.index("Failed:")
    assert lines[at + 1] == rf"rejected={SHOWN}, seed=1: no [y]; [/bold]\x1b]0;title\x07"
    assert lines[at + 2] == r"seed=0: all is well\r"
    assert result.output.splitlines()[at + 2].startswith("    "), "it is no line of the list"
    assert rf"rejected={SHOWN}, seed=0: after 2 steps" in lines
    # The same where it is an error, whatever the path is.
    result = RUNNER.invoke(app, ["plot", str(path), "--select", "rejected=none"])
    assert result.exit_code == 2
    assert f"there are uniform, {SHOWN}" in result.output
    result = RUNNER.invoke(app, ["show", str(tmp_path / "gone\x1b[5m[x]")])
    assert r"gone\x1b[5m[x] holds no results" in result.output
    result = RUNNER.invoke(app, ["export", str(path), str(tmp_path / "out\x1b[5m.csv")])
    assert r"Written to " in result.output
    (path / "seed" / "c" / "0").unlink()
    result = RUNNER.invoke(app, ["verify", str(path)])
    assert r"[bold]study\x1b[5m.zarr/seed/c/0: it is gone" in result.output


@pytest.mark.parametrize("force_terminal", [True, False])
def test_names_in_a_plan(force_terminal: bool) -> None:
    file = io.StringIO()
    with entry(didsim.REJECTED, NAME, didsim.REJECTED["uniform"]):
        Console(file=file, width=110, force_terminal=force_terminal).print(plan(sweep_of(), 2**30))
    assert f"2: uniform, {SHOWN}" in file.getvalue()
