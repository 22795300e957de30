import csv
import io
import json
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import xarray as xr
from rich.console import Console

import didsim
from didsim import Sweep, open_results, run_sweep
from didsim.plotting import plot_study
from didsim.sweeps.cells import compute
from didsim.sweeps.folder import StoreError
from didsim.sweeps.layout import Status
from didsim.sweeps.results import export, summarise
from didsim.sweeps.store import open_store
from tests.sweeps.store_cases import TABLES, panels_of

DIMS = ("objective", "beta", "learning_rate", "seed")
VARIABLES = {"loss", "js_to_target", "js_limit", "js_to_limit", "status", "diverged_at"}


@pytest.fixture
def pending(sweep: Sweep, tmp_path: Path) -> tuple[Path, tuple[int, ...]]:
    """A store in which one block of two cells is done, and the index of one of these."""
    path = tmp_path / "pending.zarr"
    opened = open_store(sweep, path, 2)
    block = sweep.blocks(opened.block_shape)[-2]
    opened.write(block, compute([sweep.cell(index) for index in sweep.cells_of(block)], 2))
    return path, next(sweep.cells_of(block))


# What is opened.


def test_dimensions_are_those_of_the_sweep(results: xr.Dataset) -> None:
    assert set(results.data_vars) == VARIABLES
    for name, values in results.data_vars.items():
        assert values.dims == ((*DIMS, "step") if name in ("loss", "js_to_target") else DIMS)
    assert dict(results.sizes) == {"objective": 2, "beta": 2, "learning_rate": 2, "seed": 3, "step": 3}
    assert results["objective"].values.tolist() == ["exponential", "dpo"]
    assert results["objective"].dtype.kind == "U"
    assert results["beta"].values.tolist() == [0.3, 0.5]
    assert results["learning_rate"].values.tolist() == [0.1, 1e6]
    assert results["seed"].values.tolist() == [0, 1, 2]
    assert results["step"].values.tolist() == [0, 2, 3]
    assert results["loss"].dtype == results["js_limit"].dtype == np.float64
    assert results["status"].dtype == np.uint8
    assert results["diverged_at"].dtype == np.int64


def test_entries_are_what_their_cells_give(sweep: Sweep, results: xr.Dataset) -> None:
    index = (0, 1, 0, 2)
    found = compute([sweep.cell(index)], 1)
    entry = results.isel(dict(zip(DIMS, index, strict=True)))
    for name, values in found.items():
        if name != "steps":
            np.testing.assert_allclose(entry[name], values[0], rtol=1e-10, atol=1e-13, err_msg=name)
    assert entry["status"] == 1


def test_a_cell_that_diverged_is_nan_from_then_on(results: xr.Dataset) -> None:
    at = results.sel(objective="exponential", learning_rate=1e6)
    assert (at["status"] == 2).all()
    assert (at["diverged_at"] > 0).all()
    assert np.isfinite(at["loss"].sel(step=0)).all()
    assert at["loss"].where(at["step"] > at["diverged_at"], drop=True).isnull().all()
    assert at["loss"].sel(step=3).isnull().all()
    assert np.isfinite(at["js_limit"]).all()
    rest = results.where(results["status"] == 1)
    assert int((results["diverged_at"] == -1).sum()) == int((results["status"] == 1).sum()) == 18
    assert int(rest["loss"].notnull().sum()) == 18 * 3


def test_attributes_say_what_it_is(sweep: Sweep, results: xr.Dataset) -> None:
    assert results.attrs["format"] == 2
    config = json.loads(results.attrs["config"])
    assert config == json.loads(json.dumps(sweep.config()))
    assert config["study"]["objective"] == {"name": "exponential", "beta": 1.0}
    assert config["axes"]["seed"] == [0, 1, 2]
    versions = json.loads(results.attrs["versions"])
    assert versions["didsim"] == didsim.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["numpy"] == np.__version__
    attributes = {name: results[name].attrs for name in results.variables}
    assert attributes["js_to_target"] == {"long_name": "JS(learned, target)", "units": "nats"}
    assert attributes["loss"] == {"long_name": "Exact loss", "units": "1"}
    assert attributes["js_limit"] == {
        "long_name": "JS(exact limit, target)",
        "units": "nats",
        "limit_of": "js_to_target",
    }
    assert attributes["js_to_limit"] == {"long_name": "JS(learned at the end, exact limit)", "units": "nats"}
    assert attributes["step"] == {"long_name": "Step"}
    assert attributes["beta"] == {"long_name": "Beta", "key": "problem.rejected.beta"}
    assert attributes["learning_rate"] == {"long_name": "Learning rate", "key": "optimizer.learning_rate"}
    assert attributes["objective"] == {"long_name": "Objective", "key": "objective"}
    status = attributes["status"]
    assert dict(zip(status["flag_values"], status["flag_meanings"].split(), strict=True)) == {
        0: "pending",
        1: "done",
        2: "diverged",
        3: "failed",
    }


