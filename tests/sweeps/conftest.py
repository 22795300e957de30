"""Fixtures that several test files of this folder share."""

from pathlib import Path

import pytest
import xarray as xr

import didsim
from didsim import Sweep, open_results, run_sweep
from tests.sweeps import run_cases, store_cases


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "results.zarr"
    assert didsim.run_sweep(run_cases.sweep_of(), path, memory=run_cases.MEMORY) == (600, 0, 0, 0)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.toml"


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return Sweep(store_cases.TABLES, store_cases.AXES)


@pytest.fixture(scope="module")
def store(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "study.zarr"
    assert run_sweep(sweep, path) == (18, 6, 0, 0)
    return path


@pytest.fixture(scope="module")
def results(store: Path) -> xr.Dataset:
    return open_results(store).load()
