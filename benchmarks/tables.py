"""Results as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.diagnosing import Diagnosing
from benchmarks.first_result import FirstResult
from benchmarks.machine import Machine
from benchmarks.memory import Peak
from benchmarks.pair_sums import Error, Evaluations
from benchmarks.results import Target
from benchmarks.solving import Solve
from benchmarks.throughput import Cell, Recording

LABELS = {
    "engine": "near-linear sum",
    "engine_float32": "near-linear sum, float32",
    "exact": "exact tiled sum",
    "dense": "N × N autograd",
    "floor": "log_softmax alone",
    "floor_float32": "log_softmax alone, float32",
    "arrays": "imports and arrays alone",
}
"""Names of the methods for readers."""


def machine_table(machine: Machine) -> Table:
    """The machine."""
    table = _table("Machine", "", "")
    table.add_row("processor", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:.1f} GiB")
    table.add_row("software", f"{machine.os}; Python {machine.python}; JAX {machine.jax} on {machine.device}")
    table.add_row("date", machine.date)
    return table


def evaluations_table(title: str, results: Sequence[Evaluations]) -> Table:
    """Times by N, half-range and method, and their ratios."""
    table = _table(title, "N", "A", "method", "time", "/ log_softmax", "/ N × N")
    for result in results:
        for name, taken in result.seconds.items():
            first = name == next(iter(result.seconds))
            table.add_row(
                f"{result.size:,}" if first else "",
                f"{result.half_range:g}" if first else "",
                LABELS[name],
                time_text(taken),
                f"{result.to_floor[name]:.3g}",
                f"{result.to_dense[name]:.3g}" if name in result.to_dense else "–",
            )
        for name, why in result.skipped.items():
            table.add_row("", "", LABELS[name], why, "–", "–")
        table.add_section()
    return table


def errors_table(errors: Sequence[Error]) -> Table:
    """Errors of the engine."""
    table = _table("Relative error against the exact sum", "N", "A", "dtype", "loss", "gradient (max norm)")
    for one in errors:
        table.add_row(
            f"{one.size:,}", f"{one.half_range:g}", one.dtype, f"{one.value:.1e}", f"{one.gradient:.1e}"
        )
    return table


def peaks_table(peaks: Sequence[Peak]) -> Table:
    """Peak memory."""
    table = _table("Peak memory of a process", "N", "dtype", "method", "peak")
    for one in sorted(peaks, key=lambda peak: peak.size):
        table.add_row(f"{one.size:,}", one.dtype, LABELS[one.method], f"{one.mib:,.0f} MiB")
    return table


def throughput_table(cells: Sequence[Cell]) -> Table:
    """Steps × runs per second."""
    table = _table(
        "Training, steps × runs per second", "N", "runs", "dtype", "train", "stepped from Python", "ratio"
    )
    for cell in cells:
        table.add_row(
            f"{cell.size:,}",
            str(cell.runs),
            cell.dtype,
            f"{cell.rate:,.3g}" if cell.rate else f"skipped: {cell.skipped}",
            f"{cell.stepped_rate:,.3g}" if cell.stepped_rate else "–",
            f"{cell.ratio:.3g}×" if cell.ratio else "–",
        )
    return table


def recordings_table(recordings: Sequence[Recording]) -> Table:
    """What recording adds."""
    table = _table("Recording the default metrics", "N", "runs", "every", "without", "with", "adds")
    for one in recordings:
        table.add_row(
            f"{one.size:,}",
            str(one.runs),
            f"{one.every} steps",
            time_text(one.bare_seconds),
            time_text(one.recorded_seconds),
            f"{one.share:.0%}",
        )
    return table


def solves_table(solves: Sequence[Solve]) -> Table:
    """Times of minimisers, beside those of a training run.

    The spread is the time of the slowest process over that of the fastest.
    """
    table = _table(
        "Minimisers, and 1,000 steps of training",
        "problem",
        "objective",
        "N",
        "dtype",
        "first call",
        "median",
        "spread",
        "training",
        "steps",
        "peak",
    )
    for one in solves:
        table.add_row(
            one.problem,
            one.objective,
            f"{one.size:,}",
            one.dtype,
            time_text(one.first),
            time_text(one.median),
            f"{one.spread:.2f} ×" if one.processes > 1 else "–",
            time_text(one.training),
            f"{one.steps}",
            f"{one.mib:,.0f} MiB",
        )
    return table


def diagnoses_table(diagnoses: Sequence[Diagnosing]) -> Table:
    """Times and memory of diagnoses."""
    table = _table("Diagnoses, import included", "of", "rows", "file", "time", "peak")
    for one in diagnoses:
        table.add_row(
            one.kind,
            f"{one.rows:,}",
            f"{one.mib_of_file:,.1f} MiB",
            time_text(one.seconds),
            f"{one.mib:,.0f} MiB",
        )
    return table


def first_result_table(result: FirstResult) -> Table:
    """Time to a first result."""
    table = _table("Time to a first result, in a fresh process", "", "time")
    table.add_row("import didsim", time_text(result.import_library))
    what = f"train (N = {result.size}, {result.steps} steps)"
    table.add_row(f"{what}, first call", time_text(result.first_call))
    table.add_row(f"{what}, second call", time_text(result.second_call))
    return table


def targets_table(targets: Sequence[Target]) -> Table:
    """Targets and whether they are met."""
    table = _table("Targets", "", "target", "measured", "")
    for one in targets:
        color = {"met": "green", "not measured": "dim"}.get(one.verdict, "red")
        measured = "–" if one.measured is None else f"{one.measured:.3g}{one.unit}"
        bound = f"{'≤' if one.at_most else '≥'} {one.bound:g}{one.unit}"
        table.add_row(one.name, bound, measured, f"[{color}]{one.verdict}")
    return table


def time_text(seconds: float) -> str:
    """A time in the unit that suits it, with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    text = {"", "method", "dtype", "problem", "objective", "of"}
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", no_wrap=True)
    return table
