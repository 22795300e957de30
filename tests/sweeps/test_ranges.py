import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didsim import Range, Sweep
from tests.sweeps.sweep_cases import SMALL


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


@pytest.mark.parametrize("stop", [None, 1.0])
def test_a_range_of_a_quadrillion_is_refused(stop: float | None) -> None:
    with pytest.raises(ValueError, match="1,000,000,000,000,000 cells"):
        Sweep(SMALL, {"seed": {"start": 0, "count": 10**15, "stop": stop}})


def test_a_range_of_ones_own_may_be_too_long() -> None:
    with pytest.raises(ValueError, match="1,000,000,000,000,000 cells"):
        Sweep(SMALL, {"seed": Range(0, 10**15)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "`count`: Expected `int` >= 1; got 0"),
        ({"count": "3"}, "`count`: Expected `int`, got `str`"),
        ({"count": 2.5}, "`count`: Expected `int`, got `float`"),
        ({"count": True}, "`count`: Expected `int`, got `bool`"),
        ({"count": 3, "scale": "Linear"}, "`scale`: Invalid enum value 'Linear'"),
        ({"count": 3, "stop": math.inf}, "`stop` must be finite; got inf"),
        ({"count": 3, "start": math.nan}, "`start` must be finite; got nan"),
        ({"count": 3, "start": None}, "`start`: Expected `float`, got `null`"),
    ],
)
def test_a_range_of_ones_own_is_checked_when_it_is_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Range(**{"start": 1.0, **given})


def test_a_range_of_numpys_numbers() -> None:
    one: Any = Range(np.float32(0.5), np.int64(3), np.float64(1.5))  # type: ignore[arg-type]
    assert one == Range(0.5, 3, 1.5)
    assert one.values() == [0.5, 1.0, 1.5]
