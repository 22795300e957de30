import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import pytest
import xarray as xr
from matplotlib.figure import Figure

import didsim
from experiments import (
    displacement,
    four_answers,
    objective_maps,
    objective_zoo,
    optimal_rejected,
)
from experiments.shared import results
from experiments.shared.configs import TrainingConfig, override
from experiments.shared.findings import Finding, read_findings, write_finding
from tests.experiment_cases import DRAWN, ROOT, SMALL, invoke

ADDS = """
import didsim

def mine(beta: float = 0.1) -> didsim.Objective:
    return 2 * didsim.dpo(beta)

didsim.OBJECTIVES["mine"] = mine
didsim.REJECTED["own"] = lambda reference: reference[::-1]
"""


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[list[str]]:
    (tmp_path / "mine.py").write_text(ADDS)
    with patch.dict(didsim.OBJECTIVES), patch.dict(didsim.REJECTED):
        yield ["--import", str(tmp_path / "mine.py")]


def test_an_imported_file_adds_to_what_is_drawn(imported: list[str], tmp_path: Path) -> None:
    options = [*SMALL, *imported, "--out", str(tmp_path), "--quiet"]
    for name, dim, one in (
        ("optimal_rejected", "rejected", "own"),
        ("log_ratio_reward", "objective", "mine"),
        ("objective_zoo", "objective", "mine"),
    ):
        chosen = [] if dim == "rejected" else ["--set", 'objectives=["dpo", "mine"]']
        result = invoke(name, *options, *chosen)
        assert result.exit_code == 0, result.output
        with xr.open_dataset(tmp_path / f"{name}.nc") as dataset:
            assert one in dataset[dim].values
            assert f"--import {tmp_path / 'mine.py'}" in dataset.attrs["command"]
    assert "own" in optimal_rejected.Config().rejected
    assert "mine" in objective_maps.Config().objectives
    assert "mine" in objective_zoo.Config().objectives


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown experiment 'nothing'; there are all, "),
        (["displacement", "--set", "sede=1"], "--set has an unknown key 'sede'; there are beta, eos"),
        (["displacement", "--set", "seeds"], "--set must be key=value; got 'seeds'"),
        (["displacement", "--set", "seeds=0"], "wrong value: Expected `int` >= 1 - at `$.seeds`"),
        (["displacement", "--set", "seeds=many"], "wrong value: Expected `int`, got `str` - at `$.seeds`"),
        (["displacement", "--set", "beta=-1"], "wrong value: Expected `float` > 0.0 - at `$.beta`"),
        (["displacement", "--set", "policy=rnn"], "Invalid enum value 'rnn' - at `$.policy`"),
        (["did_entropy", "--set", "instances=3"], "Expected `int` >= 32 - at `$.instances`"),
        (["all", "--set", "instances=64"], "--set has an unknown key 'instances'"),
        (
            ["optimal_rejected", "--set", "rejected=['optimum']"],
            "unknown rejected-sampling distribution 'optimum'; there are "
            + ", ".join(sorted(didsim.REJECTED)),
        ),
        (
            ["log_ratio_reward", "--set", "objectives=['ppo']"],
            f"unknown objective 'ppo'; there are {', '.join(sorted(didsim.OBJECTIVES))}",
        ),
        (["objective_zoo", "--set", "objectives=['ppo']"], "unknown objective 'ppo'; there are "),
        (["objective_maps", "--set", "reach=0"], "wrong value: Expected `float` > 0.0 - at `$.reach`"),
        (["displacement", "--set", "max_length=40"], "too large to enumerate"),
        (["displacement", "--set", "seed=3000000000"], "Expected `int` <= 2147483647 - at `$.seed`"),
        (["displacement", "--set", "learning_rate=inf"], "`learning_rate` must be finite; got inf"),
        (["displacement", "--set", "beta=0.5\nseed=3"], "Expected `float`, got `str` - at `$.beta`"),
        (["optimal_rejected", "--set", "rejected=[]"], "Expected `array` of length >= 1 - at `$.rejected`"),
        (["log_ratio_reward", "--set", "label_smoothing=0.7"], "Expected `float` <= 0.5"),
        (["log_margin_order", "--set", "noises=[inf]"], "`noises` must be finite; got (inf,)"),
        (
            ["optimal_rejected", "--set", "rejected=['target', 'target']"],
            "must have no entry twice",
        ),
        (["objective_zoo", "--set", "objectives=['dpo', 'dpo']"], "`objectives` must have no entry twice"),
        (["displacement", "--import", "missing.py"], "--import missing.py: No such file or directory"),
        (["optimal_rejected", "--set", 'rejected=["optimal","optimal"]'], "must have no entry twice"),
        (["log_margin_order", "--set", "pairs=1000000000"], "`pairs`: the experiment would take about"),
        (["log_margin_order", "--set", "max_length=12"], "`noises`: the experiment would take about"),
        (["displacement", "--set", "seeds=2000000000"], "`seeds`: the experiment would take about"),
        (["did_entropy", "--set", "instances=2000000000"], "`instances`: the experiment would take about"),
        (["displacement", "--set", "steps=99999999999"], "Expected `int` <= 2147483647 - at `$.steps`"),
        (["log_margin_order", "--set", "vocab_size=1"], "must make at least 2 sequences; got 1"),
    ],
)
def test_wrong_input_is_named_before_any_work(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = invoke(*arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    text = " ".join(result.output.replace("│", " ").split())
    assert message in text
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    result = invoke("displacement", "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "--out must be a folder that can be written to" in " ".join(
        result.output.replace("│", " ").split()
    )
    assert (tmp_path / "file").read_text() == "before"


def test_a_run_that_diverges_says_so_without_a_traceback(tmp_path: Path) -> None:
    settings = [*SMALL, "--set", "learning_rate=1e300", "--out", str(tmp_path), "--quiet"]
    with jax.enable_x64(False):
        result = invoke("displacement", *settings)
    assert result.exit_code == 1
    assert "Error: displacement: the loss or its gradient is not finite at step" in result.output
    assert list(tmp_path.iterdir()) == []


def test_settings_are_toml_or_plain_words() -> None:
    config = override(TrainingConfig, ["policy=autoregressive", "beta=0.25", "eos=true", "steps = 7"])
    assert (config.policy, config.beta, config.eos, config.steps) == ("autoregressive", 0.25, True, 7)


def test_a_failure_while_writing_leaves_the_files_that_were_there(tmp_path: Path) -> None:
    for suffix in ("nc", "png", "pdf", "json"):
        (tmp_path / f"x.{suffix}").write_text("before")

    class Broken(Figure):
        def savefig(self, *arguments: Any, **options: Any) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        results.save(xr.Dataset({"a": 1}), {"x": Broken()}, {"x": "{}"}, "x", tmp_path)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"before"}
    assert len(list(tmp_path.iterdir())) == 4


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    dataset = four_answers.run(four_answers.Config())
    for folder in ("one", "two"):
        results.save(dataset, {"x": four_answers.plot(dataset)}, {}, "x", tmp_path / folder)
    for suffix in ("png", "pdf"):
        assert (tmp_path / "one" / f"x.{suffix}").read_bytes() == (
            tmp_path / "two" / f"x.{suffix}"
        ).read_bytes()


@pytest.mark.slow
def test_the_command_line_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "optimal_rejected", "--out", str(tmp_path), *SMALL]
    command += ["--set", 'rejected=["optimal", "uniform"]']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "8 of 8 cells" in done.stderr
    assert "optimal_rejected.nc" in done.stdout


