import inspect
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import xarray as xr

import didsim
from didsim import Sweep, open_results
from didsim.plotting import plot_study
from didsim.sweeps.results import export, select_values
from tests.sweeps.damage_cases import fill, sweep_of
from tests.sweeps.sweep_cases import SMALL


def labels(sweep: Sweep) -> list[list[Any]]:
    return [axis.labels.tolist() for axis in sweep.axes]


@pytest.mark.parametrize(
    ("keys", "dims"),
    [
        (["objective.beta", "seed"], ("beta", "seed")),
        (["problem.rejected", "problem.chosen.name", "objective"], ("rejected", "chosen", "objective")),
        (["objective.beta", "problem.rejected.beta"], ("objective_beta", "problem_rejected_beta")),
        (["reference.scale", "target.scale"], ("reference_scale", "target_scale")),
        (["problem.name", "problem.sampler.name"], ("problem", "sampler")),
        (["problem.rejected", "problem.rejected.name"], ("problem_rejected", "problem_rejected_name")),
        (["record.every", "steps", "space.vocab_size"], ("every", "steps", "vocab_size")),
    ],
)
def test_dimensions_are_the_last_parts_of_keys(keys: list[str], dims: tuple[str, ...]) -> None:
    values: dict[str, list[Any]] = {
        "seed": [0, 1],
        "objective": ["cdpo", "dpo"],
        "objective.beta": [0.1],
        "problem.name": ["online"],
        "problem.sampler.name": ["on_policy"],
        "problem.rejected": ["uniform"] if "problem.rejected.name" in keys else ["optimal"],
        "problem.rejected.name": ["optimal"],
        "problem.rejected.beta": [0.1],
        "problem.chosen.name": ["target"],
        "reference.scale": [1.0],
        "target.scale": [1.0],
        "record.every": [5],
        "steps": [10],
        "space.vocab_size": [3],
    }
    sweep = Sweep(SMALL, {key: values[key] for key in keys})
    assert sweep.dims == dims
    assert [axis.key for axis in sweep.axes] == keys


@pytest.mark.parametrize("last", ["step", "status", "diverged_at", "js_limit", "loss", "js_to_target"])
def test_a_dimension_takes_no_name_of_a_variable(last: str) -> None:
    def mine(**settings: float) -> didsim.Objective:
        return didsim.dpo(settings[last])

    parameter = inspect.Parameter(last, inspect.Parameter.KEYWORD_ONLY, default=0.5)
    mine.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    assert "mine" not in didsim.OBJECTIVES
    didsim.OBJECTIVES["mine"] = mine
    try:
        tables = {**SMALL, "objective": "mine", "problem": {"rejected": "uniform"}}
        sweep = Sweep(tables, {f"objective.{last}": [0.1, 0.2], "seed": [0]})
    finally:
        del didsim.OBJECTIVES["mine"]
    assert sweep.dims == (f"objective_{last}", "seed")


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("seed", [3, 1], [3, 1]),
        ("objective.beta", [1, 2.5], [1.0, 2.5]),
        ("limit", [True, False], [True, False]),
        ("dtype", ["float32", "float64"], ["float32", "float64"]),
        ("batch_size", [None, 16], ["None", "16"]),
        ("problem.rejected", ["optimal", {"name": "tempered", "exponent": 2}], ["optimal", "tempered"]),
        (
            "objective",
            [{"name": "dpo", "beta": 0.1}, {"name": "dpo", "beta": 0.5}, "ipo"],
            ["dpo(beta=0.1)", "dpo(beta=0.5)", "ipo"],
        ),
        (
            "problem.rejected",
            ["perturbed", {"name": "perturbed", "noise": 0.25, "beta": 1.0}],
            ["perturbed", "perturbed(noise=0.25, beta=1.0)"],
        ),
    ],
)
def test_labels_are_numbers_or_words(key: str, values: list[Any], expected: list[Any]) -> None:
    tables: dict[str, Any] = {**SMALL, "problem": {"rejected": "uniform"}} if key == "objective" else SMALL
    (found,) = labels(Sweep(tables, {key: values}))
    assert found == expected
    assert [type(one) for one in found] == [type(one) for one in expected]


def test_truth_values_come_back_as_truth_values(tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr")
    results = open_results(tmp_path / "r.zarr").load()
    assert results["eos"].dtype == bool
    for eos, rejected in itertools.product([True, False], ["uniform", "optimal"]):
        at = {"rejected": rejected, "eos": eos}
        place = {"rejected": int(rejected == "optimal"), "eos": int(not eos)}
        xr.testing.assert_identical(results.sel(at), results.isel(place))
        chosen = select_values(results, [f"eos={str(eos).lower()}", f"rejected={rejected}"])
        xr.testing.assert_identical(chosen, results.isel(place))
        assert len(plot_study(chosen, "loss", over="seed").axes) == 1
    with pytest.raises(ValueError, match=r"--select has no eos '1'; there are true, false"):
        select_values(results, ["eos=1"])
    assert sweep_of().describe((1, 0, 2)) == "rejected=optimal, eos=true, seed=3"
    figure = plot_study(results.isel(rejected=1), "loss", hue="eos")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["true", "false"]
    export(tmp_path / "r.zarr", tmp_path / "r.nc")
    with xr.open_dataset(tmp_path / "r.nc") as exported:
        assert exported["eos"].values.tolist() == [True, False]
        assert exported["eos"].dtype == bool
    export(tmp_path / "r.zarr", tmp_path / "r.csv")
    assert pd.read_csv(tmp_path / "r.csv")["eos"].dtype == bool


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("seed", jnp.arange(3, dtype=jnp.int32), [0, 1, 2]),
        ("seed", [jnp.asarray(4), np.array(2)], [4, 2]),
        ("objective.beta", jnp.asarray([0.25, 0.5], jnp.float32), [0.25, 0.5]),
        ("objective.beta", jnp.asarray([0.25, 0.5], jnp.bfloat16), [0.25, 0.5]),
        ("objective.beta", np.array([0.1, 0.2]), [0.1, 0.2]),
        ("objective", [{"name": "dpo", "beta": jnp.asarray(0.5)}, {"name": "dpo", "beta": 1.0}], None),
        ("space.eos", jnp.asarray([True, False]), [True, False]),
    ],
)
def test_arrays_are_lists_of_their_values(key: str, values: Any, expected: list[Any] | None) -> None:
    sweep = Sweep({**SMALL, "objective": {"name": "dpo", "beta": jnp.asarray(0.5)}}, {key: values})
    assert sweep.tables["objective"] == {"name": "dpo", "beta": 0.5}
    if expected is not None:
        assert list(sweep.axes[0].values) == expected
        assert [type(one) for one in sweep.axes[0].values] == [type(one) for one in expected]
    assert [sweep.cell((k,))["objective"]["name"] for k in range(sweep.size)] == ["dpo"] * sweep.size


@pytest.mark.parametrize("values", [jax.random.split(jax.random.key(0)), jnp.eye(2), jnp.asarray(3)])
def test_arrays_of_other_things_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r'`sweep\."seed"` must be a'):
        Sweep(SMALL, {"seed": values})


def test_a_cell_is_described_by_its_labels() -> None:
    sweep = Sweep(
        SMALL, {"problem.rejected": ["optimal", "uniform"], "objective.beta": [0.1, 1], "seed": [4, 9]}
    )
    assert sweep.describe((1, 0, 1)) == "rejected=uniform, beta=0.1, seed=9"
