"""Formats of logs, recognised by content; files that are no logs."""

# ruff: noqa: E501 (trainers write long lines)

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from didsim.diagnostics import TrainingLog, diagnose, read_log
from didsim.diagnostics.names import known_name, mapped
from tests.diagnostics.log_cases import TEXT, Row, model_card, simulated, tensorboard, written

ROWS = simulated(45)


def column(rows: list[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows if name in row])


def agrees(log: TrainingLog, rows: list[Row], tolerance: float = 0) -> None:
    """Whether a log holds exactly these rows."""
    for side, prefix in ((log.train, ""), (log.held_out, "eval_")):
        for name in ("loss", "chosen_reward", "rejected_reward", "margin", "accuracy"):
            np.testing.assert_allclose(side.columns[name], column(rows, prefix + name), rtol=tolerance)


@pytest.mark.parametrize("form", TEXT)
def test_every_format_gives_the_same_log(form: str, tmp_path: Path) -> None:
    log = read_log(written(tmp_path, ROWS, form))
    assert log.format == form.partition(",")[0]
    agrees(log, ROWS)
    assert log.unit == "step"
    np.testing.assert_array_equal(log.train.at, [row["step"] for row in ROWS if "loss" in row])


def test_tensorboard_gives_the_same_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path = tmp_path / "events"
    tensorboard(ROWS, path)
    log = read_log(path)
    agrees(log, ROWS, 1e-6)
    assert log.format == "TensorBoard event file"
    tensorboard([*ROWS, *ROWS], path)
    assert read_log(path).runs == 2
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_log(path)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_model_cards_table_in_any_order(reverse: bool, tmp_path: Path) -> None:
    rows = [row | {"loss": 0.5 + 0.1 * k} for k, row in enumerate(row for row in ROWS if "eval_loss" in row)]
    rows = [dict(sorted(row.items(), reverse=reverse)) for row in rows]
    (tmp_path / "README.md").write_bytes(model_card(rows))
    log = read_log(tmp_path / "README.md")
    assert log.format == "model card"
    np.testing.assert_allclose(log.train.columns["loss"], column(rows, "loss"))
    for name in ("loss", "chosen_reward", "margin"):
        np.testing.assert_allclose(log.held_out.columns[name], column(rows, f"eval_{name}"))


CARD = """
| Training Loss | Epoch  | Step | Validation Loss | Rewards/chosen | Rewards/rejected | Rewards/accuracies | Logps/chosen |
|:-------------:|:------:|:----:|:---------------:|:--------------:|:----------------:|:------------------:|:------------:|
| No log        | 0.2093 | 100  | 0.6501          | -0.1634        | -0.2921          | 0.6440             | -285.2301    |
| 0.6231        | 0.4186 | 200  | 0.5987          | -0.4121        | -0.8544          | 0.6905             | -310.1      |
"""
CONSOLE = """{'loss': '0.6931', 'grad_norm': '21.5', 'rewards/chosen': '0', 'rewards/rejected': '0', 'epoch': '0.01'}
[2025-01-01 00:00:00] INFO {'loss': 0.52, 'grad_norm': nan, 'rewards/chosen': -0.2, 'rewards/rejected': -1.2, 'epoch': 0.1}
{'eval_loss': np.float64(0.61), 'eval_rewards/chosen': tensor(-0.25), 'eval_rewards/rejected': -1.0, 'epoch': 0.1}
"""
ORIGINAL = """train stats after 64 examples: {'rewards_train/chosen': '0.01', 'rewards_train/rejected': '-0.02', \
'rewards_train/margins': '0.03', 'logps_train/chosen': '-120.5', 'loss/train': '0.68', 'counters/updates': 1}
eval after 64: {'rewards_eval/chosen': '0.02', 'rewards_eval/rejected': '-0.01', 'loss/eval': '0.69'}
"""
TORCHTUNE = """Step 1 | loss:0.6931 lr:1e-06 rewards/chosen:0.0 rewards/rejected:0.0 log_probs/chosen:-101.0
Step 2 | loss:0.65 lr:2e-06 rewards/chosen:-0.1 rewards/rejected:-0.3 log_probs/chosen:-102.0
"""
PANEL = (
    '"Step","my run - train/rewards/chosen","my run - train/rewards/chosen__MIN"\n1,0.0,0.0\n2,-0.3,-0.3\n'
)


