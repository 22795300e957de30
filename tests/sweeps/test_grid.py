import inspect
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import didsim
from didsim import Range, Study, Sweep
from didsim.sweeps.axes import Axis, parse_value
from didsim.sweeps.grid import MANY, program_of
from didsim.sweeps.study import complete

SMALL: dict[str, Any] = {"space": {"vocab_size": 2, "max_length": 2}}


def labels(sweep: Sweep) -> list[list[Any]]:
    return [axis.labels.tolist() for axis in sweep.axes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.toml"


def from_text(file: Path, text: str, *settings: str, allow_many: bool = False) -> Sweep:
    file.write_text(text, encoding="utf-8")
    return Sweep.from_toml(file, settings, allow_many=allow_many)


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


def test_a_study_object_and_its_tables_are_the_same_sweep() -> None:
    axes = {"objective.beta": [0.1, 0.5], "seed": Range(0, 8)}
    assert Sweep(Study(), axes).config() == Sweep({}, axes).config()
    with pytest.raises(ValueError, match=r"^`steps`: Expected `int`, got `str`$"):
        Sweep(Study(steps="many"), {})  # type: ignore[arg-type]


def test_cells_are_the_studies_with_their_values_put_in() -> None:
    axes: dict[str, Any] = {
        "problem.rejected": ["optimal", {"name": "tempered", "exponent": 0.25}],
        "objective.beta": [0.1, 0.5],
        "problem.pairs": [10, 20],
        "seed": range(3),
    }
    sweep = Sweep(SMALL, axes)
    assert sweep.dims == ("rejected", "beta", "pairs", "seed")
    assert sweep.shape == (2, 2, 2, 3)
    assert sweep.size == 24
    for index in np.ndindex(2, 2, 2, 3):
        rejected, beta, pairs, seed = (list(one)[k] for one, k in zip(axes.values(), index, strict=True))
        tables = {
            **SMALL,
            "objective": {"name": "dpo", "beta": beta},
            "problem": {"name": "contrastive", "rejected": rejected, "pairs": pairs},
            "seed": seed,
        }
        assert sweep.cell(index) == complete(tables)


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


def test_values_may_be_arrays_tuples_and_ranges() -> None:
    for values in (range(2, 4), (2, 3), np.array([2, 3]), [np.int32(2), np.int64(3)], Range(2, 2)):
        sweep = Sweep(SMALL, {"seed": values})
        assert sweep.axes[0].values == (2, 3)
        assert [type(one) for one in sweep.axes[0].values] == [int, int]
    sweep = Sweep(SMALL, {"objective.beta": np.array([0.1, 0.3]), "problem.rejected": np.array(["uniform"])})
    assert sweep.cell((1, 0))["objective"]["beta"] == 0.3
    assert sweep.cell((1, 0))["problem"]["rejected"] == {"name": "uniform"}


# Ranges.


def test_ranges() -> None:
    assert Range(3, 4).values() == [3, 4, 5, 6]
    assert Range(-1.0, 3).values() == [-1, 0, 1]
    assert all(type(one) is int for one in Range(-1.0, 3).values())
    assert Range(0.1, 3, 0.4).values() == pytest.approx([0.1, 0.25, 0.4])
    assert Range(5, 2, 1).values() == [5.0, 1.0]
    assert Range(0.001, 4, 1.0, "log").values() == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert all(type(one) is float for one in Range(1, 3, 100, "log").values())


@given(
    st.integers(-50, 50).map(lambda k: k / 8),
    st.integers(-50, 50).map(lambda k: k / 8),
    st.integers(2, 20),
    st.sampled_from(("linear", "log")),
)
def test_a_range_has_its_ends_and_even_steps(start: float, stop: float, count: int, scale: Any) -> None:
    one = Range(start, count, stop, scale)
    if scale == "log" and min(start, stop) <= 0:
        with pytest.raises(ValueError, match="a range on a log scale needs `start` and `stop` above zero"):
            one.values()
        return
    values = one.values()
    assert len(values) == count
    assert (values[0], values[-1]) == (start, stop)
    places = np.log(values) if scale == "log" else np.array(values)
    np.testing.assert_allclose(np.diff(places), (places[-1] - places[0]) / (count - 1), atol=1e-12)


WRONG_RANGES = [
    ({"start": 0, "count": 0}, "must be a list, or a range of start and count: Expected `int` >= 1"),
    ({"start": 0}, "must be a list, or a range of start and count: Object missing required field `count`"),
    ({"count": 3}, "must be a list, or a range of start and count: Object missing required field `start`"),
    (
        {"start": 0, "coun": 3},
        "must be a list, or a range of start and count: Object contains unknown field `coun`",
    ),
    (
        {"start": "a", "count": 3},
        "must be a list, or a range of start and count: Expected `float`, got `str`",
    ),
    (
        {"start": 0, "count": 1.5},
        "must be a list, or a range of start and count: Expected `int`, got `float`",
    ),
    (
        {"start": 1, "count": 2, "scale": "lin"},
        "must be a list, or a range of start and count: Invalid enum value 'lin'",
    ),
]
WRONG_RANGE_VALUES = [
    ({"start": 0.5, "count": 3}, "a range of numbers other than integers needs `stop`"),
    ({"start": 1, "count": 3, "scale": "log"}, "a range of numbers other than integers needs `stop`"),
    (
        {"start": 0, "count": 3, "stop": 1, "scale": "log"},
        "a range on a log scale needs `start` and `stop` above zero",
    ),
]


@pytest.mark.parametrize(
    ("table", "message"),
    [(table, f'`sweep."seed"` {message}') for table, message in WRONG_RANGES]
    + [(table, f'`sweep."seed"`: {message}') for table, message in WRONG_RANGE_VALUES],
)
def test_wrong_ranges_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Sweep(SMALL, {"seed": table})


def test_a_range_of_equal_ends_repeats_itself() -> None:
    with pytest.raises(
        ValueError, match=r'`sweep\."objective\.beta"` must have each value once; got 1\.0 again'
    ):
        Sweep(SMALL, {"objective.beta": Range(1, 2, 1)})


def test_a_range_from_infinity_is_refused() -> None:
    with pytest.raises(ValueError, match="sweep"):
        Sweep(SMALL, {"seed": {"start": math.inf, "count": 2}})


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
    with pytest.raises(ValueError, match=r"^`sweep` must be a table of axes by key; got \[1\]$"):
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
        ("limit", [True, False], ["true", "false"]),
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


# What is wrong in a cell.


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"objective.beta": [0.1, math.nan]},
            "`objective.beta` must be finite; got nan (in the cell beta=nan)",
        ),
        (
            {"seed": range(3), "objective.beta": [0.1, -1]},
            "`objective`: `beta` must be positive and finite; got -1.0 (in the cell seed=0, beta=-1.0)",
        ),
        ({"objective.beta": ["a"]}, "`objective.beta`: Expected `float`, got `str` (in the cell beta=a)"),
        (
            {"objectiv.beta": [1]},
            "`objectiv` is not a key of a study; did you mean 'objective'? (in the cell beta=1)",
        ),
        (
            {"objective.bta": [1]},
            "`objective.bta` is not a setting of 'dpo'; did you mean 'beta'? (in the cell bta=1)",
        ),
        (
            {"problem.rejected": ["uniform", "optimum"]},
            "`problem.rejected.name` is unknown: 'optimum'; did you mean 'optimal'? (in the cell "
            "rejected=optimum)",
        ),
        (
            {"problem.rejected": ["optimal", "uniform"], "problem.rejected.beta": [0.1]},
            "`problem.rejected.beta` is not a setting of 'uniform'; it has no settings (in the cell "
            "rejected=uniform, beta=0.1)",
        ),
        (
            {"objective": ["dpo", "ipo"]},
            "`problem.rejected.beta` must be given: the objective has no beta to take it from "
            "(in the cell objective=ipo)",
        ),
        ({"steps": Range(100, 3, 300)}, "`steps`: Expected `int`, got `float` (in the cell steps=100.0)"),
        ({"seed": [-1]}, "`seed`: Expected `int` >= 0 (in the cell seed=-1)"),
        ({"seed": [0, 1.5]}, "`sweep.seed`: Expected `int`, got `float`"),
        ({"seed": [0, 1, 2**31]}, "`sweep.seed`: Expected `int` <= 2147483647"),
        ({"seed": [0, True]}, "`sweep.seed`: Expected `int`, got `bool`"),
        ({"seed": [0, "a"], "objective.beta": [0.1, 0.2]}, "`sweep.seed`: Expected `int`, got `str`"),
    ],
)
def test_what_is_wrong_in_any_cell_is_refused_at_once(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Sweep(SMALL, axes)


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


# Many cells.


def test_more_than_a_million_cells_are_refused_quickly() -> None:
    seeds, betas = range(2001), Range(0.1, 500, 1.0)
    began = time.perf_counter()
    message = (
        "`sweep` has 1,000,500 cells, more than 1,000,000; `allow_many`, or `--yes` on the command line, "
        "runs it all the same"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Sweep(SMALL, {"seed": seeds, "objective.beta": betas})
    assert time.perf_counter() - began < 1


def test_a_million_cells_are_not_too_many_and_more_are_if_they_are_meant() -> None:
    assert MANY == 1_000_000
    began = time.perf_counter()
    sweep = Sweep(SMALL, {"seed": range(500_000), "problem.rejected": ["optimal", "uniform"]})
    assert sweep.size == MANY
    sweep = Sweep(
        SMALL, {"seed": range(500_001), "problem.rejected": ["optimal", "uniform"]}, allow_many=True
    )
    assert sweep.size == 1_000_002
    assert sweep.programs == 2
    # Seeds are not looked at one by one.
    assert time.perf_counter() - began < 20


def test_many_cells_are_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(ValueError, match="`sweep` has 2,000,000 cells"):
        Sweep({"stepz": 3}, {"steps": range(2000), "seed": range(1000)})


@pytest.mark.parametrize("stop", [None, 1.0])
def test_a_range_of_a_quadrillion_is_refused(stop: float | None) -> None:
    with pytest.raises(ValueError, match="1,000,000,000,000,000 cells"):
        Sweep(SMALL, {"seed": {"start": 0, "count": 10**15, "stop": stop}})


# Blocks.


def without_numbers(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A complete study but for its seed, with one and the same real number everywhere."""
    return {
        key: without_numbers(value)
        if isinstance(value, Mapping)
        else 0.5
        if isinstance(value, float)
        else value
        for key, value in tables.items()
        if key != "seed"
    }


def the_same_program(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two complete studies differ in real numbers and the seed alone."""
    return repr(without_numbers(one)) == repr(without_numbers(other))


# For each key, values of which some share a program and some do not.
CHOICES: dict[str, list[Any]] = {
    "seed": [5, 3, 8, 0, 1],
    "objective.beta": [0.1, 0.2, 0.5, 1.0, 2],
    "optimizer.learning_rate": [1, 0.5, 0.1],
    "problem.rejected": ["optimal", "uniform", {"name": "optimal", "beta": 0.3}, "reference"],
    "problem.pairs": [10, 20, None],
    "steps": [5, 10],
    "objective": ["dpo", {"name": "dpo", "beta": 0.7}, "cdpo"],
    "policy": ["energy_based", "autoregressive"],
    "limit": [False, True],
    "schedule": ["constant", "cosine"],
    "batch_size": [4, None],
}


@st.composite
def grids(draw: st.DrawFn) -> Sweep:
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=0, max_size=4, unique=True))
    axes = {key: CHOICES[key][: draw(st.integers(1, len(CHOICES[key])))] for key in keys}
    # A beta of their own makes two tables of one objective the same run.
    assume(not {"objective", "objective.beta"} <= set(keys))
    return Sweep(SMALL, axes)


@given(grids(), st.integers(-1, 70))
def test_blocks_cover_every_cell_once_with_one_program_each(sweep: Sweep, room: int) -> None:
    shape = sweep.block_shape(room)
    blocks = sweep.blocks(shape)
    assert math.prod(shape) <= max(1, room)
    count = Counter(index for block in blocks for index in sweep.cells_of(block))
    assert count == Counter(np.ndindex(*sweep.shape))
    for block in blocks:
        cells = [sweep.cell(index) for index in sweep.cells_of(block)]
        assert len(cells) <= math.prod(shape)
        assert all(the_same_program(cells[0], one) for one in cells)
        assert len({program_of(one) for one in cells}) == 1
        for side, length, full in zip(block, shape, sweep.shape, strict=True):
            assert side.stop - side.start == min(length, full - side.start)


@given(grids())
def test_programs_are_counted(sweep: Sweep) -> None:
    kinds: list[dict[str, Any]] = []
    for index in np.ndindex(*sweep.shape):
        config = sweep.cell(index)
        assert the_same_program(config, config)
        if not any(the_same_program(config, one) for one in kinds):
            kinds.append(config)
    assert sweep.programs == len(kinds)


@given(grids())
def test_what_all_cells_have_between_them(sweep: Sweep) -> None:
    cells = [sweep.cell(index) for index in np.ndindex(*sweep.shape)]
    steps = {0} | {one["steps"] for one in cells}
    steps |= {k for one in cells for k in range(one["steps"]) if k % one["record"]["every"] == 0}
    assert sweep.steps == sorted(steps)
    assert sweep.has_limits == any(one["limit"] for one in cells)
    pairs = any(one["problem"]["pairs"] is None for one in cells)
    expected = [name for name in didsim.METRICS if name not in ("reward_accuracy", "fraction_ordered")]
    assert sweep.metrics == [name for name in expected if pairs or name != "margin_rejected"]
    assert sweep.sizes == [4]
    assert sweep.dtype == "float64"


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


def test_a_program_changes_with_all_but_numbers_and_seeds() -> None:
    base = program_of(complete(SMALL))
    for same in (
        {"seed": 7},
        {"objective": {"beta": 3}},
        {"reference": {"scale": 0}},
        {"optimizer": {"learning_rate": 1, "b1": 0.5}},
        {"problem": {"rejected": {"name": "optimal", "beta": 7}}},
    ):
        assert program_of(complete({**SMALL, **same})) == base, same
    others: list[dict[str, Any]] = [
        {"space": {"vocab_size": 2, "max_length": 3}},
        {"space": {"vocab_size": 4, "max_length": 1}},
        {"policy": "autoregressive"},
        {"policy": "log_linear"},
        {"policy": {"name": "log_linear", "features": 4}},
        {"reference": "markov"},
        {"target": "drifted"},
        {"objective": "simpo"},
        {"objective": {"name": "simpo", "length_normalised": False}},
        {"problem": {"rejected": "uniform"}},
        {"problem": {"chosen": "target"}},
        {"problem": {"pairs": 3}},
        {"problem": "labelled"},
        {"problem": "online"},
        {"problem": {"name": "online", "sampler": "reward_difference"}},
        {"problem": {"name": "online", "sampler": {"name": "reward_difference", "of": "reward"}}},
        {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
        {"schedule": "cosine"},
        {"steps": 501},
        {"record": {"every": 11}},
        {"record": {"metrics": ["loss"]}},
        {"record": {"also": ["reward_accuracy"]}},
        {"batch_size": 4},
        {"limit": True},
        {"dtype": "float32"},
    ]
    programs = {base, *(program_of(complete({**SMALL, **other})) for other in others)}
    assert len(programs) == len(others) + 1


def test_memory_decides_on_the_number_of_cells() -> None:
    sweep = Sweep(SMALL, {"seed": range(100)})
    one = sweep.cell_bytes()
    assert sweep.cells_within(1) == 1
    assert sweep.cells_within(one) == 1
    assert sweep.cells_within(5 * one + 1) == 5
    assert sweep.cells_within(10**15) == 64
    larger: list[dict[str, Any]] = [
        {"space": {"vocab_size": 2, "max_length": 5}},
        {"problem": {"pairs": 1000}},
        {"batch_size": 1000},
        {"steps": 50_000},
    ]
    for change in larger:
        assert Sweep({**SMALL, **change}, {}).cell_bytes() > one, change
    assert Sweep({**SMALL, "dtype": "float32"}, {}).cell_bytes() == one // 2
    # The most demanding cell counts, wherever it is.
    assert Sweep(SMALL, {"problem.pairs": [5, 5000, 10]}).cell_bytes() > 4000 * 8


def test_the_widest_dtype_and_every_size() -> None:
    sweep = Sweep(
        {},
        {"dtype": ["float64", "float32"], "space": [{"vocab_size": 3, "max_length": 2}, {"vocab_size": 2}]},
    )
    assert sweep.dtype == "float64"
    assert sweep.sizes == [9, 16]
    assert Sweep({"dtype": "float32"}, {}).dtype == "float32"


# The configuration that a store keeps.


def test_the_same_results_have_the_same_configuration() -> None:
    one = Sweep(SMALL, {"objective.beta": [0.5, 1], "seed": Range(0, 3)})
    other = Sweep(
        {**SMALL, "steps": 500, "objective": "dpo", "problem": "contrastive"},
        {"objective": {"beta": np.array([0.5, 1.0])}, "seed": (0, 1, 2)},
    )
    assert msgspec.json.decode(msgspec.json.encode(one.config())) == msgspec.json.decode(
        msgspec.json.encode(other.config())
    )


@pytest.mark.parametrize(
    ("tables", "axes"),
    [
        ({"steps": 499}, {}),
        ({"seed": 1}, {}),
        ({"objective": {"beta": 0.2}}, {}),
        ({}, {"seed": [0, 1]}),
        ({}, {"seed": [0]}),
        ({}, {"objective.beta": [0.1]}),
    ],
)
def test_other_studies_have_another_configuration(tables: dict[str, Any], axes: dict[str, Any]) -> None:
    assert Sweep({**SMALL, **tables}, axes).config() != Sweep(SMALL, {}).config()


def test_two_studies_that_differ_beyond_the_first_cell_have_two_configurations() -> None:
    axes = {"objective.beta": [0.1, 1.0]}
    follows = Sweep(SMALL, axes)
    stays = Sweep({**SMALL, "problem": {"rejected": {"name": "optimal", "beta": 0.1}}}, axes)
    assert follows.cell((0,)) == stays.cell((0,))
    assert follows.cell((1,)) != stays.cell((1,))
    assert follows.config() != stays.config()


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


TEXT = """
objective = { name = "dpo", beta = 0.2 }
seed = 3
[sweep]
"optimizer.learning_rate" = [0.1, 0.2]
"""


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


def test_blocks_are_plain_tuples() -> None:
    sweep = Sweep(SMALL, {"seed": range(3)})
    first, second = sweep.blocks((2,))
    assert first == (slice(0, 2),)
    assert second == (slice(2, 3),)


def test_values_may_be_lists_of_several_lengths() -> None:
    sweep = Sweep(SMALL, {"record.metrics": [["loss"], ["loss", "js_to_target"]]})
    assert sweep.shape == (2,)
    assert sweep.cell((1,)) == complete({**SMALL, "record": {"metrics": ["loss", "js_to_target"]}})
    assert sweep.metrics == ["loss", "js_to_target"]
    assert sweep.programs == 2


def test_a_range_of_ones_own_may_be_too_long() -> None:
    with pytest.raises(ValueError, match="1,000,000,000,000,000 cells"):
        Sweep(SMALL, {"seed": Range(0, 10**15)})


def test_a_study_of_things_that_are_no_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="objective"):
        Sweep(Study(objective=didsim.dpo()), {})  # type: ignore[arg-type]


def test_a_setting_below_a_number_of_the_command_line_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"`sweep`"):
        from_text(file, "", "sweep=3", "sweep.seed=[1]")


def test_a_metric_of_ones_own_cannot_have_the_name_of_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(didsim.METRICS, "seed", lambda s: s.loss)
    study = {"record": {"metrics": ["seed"]}}
    assert Sweep(study, {"objective.beta": [0.1, 0.5]}).metrics == ["seed"]
    with pytest.raises(
        ValueError, match=r"^`sweep` must not have an axis and a metric of one name; got 'seed'"
    ):
        Sweep(study, {"seed": [0, 1]})
