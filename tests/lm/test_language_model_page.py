"""The recipes of docs/language-models.md: the code that stands on the page is what runs here."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from didsim.lm.table import read_table
from tests.lm.spaces import END, exact, tiny

PAGE = (Path(__file__).parents[2] / "docs" / "language-models.md").read_text()


def test_a_known_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny(0, 0.2)
    before = exact(model, [3, 1])
    names: dict[str, Any] = {
        "model": model,
        "prompts": [[3, 1], [4, 4], [0, 1]],
        "with_context": [[4, 0, 3, 1], [4, 0, 4, 4], [4, 0, 0, 1]],
        "end": END,
    }
    recipes = re.findall(r"<!-- recipe: [\w ]+ -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(recipes) == 2
    for code in recipes:
        exec(code, names)
    assert sorted(set(read_table(tmp_path / "pairs.parquet")["step"].to_pylist())) == [0, 25, 50]
    assert len(names["trained"].losses) == 50
    assert re.fullmatch(
        r"KL\(target‖policy\): \d\.\d\d nats; JS per token: 0\.\d{4}\n", capsys.readouterr().out
    )
    np.testing.assert_array_equal(exact(model, [3, 1]), before)