@pytest.mark.parametrize(
    ("text", "side", "name", "expected"),
    [
        (CARD, "held_out", "chosen_reward", [-0.1634, -0.4121]),
        (CARD, "held_out", "chosen_logps", [-285.2301, -310.1]),
        (CARD, "train", "loss", [0.6231]),
        (CONSOLE, "train", "loss", [0.6931, 0.52]),
        (CONSOLE, "held_out", "loss", [0.61]),
        (CONSOLE, "held_out", "chosen_reward", [-0.25]),
        (ORIGINAL, "train", "loss", [0.68]),
        (ORIGINAL, "train", "chosen_logps", [-120.5]),
        (ORIGINAL, "held_out", "margin", [0.03]),
        (TORCHTUNE, "train", "rejected_reward", [0.0, -0.3]),
        (PANEL, "train", "chosen_reward", [0.0, -0.3]),
    ],
)
def test_files_as_trainers_write_them(
    text: str, side: str, name: str, expected: list[float], tmp_path: Path
) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for end in ("\n", "\r\n"):
            (tmp_path / "log").write_bytes(text.strip("\n").replace("\n", end).encode(encoding))
            found = getattr(read_log(tmp_path / "log"), side).columns[name]
            np.testing.assert_allclose(found[np.isfinite(found)], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("column", "role", "ours"),
    [
        ("rewards/chosen", "train", "chosen_reward"),
        ("eval_rewards/margins", "eval", "margin"),
        ("eval/rewards/accuracies", "eval", "accuracy"),
        ("train/rewards/rejected", "train", "rejected_reward"),
        ("train/chosen_reward", "train", "chosen_reward"),
        ("train/reject_reward", "train", "rejected_reward"),
        ("eval/acc_mean", "eval", "accuracy"),
        ("eval/eval loss", "eval", "loss"),
        ("train_loss", "train", "loss"),
        ("rewards/margin", "train", "margin"),
        ("rewards_train/accuracies", "train", "accuracy"),
        ("logps_eval/rejected", "eval", "rejected_logps"),
        ("loss/eval", "eval", "loss"),
        ("log_probs/chosen", "train", "chosen_logps"),
        ("sft_loss", "train", "nll"),
        ("odds_ratio_loss", "train", "odds_ratio_loss"),
        ("Validation Loss", "eval", "loss"),
        ("Training Loss", "train", "loss"),
        ("eval_helpful_rewards/chosen", "eval", "chosen_reward"),
        ("kl", "train", "kl"),
        ("train/global_step", "train", "step"),
    ],
)
def test_names_of_trainers(column: str, role: str, ours: str) -> None:
    found = known_name(column)
    assert found is not None
    assert found[:2] == (role, ours)


@pytest.mark.parametrize(
    "column", ["logits/chosen", "eval_runtime", "mean_token_accuracy", "", "_", "loss_scale"]
)
def test_other_names(column: str) -> None:
    assert known_name(column) is None


def test_columns_with_names_of_their_own_are_mapped(tmp_path: Path) -> None:
    rows = [{"step": k, "good": -0.1 * k, "bad": -0.4 * k, "val_good": 0.5} for k in range(1, 9)]
    names = {"chosen_reward": "good", "rejected_reward": "bad", "eval_chosen_reward": "val_good"}
    for text in (json.dumps(rows), "\n".join(map(str, rows)), "\n".join(map(json.dumps, rows))):
        (tmp_path / "log").write_text(text)
        log = read_log(tmp_path / "log", names)
        np.testing.assert_allclose(log.train.columns["margin"], [0.3 * row["step"] for row in rows])
        np.testing.assert_allclose(log.held_out.columns["chosen_reward"], 0.5)
    with pytest.raises(
        ValueError, match=r"`names` must map to columns of the file; .* no 'ugly'\. It has step, good"
    ):
        read_log(tmp_path / "log", names | {"margin": "ugly"})
    with pytest.raises(ValueError, match="did you mean 'chosen_reward'"):
        mapped({"choosen_reward": "good"})


