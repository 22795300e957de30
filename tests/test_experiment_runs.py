"""Several experiments by one command: what is finished is not run again, and a failure loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import xarray as xr

from experiments import displacement
from experiments.shared.configs import override
from experiments.shared.findings import read_findings
from experiments.shared.gallery import GROUPS, grouped, heading
from experiments.shared.running import Job, fingerprint, load
from tests.experiment_cases import ROOT, invoke

SETTINGS = ["--set", "seed=3"]
FAILS = """
from experiments import displacement

def run(*arguments, **options):
    raise FloatingPointError("on purpose")

displacement.run = run
"""


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def job(tmp_path: Path, **settings: object) -> Job:
    config = override(load("four_answers").Config, [f"{key}={value}" for key, value in settings.items()])
    return Job("four_answers", config, "the command", (), tmp_path)


def test_what_is_finished_is_not_run_again_unless_one_asks(tmp_path: Path) -> None:
    arguments = ["four_answers", *SETTINGS, "--out", str(tmp_path), "--quiet"]
    assert " in " in invoke(*arguments).output
    before = written(tmp_path)
    assert "four_answers: finished before; --again runs it again" in invoke(*arguments).output
    after = written(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"README.md"}
    assert "finished before" not in invoke(*arguments, "--again").output
    assert "finished before" not in invoke("four_answers", "--set", "seed=4", *arguments[3:]).output


@pytest.mark.parametrize("name", ["four_answers.nc", "four_answers.png", "four_answers.done"])
@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "gone"])
def test_damaged_files_are_made_again(name: str, damage: str, tmp_path: Path) -> None:
    arguments = ["four_answers", *SETTINGS, "--out", str(tmp_path), "--quiet"]
    invoke(*arguments)
    path = tmp_path / name
    whole = path.read_bytes()
    half = len(whole) // 2
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:half])
    else:
        path.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    assert "finished before" not in invoke(*arguments).output
    if path.suffix == ".png":
        assert path.read_bytes() == whole


def test_a_lost_finding_comes_back_without_a_run(tmp_path: Path) -> None:
    arguments = ["four_answers", *SETTINGS, "--out", str(tmp_path), "--quiet"]
    invoke(*arguments)
    found = read_findings(tmp_path)
    (tmp_path / "findings.json").unlink()
    assert "finished before" in invoke(*arguments).output
    assert read_findings(tmp_path) == found


def test_code_settings_and_versions_make_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint(job(tmp_path))
    assert fingerprint(job(tmp_path)) == first
    others = {first, fingerprint(job(tmp_path, beta=0.2))}
    (tmp_path / "mine.py").write_text("1")
    imported = msgspec.structs.replace(job(tmp_path), imports=(tmp_path / "mine.py",))
    others.add(fingerprint(imported))
    (tmp_path / "mine.py").write_text("2")
    others.add(fingerprint(imported))
    with monkeypatch.context() as patch:
        patch.setattr("experiments.shared.running.versions", lambda _: {"jax": "0"})
        others.add(fingerprint(job(tmp_path)))
    for place in ("_CODE", "_SHARED"):
        with monkeypatch.context() as patch:
            patch.setattr(f"experiments.shared.running.{place}", tmp_path)
            others.add(fingerprint(job(tmp_path)))
    assert len(others) == 7


@pytest.mark.slow
def test_side_by_side_gives_what_one_alone_does_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displacement, "run", displacement.run)  # what the file below replaces comes back
    (tmp_path / "fails.py").write_text(FAILS)
    options = ["--import", str(tmp_path / "fails.py"), "--quiet", "--out"]
    side, single = tmp_path / "side", tmp_path / "single"
    result = invoke("displacement", "four_answers", "--jobs", "2", *options, str(side))
    assert result.exit_code == 1
    assert "Error: displacement: on purpose" in result.output
    assert list(read_findings(side)) == ["four_answers"]
    assert (side / "README.md").read_text().count("![") == 1
    assert invoke("four_answers", *options, str(single)).exit_code == 0
    with (
        xr.open_dataset(side / "four_answers.nc") as one,
        xr.open_dataset(single / "four_answers.nc") as other,
    ):
        xr.testing.assert_identical(one, other)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "four_answers", "objective_zoo", "overfitting"]
    options = ["--out", str(tmp_path), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    until = time.monotonic() + 120
    while not (tmp_path / "four_answers.done").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "Interrupted" in error
    assert list(read_findings(tmp_path)) == ["four_answers"]
    assert not (tmp_path / "overfitting.nc").exists()
    again = invoke("four_answers", "--out", str(tmp_path), "--quiet")
    assert "finished before" in again.output


def test_the_page_shows_every_committed_picture_and_finding() -> None:
    found = read_findings(ROOT / "figures")
    page = (ROOT / "figures" / "README.md").read_text()
    for name, one in found.items():
        assert f"### {heading(name)}\n" in page
        assert one.finding in page
        assert f"`{one.command}`" in page
        assert all(f"]({picture})" in page for picture in one.pictures)
    assert [group for group, _ in grouped(found)] == list(GROUPS)
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(found)
