"""One answer against the right one: right or wrong, and why."""

import textwrap
from typing import Any

import numpy as np

from didsim import _checks

UNANSWERED = "Not answered yet: put your answer in place of the dots and run both cells again."
_WIDTH = 100


def check(answer: Any, expected: Any, *, because: str, hint: str, tolerance: float = 1e-3) -> None:
    """Print whether an answer is right, and why.

    Case, spaces at the ends and a final full stop make no difference to words. Numbers and
    arrays are compared entry by entry. An entry may be off by `tolerance · max(1, |expected|)`; an infinite
    entry must be the same infinity. A wrong number is called too large or too small. For a wrong
    array this is said of the entry that is furthest off.

    Args:
        answer: the reader's answer; `...` stands for no answer yet.
        expected: the right answer: a word, `True` or `False`, a number or an array of numbers.
        because: why the right answer is right, in full sentences. It is shown with a right answer only.
        hint: what a wrong answer overlooks. It should not give the right answer away.
        tolerance: how far off a number may be, zero or more.

    Raises:
        ValueError: `tolerance` is negative or not finite, `because` or `hint` is no text, or `expected` is
            not of these kinds or has a NaN.

    Examples:
        >>> check(0.5, 1 / 2, because="Half of two is one.", hint="Divide.")
        Right: Half of two is one.
        >>> check(0.7, 1 / 2, because="Half of two is one.", hint="Divide.")
        Wrong: 0.7 is too large. Divide.
        >>> check(..., 1 / 2, because="Half of two is one.", hint="Divide.")
        Not answered yet: put your answer in place of the dots and run both cells again.
    """
    _checks.instance("because", because, str, "sentences")
    _checks.instance("hint", hint, str, "sentences")
    tolerance = _checks.real("tolerance", tolerance, _checks.non_negative)
    check_expected("expected", expected)
    say(None if answer is ... else fault_of(answer, expected, tolerance) or "", because, hint)


def check_expected(name: str, value: Any) -> None:
    """Raise `ValueError` unless the value can be a right answer."""
    if not isinstance(value, str) and (not _is_numeric(value) or np.isnan(np.asarray(value)).any()):
        raise ValueError(f"`{name}` must be a word, a truth value, a number or an array; got {value!r}")


def say(fault: str | None, because: str, hint: str) -> None:
    """Print a verdict: the fault of an answer is "" if there is none, and None if there is no answer."""
    verdict = f"Wrong: {fault} {hint}" if fault else f"Right: {because}"
    print(textwrap.fill(UNANSWERED if fault is None else verdict, _WIDTH))


def fault_of(answer: Any, expected: Any, tolerance: float) -> str | None:
    """What is wrong with an answer, as a sentence, or None."""
    if isinstance(expected, str):
        if not isinstance(answer, str):
            return f"a word in quotes is asked for, and yours is {shown(answer)}."
        return None if _plain(answer) == _plain(expected) else f"it is not {shown(answer)}."
    if not _is_numeric(answer):
        return f"{_kind(expected)} is asked for, and yours is {shown(answer)}."
    given, right = np.asarray(answer), np.asarray(expected)
    if (given.dtype == bool) != (right.dtype == bool):
        return f"{_kind(expected)} is asked for, and yours is {shown(answer)}."
    if given.shape != right.shape:
        return f"{_kind(expected)} is asked for, and yours has shape {given.shape}."
    if right.dtype == bool:
        return None if (given == right).all() else f"it is not {shown(answer)}."
    return _misfit(given.astype(float), right.astype(float), tolerance)


def _misfit(given: np.ndarray, right: np.ndarray, tolerance: float) -> str | None:
    """The entry that is furthest off in units of the error allowed there, as a sentence, or None."""
    if np.isnan(given).any():
        return f"{'an entry' if given.ndim else 'it'} is not a number (NaN)."
    with np.errstate(invalid="ignore"):
        error = np.where(given == right, 0, np.abs(given - right))
    # An infinite answer is right, or further off than any other.
    excess = error / np.maximum(1, np.abs(np.where(np.isfinite(right), right, 1)))
    if (excess <= tolerance).all():
        return None
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    side = "large" if given[worst] > right[worst] else "small"
    place = f"entry [{', '.join(str(k) for k in worst)}], " if given.ndim else ""
    return f"{place}{given[worst]:.4g}{',' * bool(place)} is too {side}."


def _is_numeric(value: Any) -> bool:
    """Whether it is a truth value, a number or an array of them."""
    try:
        return bool(np.asarray(value).dtype.kind in "biuf")
    except (TypeError, ValueError):
        return False


def _kind(expected: Any) -> str:
    array = np.asarray(expected)
    if array.ndim:
        return f"an array of shape {array.shape}"
    return "True or False" if array.dtype == bool else "a number"


def shown(answer: Any) -> str:
    return textwrap.shorten(repr(answer), 40)


def _plain(word: str) -> str:
    return word.strip().rstrip(".").strip().casefold()
