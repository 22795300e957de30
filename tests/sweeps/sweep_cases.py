"""What several test files of this folder share."""

from pathlib import Path
from typing import Any

from didsim import Sweep

SMALL: dict[str, Any] = {"space": {"vocab_size": 2, "max_length": 2}}


def from_text(file: Path, text: str, *settings: str, allow_many: bool = False) -> Sweep:
    file.write_text(text, encoding="utf-8")
    return Sweep.from_toml(file, settings, allow_many=allow_many)


TEXT = """
objective = { name = "dpo", beta = 0.2 }
seed = 3
[sweep]
"optimizer.learning_rate" = [0.1, 0.2]
"""
