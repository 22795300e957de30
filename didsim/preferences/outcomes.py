"""Outcomes of comparisons, read from a table: who won, against whom, and how much that counts.

A table is a file (CSV, Parquet, Arrow or JSONL, told by content), a table of pandas, polars or pyarrow, any
object with the Arrow stream interface (`__arrow_c_stream__`), or a mapping from names of columns to values.
Rows are counted from 1 in messages. Nothing is returned unless every row can be used.

Needs pyarrow, from the extra `parquet`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from didsim import _checks
from didsim._files import local_path
from didsim._tables import arrow, encoded, hint, listed, open_table

Name = str | int | tuple[str | int, str | int]
"""What an item is called; with its prompt first, if items of different prompts are different."""

TIES = ("tie", "tie (bothbad)", "bothbad", "both_bad", "draw")
"""Words for a tie in a column of results; upper and lower case do not matter."""

_FLAGS = {"true": True, "false": False, "1": True, "0": False}


class Outcomes(NamedTuple):
    """The rows of a table of comparisons.

    Attributes:
        winners: index of the item that won each row.
        losers: index of the item that lost it.
        weights: weight of each row, or None if the table has none.
        tied: whether each row is a tie, or None if the table has none.
        items: the name of each item, in sorted order.
        prompt: index of the prompt of each row, or None if the table has none.
        prompts: the name of each prompt, in sorted order, or None.
    """

    winners: Int[np.ndarray, " rows"]
    losers: Int[np.ndarray, " rows"]
    weights: Float[np.ndarray, " rows"] | None
    tied: Bool[np.ndarray, " rows"] | None
    items: tuple[Name, ...]
    prompt: Int[np.ndarray, " rows"] | None
    prompts: tuple[str | int, ...] | None


def read_outcomes(
    table: Any,
    *,
    winner: str,
    loser: str,
    between: tuple[str, str] | None,
    weight: str | None,
    tie: str | None,
    prompt: str | None,
    shared_items: bool,
) -> Outcomes:
    """The rows of a table of comparisons; `Pairs.from_table` says what the arguments mean.

    O(rows + items log items).
    """
    _checks.flag("shared_items", shared_items)
    if between is not None and (not isinstance(between, tuple | list) or len(between) != 2):
        raise ValueError(f"`between` must be the names of two columns, or None; got {between!r}")
    sides = {"winner": winner, "loser": loser}
    if between is not None:
        sides = {"between[0]": between[0], "between[1]": between[1]}
    labels = sides | ({} if between is None else {"winner": winner})
    labels |= {name: one for name, one in {"tie": tie, "prompt": prompt}.items() if one is not None}
    numbers = {} if weight is None else {"weight": weight}
    columns = _read(table, labels, numbers)
    (first_name, second_name) = sides
    first, second, names = _items(first_name, columns[first_name], second_name, columns[second_name])
    _refuse(first == second, f"`{first_name}` and `{second_name}` must be two items", "one item, twice")
    tied = None if tie is None else _flags("tie", columns["tie"])
    items: tuple[Name, ...] = tuple(names)
    if between is not None:
        score = _scores(columns["winner"], between, first, second, names)
        first, second = np.where(score > 0, first, second), np.where(score > 0, second, first)
        tied = (score == 0) | (False if tied is None else tied)
    asked, prompts = None, None
    if prompt is not None:
        (asked,), prompts = _named({"prompt": columns["prompt"]})
        if not shared_items:
            codes = np.stack([first, second]) + len(names) * asked.astype(np.int64)
            found, places = np.unique(codes, return_inverse=True)
            first, second = places.reshape(codes.shape)
            items = tuple((prompts[code // len(names)], names[code % len(names)]) for code in found.tolist())
    weights = None if weight is None else _weights(columns["weight"])
    if tied is not None and not tied.any():
        tied = None
    most = np.int32
    return Outcomes(
        first.astype(most),
        second.astype(most),
        weights,
        tied,
        items,
        None if asked is None else asked.astype(most),
        None if prompts is None else tuple(prompts),
    )


def _read(table: Any, labels: Mapping[str, str], numbers: Mapping[str, str]) -> dict[str, Any]:
    """The wanted columns of a table as arrays of pyarrow, by the argument that names each."""
    pa = arrow()
    wanted = {**labels, **numbers}
    if isinstance(table, str | os.PathLike):
        file = open_table(local_path("table", table))
        _find(wanted, file.columns)
        kinds = dict.fromkeys(labels.values(), "label") | dict.fromkeys(numbers.values(), "number")
        batches = list(file.batches(kinds))
        found: Any = _table(batches, kinds)
        if file.format == "CSV":
            found = _with_integers(found, set(labels.values()))
    else:
        found = table
        if not isinstance(table, Mapping) and not hasattr(table, "columns"):
            if not hasattr(table, "__arrow_c_stream__"):
                raise ValueError(
                    "`table` must be a path, a mapping of columns, or a table of pandas, polars or pyarrow; "
                    f"got {type(table).__name__}"
                )
            found = pa.table(table)
        there = found.column_names if isinstance(found, pa.Table) else list(getattr(found, "columns", found))
        _find(wanted, there)
    columns = {name: _column(name, theirs, found[theirs]) for name, theirs in wanted.items()}
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"`table` must have columns of one length; got {rows}")
    if not min(rows.values()):
        raise ValueError("`table` must have at least one row; got none")
    for name, column in columns.items():
        missing = column.is_null(nan_is_null=True)
        _refuse(np.asarray(missing), f"`{name}`, the column {wanted[name]!r}, must have no gaps", "nothing")
    return columns


def _table(batches: list[Any], names: Iterable[str]) -> Any:
    """Columns of batches of rows. Columns without rows are of no type."""
    pa = arrow()
    empty = pa.nulls(0)
    return pa.table({name: pa.chunked_array([one[name] for one in batches] or [empty]) for name in names})


def _find(wanted: Mapping[str, str], there: Any) -> None:
    """Raise `ValueError` unless every wanted column is there."""
    for name, theirs in wanted.items():
        if not isinstance(theirs, str):
            raise ValueError(f"`{name}` must be the name of a column; got {theirs!r}")
        if theirs not in there:
            columns = dict.fromkeys(map(str, there), "")
            raise ValueError(f"`{name}` must be a column of the table; got {theirs!r}{hint(theirs, columns)}")


def _column(name: str, theirs: str, values: Any) -> Any:
    """A column as an array of pyarrow, of one simple type."""
    pa = arrow()
    try:
        if hasattr(values, "__arrow_c_stream__"):
            column = pa.chunked_array(values)
        else:
            column = pa.chunked_array([pa.array(values, from_pandas=True)])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"`{name}`, the column {theirs!r}, must hold values of one kind; got {_mixture(values)}"
        ) from None
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([_decoded(chunk) for chunk in column.chunks])
    of = column.type
    if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of):
        return column.cast(pa.large_string())
    if pa.types.is_boolean(of) or pa.types.is_integer(of) or pa.types.is_floating(of):
        return column
    if pa.types.is_null(of):
        return column.cast(pa.float64())
    raise ValueError(f"`{name}`, the column {theirs!r}, must hold words or numbers; got values of type {of}")


def _decoded(chunk: Any) -> Any:
    """An array of categories as one of their names. Arrow cannot look up the words of polars as they are."""
    pa = arrow()
    names = chunk.dictionary
    if pa.types.is_string_view(names.type) or pa.types.is_null(names.type):
        names = names.cast(pa.large_string())
    return names.take(chunk.indices)


def _mixture(values: Any) -> str:
    """Where the kind of the values of a column changes."""
    try:
        kinds = [type(one).__name__ for one in values]
    except TypeError:
        return repr(values)
    for row, kind in enumerate(kinds):
        if kind not in (kinds[0], "NoneType"):
            return f"{kinds[0]} in row 1 and {kind} in row {row + 1}"
    return f"values of type {kinds[0]}" if kinds else "nothing"


def _with_integers(table: Any, names: set[str]) -> Any:
    """A table of a CSV file, with integers where every word of a column is the usual form of one."""
    pa = arrow()

    for name in names:
        words = pa.compute.unique(table[name])
        if len(words) and all(
            re.fullmatch(r"0|-?[1-9]\d{0,17}", word) for word in words.to_pylist() if word is not None
        ):
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.compute.cast(table[name], pa.int64()))
    return table


def _items(one: str, first: Any, other: str, second: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """The items of two columns that hold the same kind of names: their indices, and the names."""
    pa = arrow()
    kinds = {
        name: "words" if pa.types.is_large_string(of.type) else "numbers"
        for name, of in {one: first, other: second}.items()
    }
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"`{one}` and `{other}` must hold names of one kind; got "
            + " and ".join(f"{kind} in `{name}`" for name, kind in kinds.items())
        )
    (places, others), names = _named({one: first, other: second})
    return places, others, names


def _named(columns: Mapping[str, Any]) -> tuple[list[np.ndarray], list[Any]]:
    """The index of the name in each row of some columns, and their names in sorted order."""
    pa = arrow()
    of_one_kind = []
    for name, column in columns.items():
        if not pa.types.is_large_string(column.type):
            column = _integers(name, column)
        of_one_kind.append(column)
    codes, values = encoded(pa.chunked_array([chunk for one in of_one_kind for chunk in one.chunks]))
    names = values.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    rows = [len(one) for one in of_one_kind]
    return np.split(rank[codes], np.cumsum(rows)[:-1]), [names[place] for place in order]


def _integers(name: str, column: Any) -> Any:
    """A column of names that are integers."""
    pa = arrow()
    values = column.to_numpy()
    bad = values.dtype == bool or (values.dtype.kind == "f" and (values % 1 != 0))
    _refuse(np.broadcast_to(bad, values.shape), f"`{name}` must hold words or integers", values)
    return pa.chunked_array([pa.array(values.astype(np.int64))])


def _flags(name: str, column: Any) -> np.ndarray:
    """A column of True and False, in any of their usual forms."""
    pa = arrow()
    if pa.types.is_boolean(column.type):
        return np.asarray(column.to_numpy(), bool)
    values = column.to_numpy()
    if pa.types.is_large_string(column.type):
        codes, words = encoded(column)
        read = np.array([_FLAGS.get(word.lower(), -1) for word in words.to_pylist()], int)[codes]
    else:
        read = np.where((values == 0) | (values == 1), values, -1)
    _refuse(read < 0, f"`{name}` must be True or False", values)
    return np.asarray(read == 1)


def _scores(
    column: Any, between: tuple[str, str], first: np.ndarray, second: np.ndarray, names: list[Any]
) -> np.ndarray:
    """1 where the first of two items won, −1 where the second did, 0 for a tie."""
    pa = arrow()
    if pa.types.is_boolean(column.type):
        return np.where(column.to_numpy(), 1, -1)
    is_text = pa.types.is_large_string(column.type)
    if not is_text and isinstance(names[0], str):
        values = column.to_numpy()
        _refuse(~np.isin(values, (0, 0.5, 1)), "`winner`, as a score, must be 1, 0 or 0.5", values)
        return np.sign(values - 0.5).astype(int)
    codes, words = encoded(column)
    index = {name: place for place, name in enumerate(names)}
    # A column's own name comes before that of an item, and an item before the words for a tie.
    said = {between[0]: -1, between[1]: -2}
    kinds = [
        said.get(word, index.get(word, -3 if str(word).strip().lower() in TIES else -4))
        for word in words.to_pylist()
    ]
    won = np.array(kinds)[codes]
    is_first, is_second = (won == -1) | (won == first), (won == -2) | (won == second)
    expected = f"`winner` must be {listed(between)}, the name of either item, or a tie ({listed(TIES)})"
    _refuse(~(is_first | is_second | (won == -3)), expected, column)
    return is_first.astype(int) - is_second.astype(int)


def _weights(column: Any) -> np.ndarray:
    """Weights, each zero or more, and not all zero."""
    pa = arrow()
    if pa.types.is_large_string(column.type) or pa.types.is_boolean(column.type):
        raise ValueError(f"`weight` must be a column of numbers; it holds values of type {column.type}")
    values = np.asarray(column.to_numpy(), float)
    _refuse(~(np.isfinite(values) & (values >= 0)), "`weight` must be zero or more and finite", values)
    if not values.any():
        raise ValueError("`weight` must not be zero in every row")
    return values


def _refuse(bad: np.ndarray, expected: str, got: Any) -> None:
    """Raise `ValueError` with the first bad row, and what it holds."""
    if bad.any():
        row = int(np.argmax(bad))
        what = got if isinstance(got, str) else repr(_plain(got[row]))
        count = int(bad.sum())
        more = f", and so in {count:,} rows" if count > 1 else ""
        raise ValueError(f"{expected}; got {what} in row {row + 1}{more}")


def _plain(value: Any) -> Any:
    """A value of a column as Python's own."""
    for convert in ("as_py", "item"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return value
