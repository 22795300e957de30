"""How commands end: errors in one line, full disks, terminals without characters, Ctrl-C."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from didsim.cli import app
from didsim.sweeps.running import _stopping
from didsim.theory import CHECKS
from didsim.theory.checks import Check
from tests.experiment_cases import ROOT

STUDY = """
steps = 4
record = { every = 2, metrics = ["loss"] }
space = { vocab_size = 2, max_length = 2 }
[sweep]
seed = { start = 0, count = 3 }
"""
DIDSIM = [sys.executable, "-m", "didsim"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and its store."""
    found = tmp_path_factory.mktemp("study")
    (found / "tiny.toml").write_text(STUDY)
    result = invoke("run", str(found / "tiny.toml"), "--store", str(found / "tiny.zarr"), "--quiet")
    assert result.exit_code == 0, result.output
    return found


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the current one."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str, **options: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run([*DIDSIM, *arguments], env=environment, timeout=120, **options)


def test_the_module_is_the_command() -> None:
    done = run("-h", capture_output=True, text=True, check=True)
    assert "didsim" in done.stdout
    assert "--debug" in done.stdout
    assert "--show-completion" in done.stdout
    done = run("--version", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("didsim ")


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("show", "tiny.zarr")])
def test_a_full_disk_behind_standard_output(here: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full, stderr=subprocess.PIPE, text=True, cwd=here)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


def test_a_terminal_of_ascii_and_a_path_that_is_no_text(here: Path) -> None:
    os.rename("tiny.toml", b"\xff.toml")
    done = run(
        os.fsdecode(b"run"),
        os.fsdecode(b"\xff.toml"),
        "--store",
        os.fsdecode(b"\xff.zarr"),
        "--dry-run",
        capture_output=True,
        cwd=here,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"compiled programs" in done.stdout
    assert done.stdout.isascii()
    result = invoke("show", os.fsdecode(b"\xff.zarr"))
    assert result.exit_code == 2
    assert r"\udcff.zarr holds no results of a study" in result.output


def test_a_report_is_written_whole_or_not_at_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(case: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "stopped", Check("stopped", 1, "a", "b", "exact", stopped, most=1))
    Path("old.json").write_text("before")
    for name in ("old.json", "new.json"):
        result = invoke("check", "--only", "stopped", "--out", name)
        assert result.exit_code == 130
        assert "Interrupted" in result.output
    assert Path("old.json").read_text() == "before"
    assert not Path("new.json").exists()
    assert not list(here.glob(".*partial"))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = invoke("check", "--only", "inverse", "--instances", "36", "--out", "old.json")
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        1,
        "Error: old.json: No space left on device",
    )
    assert Path("old.json").read_text() == "before"


def test_a_report_to_a_device() -> None:
    result = invoke("check", "--only", "inverse", "--instances", "36", "--out", "/dev/full")
    assert result.exit_code == 1
    assert "Error: /dev/full: No space left on device" in result.output
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("run", "missing.toml"), 1, "Error: missing.toml: No such file or directory"),
        (("run", "tiny.toml", "--store", "tiny.toml/x.zarr"), 1, "Error: tiny.toml"),
        (("check", "--out", "no/such.json"), 1, "Error: no/such.json: No such file or directory"),
        (("run", "tiny.toml", "--store", "s3://b/x"), 2, "got the URL 's3://b/x'"),
        (("run", "tiny.toml", "--store", "gs://b/x", "--dry-run"), 2, "got the URL 'gs://b/x'"),
        (("show", "s3://b/x"), 2, "got the URL 's3://b/x'"),
        (("verify", "s3://b/x"), 2, "got the URL 's3://b/x'"),
        (("export", "tiny.zarr", "https://b/x.nc"), 2, "got the URL 'https://b/x.nc'"),
        (("plot", "tiny.zarr", "--y", "loss", "--out", "s3://b/x.png"), 2, "got the URL 's3://b/x.png'"),
        (("check", "--out", "s3://b/x"), 2, "got the URL 's3://b/x'"),
        (("check", "--instances", "1000000000000"), 2, "`instances` = 1,000,000,000,000 would take about"),
        (("check", "--seed", "99999999999999999999"), 2, "seed"),
    ],
)
def test_an_error_is_a_line(here: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, message in result.output) == (status, True), result.output
    assert "Traceback" not in result.output
    assert not list(Path().glob("*:"))


def test_an_error_that_nobody_foresaw(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr("didsim.sweeps.results.summarise", broken)
    result = invoke("show", "tiny.zarr")
    assert (result.exit_code, result.output) == (
        1,
        "Error: KeyError: 'what' (--debug shows where it comes from)\n",
    )
    result = invoke("--debug", "show", "tiny.zarr")
    assert isinstance(result.exception, KeyError)

    def greedy(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("didsim.sweeps.results.summarise", greedy)
    assert invoke("show", "tiny.zarr").output == "Error: not enough memory\n"


def test_failures_whose_reasons_are_gone(here: Path) -> None:
    steep = 'reference={name="zipf", exponent=1.7e308}'
    assert invoke("run", "tiny.toml", "--set", steep, "--store", "f.zarr", "--quiet").exit_code == 1
    Path("f.zarr/failures.json").unlink()
    result = invoke("show", "f.zarr")
    assert result.exit_code == 2
    assert "f.zarr/failures.json is damaged: it is gone" in result.output
    assert invoke("run", "tiny.toml", "--set", steep, "--store", "f.zarr", "--quiet").exit_code == 1
    assert "seed=2: `reference` must give" in invoke("show", "f.zarr").output


def test_the_name_of_a_picture_is_the_true_one(here: Path) -> None:
    result = invoke("plot", "tiny.zarr", "--y", "loss", "--out", "pd")
    assert (result.exit_code, result.output) == (0, "Written to pd.png\n")
    assert Path("pd.png").exists()


def test_a_cell_beyond_memory_is_told_before_it_starts(here: Path) -> None:
    more = ["--set", "space.max_length=10", "--memory", "1"]
    assert "more than the 1.0 MiB asked for" in invoke("run", "tiny.toml", *more, "--dry-run").output
    printed = invoke("run", "tiny.toml", *more, "--store", "m.zarr", "--quiet").output
    assert printed.startswith("Warning: a cell takes about 1.6 MiB, more than the 1.0 MiB of `memory`\n")


@pytest.mark.parametrize("module", ["didsim", "experiments"])
def test_ctrl_c_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    (tmp_path / "jax.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    name = ["check"] if module == "didsim" else ["displacement"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
        # A test run in the background has Ctrl-C switched off, and so would have its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "Interrupted\n")


def test_the_first_ctrl_c_says_at_once_what_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    with _stopping() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        assert capfd.readouterr().err.startswith("\nStopping: waiting for the blocks")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
