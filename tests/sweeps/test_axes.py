import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import didsim
from didsim import Range, Sweep
from didsim.sweeps.axes import Axis, parse_value
from didsim.sweeps.completing import complete
from tests.sweeps.sweep_cases import SMALL, TEXT, from_text

# Cells.


def test_a_grid_without_axes_is_one_cell() -> None:
    sweep = Sweep(SMALL, {})
    assert (sweep.dims, sweep.shape, sweep.size, sweep.programs) == ((), (), 1, 1)
    assert sweep.cell(()) == complete(SMALL)
    assert sweep.describe(()) == "the only cell"
    assert sweep.block_shape(64) == ()
    (block,) = sweep.blocks(())
    assert block == ()
    assert list(sweep.cells_of(block)) == [()]
    config = sweep.config()
    assert (config["study"], config["axes"]) == (complete(SMALL), {})


def test_an_axis_over_a_name_does_not_undo_one_over_a_setting() -> None:
    for order in itertools.permutations(("objective", "objective.beta", "problem.rejected.beta", "problem")):
        values: dict[str, list[Any]] = {
            "objective": ["dpo", {"name": "cdpo", "label_smoothing": 0.2}],
            "objective.beta": [0.3, 0.4],
            "problem.rejected.beta": [0.5, 0.6],
            "problem": [{"name": "contrastive", "rejected": "optimal"}, {"rejected": "reversed", "pairs": 5}],
        }
        sweep = Sweep(SMALL, {key: values[key] for key in order})
        for index in np.ndindex(*sweep.shape):
            at = dict(zip(order, index, strict=True))
            config = sweep.cell(index)
            assert config["objective"]["name"] == ("dpo", "cdpo")[at["objective"]]
            assert config["objective"]["beta"] == (0.3, 0.4)[at["objective.beta"]]
            rejected = config["problem"]["rejected"]
            assert rejected["name"] == ("optimal", "reversed")[at["problem"]]
            assert rejected["beta"] == (0.5, 0.6)[at["problem.rejected.beta"]]
            assert config["problem"]["pairs"] == (None, 5)[at["problem"]]


def test_an_axis_takes_the_place_of_what_the_study_says() -> None:
    tables = {**SMALL, "objective": {"name": "cdpo", "beta": 0.9}, "seed": 5}
    sweep = Sweep(tables, {"objective.beta": [0.1, 0.2], "seed": [7]})
    assert sweep.cell((1, 0))["objective"] == {"name": "cdpo", "beta": 0.2, "label_smoothing": 0.1}
    assert sweep.cell((1, 0))["seed"] == 7
    assert tables["objective"] == {"name": "cdpo", "beta": 0.9}


def test_a_beta_that_is_left_out_follows_the_axis() -> None:
    sweep = Sweep(SMALL, {"objective.beta": [0.1, 0.2]})
    assert [sweep.cell((k,))["problem"]["rejected"]["beta"] for k in (0, 1)] == [0.1, 0.2]


# Axes: their values, names and labels.


@pytest.mark.parametrize("values", [[], (), np.array([]), range(0)])
def test_an_empty_axis_is_refused(values: Any) -> None:
    with pytest.raises(
        ValueError, match=r'^`sweep\."seed"` must have at least one value; got an empty list$'
    ):
        Sweep(SMALL, {"seed": values})


@pytest.mark.parametrize(
    ("values", "again"),
    [
        ([0.1, 0.2, 0.1], "0.1"),
        ([1, 1.0], "1.0"),
        ([math.nan, math.nan], "nan"),
        (np.array([0.5, 0.5]), "0.5"),
    ],
)
def test_a_value_that_is_there_twice_is_refused(values: Any, again: str) -> None:
    message = f'`sweep."objective.beta"` must have each value once; got {again} again'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Sweep(SMALL, {"objective.beta": values})


def test_a_table_that_is_there_twice_is_refused() -> None:
    table = {"name": "dpo", "beta": 0.5}
    with pytest.raises(ValueError, match=r'^`sweep\."objective"` must have each value once; got .* again$'):
        Sweep(SMALL, {"objective": [table, dict(table)]})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("objective", [{"name": "dpo", "beta": 0.1}, {"beta": 0.1, "name": "dpo"}]),
        ("objective", [{"name": "dpo", "beta": 1}, {"name": "dpo", "beta": 1.0}]),
        ("problem.rejected", ["uniform", {"name": "uniform"}]),
    ],
)
def test_one_value_written_in_two_ways_is_refused(key: str, values: list[Any]) -> None:
    assert Sweep(SMALL, {key: values[:1]}).cell((0,)) == Sweep(SMALL, {key: values[1:]}).cell((0,))
    with pytest.raises(ValueError, match="must have each value once"):
        Sweep(SMALL, {key: values})


@pytest.mark.parametrize(("given", "shown"), [("dpo", "'dpo'"), (3, "3"), (True, "True"), ({1, 2}, "{1, 2}")])
def test_an_axis_is_a_list(given: Any, shown: str) -> None:
    message = f'`sweep."objective"` must be a list of values, or a range; got {shown}'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Sweep(SMALL, {"objective": given})


