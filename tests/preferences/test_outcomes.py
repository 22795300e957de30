"""Pairs from tables of every kind, with names; and tables that are refused with the row and the column."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from didsim import Pairs

GAMES = {
    "winner": ["bo", "al", "cy", "al"],
    "loser": ["al", "cy", "bo", "bo"],
    "weight": [1.0, 2.5, 0.0, 4.0],
    "tie": [False, True, False, False],
    "prompt": [7, 7, 3, 7],
}


def _csv(path: Path) -> Any:
    pd.DataFrame(GAMES).to_csv(path / "games.csv", index=False)
    return path / "games.csv"


def _jsonl(path: Path) -> Any:
    pd.DataFrame(GAMES).to_json(path / "games.jsonl", orient="records", lines=True)
    return str(path / "games.jsonl")


def _parquet(path: Path) -> Any:
    pq.write_table(pa.table(GAMES), path / "games.parquet")
    return path / "games.parquet"


class _Stream:
    """Any object that hands out a table through Arrow's interface."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table(GAMES).__arrow_c_stream__(requested_schema)


FORMS: dict[str, Callable[[Path], Any]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "pandas": lambda _: pd.DataFrame(GAMES),
    "polars": lambda _: pl.DataFrame(GAMES),
    "polars_categories": lambda _: pl.DataFrame(GAMES).with_columns(
        pl.col("winner", "loser").cast(pl.Categorical)
    ),
    "pyarrow": lambda _: pa.table(GAMES),
    "stream": lambda _: _Stream(),
    "lists": lambda _: GAMES,
    "arrays": lambda _: {name: np.array(values) for name, values in GAMES.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(form: str, tmp_path: Path) -> None:
    named = Pairs.from_table(
        FORMS[form](tmp_path), weight="weight", tie="tie", prompt="prompt", shared_items=True
    )
    assert named.items == ("al", "bo", "cy")
    assert named.prompts == (3, 7)
    assert named.pairs.winners.tolist() == [1, 0, 2, 0]
    assert named.pairs.losers.tolist() == [0, 2, 1, 1]
    assert named.pairs.weights is not None
    assert named.pairs.weights.tolist() == [1.0, 2.5, 0.0, 4.0]
    assert named.pairs.tied is not None
    assert named.pairs.tied.tolist() == [False, True, False, False]
    assert named.prompt is not None
    assert named.prompt.tolist() == [1, 1, 0, 1]


def test_a_response_belongs_to_its_prompt_unless_items_are_shared() -> None:
    named = Pairs.from_table(GAMES, prompt="prompt")
    assert named.items == ((3, "bo"), (3, "cy"), (7, "al"), (7, "bo"), (7, "cy"))
    assert [named.items[k] for k in named.pairs.winners] == [(7, "bo"), (7, "al"), (3, "cy"), (7, "al")]
    assert Pairs.from_table(GAMES).prompt is None
    assert Pairs.from_table(GAMES).items == ("al", "bo", "cy")


@pytest.mark.parametrize(
    "results",
    [
        ["model_a", "model_b", "tie", "tie (bothbad)"],
        ["x", "x", "Draw", "BOTH_BAD"],
        [1, 0, 0.5, 0.5],
        [1.0, 0.0, 0.5, 0.5],
    ],
)
def test_results_between_two_items(results: list[Any]) -> None:
    table = {"model_a": ["x", "y", "x", "z"], "model_b": ["y", "x", "z", "y"], "winner": results}
    named = Pairs.from_table(table, between=("model_a", "model_b"))
    assert named.items == ("x", "y", "z")
    assert named.pairs.winners.tolist()[:2] == [0, 0]
    assert named.pairs.losers.tolist()[:2] == [1, 1]
    assert named.pairs.tied is not None
    assert named.pairs.tied.tolist() == [False, False, True, True]
    assert {int(named.pairs.winners[2]), int(named.pairs.losers[2])} == {0, 2}


@pytest.mark.parametrize("form", ["lists", "csv", "jsonl"])
def test_integers_are_names(form: str, tmp_path: Path) -> None:
    table: Any = {"winner": [10, 9], "loser": [9, 11]}
    if form == "csv":
        pd.DataFrame(table).to_csv(tmp_path / "a.csv", index=False)
        table = tmp_path / "a.csv"
    elif form == "jsonl":
        pd.DataFrame(table).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
        table = tmp_path / "a.jsonl"
    assert Pairs.from_table(table).items == (9, 10, 11)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown column": (
        {},
        {"winner": "winer"},
        "`winner` must.*'winer'; the nearest is 'winner'",
    ),
    "unknown weight": ({}, {"weight": "wait"}, "`weight` must be a column.*'wait'"),
    "no name": ({}, {"winner": 3}, "`winner` must be the name of a column; got 3"),
    "itself": ({"loser": ["al", "al", "bo", "bo"]}, {}, "must be two items; got one item, twice in row 2"),
    "negative": ({"weight": [1, -2, 1, 1]}, {"weight": "weight"}, r"`weight` .*got -2.0 in row 2"),
    "endless": ({"weight": [1, 1, 1, np.inf]}, {"weight": "weight"}, "`weight` .*got inf in row 4"),
    "nan": ({"weight": [1, 1, np.nan, 1]}, {"weight": "weight"}, "`weight`.*no gaps; got nothing in row 3"),
    "all zero": ({"weight": [0, 0, 0, 0]}, {"weight": "weight"}, "`weight` must not be zero in every row"),
    "weights are words": ({"weight": list("abcd")}, {"weight": "weight"}, "`weight` must be a column of num"),
    "missing": ({"winner": ["bo", None, "cy", "al"]}, {}, "`winner`.*no gaps; got nothing in row 2"),
    "mixed": ({"winner": ["bo", "al", 3, "al"]}, {}, "`winner`.*one kind; got str in row 1 and int in row 3"),
    "two kinds": ({"winner": [1, 2, 3, 4]}, {}, "names of one kind; got numbers in `winner` and words"),
    "fractions": (
        {"winner": [1.0, 2.5, 3, 4], "loser": [5, 6, 7, 8]},
        {},
        "`winner` must hold words or integers; got 2.5 in row 2",
    ),
    "lists": ({"winner": [["a"], ["b"], ["c"], ["d"]]}, {}, "`winner`.*must hold words or numbers"),
    "tie": ({"tie": ["no", "true", "false", "1"]}, {"tie": "tie"}, "`tie` must be True or False; got 'no'"),
    "no rows": ({name: [] for name in GAMES}, {}, "`table` must have at least one row"),
    "lengths": ({"winner": ["bo"]}, {}, "columns of one length"),
    "result": (
        {"tie": ["winner", "loser", "cat", "tie"]},
        {"between": ("winner", "loser"), "winner": "tie"},
        "`winner` must be 'winner', 'loser', the name of either item, or a tie.*got 'cat' in row 3",
    ),
    "score": (
        {"tie": [1, 0, 2, 0.5]},
        {"between": ("winner", "loser"), "winner": "tie"},
        "`winner`, as a score, must be 1, 0 or 0.5; got 2.0 in row 3",
    ),
    "between": ({}, {"between": "winner"}, "`between` must be the names of two columns"),
    "shared": ({}, {"shared_items": 1}, "`shared_items` must be True or False"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_are_refused_with_row_and_column(name: str) -> None:
    columns, arguments, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Pairs.from_table(GAMES | columns, **arguments)


@pytest.mark.parametrize("table", [3, None, [1, 2]])
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="`table` must be a path, a mapping of columns, or a table of"):
        Pairs.from_table(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("winner,loser,weight\na,b,1\nb,a,x\n", r"Row #3.*'x'|'x'.*"),
        ("winner,loser,weight\na,b,1\nb,,2\n", "`loser`, the column 'loser', must have no gaps.*row 2"),
        ("winner,loser,weight\n", "no rows|at least one row"),
        ("", "is empty"),
    ],
)
def test_wrong_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Pairs.from_table(tmp_path / "a.csv", weight="weight")


def test_json_whose_kind_changes_is_refused_with_the_row(tmp_path: Path) -> None:
    lines = ['{"winner": "a", "loser": "b"}', '{"winner": 3, "loser": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"winner.*row 1"):
        Pairs.from_table(tmp_path / "a.jsonl")


def test_a_hundred_thousand_rows_take_a_fraction_of_a_second() -> None:
    """Without a loop over rows: that alone takes several seconds."""
    random = np.random.default_rng(0)
    first = random.integers(5000, size=10**5)
    table = pa.table({"winner": first.astype(str), "loser": (first + 1).astype(str)})
    start = time.process_time()
    named = Pairs.from_table(table)
    assert time.process_time() - start < 3
    assert len(named.items) == 5001