def test_nothing_is_read_before_it_is_asked_for(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    lazy = open_results(copy)
    assert all(lazy[name].chunks is None for name in lazy), "without Dask"
    shutil.rmtree(copy / "loss" / "c")
    assert lazy["loss"].isnull().all()
    assert lazy["js_limit"].notnull().all()


def test_cells_to_come_are_nan(pending: tuple[Path, tuple[int, ...]], results: xr.Dataset) -> None:
    path, index = pending
    found = open_results(path).load()
    at = dict(zip(DIMS, index, strict=True))
    done = found["status"] == 1
    assert int(done.sum()) == 2
    assert done.isel(at)
    assert (found["status"].where(~done, 0) == 0).all()
    assert (found["diverged_at"] == -1).all()
    for name in ("loss", "js_to_target", "js_limit", "js_to_limit"):
        assert found[name].where(~done).isnull().all()
        np.testing.assert_allclose(found[name].isel(at), results[name].isel(at), rtol=1e-10, atol=1e-13)
    assert summarise(path).counts == {
        Status.PENDING: 22,
        Status.DONE: 2,
        Status.DIVERGED: 0,
        Status.FAILED: 0,
    }


def test_xarray_opens_a_store_by_itself(store: Path, results: xr.Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(store).load()
        found = open_results(store).load()
    xr.testing.assert_identical(found, results)
    assert plain["objective"].values.tolist() == ["exponential", "dpo"]
    for name in results.variables:
        if name != "objective":
            np.testing.assert_array_equal(plain[name].values, results[name].values, err_msg=str(name))
            assert plain[name].dtype == results[name].dtype
            assert plain[name].attrs == results[name].attrs
    assert plain.attrs == results.attrs


def test_a_path_may_be_a_word(store: Path, results: xr.Dataset) -> None:
    xr.testing.assert_identical(open_results(str(store)).load(), results)


@pytest.mark.parametrize("use", [open_results, summarise, lambda path: export(path, "out.csv")])
def test_what_is_no_store_is_refused_by_its_path(use: Any, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    xr.Dataset({"loss": 1.0}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    for name in ("nowhere", "file", "folder"):
        with pytest.raises(StoreError, match=rf"{name} holds no results of a study$"):
            use(tmp_path / name)
    with pytest.raises(StoreError, match=r"other\.zarr is a store of format None; this version"):
        use(tmp_path / "other.zarr")
    assert not Path("out.csv").exists()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a study without axes."""
    path = tmp_path_factory.mktemp("single") / "single.zarr"
    assert run_sweep(Sweep({**TABLES, "limit": False}, {}), path) == (1, 0, 0, 0)
    return path


def test_a_grid_without_axes(single: Path) -> None:
    found = open_results(single).load()
    assert dict(found.sizes) == {"step": 3}
    assert set(found) == {"loss", "js_to_target", "status", "diverged_at"}
    assert found["loss"].dims == ("step",)
    assert float(found["loss"][0]) == pytest.approx(np.log(2), rel=1e-12)
    assert summarise(single).counts[Status.DONE] == 1
    assert summarise(single).diverged == {}


# Summaries.


def test_a_summary_names_the_cells_that_diverged(store: Path, results: xr.Dataset) -> None:
    summary = summarise(store)
    assert summary.counts == {Status.PENDING: 0, Status.DONE: 18, Status.DIVERGED: 6, Status.FAILED: 0}
    assert summary.failures == {}
    assert set(summary.diverged) == {
        f"objective=exponential, beta={beta}, learning_rate=1000000.0, seed={seed}"
        for beta in (0.3, 0.5)
        for seed in range(3)
    }
    at = {"objective": "exponential", "beta": 0.5, "learning_rate": 1e6, "seed": 1}
    step = summary.diverged["objective=exponential, beta=0.5, learning_rate=1000000.0, seed=1"]
    assert step == int(results["diverged_at"].sel(at))
    shown = io.StringIO()
    Console(file=shown, width=80).print(summary.table())
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in shown.getvalue().splitlines()
        if "│" in line
    }
    assert rows == {"pending": "0", "done": "18", "diverged": "6", "failed": "0"}


def test_a_summary_says_why_cells_failed(tmp_path: Path) -> None:
    """Only with the block at hand is it known that what was registered is no distribution."""
    didsim.REJECTED["lost"] = lambda reference, by=0.0: reference + by
    try:
        axes = {"problem.rejected.by": [0.0, 0.5], "seed": [0]}
        tables = {**TABLES, "limit": False, "problem": {"rejected": "lost"}}
        outcome = run_sweep(Sweep(tables, axes), tmp_path / "failed.zarr")
    finally:
        del didsim.REJECTED["lost"]
    assert outcome == (1, 0, 1, 0)
    summary = summarise(tmp_path / "failed.zarr")
    assert summary.counts[Status.FAILED] == summary.counts[Status.DONE] == 1
    assert list(summary.failures) == ["by=0.5, seed=0"]
    assert "`rejected` must be log-probabilities normalised" in summary.failures["by=0.5, seed=0"]
    found = open_results(tmp_path / "failed.zarr").load()
    assert found["status"].values.tolist() == [[1], [3]]
    assert found["loss"].isel(by=1).isnull().all()
    assert found["loss"].isel(by=0).notnull().all()
    assert (found["diverged_at"] == -1).all()


# Exports.


def test_netcdf_reads_back_equal(store: Path, results: xr.Dataset, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(store, tmp_path / "out.nc")
        with xr.open_dataset(tmp_path / "out.nc") as opened:
            found = opened.load()
    # NetCDF 3 has no integers of 64 bits.
    xr.testing.assert_equal(found, results)
    for name in results.variables:
        expected = {key: np.array(value).tolist() for key, value in results[name].attrs.items()}
        assert {key: np.array(value).tolist() for key, value in found[name].attrs.items()} == expected
    assert {
        **found.attrs,
        "format": int(found.attrs["format"]),
        "seed": int(found.attrs["seed"]),
    } == results.attrs


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, with numbers where all of a column are."""
    if path.suffix == ".parquet":
        return list(pd.read_parquet(path).to_dict("records"))
    with path.open(newline="") as file:
        return [
            {name: text if name == "objective" else float(text or "nan") for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_has_a_row_for_each_record(
    suffix: str, store: Path, results: xr.Dataset, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    export(store, str(out))
    rows = rows_of(out)
    assert len(rows) == math.prod(results.sizes.values()) == 72
    seen = set()
    for row in rows:
        assert set(row) == {*DIMS, "step", *VARIABLES}
        at = {name: row[name] for name in (*DIMS, "step")}
        seen.add(tuple(at.values()))
        entry = results.sel(at)
        for name in VARIABLES:
            np.testing.assert_array_equal(row[name], entry[name].values, err_msg=name)
    assert len(seen) == 72


@pytest.mark.parametrize("suffix", [".nc", ".csv", ".parquet"])
def test_a_grid_without_axes_can_be_exported(suffix: str, single: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_text("what was there before")
    export(single, out)
    expected = open_results(single).load()
    if suffix == ".nc":
        with xr.open_dataset(out) as found:
            xr.testing.assert_equal(found.load(), expected)
    else:
        rows = rows_of(out)
        assert [(row["step"], row["status"]) for row in rows] == [(0, 1), (2, 1), (3, 1)]
        assert [row["loss"] for row in rows] == expected["loss"].values.tolist()
    assert [one.name for one in tmp_path.iterdir()] == [out.name], "no draft is left"


@pytest.mark.parametrize("name", ["out.txt", "out", "out.CSV", "out.csv.gz", ".nc"])
def test_another_suffix_is_refused(name: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`out` must end in \.nc, \.csv or \.parquet; got '.*'$"):
        export(store, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nc", ".csv", ".parquet"])
def test_a_folder_that_is_not_there_is_an_os_error(suffix: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        export(store, tmp_path / "nowhere" / f"out{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_parquet_says_what_it_needs(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.parquet").write_text("before")
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^`out`: Parquet needs pyarrow: pip install 'didsim\[parquet\]'$"):
        export(store, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_there_is_nothing_to_draw_before_a_cell_is_done(
    sweep: Sweep, pending: tuple[Path, tuple[int, ...]], tmp_path: Path
) -> None:
    path, index = pending
    found = open_results(path)
    with pytest.raises(ValueError, match=r"^`dataset` has no value of 'js_to_target' yet$"):
        plot_study(found.isel(objective=0, beta=0, learning_rate=0), "js_to_target")
    done = found.isel(dict(zip(DIMS[:-1], index[:-1], strict=True)))
    curve, limit = panels_of(plot_study(done, "js_to_target"))[0].lines
    assert curve.get_linestyle() == "-"
    assert limit.get_linestyle() == "--"