def test_axes_are_a_table() -> None:
    with pytest.raises(ValueError, match=r"^`axes` must be a table of axes by key; got \[1\]$"):
        Sweep(SMALL, [1])  # type: ignore[arg-type]


def test_nested_axes_are_those_with_dots() -> None:
    dotted = {
        "objective.beta": [0.1, 0.2],
        "problem.rejected.beta": Range(1, 3),
        "seed": {"start": 0, "count": 2},
    }
    nested = {
        "objective": {"beta": [0.1, 0.2]},
        "problem": {"rejected": {"beta": {"start": 1, "count": 3}}},
        "seed": range(2),
    }
    assert Sweep(SMALL, dotted).config() == Sweep(SMALL, nested).config()


def test_an_axis_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.beta"):
        Sweep(SMALL, {"objective.beta": [0.1, 0.2, 0.3], "objective": {"beta": [0.4]}})


def test_a_wrong_study_without_axes_is_said_to_be_so() -> None:
    with pytest.raises(ValueError, match=r"^`steps`: Expected `int` >= 0$"):
        Sweep({"steps": -1}, {})
    with pytest.raises(ValueError, match=r"^`sweep` is not a key of a study"):
        Sweep({"sweep": {"seed": [0]}}, {})


@pytest.mark.parametrize(
    ("tables", "axes"),
    [
        ({"steps": 3}, {"steps.x": [1]}),
        ({}, {"seed": [10**400]}),
        ({}, {"objective": [{"name": "dpo", "beta": np.float64(0.5)}]}),
        ({"objective": didsim.dpo()}, {}),
        ({}, {"seed": np.array(3)}),
        ({}, {3: [1]}),
    ],
    ids=[
        "key_below_a_number",
        "huge_integer",
        "number_of_numpy",
        "an_objective_itself",
        "0d_array",
        "no_word",
    ],
)
def test_odd_things_are_refused_by_a_value_error(tables: dict[str, Any], axes: dict[Any, Any]) -> None:
    try:
        Sweep({**SMALL, **tables}, axes)
    except ValueError as error:
        assert "`" in str(error)  # noqa: PT017


def test_a_block_is_as_much_of_the_last_axes_as_fits() -> None:
    axes: dict[str, Any] = {
        "objective.beta": Range(0.1, 10, 1.0),
        "problem.pairs": [5, 6, 7],
        "seed": range(100),
    }
    sweep = Sweep(SMALL, axes)
    for room, shape in (
        (1, (1, 1, 1)),
        (0, (1, 1, 1)),
        (2, (1, 1, 2)),
        (64, (1, 1, 50)),
        (99, (1, 1, 50)),
        (100, (1, 1, 100)),
        (199, (1, 1, 100)),
        (200, (2, 1, 100)),
        (300, (3, 1, 100)),
        (400, (4, 1, 100)),
        (10**6, (10, 1, 100)),
    ):
        assert sweep.block_shape(room) == shape, room
    # Ten values in parts of at most six are two of five, and not six and four.
    assert Sweep(SMALL, {"seed": range(10)}).block_shape(6) == (5,)


# Files and settings of the command line.


def test_axes_of_a_file_are_quoted_or_nested(file: Path) -> None:
    quoted = from_text(
        file,
        """
        steps = 7
        objective = "cdpo"
        [space]
        vocab_size = 2
        [problem]
        rejected = { name = "tempered", exponent = 0.5 }
        [sweep]
        "objective.beta" = [0.1, 1]
        "optimizer.learning_rate" = { start = 0.01, stop = 1.0, count = 3, scale = "log" }
        "problem.rejected.exponent" = { start = 0.25, stop = 1, count = 2 }
        seed = { start = 3, count = 2 }
        """,
    )
    assert quoted.dims == ("beta", "learning_rate", "exponent", "seed")
    assert quoted.axes[0] == Axis("objective.beta", (0.1, 1), "beta", quoted.axes[0].labels)
    assert quoted.axes[1].values == pytest.approx((0.01, 0.1, 1.0))
    assert quoted.axes[2].values == (0.25, 1.0)
    assert quoted.axes[3].values == (3, 4)
    assert quoted.cell((1, 0, 1, 1)) == complete(
        {
            "steps": 7,
            "space": {"vocab_size": 2},
            "objective": {"name": "cdpo", "beta": 1},
            "optimizer": {"learning_rate": 0.01},
            "problem": {"rejected": {"name": "tempered", "exponent": 1}},
            "seed": 4,
        }
    )
    nested = from_text(
        file,
        """
        steps = 7
        objective = "cdpo"
        space.vocab_size = 2
        problem.rejected = { name = "tempered", exponent = 0.5 }
        [sweep.objective]
        beta = [0.1, 1]
        [sweep.optimizer.learning_rate]
        start = 0.01
        stop = 1.0
        count = 3
        scale = "log"
        [sweep]
        problem.rejected.exponent = { start = 0.25, stop = 1, count = 2 }
        seed = [3, 4]
        """,
    )
    assert nested.config() == quoted.config()


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        (["sweep.seed=[0, 1]"], {"optimizer.learning_rate": [0.1, 0.2], "seed": [0, 1]}),
        (
            ["sweep.seed={start=0, count=3}"],
            {"optimizer.learning_rate": [0.1, 0.2], "seed": [0, 1, 2]},
        ),
        (["sweep.optimizer.learning_rate=[0.5]"], {"optimizer.learning_rate": [0.5]}),
        (['sweep."optimizer.learning_rate"=[0.5]'], {"optimizer.learning_rate": [0.5]}),
        (["sweep={}"], {}),
        (["sweep={seed=[4]}"], {"seed": [4]}),
        (
            ["sweep.problem.rejected=['optimal', {name='optimal', beta=3}]"],
            {
                "optimizer.learning_rate": [0.1, 0.2],
                "problem.rejected": ["optimal", {"name": "optimal", "beta": 3}],
            },
        ),
    ],
)
def test_settings_may_be_axes(file: Path, settings: list[str], axes: dict[str, Any]) -> None:
    found = from_text(file, TEXT, *settings).config()["axes"]
    assert found == axes
    assert list(found) == list(axes)


