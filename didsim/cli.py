"""The command line: `didsim …`."""

import math
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.table import Table

from didsim import plotting
from didsim.sweeps.axes import parse_value
from didsim.sweeps.clusters import dask_executor
from didsim.sweeps.grid import Sweep
from didsim.sweeps.results import export as export_results
from didsim.sweeps.results import open_results, summarise
from didsim.sweeps.running import MEMORY, run_sweep
from didsim.theory import CHECKS, check_all

_WIDTH = 110  # of tables in a file or a pipe
_INTERRUPTED = 130
_MANY_FAILURES = 20

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

StorePath = Annotated[Path, typer.Argument(help="Folder of a study's results.")]
Quiet = Annotated[bool, typer.Option(help="No progress bar.")]


@app.callback()
def didsim() -> None:
    """What preference optimisation teaches a policy, computed exactly."""


@app.command()
def check(
    instances: Annotated[int, typer.Option(min=1, help="Random instances of each statement.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the instances.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a check. May be given again. By default all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write the report to, as JSON.")] = Path(
        "didsim-check.json"
    ),
    quiet: Quiet = False,
) -> None:
    """Check every statement of the theory on random instances, and show what its assumptions are worth.

    Exit status 1 if an exact statement fails, or an assumption that is dropped breaks nothing.
    """
    for name in only or []:
        if name not in CHECKS:
            raise typer.BadParameter(f"unknown check {name!r}; there are {', '.join(CHECKS)}")
    try:
        out.open("a").close()
    except OSError as error:
        raise typer.BadParameter(f"--out must be a file that can be written to: {error}") from None
    jax.config.update("jax_enable_x64", True)
    console = _console()
    report = check_all(instances, seed, only, progress=not quiet and console.is_terminal)
    out.write_bytes(report.to_json())
    console.print(report.table())
    if report.counterexamples:
        console.print(report.counterexample_table())
    console.print(f"Written to {out}")
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="TOML file of a study.")],
    store: Annotated[
        Path | None, typer.Option(help="Folder of the results. By default the study's name with .zarr, here.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key of the study: key=value. May be given again."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be computed.")] = False,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; or local:2, for two workers here.")
    ] = None,
    memory: Annotated[int, typer.Option(min=1, help="MiB that a block may take.")] = MEMORY // 2**20,
    yes: Annotated[bool, typer.Option("--yes", help="More than a million cells are meant.")] = False,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Go on in a store of other versions of JAX, NumPy, ….")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or the rest of it: what its store has already is not computed again."""
    store = Path(study.with_suffix(".zarr").name) if store is None else store
    with _told() as stack:
        sweep = Sweep.from_toml(study, settings or (), allow_many=yes)
        if dry_run:
            _console().print(_plan(sweep, memory * 2**20))
            return
        executor = None if dask is None else stack.enter_context(dask_executor(dask))
        try:
            outcome = run_sweep(
                sweep,
                store,
                executor,
                memory=memory * 2**20,
                progress=not quiet,
                any_version=any_version,
            )
        except KeyboardInterrupt:
            # The block in hand cannot be stopped but with its process, and a store bears that.
            typer.echo(f"{store}: stopped; the same command computes the rest", err=True)
            os._exit(_INTERRUPTED)
    counts = f"{outcome.done:,} cells done, {outcome.diverged:,} diverged, {outcome.failed:,} failed"
    typer.echo(f"{store}: {counts}")
    if outcome.failed:
        typer.echo(f"why: didsim show {shlex.quote(str(store))}")
    if outcome.pending:
        arguments = [str(study), "--store", str(store)]
        arguments += [word for setting in settings or () for word in ("--set", setting)]
        arguments += [] if dask is None else ["--dask", dask]
        arguments += [flag for flag, on in (("--yes", yes), ("--any-version", any_version)) if on]
        typer.echo(f"{outcome.pending:,} to go: didsim run {shlex.join(arguments)}")
        raise typer.Exit(_INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def show(store: StorePath) -> None:
    """Say what of a study is done, what diverged, and what failed and why."""
    with _told():
        summary = summarise(store)
        dataset = open_results(store)
    console = _console()
    console.print(summary.table())
    console.print("Axes: " + ", ".join(f"{dim} ({size})" for dim, size in dataset.sizes.items()))
    console.print("Metrics: " + ", ".join(name for name in map(str, dataset) if "step" in dataset[name].dims))
    _list(console, "Failed", summary.failures)
    _list(console, "Diverged", {cell: f"after {step} steps" for cell, step in summary.diverged.items()})


@app.command()
def plot(
    store: StorePath,
    y: Annotated[str, typer.Option(help="Metric on the vertical axis.")] = "js_to_target",
    x: Annotated[str, typer.Option(help="Dimension of the horizontal axis.")] = "step",
    hue: Annotated[str | None, typer.Option(help="Dimension that colours tell apart.")] = None,
    col: Annotated[str | None, typer.Option(help="Dimension with a panel for each value.")] = None,
    over: Annotated[
        str | None, typer.Option(help="Dimension that bands are over. By default the seeds.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="dimension=value, to keep. May be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File; by default STORE-METRIC.png, here.")] = None,
) -> None:
    """Plot a metric of a study, a line for the median and a band for the central 95% over the seeds."""
    out = Path(f"{store.stem}-{y}.png") if out is None else out
    with _told():
        dataset = open_results(store)
        for one in select or ():
            dim, _, value = one.partition("=")
            if dim not in dataset.dims:
                known = ", ".join(map(str, dataset.dims))
                raise ValueError(f"--select has an unknown dimension {dim!r}; there are {known}")
            words = dataset[dim].dtype.kind == "U"
            try:
                dataset = dataset.sel({dim: value.strip('"') if words else parse_value(value)})
            except KeyError:
                known = ", ".join(map(str, dataset[dim].values))
                raise ValueError(f"--select has no {dim} {value!r}; there are {known}") from None
        figure = plotting.plot_study(dataset, y, x=x, hue=hue, col=col, over=over)
        with plotting.style():
            figure.savefig(out)
    typer.echo(f"Written to {out}")


@app.command()
def export(
    store: StorePath, out: Annotated[Path, typer.Argument(help="File: .nc, .csv or .parquet.")]
) -> None:
    """Write the results of a study to NetCDF, CSV or Parquet."""
    with _told():
        export_results(store, out)
    typer.echo(f"Written to {out}")


@contextmanager
def _told() -> Iterator[ExitStack]:
    """Say in a line what is wrong with what was asked for, in place of a traceback."""
    try:
        with ExitStack() as stack:
            yield stack
    except (ValueError, OSError, RuntimeError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _plan(sweep: Sweep, memory: int) -> Table:
    """What a run of a sweep would compute."""
    shape = sweep.block_shape(sweep.cells_within(memory))
    blocks = sweep.blocks(shape)
    table = Table("", "")
    for axis in sweep.axes:
        first, last = axis.labels[0], axis.labels[-1]
        values = ", ".join(map(str, axis.labels)) if len(axis.labels) <= 6 else f"{first} … {last}"
        table.add_row(axis.key, f"{len(axis.values)}: {values}")
    numbers = sweep.size * len(sweep.steps) * len(sweep.metrics)
    rows = {
        "cells": f"{sweep.size:,}",
        "sequences": ", ".join(f"{size:,}" for size in sweep.sizes),
        "records": f"{len(sweep.steps):,} steps of {len(sweep.metrics)} metrics",
        "blocks": f"{len(blocks):,} of {' × '.join(map(str, shape)) or '1'} cells",
        "compiled programs": f"{sweep.programs:,}",
        "memory of a block": _size(sweep.cell_bytes() * math.prod(shape))
        + (", and up to 1 GiB for limits" if sweep.has_limits else ""),
        "on disk, at most": _size(8 * numbers),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _size(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"


def _list(console: Console, title: str, lines: dict[str, str]) -> None:
    if not lines:
        return
    console.print(f"{title}:")
    for cell, text in list(lines.items())[:_MANY_FAILURES]:
        console.print(f"  {cell}: {text}", highlight=False)
    if len(lines) > _MANY_FAILURES:
        console.print(f"  … and {len(lines) - _MANY_FAILURES:,} more")
