"""Numbers and names in the sentences of a finding."""

import math
from collections.abc import Callable, Iterable

import xarray as xr


def number(x: float) -> str:
    """A number with two digits: `0.041`, `−2.3`, `3·10⁻⁹`, `∞`.

    >>> number(0.0412), number(-2.31), number(3.2e-9), number(float("inf")), number(6000), number(0.0)
    ('0.041', '−2.3', '3.2·10⁻⁹', '∞', '6,000', '0')
    """
    if math.isnan(x):
        return "unknown"
    sign, size = "−" if x < 0 else "", abs(x)
    if math.isinf(x):
        return f"{sign}∞"
    if 0 < size < 1e-3:
        digits, exponent = f"{size:.1e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{sign}{digits}·10{raised}"
    return f"{sign}{size:,.0f}" if size >= 100 else f"{sign}{size:.2g}"


def share(x: float) -> str:
    """A share as a percentage: without decimals, unless it is near 0% or 100% and is neither.

    >>> share(0.666), share(1.0), share(0.995), share(0.005), share(0.0)
    ('67%', '100%', '99.5%', '0.5%', '0%')
    """
    return f"{100 * x:.0f}%" if x in (0, 1) or 0.01 <= x <= 0.99 else f"{round(100 * x, 2):g}%"


def listed(words: Iterable[str]) -> str:
    """Words in a row.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def told_each(values: xr.DataArray, say: Callable[[float], str], where: str = "{}") -> str:
    """The values along one dimension, each with its place there.

    Args:
        values: the values, of one dimension.
        say: how a value is written.
        where: how its place is written.

    >>> told_each(xr.DataArray([0.5, 1.0], {"beta": [0.1, 2.0]}, "beta"), share, "β = {:g}")
    '50% (β = 0.1) and 100% (β = 2)'
    """
    (dim,) = values.dims
    return listed(f"{say(float(one))} ({where.format(one[dim].item())})" for one in values)