def test_a_misspelt_column_is_told_with_the_option_that_mends_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('[{"step": 1, "loss": 0.6, "rewrds/chosen": 0.1, "eval_reward/chosn": 1}]')
    with pytest.raises(ValueError, match="no preference metric") as error:
        read_log(tmp_path / "log")
    told = str(error.value)
    assert "It has step, loss, rewrds/chosen, eval_reward/chosn." in told
    assert "--map chosen_reward=rewrds/chosen" in told
    assert "--map eval_chosen_reward=eval_reward/chosn" in told
    (tmp_path / "log").write_text('[{"step": 1, "rewards/rejected": 0.6, "rewrds/chosen": 0.1}]')
    assert "--map chosen_reward=rewrds/chosen" in read_log(tmp_path / "log").notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n ", "is empty"),
        ('{"log_history": [{"loss": 0.6, "rewards/chosen": 0.1}, {"lo', "cut off"),
        ('{"loss": 0.6, "rewards/chosen": 0.1}\n{"loss": 0.5, "rewa', "line 2: not whole JSON"),
        ('{"loss": 0.6}\n{"loss": 0.5}\n', "no preference metric"),
        ('{"log_history": 3}', "no list of records"),
        ('{"epoch": 3.0, "train_loss": 0.4, "train_runtime": 9.0}', "A summary of a run has none"),
        ("[1, 2]", "not a training log"),
        ("Dear diary, today I trained.\nIt was fun.\n", "not a training log"),
        ("name,age\nann,3\nbob,4\n", "It has name, age"),
        ("Step,train/loss,train/rewards/chosen\n1,0.6,0.1\n2,0.5\n", "line 3: 2 cells under 3 columns"),
        ("Step,a - rewards/chosen,b - rewards/chosen\n1,0.6,0.1\n", "2 runs (a, b)"),
        ("[" * 100_000, "not"),
        ('{"a":' * 100_000, "cut off"),
        ("a\0b", "no text"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n", "not a training log"),
    ],
)
def test_what_is_no_log_is_refused_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        diagnose(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700


def test_averages_of_the_whole_run_are_not_its_last_step(tmp_path: Path) -> None:
    rows = [
        {"step": 9.0, "rewards/chosen": 0.1, "loss": 0.5},
        {"step": 9.0, "train_loss": 7.0, "train_runtime": 3.0},
    ]
    (tmp_path / "log").write_text(json.dumps({"log_history": rows}))
    np.testing.assert_array_equal(read_log(tmp_path / "log").train.columns["loss"], [0.5])


def test_rows_without_steps_are_counted_and_epochs_serve(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"rewards/chosen": 0.1}\n{"rewards/chosen": 0.2}')
    log = read_log(tmp_path / "log")
    assert (log.unit, log.train.at.tolist()) == ("row", [1, 2])
    (tmp_path / "log").write_text(
        '{"rewards/chosen": 0.1, "epoch": 0.5}\n{"rewards/chosen": null, "epoch": 1}'
    )
    assert read_log(tmp_path / "log").where(0.5) == "epoch 0.5"


def test_a_log_is_diagnosed_without_the_heavy_libraries(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    heavy = {"jax", "matplotlib", "xarray", "scipy.stats", "pyarrow", "jinja2"}
    program = f"import sys; from didsim import diagnose; diagnose({str(path)!r}); print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["console", "console, quoted", "JSON lines"])
def test_a_log_of_100_000_lines_takes_seconds_in_all(form: str, tmp_path: Path) -> None:
    """Two seconds on a machine that does nothing else; tests share theirs."""
    path = written(tmp_path, simulated(100_000, held_out=False), form)
    start = time.perf_counter()
    program = f"from didsim import diagnose; print(diagnose({str(path)!r}, beta=0.1).grade)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "fine"
    assert time.perf_counter() - start < 10
    assert math.isfinite(read_log(path).train.at[-1])
