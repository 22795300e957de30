"""What several test files of this folder share."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from experiments.__main__ import app

SMALL = ["--set", "vocab_size=2", "--set", "max_length=3", "--set", "steps=60", "--set", "seeds=4"]
FEW = ["--set", 'objectives=["dpo", "slic", "dpo_pg"]']
MORE = {"did_entropy": ["--set", "instances=32"], "objective_zoo": FEW, "objective_maps": FEW}
ROOT = Path(__file__).parent.parent


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), terminal_width=200)
