"""Timing functions in turns, so that what slows a machine for a while slows all that is compared."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

_SAMPLE = 0.02  # seconds of calls behind one sample: many for a function of microseconds

# A sample is preceded by a call that does not count, as what ran before has emptied the caches; after a call
# of milliseconds, which frees memory in the background for a while, by half a second of them. Without that, a
# call of 0.25 ms took 0.4 to 0.54 ms.
_LONG = 0.002
_SETTLING = 0.5


def seconds(function: Callable[[], Any], calls: int = 1) -> float:
    """Seconds per call, of several in a row, until their arrays are computed."""
    began = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - began) / calls


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    *,
    budget: float,
    at_least: int = 3,
    at_most: int = 25,
) -> dict[str, float]:
    """The median seconds per call of several functions, called in turns (A, B, C, A, B, C, …).

    Args:
        functions: by name. Each is called twice before, so that it is compiled and warm.
        budget: seconds for all turns together.
        at_least: number of turns, however long they take.
        at_most: number of turns, however short.
    """
    calls = {}
    for name, function in functions.items():
        settled = _settled(function)
        calls[name] = max(1, math.ceil(_SAMPLE / settled))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    before = 0.0
    began = time.perf_counter()
    for turn in range(at_most):
        if turn >= at_least and time.perf_counter() - began > budget:
            break
        for name, function in functions.items():
            if before > _LONG:
                _settled(function)
            elif calls[name] > 1:
                seconds(function)
            taken = seconds(function, calls[name])
            samples[name].append(taken)
            before = taken
    return {name: statistics.median(taken) for name, taken in samples.items()}


def _settled(function: Callable[[], Any]) -> float:
    """Seconds of the last of several calls, for long enough that what ran before no longer shows."""
    began = time.perf_counter()
    taken = seconds(function)
    while time.perf_counter() - began < _SETTLING:
        taken = seconds(function)
    return taken


def slope(sizes: list[int], times: list[float]) -> float:
    """The exponent `s` of the best power law `time = c · size^s`, by least squares of logarithms."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(taken) for taken in times]
    ).slope
