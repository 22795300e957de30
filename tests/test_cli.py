import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from didsim.cli import app
from didsim.theory import CHECKS
from didsim.theory.checks import Check

RUNNER = CliRunner()


def test_check_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    arguments = ["check", "--instances", "36", "--seed", "3", "--only", "inverse", "--out", str(out)]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "inverse" in result.output
    assert "holds" in result.output
    report = json.loads(out.read_text())
    assert report["seed"] == 3
    assert [row["name"] for row in report["rows"]] == ["inverse"]
    assert report["rows"][0]["instances"] == 36


def test_a_failing_statement_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Check("wrong", 1, "nothing is anything", "nobody", "exact", lambda case: jnp.max(-case.target))
    monkeypatch.setitem(CHECKS, "wrong", wrong)
    result = RUNNER.invoke(app, ["check", "--only", "wrong", "--out", str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert "FAILS" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["verdict"] == "FAILS"


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["check", "--only", "dp"])
    assert result.exit_code == 2
    assert "unknown check 'dp'" in result.output
    result = RUNNER.invoke(app, ["check", "--instances", "0"])
    assert result.exit_code == 2
    result = RUNNER.invoke(app, ["check", "--out", str(tmp_path / "no" / "such.json")])
    assert result.exit_code == 2
    assert "--out" in result.output
