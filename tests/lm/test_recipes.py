"""The recipes of docs/diagnose.md: the code that stands on the page is what runs here."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import didsim
from didsim.diagnostics.pairs.table import COLUMNS
from didsim.diagnostics.samples.table import COLUMNS as OF_SAMPLES
from didsim.lm.table import read_table
from tests.lm.cases import BEGIN, END, VOCABULARY, expected, gpt2, rows

PAGE = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()


def recipe(name: str) -> str:
    (code,) = re.findall(rf"<!-- recipe: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


def log_ratios(model: Any, reference: Any, batch: list[dict[str, Any]]) -> tuple[Any, Any]:
    """`log π − log π_ref` of the chosen and of the rejected responses, a response at a time."""
    found = []
    for side in ("chosen", "rejected"):
        ratios = []
        for one in batch:
            ids, start = one["prompt_ids"] + one[f"{side}_ids"], len(one["prompt_ids"])
            tokens = torch.tensor([ids])
            each = [
                model_(input_ids=tokens).logits[0, start - 1 : -1].log_softmax(-1)
                for model_ in (model, reference)
            ]
            own, other = (scores.gather(1, tokens[0, start:, None]).sum() for scores in each)
            ratios.append(own - other.detach())
        found.append(torch.stack(ratios))
    return found[0], found[1]


def check_table(path: Path, steps: list[int], model: Any, reference: Any, pairs: list[Any]) -> None:
    """Whether the last checkpoint of a table is the model's, by a loop over tokens."""
    table = read_table(path).to_pydict()
    assert table["step"] == [step for step in steps for _ in pairs]
    last = slice(-len(pairs), None)
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(table[f"{side}_logps"][last], expected(model, pairs, side), rtol=1e-4)
        np.testing.assert_allclose(
            table[f"ref_{side}_logps"][last], expected(reference, pairs, side), rtol=1e-4
        )


def test_a_loop_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train, held_out = rows(12), rows(10, seed=1)
    model, reference = gpt2().eval(), gpt2().eval()
    names = {
        "model": model,
        "reference": reference,
        "train": train,
        "held_out": held_out,
        "batches": [train[:4], train[4:8], train[8:]] * 7,
        "log_ratios": log_ratios,
    }
    code = recipe("loop")
    assert len(code.strip().splitlines()) <= 15
    exec(code, names)
    printed = capsys.readouterr().out.strip()
    assert printed == didsim.diagnose(pairs="pairs.parquet", beta=0.1).verdict
    # The last checkpoint is before the step 20, and the model is after it.
    table = didsim.lm.PairsTable("pairs.parquet", {"train": train, "held out": held_out})
    assert table.steps == [0, 10, 20]
    table.write(21, model)
    check_table(Path("pairs.parquet"), [0, 10, 20, 21], model, reference, [*train, *held_out])


WORDS = "abcdefghijklmnopqrst"
assert len(WORDS) == VOCABULARY


def words(count: int, seed: int) -> Any:
    """Pairs of text, in words that are tokens."""
    from datasets import Dataset

    def text(ids: list[int]) -> str:
        return " " + " ".join(WORDS[one] for one in ids)

    return Dataset.from_list(
        [{name.removesuffix("_ids"): text(ids) for name, ids in one.items()} for one in rows(count, seed)]
    )


def tokenizer() -> Any:
    """A word of one letter for each token."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: token for token, word in enumerate(WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=WORDS[0]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=WORDS[BEGIN],
        eos_token=WORDS[END],
        pad_token=WORDS[END],
        unk_token=WORDS[0],
    )


def test_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed: make .venv/lm")
    monkeypatch.chdir(tmp_path)
    config = trl.DPOConfig(
        "run",
        beta=0.1,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=10,  # TRL averages over batches, whatever their size
        learning_rate=3e-2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=9,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = gpt2()
    names = {
        "model": model,
        "reference": copy.deepcopy(model),
        "config": config,
        "tokenizer": tokenizer(),
        "train": words(12, 0),
        "held_out": words(10, 1),
    }
    code = recipe("trl")
    assert len(code.strip().splitlines()) <= 10
    exec(code, names)
    trainer = names["trainer"]
    table = read_table(Path("pairs.parquet")).to_pydict()
    steps = sorted(set(table["step"]))
    assert steps == [0, 3, 6]
    # TRL's own means over held-out pairs, at the evaluations.
    assert table["split"].count("held out") == 3 * 10
    columns = {name: np.reshape(values, (3, -1))[1:, -10:] for name, values in table.items()}
    for side in ("chosen", "rejected"):
        moved = (columns[f"{side}_logps"] - columns[f"ref_{side}_logps"]).astype(float)
        for name, values in ((f"rewards/{side}", 0.1 * moved), (f"logps/{side}", columns[f"{side}_logps"])):
            told = [one[f"eval_{name}"] for one in trainer.state.log_history if f"eval_{name}" in one]
            np.testing.assert_allclose(values.astype(float).mean(1), told, rtol=1e-3, atol=1e-4)
    assert capsys.readouterr().out.count("didsim, step") == 2


def test_the_page_names_every_column() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert told == {column.name for column in (*COLUMNS, *OF_SAMPLES)}
    for column in (*COLUMNS, *OF_SAMPLES):
        line = re.search(rf"^\| `{column.name}` \| (.*)\|", PAGE, re.MULTILINE)
        assert line is not None
        assert line[1].startswith("optional") is not column.required or column.name == "prompt_id"


def test_the_commands_of_the_page_have_these_options() -> None:
    from typer.testing import CliRunner

    from didsim.cli import app

    shown = CliRunner().invoke(app, ["diagnose", "--help"], terminal_width=200).output
    options = set(re.findall(r"(--[a-z][a-z-]+)", PAGE))
    assert {"--pairs", "--beta", "--out", "--ref-samples"} <= options
    for option in options:
        assert option in shown
