"""What a run of the benchmarks found, and the targets it is held against."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.diagnosing import Diagnosing
from benchmarks.first_result import FirstResult
from benchmarks.machine import Machine
from benchmarks.memory import Peak
from benchmarks.pair_sums import Error, Evaluations
from benchmarks.solving import Solve
from benchmarks.throughput import Cell, Recording


@dataclass(frozen=True)
class Target:
    """A bound that the library is to keep, and what was measured.

    Attributes:
        name: what is bounded.
        bound: the number.
        at_most: whether it is the largest allowed, or the smallest.
        measured: None where this run did not measure it.
        unit: of both numbers.
        verdict: whether it is met, or by what factor it is missed.
    """

    name: str
    bound: float
    at_most: bool
    measured: float | None
    unit: str = ""
    verdict: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self._verdict())

    def _verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.measured <= self.bound if self.at_most else self.measured >= self.bound:
            return "met"
        larger, smaller = max(self.measured, self.bound), min(self.measured, self.bound)
        return f"missed by a factor of {larger / smaller:.3g}"


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
        machine: where.
        seconds: that the whole run took.
        evaluations: times over N.
        half_ranges: times over A, at one N.
        slope: exponent of the engine's time in N from 10⁴ to 10⁷, in float64; None where not measured.
        slope_float32: the same in float32.
        errors: of the engine.
        peaks: peak memory.
        cells: throughput of training.
        double: one cell in float64.
        recordings: what recording adds.
        solves: times of minimisers.
        diagnoses: times and memory of diagnoses.
        first_result: time to a first result.
        targets: bounds and what was measured.
    """

    machine: Machine
    seconds: float
    evaluations: list[Evaluations]
    half_ranges: list[Evaluations]
    slope: float | None
    slope_float32: float | None
    errors: list[Error]
    peaks: list[Peak]
    cells: list[Cell]
    double: Cell
    recordings: list[Recording]
    solves: list[Solve]
    diagnoses: list[Diagnosing]
    first_result: FirstResult
    targets: list[Target]


def targets(
    evaluations: Sequence[Evaluations],
    slope: float | None,
    errors: Sequence[Error],
    peaks: Sequence[Peak],
    cells: Sequence[Cell],
    solves: Sequence[Solve],
    diagnoses: Sequence[Diagnosing],
) -> list[Target]:
    """The targets, with what was measured of each."""
    of_size = {one.size: one for one in evaluations}
    million, thousand = of_size.get(10**6), of_size.get(1000)
    peak = [
        one.mib / 1024 for one in peaks if (one.method, one.size, one.dtype) == ("engine", 10**7, "float64")
    ]
    many = [cell.ratio for cell in cells if (cell.size, cell.runs) == (256, 256)]
    found = [
        Target(
            "N = 10⁶: time of the floor", 25, True, million.to_floor.get("engine") if million else None, "×"
        ),
        Target("exponent of time in N, 10⁴ to 10⁷", 1.1, True, slope),
        Target("N = 10⁷: peak memory, float64", 4, True, peak[0] if peak else None, " GiB"),
        Target(
            "N = 1000: faster than all pairs as a matrix",
            25,
            False,
            1 / thousand.to_dense["engine"] if thousand and "engine" in thousand.to_dense else None,
            "×",
        ),
        Target(
            "256 runs, N = 256: faster than stepped from Python", 25, False, many[0] if many else None, "×"
        ),
    ]
    for name, is_one in (("A ≤ 40", lambda a: a <= 40), ("A = 1400", lambda a: a == 1400)):
        chosen = [one for one in errors if one.dtype == "float64" and is_one(one.half_range)]
        value = max((one.value for one in chosen), default=None)
        gradient = max((one.gradient for one in chosen), default=None)
        found.append(Target(f"{name}: error of the loss", 1e-12, True, value))
        found.append(Target(f"{name}: error of the gradient", 1e-10, True, gradient))
    return found + _of_solves(solves) + _of_diagnoses(diagnoses)


def _of_diagnoses(diagnoses: Sequence[Diagnosing]) -> list[Target]:
    """The targets of diagnoses, with the import of the library."""
    of_case = {(one.kind, one.rows): one for one in diagnoses}
    log, pairs = of_case.get(("log", 10**5)), of_case.get(("pairs", 10**7))
    return [
        Target("diagnosis of a log of 10⁵ lines", 2, True, log.seconds if log else None, " s"),
        Target("diagnosis of 10⁷ pairs, 1,000 resamples", 60, True, pairs.seconds if pairs else None, " s"),
        Target("the same, peak memory", 4, True, pairs.mib / 1024 if pairs else None, " GiB"),
    ]


def _of_solves(solves: Sequence[Solve]) -> list[Target]:
    """The targets of minimisers. Times are of second calls, unless said."""

    def slowest(problem: str, size: int, of: str = "median", dtype: str = "float64") -> float | None:
        cases = [one for one in solves if (one.problem, one.size, one.dtype) == (problem, size, dtype)]
        return max((getattr(one, of) for one in cases), default=None)

    def quotient(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one / other

    single, double = slowest("contrastive", 256, dtype="float32"), slowest("contrastive", 256)
    memory = slowest("contrastive", 10**6, "mib")
    return [
        Target("slowest minimiser, N = 256", 0.2, True, double, " s"),
        Target("the same in float32, over float64", 1.2, True, quotient(single, double), "×"),
        Target("the same, first call", 3, True, slowest("contrastive", 256, "first"), " s"),
        Target(
            "256 minimisers at once, N = 64, over the slowest of N = 256",
            3,
            True,
            quotient(slowest("batch", 64), double),
            "×",
        ),
        Target("minimisers of convex losses and KTO, N = 4,096", 2, True, slowest("contrastive", 4096), " s"),
        Target("the same, first call", 3, True, slowest("contrastive", 4096, "first"), " s"),
        Target("minimisers of convex losses and KTO, N = 10⁵", 20, True, slowest("contrastive", 10**5), " s"),
        Target("minimisers of convex losses, N = 10⁶", 300, True, slowest("contrastive", 10**6), " s"),
        Target("the same, peak memory", 4, True, None if memory is None else memory / 1024, " GiB"),
        Target("DPO on 10⁶ pairs of 5,000 items", 10, True, slowest("pairs", 5000), " s"),
    ]
