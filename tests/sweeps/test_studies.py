from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from didsim import Sweep, open_results, run_sweep
from didsim.plotting import plot_study
from tests.sweeps.store_cases import panels_of

# The studies that come with the library.

STUDIES = Path(__file__).parents[2] / "studies"
SMALLER = ["steps=20", "sweep.seed=[0, 1]", "space.vocab_size=2", "space.max_length=2"]


@pytest.fixture
def run_study(tmp_path: Path) -> Any:
    def run(name: str, *settings: str) -> xr.Dataset:
        sweep = Sweep.from_toml(STUDIES / f"{name}.toml", [*SMALLER, *settings])
        outcome = run_sweep(sweep, tmp_path / f"{name}.zarr")
        assert outcome == (sweep.size, 0, 0, 0)
        found = open_results(tmp_path / f"{name}.zarr").load()
        for metric in sweep.metrics:
            assert np.isfinite(found[metric]).all(), metric
        return found

    return run


def test_the_study_of_finite_pairs(run_study: Any) -> None:
    found = run_study("finite_pairs")
    assert dict(found.sizes) == {"pairs": 3, "learning_rate": 2, "seed": 2, "step": 2}
    assert set(found) == {
        "loss",
        "js_to_target",
        "chosen_displacement",
        "reward_margin",
        "status",
        "diverged_at",
    }
    # One instance for each seed, whatever the number of pairs.
    start = found["js_to_target"].sel(step=0).values
    assert float(np.ptp(start, axis=(0, 1)).max()) < 1e-12 < float(np.ptp(start, axis=2).min())


def test_the_study_of_objectives(run_study: Any) -> None:
    found = run_study("objectives", 'record.metrics=["loss", "js_to_target"]')
    assert found["objective"].values.tolist() == ["dpo", "cdpo", "ipo", "cpo", "exponential"]
    assert dict(found.sizes) == {"objective": 5, "seed": 2, "step": 2}
    assert np.isfinite(found["js_limit"]).all()
    assert np.isfinite(found["js_to_limit"]).all()
    assert (found["js_limit"].sel(objective="dpo") < 1e-12).all(), "the preferences encode the target for DPO"
    assert (found["js_limit"].sel(objective=["ipo", "cpo", "exponential"]) > 1e-4).all()
    # The instances are the same for all objectives.
    start = found["js_to_target"].sel(step=0).values
    assert float(np.ptp(start, axis=0).max()) < 1e-12 < float(np.ptp(start, axis=1).min())


def test_the_study_of_rejected_distributions(run_study: Any) -> None:
    found = run_study("rejected_distributions")
    assert found["rejected"].values.tolist() == ["optimal", "uniform", "tempered"]
    assert dict(found.sizes) == {"rejected": 3, "beta": 3, "seed": 2, "step": 2}
    assert (found["js_limit"].sel(rejected="optimal") < 1e-12).all(), "at every beta"
    assert (found["js_limit"].sel(rejected=["uniform", "tempered"]) > 1e-4).all()
    figure = plot_study(found, "js_to_target", hue="rejected", col="beta")
    assert [ax.get_title(loc="left") for ax in panels_of(figure)] == ["Beta: 0.1", "Beta: 0.3", "Beta: 1.0"]
