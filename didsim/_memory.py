"""What memory can hold: sizes are refused by name before anything is allocated."""

import os
from typing import Any

from didsim import _checks


def machine_memory() -> int:
    """The bytes of memory of this machine; a tebibyte where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**40


def size_text(number: int) -> str:
    """A number of bytes in MiB, or in GiB if that is shorter."""
    return f"{number / 2**20:,.1f} MiB" if number < 10 * 2**30 else f"{number // 2**30:,} GiB"


def check_fits(what: str, number: int, limit: int | None = None) -> None:
    """Raise `ValueError` if so many bytes are more than a limit, by default the memory of this machine.

    Args:
        what: what takes them, as the message begins.
        number: an estimate from below.
        limit: the largest number of bytes.
    """
    limit = machine_memory() if limit is None else limit
    if number > limit:
        raise ValueError(
            f"{what} would take about {size_text(number)} of memory; the limit here is {size_text(limit)}"
        )


PAIR = 64
"""The bytes of a pair: two sequences, their log-probabilities and rewards, and the gradients of these."""


def fitting_int(name: str, value: Any, bytes_each: int) -> int:
    """The value as a number of things, at least 1, that memory can hold at so many bytes each."""
    number = _checks.positive_int(name, value)
    check_fits(f"`{name}` = {number:,}", number * bytes_each)
    return _checks.count(name, number)
