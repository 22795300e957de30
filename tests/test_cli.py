import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import pytest
import xarray as xr
from typer.testing import CliRunner

from didsim import cli
from didsim.cli import app
from didsim.sweeps.running import Outcome, run_sweep
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
    result = RUNNER.invoke(app, ["check", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "`out` must be a file" in result.output


@pytest.mark.parametrize(
    "arguments",
    [[], ["run"], ["check"], ["show"], ["plot"], ["export"], ["verify"], ["diagnose"], ["explore"]],
    ids=lambda one: " ".join(one) or "app",
)
def test_help_needs_no_heavy_library(arguments: list[str]) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from didsim.cli import app
result = CliRunner().invoke(app, {[*arguments, "--help"]})
assert result.exit_code == 0 and "Usage" in result.output, result.output
print(*{{"jax", "numpy", "optax", "scipy", "xarray", "zarr", "matplotlib"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_the_version_is_the_packages_own() -> None:
    assert output_of("--version") == f"didsim {version('didsim')}\n"


def test_memory_of_a_block_is_by_default_that_of_run_sweep() -> None:
    default = inspect.signature(cli.run).parameters["memory"].default
    assert default * 2**20 == inspect.signature(run_sweep).parameters["memory"].default


STUDY = """
steps = 4
record = { every = 2, metrics = ["js_to_target", "loss"] }
space = { vocab_size = 2, max_length = 2 }

[sweep]
"problem.rejected" = ["optimal", "uniform"]
"objective.beta" = [0.1, 0.5]
seed = { start = 0, count = 3 }
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study's file, in a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY)
    return "tiny.toml"


def output_of(*arguments: str, status: int = 0) -> str:
    result = RUNNER.invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result.output


def test_a_dry_run_prints_the_grid_and_computes_nothing(study: str) -> None:
    printed = output_of("run", study, "--dry-run", "--set", "sweep.seed={start=5, count=40}")
    lines = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.splitlines()[3:-1]}
    assert lines["problem.rejected"] == "2: optimal, uniform"
    assert lines["objective.beta"] == "2: 0.1, 0.5"
    assert lines["seed"] == "40: 5 … 44"
    assert lines["cells"] == "160"
    assert lines["sequences"] == "4"
    assert lines["records"] == "3 steps of 2 metrics"
    assert lines["blocks"] == "4 of 1 × 1 × 40 cells"
    assert lines["compiled programs"] == "2"
    assert lines["memory of a block"].endswith("MiB")
    assert not Path("tiny.zarr").exists()


def test_a_study_from_its_file_to_its_picture(study: str) -> None:
    assert output_of("run", study, "--quiet") == "tiny.zarr: 12 cells done, 0 diverged, 0 failed\n"
    shown = output_of("show", "tiny.zarr")
    assert "done" in shown
    assert "Axes: rejected (2), beta (2), seed (3), step (3)" in shown
    assert "Metrics: js_to_target, loss" in shown
    assert "Failed" not in shown
    assert output_of("plot", "tiny.zarr", "--hue", "beta", "--col", "rejected") == (
        "Written to tiny-js_to_target.png\n"
    )
    assert Path("tiny-js_to_target.png").stat().st_size > 10_000
    chosen = ["--select", "rejected=optimal", "--select", "beta=0.5"]
    output_of("plot", "tiny.zarr", "--y", "loss", *chosen, "--out", "one.pdf")
    assert Path("one.pdf").exists()
    for name in ("out.nc", "out.csv", "out.parquet"):
        assert output_of("export", "tiny.zarr", name) == f"Written to {name}\n"
    assert len(Path("out.csv").read_text().splitlines()) == 1 + 2 * 2 * 3 * 3
    # What is done is not done again, and another study does not overwrite it.
    assert "12 cells done" in output_of("run", study)
    refused = output_of("run", study, "--set", "steps=6", status=2)
    assert "steps: 4 there, 6 here" in refused


def test_diverged_and_failed_cells_are_told(study: str) -> None:
    settings = ["--set", 'optimizer={name="sgd", learning_rate=1e6}', "--set", "objective=exponential"]
    printed = output_of("run", study, *settings, "--store", "diverged.zarr")
    assert "0 cells done, 12 diverged, 0 failed" in printed
    shown = output_of("show", "diverged.zarr")
    assert "rejected=optimal, beta=0.1, seed=0: after " in shown
    steep = 'reference={name="zipf", exponent=1.7e308}'
    printed = output_of("run", study, "--set", steep, "--store", "failing.zarr", status=1)
    assert "0 cells done, 0 diverged, 12 failed" in printed
    assert "why: didsim show failing.zarr" in printed
    failures = output_of("show", "failing.zarr")
    assert "beta=0.5, seed=2: `reference` must give every sequence a positive" in failures


def test_what_is_left_to_do_is_told_beside_what_failed(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(done=4, diverged=0, failed=3, pending=5)
    monkeypatch.setattr("didsim.sweeps.running.run_sweep", lambda *arguments, **options: outcome)
    Path("mine.py").write_text("")
    settings = ["--set", "steps=5", "--import", "mine.py", "--any-version", "--yes"]
    assert output_of("run", study, *settings, status=130).splitlines() == [
        "tiny.zarr: 4 cells done, 0 diverged, 3 failed",
        "why: didsim show tiny.zarr",
        "5 to go: didsim run tiny.toml --store tiny.zarr --set steps=5 --import mine.py --yes --any-version",
    ]


def test_words_and_truths_can_be_selected(study: str) -> None:
    axes = "sweep={space.eos=[true, false], problem.rejected=['optimal', 'uniform']}"
    output_of("run", study, "--set", axes, "--quiet")
    for rejected, eos in [("optimal", "true"), ('"uniform"', '"false"')]:
        output_of("plot", "tiny.zarr", "--select", f"eos={eos}", "--select", f"rejected={rejected}")
    assert "has no eos 'no'; there are true, false" in output_of(
        "plot", "tiny.zarr", "--select", "eos=no", status=2
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "tiny.toml", "--set", "objective.beta=0.2"), "`objective.beta` is an axis"),
        (
            ("run", "tiny.toml", "--set", "stepps=3"),
            "`stepps` is not a key of a study; did you mean 'steps'?",
        ),
        (("run", "tiny.toml", "--set", "steps"), "--set must be key=value; got 'steps'"),
        (("run", "tiny.toml", "--set", "steps=many"), "`steps`: Expected `int`, got `str`"),
        (("run", "tiny.toml", "--set", "sweep.objective.beta=[0.1, -1]"), "`beta` must be positive"),
        (("run", "tiny.toml", "--set", "sweep.seed=[]"), "must have at least one value"),
        (("run", "tiny.toml", "--set", "sweep.seed={start=0, count=1_000_000}"), "4,000,000 cells"),
        (("run", "tiny.toml", "--dask", "local:none"), "a local cluster is local:WORKERS"),
        (("run", "tiny.toml", "--dask", "local"), "a local cluster is local:WORKERS"),
        (("run", "broken.toml"), "broken.toml is not a TOML file"),
        (("show", "missing.zarr"), "missing.zarr holds no results of a study"),
        (("plot", "missing.zarr"), "missing.zarr holds no results of a study"),
        (("export", "missing.zarr", "out.nc"), "missing.zarr holds no results of a study"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(study: str, arguments: tuple[str, ...], message: str) -> None:
    Path("broken.toml").write_text("steps = = 3")
    printed = output_of(*arguments, status=2)
    assert printed.startswith("Error: ")
    assert message in printed
    assert not Path("tiny.zarr").exists()


def test_names_that_a_store_does_not_have(study: str) -> None:
    output_of("run", study, "--quiet")
    for arguments, message in [
        (["--y", "js"], "`y` must be one of"),
        (["--hue", "gamma"], "`hue` must be one of rejected, beta, seed, step; got 'gamma'"),
        (["--select", "gamma=1"], "--select has an unknown dimension 'gamma'"),
        (["--select", "beta=0.2"], "--select has no beta '0.2'; there are 0.1, 0.5"),
        ([], "`dataset` must have one value of rejected, beta"),
    ]:
        assert message in output_of("plot", "tiny.zarr", *arguments, status=2)
    assert "must end in .nc, .csv or .parquet" in output_of("export", "tiny.zarr", "out.txt", status=2)


def test_netcdf_is_drawn_as_a_store_is(study: str) -> None:
    output_of("run", study, "--quiet", "--set", "limit=true")
    output_of("export", "tiny.zarr", "tiny.nc")
    for source in ("tiny.zarr", "tiny.nc"):
        options = ["--hue", "beta", "--col", "rejected", "--log", "--log-x", "--out", f"{source}.png"]
        output_of("plot", source, *options)
    assert Path("tiny.zarr.png").read_bytes() == Path("tiny.nc.png").read_bytes()
    # The curves with their exact limits are another picture than those without.
    with xr.open_dataset("tiny.nc") as dataset:
        dataset.load().drop_vars("js_limit").to_netcdf("bare.nc", engine="scipy")
    output_of("plot", "bare.nc", "--hue", "beta", "--col", "rejected", "--log", "--log-x")
    assert Path("bare-js_to_target.png").read_bytes() != Path("tiny.nc.png").read_bytes()
    refused = output_of("plot", "bare.nc", "--y", "loss", "--hue", "gamma", status=2)
    assert refused == "Error: `hue` must be one of rejected, beta, seed, step; got 'gamma'\n"


def test_data_of_an_experiment_are_drawn_or_its_command_is_named(study: str) -> None:
    about = {"experiment": "zoo", "command": "python -m experiments zoo --set seeds=2"}
    ends = xr.DataArray(
        [[1.0, 2.0], [3.0, 4.0]], dims=("objective", "seed"), coords={"objective": ["dpo", "ipo"]}
    )
    xr.Dataset({"js": ends}, attrs=about).to_netcdf("zoo.nc", engine="scipy")
    output_of("plot", "zoo.nc", "--y", "js", "--x", "objective")
    for arguments, message in [
        ([], "`y` must be one of js; got 'js_to_target'"),
        (["--y", "js"], "`x` must be one of objective, seed; got 'step'"),
        (["--y", "js", "--select", "objective=kto"], "--select has no objective 'kto'; there are dpo, ipo"),
    ]:
        refused = " ".join(output_of("plot", "zoo.nc", *arguments, status=2).split())
        assert message in refused
        assert refused.endswith("zoo.nc is drawn by: python -m experiments zoo --set seeds=2")
    Path("broken.nc").write_bytes(Path("zoo.nc").read_bytes()[:100])
    Path("empty.nc").touch()
    for name in ("broken.nc", "empty.nc", study):
        refused = output_of("plot", name, status=2)
        assert f"{name} is neither a folder with results nor a NetCDF file" in refused
