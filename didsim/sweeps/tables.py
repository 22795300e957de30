"""Nested tables of a study, and the dotted places of the values in them.

A table in a table is a `dict`: to ask whether a value is a `Mapping` takes ten times as long, and a study may
have a million cells.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tables: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested tables by their dotted places."""
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{key}.")
        else:
            yield place + key, value


def with_values(tables: Mapping[str, Any], values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested tables with these values at their dotted places."""
    return {
        key: with_values(value, values, f"{place}{key}.")
        if isinstance(value, dict)
        else values.get(place + key, value)
        for key, value in tables.items()
    }


def real_numbers(tables: Mapping[str, Any]) -> dict[str, float]:
    """The real numbers of nested tables by their dotted places; integers are not among them."""
    return {place: value for place, value in leaves(tables) if isinstance(value, float)}


def without_numbers(tables: Mapping[str, Any], instead: float | None) -> dict[str, Any]:
    """Nested tables with one value in place of every real number."""
    return {
        key: without_numbers(value, instead)
        if type(value) is dict
        else (instead if type(value) is float else value)
        for key, value in tables.items()
    }
