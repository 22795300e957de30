"""`--import`: what a user's own file adds to registries, from a study to its results."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import didsim
from didsim._imports import import_files
from didsim.cli import app
from didsim.sweeps import OPTIMIZERS, REFERENCES
from didsim.theory import CHECKS

MODULE = """
import didsim, optax
from didsim.sweeps import OPTIMIZERS, REFERENCES
from didsim.theory.checks import exact

def tilted(beta=0.2):
    return didsim.dpo(beta) + 0.5 * didsim.sft()

def spiky(key, size, height=4.0):
    return didsim.normal_logits(key, size, height)

def halfway(reference, target, share=0.5):
    return didsim.geodesic(reference, target - reference, -share)

def peak(s):
    return s.log_probs.max()

def slow(learning_rate):
    return optax.sgd(learning_rate / 10)

didsim.OBJECTIVES["tilted"] = tilted
didsim.REJECTED["halfway"] = halfway
didsim.METRICS["peak"] = peak
REFERENCES["spiky"] = spiky
OPTIMIZERS["slow"] = slow

@exact(1, "here", "beta is positive")
def positive(case):
    return case.beta * 0
"""
STUDY = """
steps = 2
objective = "tilted"
reference = "spiky"
space = { vocab_size = 2, max_length = 2 }
problem = { rejected = "halfway", chosen = "spiky" }
optimizer = { name = "slow", learning_rate = 1.0 }
record = { every = 1, metrics = ["peak", "js_to_target"] }

[sweep]
seed = [0, 1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a study and the module that it needs, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "study.toml").write_text(STUDY)
    yield tmp_path
    for registry, name in (
        (didsim.OBJECTIVES, "tilted"),
        (didsim.REJECTED, "halfway"),
        (didsim.METRICS, "peak"),
        (REFERENCES, "spiky"),
        (OPTIMIZERS, "slow"),
        (CHECKS, "positive"),
    ):
        registry.pop(name, None)


def output_of(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result.output


def test_a_study_names_what_a_file_adds(folder: Path) -> None:
    refused = output_of("run", "study.toml", "--dry-run", status=2)
    assert "`objective.name` is unknown: 'tilted'" in refused
    printed = output_of("run", "study.toml", "--import", "mine.py", "--quiet")
    assert printed == "study.zarr: 2 cells done, 0 diverged, 0 failed\n"
    results = didsim.open_results("study.zarr")
    assert results["peak"].attrs == {"long_name": "peak"}
    keys = jax.random.split(jax.random.key(1), 8)
    reference, target, chosen = (
        didsim.normal_logits(key, 4, scale) for key, scale in zip(keys[:3], (4.0, 1.0, 4.0), strict=True)
    )
    rejected = didsim.geodesic(reference, target - reference, -0.5)
    run = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        didsim.Contrastive(chosen, rejected),
        didsim.dpo(0.2) + 0.5 * didsim.sft(),
        optax.sgd(0.1),
        2,
        target=target,
        record=didsim.Record(1, {"peak": lambda s: s.log_probs.max()}),
    )
    np.testing.assert_allclose(results["peak"].sel(seed=1), run.metrics["peak"], rtol=1e-9)
    assert float(run.metrics["peak"][0]) != float(run.metrics["peak"][-1])


@pytest.mark.slow
def test_workers_of_a_cluster_import_the_file_too(folder: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("didsim")),
        "run",
        "study.toml",
        "--import",
        "mine.py",
        "--quiet",
    ]
    for more in (["--store", "here.zarr"], ["--store", "there.zarr", "--dask", "local:1"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert "2 cells done, 0 diverged, 0 failed" in done.stdout, done.stderr
    assert didsim.open_results("here.zarr").identical(didsim.open_results("there.zarr"))


def test_a_check_of_ones_own_can_be_named(folder: Path) -> None:
    printed = output_of("check", "--import", "mine.py", "--only", "positive", "--instances", "36")
    assert "beta is positive" in printed
    assert "holds" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--import wrong.py: No such file or directory"),
        ("\n\n1 / 0\n", "--import wrong.py, line 3: ZeroDivisionError: division by zero"),
        ("import nowhere", "--import wrong.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1\ndef (", "--import wrong.py, line 2: SyntaxError: "),
        ("raise ValueError('one\\ntwo')", "--import wrong.py, line 1: ValueError: one"),
    ],
)
@pytest.mark.parametrize("command", [("run", "study.toml"), ("check",)])
def test_a_file_that_fails_is_named_in_one_line(
    folder: Path, command: tuple[str, ...], text: str | None, message: str
) -> None:
    if text is not None:
        Path("wrong.py").write_text(text)
    printed = output_of(*command, "--import", "wrong.py", status=2)
    assert re.fullmatch(f"Error: {re.escape(message)}.*\n", printed)
    assert not Path("study.zarr").exists()


def test_a_file_may_have_the_name_of_a_package_and_its_classes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "numpy.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass One:\n    size: int = 3\nassert One().size == 3\n"
    )
    (source,) = import_files([path])
    assert source.path == str(path)
    assert sys.modules["numpy"] is np
