import re
from pathlib import Path
from typing import Any

import pytest

from didsim import Sweep
from didsim.sweeps.completing import complete
from tests.sweeps.sweep_cases import TEXT, from_text


def test_an_empty_file_is_the_usual_study(file: Path) -> None:
    assert from_text(file, "").cell(()) == complete({})


def test_the_studies_that_come_with_the_library_are_good() -> None:
    folder = Path(__file__).parents[2] / "studies"
    shapes = {path.stem: Sweep.from_toml(path).shape for path in folder.glob("*.toml")}
    assert shapes == {
        "finite_pairs": (3, 2, 16),
        "objectives": (5, 16),
        "rejected_distributions": (3, 3, 16),
    }


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["steps=7"], {"steps": 7}),
        (["steps = 1_000"], {"steps": 1000}),
        (["steps=3", "steps=4"], {"steps": 4}),
        (["objective.beta=0.7"], {"objective": {"name": "dpo", "beta": 0.7}}),
        (["objective=cdpo"], {"objective": {"name": "cdpo"}}),
        (['objective="cdpo"'], {"objective": {"name": "cdpo"}}),
        (["objective=cdpo", "objective.beta=0.7"], {"objective": {"name": "cdpo", "beta": 0.7}}),
        (["objective.name=cdpo"], {"objective": {"name": "cdpo", "beta": 0.2}}),
        (['objective={name="cdpo", beta=0.3}'], {"objective": {"name": "cdpo", "beta": 0.3}}),
        (["problem.rejected=uniform"], {"problem": {"rejected": "uniform"}}),
        (["problem.rejected.beta=1"], {"problem": {"rejected": {"beta": 1}}}),
        (["problem=labelled", "problem.beta=1"], {"problem": {"name": "labelled", "beta": 1}}),
        (["limit=true"], {"limit": True}),
        (["space.eos=true", "space.max_length=2"], {"space": {"eos": True, "max_length": 2}}),
        (['record.metrics=["loss"]'], {"record": {"metrics": ["loss"]}}),
        (["optimizer.b1=1e-1"], {"optimizer": {"b1": 0.1}}),
    ],
)
def test_settings_take_the_place_of_what_the_file_says(
    file: Path, settings: list[str], changes: dict[str, Any]
) -> None:
    sweep = from_text(file, TEXT, *settings)
    tables = {"objective": {"name": "dpo", "beta": 0.2}, "seed": 3, **changes}
    tables["optimizer"] = {**tables.get("optimizer", {}), "learning_rate": 0.1}
    assert sweep.cell((0,)) == complete(tables)
    assert sweep.axes[0].values == (0.1, 0.2)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a = = 3", [], "study.toml is not a TOML file: "),
        ("sweep = 3", [], "`sweep` must be a table of axes by key; got 3"),
        ("stepz = 3", [], "`stepz` is not a key of a study; did you mean 'steps'?"),
        (
            "[sweep]\nstepz = [3]",
            [],
            "`stepz` is not a key of a study; did you mean 'steps'? (in the cell stepz=3)",
        ),
        ("[sweep]\nsteps = 3", [], '`sweep."steps"` must be a list of values, or a range; got 3'),
        (
            "[sweep]\nobjective.beta = []",
            [],
            '`sweep."objective.beta"` must have at least one value; got an empty list',
        ),
        ("steps = 1979-05-27", [], "`study.steps` must be a table, a list, a word or a number; got datetime"),
        ("", ["objective"], "--set must be key=value; got 'objective'"),
        ("", ["=3"], "--set must be key=value; got '=3'"),
        ("", ["steps=many"], "`steps`: Expected `int`, got `str`"),
        ("", ["steps="], "`steps`: Expected `int`, got `str`"),
        ("", ["limit=True"], "`limit`: Expected `bool`, got `str`"),
        ("", ["objective=dpoo"], "`objective.name` is unknown: 'dpoo'; did you mean 'dpo'?"),
        ("", ["sweep.seed=3"], '`sweep."seed"` must be a list of values, or a range; got 3'),
    ],
)
def test_wrong_files_and_settings_are_refused(
    file: Path, text: str, settings: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(message)}"):
        from_text(file, text, *settings)


@pytest.mark.parametrize(
    ("text", "setting"),
    [("steps = 3", "steps.x=3"), ("sweep = 3", "sweep.seed=[1]")],
)
def test_a_setting_below_a_number_is_refused(file: Path, text: str, setting: str) -> None:
    with pytest.raises(ValueError, match=r"`(steps|sweep)`"):
        from_text(file, text, setting)


def test_a_file_that_is_no_text_is_refused_by_name(file: Path) -> None:
    file.write_bytes(b"steps = 3 # \xff")
    with pytest.raises(ValueError, match=r"study\.toml is not a TOML file"):
        Sweep.from_toml(file)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(OSError, match=r"nowhere\.toml"):
        Sweep.from_toml("nowhere.toml")


def test_a_file_of_many_cells(file: Path) -> None:
    text = "[sweep]\nseed = { start = 0, count = 1_001 }\nrecord.every = { start = 1, count = 1_000 }"
    with pytest.raises(ValueError, match="`sweep` has 1,001,000 cells"):
        from_text(file, text)
    smaller = "sweep.record.every=[1, 2]"
    assert from_text(file, text, smaller).size == 2002
    text = "[sweep]\nseed = { start = 0, count = 1_000_001 }"
    assert from_text(file, text, allow_many=True).size == 1_000_001


def test_a_setting_below_a_number_of_the_command_line_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"`sweep`"):
        from_text(file, "", "sweep=3", "sweep.seed=[1]")
