"""Time and error of a population loss and its gradient, against exact sums and plain JAX."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.losses import LOSSES, evaluation, make_instance
from benchmarks.timing import interleaved, slope

_LONGEST = 10.0  # seconds that one call of a quadratic method may take
_LARGEST_DENSE = 10**4  # rows of a matrix of all pairs that fits in memory: 800 MB an array
_QUADRATIC = ("exact", "dense")
_PROBE = 10**4  # sequences
_SLOPE_FROM, _SLOPE_TO = 10**4, 10**7


@dataclass(frozen=True)
class Evaluations:
    """Times of one value and gradient, by every method that was run, at one size and half-range.

    Attributes:
        size: number of sequences N.
        half_range: A, of the implicit rewards.
        seconds: medians, by method; `_float32` marks those that are not in float64.
        skipped: why a method was left out, by method.
        to_floor: `seconds` as multiples of `floor`, of the same precision.
        to_dense: the same as multiples of `dense`, where that was run.
    """

    size: int
    half_range: float
    seconds: dict[str, float]
    skipped: dict[str, str]
    to_floor: dict[str, float]
    to_dense: dict[str, float]


@dataclass(frozen=True)
class Error:
    """How far the engine is from the exact sum.

    Attributes:
        size: number of sequences N.
        half_range: A, of the implicit rewards.
        dtype: of the engine; the exact sum is always one in float64, of the same numbers, so that in float32
            the rounding of the rewards themselves counts as well.
        value: relative error of the value.
        gradient: largest error of an entry of the gradient, relative to the largest entry.
    """

    size: int
    half_range: float
    dtype: str
    value: float
    gradient: float


def evaluations(sizes: Sequence[int], *, budget: float) -> list[Evaluations]:
    """Times over N at a half-range of 1, with `budget` seconds for each N.

    A method of N² time is left out from where it is expected to take too long, or not to fit.
    """
    results: list[Evaluations] = []
    for size in sizes:
        methods = [name for name in LOSSES if name not in _QUADRATIC]
        for name in _QUADRATIC:
            last = results[-1] if results else None
            fits = name == "exact" or size <= _LARGEST_DENSE
            if last is None or (
                fits and name in last.seconds and last.seconds[name] * (size / last.size) ** 2 <= _LONGEST
            ):
                methods.append(name)
        results.append(_evaluations(size, 1.0, methods, budget))
    return results


def by_half_range(size: int, half_ranges: Sequence[float], *, budget: float) -> list[Evaluations]:
    """Times of the engine over the half-range, where it does not fall back to the exact sum."""
    return [_evaluations(size, half_range, ["engine", "floor"], budget) for half_range in half_ranges]


def _evaluations(size: int, half_range: float, methods: Sequence[str], budget: float) -> Evaluations:
    calls: dict[str, Callable[[], Any]] = {}
    instance = make_instance(size, half_range)
    single = make_instance(size, half_range, "float32")
    skipped = {}
    for name in methods:
        calls[name] = partial(evaluation(LOSSES[name]), instance)
        if name in ("engine", "floor"):
            calls[f"{name}_float32"] = partial(evaluation(LOSSES[name]), single)
    for name, dtype in (("engine", "float64"), ("engine_float32", "float32")):
        if size > _PROBE and _falls_back(half_range, dtype):
            skipped[name] = "falls back to the exact sum"
            del calls[name]
    times = interleaved(calls, budget=budget)
    return Evaluations(
        size=size,
        half_range=half_range,
        seconds=times,
        skipped=skipped,
        to_floor={
            name: taken / times["floor_float32" if name.endswith("float32") else "floor"]
            for name, taken in times.items()
        },
        to_dense={name: taken / times["dense"] for name, taken in times.items()} if "dense" in times else {},
    )


@functools.cache
def _falls_back(half_range: float, dtype: str) -> bool:
    """Whether the engine takes about as long as the exact sum, at a size where that is bearable."""
    instance = make_instance(_PROBE, half_range, dtype)
    calls = {name: partial(evaluation(LOSSES[name]), instance) for name in ("engine", "exact")}
    times = interleaved(calls, budget=0, at_least=1)
    return times["engine"] > times["exact"] / 3


def engine_slope(results: Sequence[Evaluations], method: str = "engine") -> float | None:
    """The exponent of the engine's time in N, from 10⁴ to 10⁷; None where fewer than two sizes were run."""
    chosen = [one for one in results if _SLOPE_FROM <= one.size <= _SLOPE_TO and method in one.seconds]
    if len(chosen) < 2:
        return None
    return slope([one.size for one in chosen], [one.seconds[method] for one in chosen])


def errors(cases: Sequence[tuple[int, float, str]], *, longest: float = 60.0) -> list[Error]:
    """Errors at each size, half-range and dtype.

    A case whose exact sum is expected to take more than `longest` seconds, going by that before it, is left
    out.
    """
    results = []
    taken, before = 0.0, 1
    for size, half_range, dtype in cases:
        if taken * (size / before) ** 2 > longest:
            continue
        instance = make_instance(size, half_range, dtype)
        value, gradient = evaluation(LOSSES["engine"])(instance)
        double = type(instance)(*(array.astype("float64") for array in instance))
        began = time.perf_counter()
        true_value, true_gradient = jax.block_until_ready(evaluation(LOSSES["exact"])(double))
        taken, before = time.perf_counter() - began, size
        results.append(
            Error(
                size=size,
                half_range=half_range,
                dtype=dtype,
                value=float(jnp.abs(value - true_value) / jnp.abs(true_value)),
                gradient=float(jnp.max(jnp.abs(gradient - true_gradient)) / jnp.max(jnp.abs(true_gradient))),
            )
        )
    return results
