"""The command line: `python -m benchmarks`, or `--quick` for small sizes."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import jax
import msgspec
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import tables
from benchmarks.diagnosing import diagnoses
from benchmarks.figure import plot
from benchmarks.first_result import first_result
from benchmarks.machine import this_machine
from benchmarks.memory import peaks
from benchmarks.pair_sums import by_half_range, engine_slope, errors, evaluations
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.results import Results, targets
from benchmarks.solving import solves
from benchmarks.throughput import one_cell, recording, throughput
from didsim.plotting import style

_HERE = Path(__file__).parent

app = typer.Typer(add_completion=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, in well under a minute.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; by default the data go to benchmarks, the figure to figures."),
    ] = None,
) -> None:
    """Time gradients, training and a first result, and write the data (JSON) and a picture (PNG and PDF)."""
    data, pictures = (_HERE, _HERE.parent / "figures") if out is None else (out, out)
    try:
        for folder in (data, pictures):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise typer.BadParameter(f"--out must be a folder that can be written to: {error}") from None
    jax.config.update("jax_enable_x64", True)
    results = _measure(QUICK if quick else FULL, Console(width=None if sys.stdout.isatty() else 120))
    paths = _save(results, plot(results.evaluations, results.cells), data, pictures)
    typer.echo(f"{', '.join(map(str, paths))} in {results.seconds:.0f} s")


def _measure(plan: Plan, console: Console) -> Results:
    began = time.perf_counter()
    machine = this_machine()
    console.print(tables.machine_table(machine))

    with console.status("Peak memory"):
        # First, since a process inherits the peak of the one that starts it.
        weighed = peaks(plan.peaks)
    console.print(tables.peaks_table(weighed))

    with console.status("Diagnoses"):
        diagnosed = diagnoses(plan.diagnoses)
    console.print(tables.diagnoses_table(diagnosed))

    with console.status("Minimisers"):
        solved = solves(plan.solves, plan.processes)
    console.print(tables.solves_table(solved))

    with console.status("Time to a first result"):
        first = first_result(plan.processes)
    console.print(tables.first_result_table(first))

    with console.status("Loss and gradient"):
        timed = evaluations(plan.sizes, budget=plan.budget)
        slopes = engine_slope(timed), engine_slope(timed, "engine_float32")
    console.print(tables.evaluations_table("Loss and gradient, float64 unless said otherwise", timed))
    for dtype, slope in zip(("float64", "float32"), slopes, strict=True):
        if slope is not None:
            console.print(f"near-linear sum, {dtype}: time ∝ N^{slope:.3f} from 10⁴ to 10⁷")

    with console.status("Loss and gradient by half-range"):
        ranged = by_half_range(plan.range_size, plan.half_ranges, budget=plan.budget)
    console.print(tables.evaluations_table("Loss and gradient by half-range A of the rewards", ranged))

    with console.status("Errors"):
        wrong = errors(plan.errors)
    console.print(tables.errors_table(wrong))

    with console.status("Training"):
        cells = throughput(plan.training_sizes, plan.runs, budget=plan.budget)
        double = one_cell(*plan.double, "float64", budget=plan.budget)
    console.print(tables.throughput_table([*cells, double]))

    with console.status("Recording"):
        recordings = [recording(*case, budget=plan.budget) for case in plan.recordings]
    console.print(tables.recordings_table(recordings))

    held = targets(timed, slopes[0], wrong, weighed, cells, solved, diagnosed)
    console.print(tables.targets_table(held))
    return Results(
        machine=machine,
        seconds=time.perf_counter() - began,
        evaluations=timed,
        half_ranges=ranged,
        slope=slopes[0],
        slope_float32=slopes[1],
        errors=wrong,
        peaks=weighed,
        cells=cells,
        double=double,
        recordings=recordings,
        solves=solved,
        diagnoses=diagnosed,
        first_result=first,
        targets=held,
    )


def _save(results: Results, figure: Figure, data: Path, pictures: Path) -> list[Path]:
    """Write everything, each file in full under a temporary name first."""
    paths = [data / "results.json", pictures / "benchmarks.png", pictures / "benchmarks.pdf"]
    with tempfile.TemporaryDirectory(dir=data, prefix=".benchmarks-") as temporary:
        drafts = [Path(temporary) / path.name for path in paths]
        drafts[0].write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
        with style():  # which sets the resolution too
            figure.savefig(drafts[1])
            figure.savefig(drafts[2], metadata={"CreationDate": None})
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
    return paths


if __name__ == "__main__":
    sys.exit(app())