@pytest.mark.parametrize(
    ("sweep", "setting", "axis"),
    [
        ("objective.beta = [1, 2]", "objective.beta=3", "objective.beta"),
        ('objective = ["dpo", "ipo"]', "objective.beta=3", "objective"),
        ('"problem.rejected" = ["uniform"]', "problem.rejected=optimal", "problem.rejected"),
    ],
)
def test_a_setting_that_an_axis_would_undo_is_refused(
    file: Path, sweep: str, setting: str, axis: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"--set {setting.split('=')[0]}: `{axis}` is an axis; --set 'sweep.{axis}="
    ):
        from_text(file, f"[sweep]\n{sweep}", setting)


def test_a_setting_above_an_axis_is_kept(file: Path) -> None:
    sweep = from_text(file, "[sweep]\nobjective.beta = [1, 2]", "objective=cdpo")
    assert [sweep.cell((k,))["objective"]["beta"] for k in range(2)] == [1, 2]
    assert sweep.cell((0,))["objective"]["name"] == "cdpo"


def test_a_value_that_an_axis_of_tables_would_undo_is_refused(file: Path) -> None:
    text = 'objective = { name = "dpo", beta = 0.7 }\n[sweep]\nobjective = ["dpo", "exponential"]'
    with pytest.raises(
        ValueError, match=r"`objective\.name` has no effect: .* axis `objective` are whole tables"
    ):
        from_text(file, text)


@pytest.mark.parametrize("key", ["sweep.seed", "sweep", "sweep.objective.beta"])
def test_an_axis_over_axes_is_refused(file: Path, key: str) -> None:
    with pytest.raises(ValueError, match="`sweep` is not a key of a study"):
        from_text(file, f'[sweep]\n"{key}" = [1]')


def test_a_nested_axis_of_the_file_is_replaced_by_a_setting(file: Path) -> None:
    sweep = from_text(file, "[sweep.objective]\nbeta = [1, 2]", "sweep.objective.beta=[3, 4, 5]")
    assert sweep.config()["axes"] == {"objective.beta": [3, 4, 5]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.0", 3.0),
        ("1e3", 1000.0),
        ("true", True),
        ("optimal", "optimal"),
        ('"optimal"', "optimal"),
        ("'3'", "3"),
        ("[1, 2]", [1, 2]),
        ("{a = 1}", {"a": 1}),
        ("", ""),
        ("log_linear", "log_linear"),
        ("3\nsteps = 4", "3\nsteps = 4"),
        ("-1", -1),
        ("dpo(beta=0.1)", "dpo(beta=0.1)"),
    ],
)
def test_values_of_the_command_line(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@given(
    st.one_of(
        st.integers(-(2**62), 2**62),
        st.booleans(),
        st.floats(allow_nan=False),
        st.from_regex(r"\A[a-z][a-z_]{2,8}\Z").filter(
            lambda word: word not in ("true", "false", "inf", "nan")
        ),
    )
)
def test_every_plain_value_can_be_given_on_the_command_line(value: Any) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert parse_value(text) == value


def test_values_may_be_lists_of_several_lengths() -> None:
    sweep = Sweep(SMALL, {"record.metrics": [["loss"], ["loss", "js_to_target"]]})
    assert sweep.shape == (2,)
    assert sweep.cell((1,)) == complete({**SMALL, "record": {"metrics": ["loss", "js_to_target"]}})
    assert sweep.metrics == ["loss", "js_to_target"]
    assert sweep.programs == 2


def test_a_metric_of_ones_own_cannot_have_the_name_of_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(didsim.METRICS, "seed", lambda s: s.loss)
    study = {"record": {"metrics": ["seed"]}}
    assert Sweep(study, {"objective.beta": [0.1, 0.5]}).metrics == ["seed"]
    with pytest.raises(
        ValueError, match=r"^`sweep` must not have an axis and a metric of one name; got 'seed'"
    ):
        Sweep(study, {"seed": [0, 1]})