@pytest.mark.core
@pytest.mark.slow
def test_an_experiment_comes_out_the_same_to_the_byte(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "displacement", *SMALL, "--out", "figures", "--quiet"]
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        subprocess.run(
            command, cwd=tmp_path / name, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, text=True
        )
    for suffix in (".nc", ".png"):
        once, again = (
            (tmp_path / name / "figures" / f"displacement{suffix}").read_bytes() for name in ("once", "again")
        )
        assert once == again


def test_a_run_replaces_its_own_finding_only(tmp_path: Path) -> None:
    small = [*SMALL, "--out", str(tmp_path), "--quiet"]
    other = Finding(
        title="T", finding="F ∞", command="c", seconds=1, pictures=("other.png",), facts={"sequences": 3}
    )
    write_finding(tmp_path, "other", other)
    write_finding(tmp_path, "displacement", other)
    assert invoke("displacement", *small).exit_code == 0
    found = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    assert list(found) == ["displacement", "other"]
    assert found["other"] == {
        "title": "T",
        "finding": "F ∞",
        "command": "c",
        "seconds": 1,
        "pictures": ["other.png"],
        "facts": {"sequences": 3},
    }
    own = found["displacement"]
    assert own["title"] == (displacement.__doc__ or "").splitlines()[0]
    assert own["command"] == f"python -m experiments displacement {' '.join(SMALL)}"
    assert own["pictures"] == ["displacement.png"]
    assert own["facts"] == {"sequences": 8, "seeds": 4, "steps": 60}
    with xr.open_dataset(tmp_path / "displacement.nc") as dataset:
        assert own["finding"] == displacement.finding(dataset)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"displacement": {"title": 1}}', b"\xff", b""])
def test_a_damaged_file_of_findings_is_told_before_any_work_and_kept(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_bytes(content)
    result = invoke("displacement", *SMALL, "--out", str(tmp_path), "--quiet")
    assert result.exit_code == 2
    text = " ".join(result.output.replace("│", " ").split())
    assert "is damaged" in text
    assert "findings.json" in text.replace(" ", "")  # a long path is broken over lines
    assert "restore it, or delete it and run `python -m experiments all`" in text
    assert [path.name for path in tmp_path.iterdir()] == ["findings.json"]
    assert (tmp_path / "findings.json").read_bytes() == content
    with pytest.raises(ValueError, match="is damaged"):
        write_finding(
            tmp_path, "x", Finding(title="", finding="", command="", seconds=0, pictures=(), facts={})
        )
    assert (tmp_path / "findings.json").read_bytes() == content


def test_committed_findings_are_of_all_experiments() -> None:
    found = read_findings(ROOT / "figures")
    assert list(found) == sorted(DRAWN)
    for name, one in found.items():
        assert one.command == f"python -m experiments {name}"
        assert all((ROOT / "figures" / picture).exists() for picture in one.pictures)
