"""Kinds of arguments: a valid value of each, and which of the wrong values happen to be valid too.

What is valid is decided here, in NumPy, apart from the library's own checks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Argument:
    """An argument of a call.

    Attributes:
        value: a valid value.
        allows: whether another value is valid, too.
    """

    value: Any
    allows: Callable[[Any], bool] = lambda value: False

    def or_none(self, value: Any = ...) -> "Argument":
        """The argument where None is valid, too, and may be the value."""
        return Argument(
            self.value if value is ... else value, lambda other: other is None or self.allows(other)
        )


def only(value: Any) -> Argument:
    """An argument for which no wrong value is valid."""
    return Argument(value)


def anything(value: Any) -> Argument:
    return Argument(value, lambda other: True)


def instance(value: Any, *kinds: type) -> Argument:
    return Argument(value, lambda other: isinstance(other, kinds))


def flag(value: bool = False) -> Argument:
    return instance(value, bool)


def text(value: str = "a") -> Argument:
    return instance(value, str)


def function(value: Any) -> Argument:
    return Argument(value, callable)


def path(value: Any) -> Argument:
    return Argument(value, lambda other: isinstance(other, str | Path) and str(other) not in ("", "."))


def words(value: Any) -> Argument:
    """A list of any words; an empty one, too."""
    return Argument(value, lambda other: _are_words(other))


def _are_words(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim)
    return bool(is_list) and all(isinstance(one, str) for one in value)


def is_empty(value: Any) -> bool:
    """Whether it is a list of nothing, of any kind."""
    if isinstance(value, np.ndarray):
        return value.size == 0
    return isinstance(value, list | tuple) and not value


def integer(value: int, least: int = 1, most: float = 2**31 - 1) -> Argument:
    return Argument(value, lambda other: type(other) is int and least <= other <= most)


def number(
    value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False, single: bool = False
) -> Argument:
    """A real number from `low` to `high` (`above`: not `low` itself); unless `single`, or such an array."""

    def allows(other: Any) -> bool:
        if isinstance(other, int | float) and not isinstance(other, bool):
            array = np.asarray(float(other) if abs(other) < 10**300 else math.inf)
        elif isinstance(other, np.ndarray) and other.dtype.kind in "iuf" and other.size:
            array = other
        else:
            return False
        inside = np.isfinite(array) & (array >= low) & (array <= high) & (not above or array > low)
        return bool(inside.all()) and (array.ndim == 0 or not single)

    return Argument(value, allows)


def host_number(value: Any, low: float = -math.inf, high: float = math.inf, **options: Any) -> Argument:
    return number(value, low, high, single=True, **options)


def values(value: Any, size: int | None = 3) -> Argument:
    """Finite floating-point numbers for each of `size` sequences; for None, of any number of sequences."""
    return Argument(value, lambda other: _are_values(other, size))


def _are_values(other: Any, size: int | None) -> bool:
    if not isinstance(other, np.ndarray) or other.dtype.kind != "f" or not other.size or not other.ndim:
        return False
    return bool(np.isfinite(other).all()) and size in (None, other.shape[-1])


def distribution(value: Any, size: int | None = 3) -> Argument:
    """Log-probabilities over `size` sequences; for None, over any number of sequences."""

    def allows(other: Any) -> bool:
        return _are_values(other, size) and bool(np.all(abs(np.log(np.exp(other).sum(-1))) < 1e-8))

    return Argument(value, allows)


def indices(value: Any, size: int) -> Argument:
    """Integers from 0 to `size − 1`, in any shape."""

    def allows(other: Any) -> bool:
        if type(other) is int or (isinstance(other, np.ndarray) and other.dtype.kind in "iu"):
            return bool((np.asarray(other) >= 0).all() and (np.asarray(other) < size).all())
        return False

    return Argument(value, allows)
