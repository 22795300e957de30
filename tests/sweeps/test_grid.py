import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import didsim
from didsim import Range, Study, Sweep
from didsim.sweeps.completing import complete
from didsim.sweeps.grid import MANY, program_of
from tests.sweeps.sweep_cases import SMALL


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
    began = time.process_time()
    sweep = Sweep(SMALL, {"seed": range(500_000), "problem.rejected": ["optimal", "uniform"]})
    assert sweep.size == MANY
    sweep = Sweep(
        SMALL, {"seed": range(500_001), "problem.rejected": ["optimal", "uniform"]}, allow_many=True
    )
    assert sweep.size == 1_000_002
    assert sweep.programs == 2
    # Seeds are not looked at one by one.
    assert time.process_time() - began < 20


def test_many_cells_are_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(ValueError, match="`sweep` has 2,000,000 cells"):
        Sweep({"stepz": 3}, {"steps": range(2000), "seed": range(1000)})


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
    assert list(sweep.steps) == sorted(steps)
    assert sweep.count_steps() == len(steps)
    assert sweep.has_limits == any(one["limit"] for one in cells)
    pairs = any(one["problem"]["pairs"] is None for one in cells)
    expected = [name for name in didsim.METRICS if name not in ("reward_accuracy", "fraction_ordered")]
    assert sweep.metrics == [name for name in expected if pairs or name != "margin_rejected"]
    assert sweep.sizes == [4]
    assert sweep.dtype == "float64"


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


def test_blocks_are_plain_tuples() -> None:
    sweep = Sweep(SMALL, {"seed": range(3)})
    first, second = sweep.blocks((2,))
    assert first == (slice(0, 2),)
    assert second == (slice(2, 3),)


def test_a_study_of_things_that_are_no_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="objective"):
        Sweep(Study(objective=didsim.dpo()), {})  # type: ignore[arg-type]
