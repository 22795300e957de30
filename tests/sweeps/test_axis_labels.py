import inspect
from typing import Any

import pytest

import didsim
from didsim import Sweep
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


def test_a_cell_is_described_by_its_labels() -> None:
    sweep = Sweep(
        SMALL, {"problem.rejected": ["optimal", "uniform"], "objective.beta": [0.1, 1], "seed": [4, 9]}
    )
    assert sweep.describe((1, 0, 1)) == "rejected=uniform, beta=0.1, seed=9"
