"""The command line: `didsim …`.

Commands import what they need when they are called, so that `--help` needs neither JAX nor the libraries for
data and pictures.
"""

import os
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import didsim
from didsim._command_line import INTERRUPTED, SETTINGS, Debug, Group, say
from didsim._files import local_path, written_whole
from didsim._imports import import_files
from didsim._text import visible

_MANY_FAILURES = 20

app = typer.Typer(cls=Group, context_settings=SETTINGS, no_args_is_help=True, pretty_exceptions_enable=False)

StorePath = Annotated[Path, typer.Argument(help="Folder with the results of a study.")]
Quiet = Annotated[bool, typer.Option(help="No progress bar.")]


Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        help="Python file to run first, so that what it adds to registries can be named. May be given again.",
    ),
]


def _print_version(asked: bool) -> bool:
    if asked:
        say(f"didsim {didsim.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    """What preference optimisation teaches a policy, computed exactly.

    Exit status: 0 if all went well, 1 if not, 2 if it was asked wrongly, 130 on Ctrl-C.
    """


@app.command()
def check(
    instances: Annotated[int, typer.Option(min=1, help="Random instances of each statement.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the random instances.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a check to run, instead of all. May be given again.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write the report to, as JSON.")] = Path(
        "didsim-check.json"
    ),
    imports: Imports = None,
    quiet: Quiet = False,
) -> None:
    """Check every statement of the theory on random instances.

    A second table lists the assumptions of statements. Each comes with the smallest instance on which its
    statement is false without it. The exit status is 1 if an exact statement fails, or if there is an
    assumption without which no instance breaks its statement.
    """
    import jax

    from didsim.theory import CHECKS, check_all

    import_files(imports or ())
    for name in only or []:
        if name not in CHECKS:
            raise typer.BadParameter(f"unknown check {name!r}; there are {', '.join(CHECKS)}")
    jax.config.update("jax_enable_x64", True)
    # The draft is made first, so that a folder that cannot be written to costs no time.
    with written_whole(_output(out)) as (draft,):
        report = check_all(instances, seed, only, progress=not quiet)
        draft.write_bytes(report.to_json())
    say(report.table())
    if report.counterexamples:
        say(report.counterexample_table())
    say(f"Written to {out}")
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the grid; compute nothing.")] = False,
    dask: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, or local:2 for two workers here."),
    ] = None,
    memory: Annotated[int, typer.Option(min=1, help="Memory for a block of cells, in MiB.")] = 1024,
    yes: Annotated[bool, typer.Option("--yes", help="Run a study of more than a million cells.")] = False,
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Go on in a store that other versions of packages began."),
    ] = False,
    imports: Imports = None,
    quiet: Quiet = False,
) -> None:
    """Compute the cells of a study that its store does not hold yet."""
    from didsim.sweeps.clusters import dask_executor
    from didsim.sweeps.grid import Sweep
    from didsim.sweeps.plan import plan
    from didsim.sweeps.running import run_sweep

    store = Path(study.with_suffix(".zarr").name) if store is None else local_path("store", store)
    sources = import_files(imports or ())
    sweep = Sweep.from_toml(study, settings or (), allow_many=yes, progress=not quiet)
    if dry_run:
        say(plan(sweep, memory * 2**20))
        return
    with ExitStack() as stack:
        executor = None if dask is None else stack.enter_context(dask_executor(dask, sources))
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
            # A thread still computes a block. Only the end of the process stops it, which no store minds.
            typer.echo(visible(f"{store}: stopped; the same command computes the rest"), err=True)
            os._exit(INTERRUPTED)
    counts = f"{outcome.done:,} cells done, {outcome.diverged:,} diverged, {outcome.failed:,} failed"
    say(f"{store}: {counts}")
    if outcome.failed:
        say(f"why: didsim show {shlex.quote(str(store))}")
    if outcome.pending:
        arguments = [str(study), "--store", str(store)]
        arguments += [word for setting in settings or () for word in ("--set", setting)]
        arguments += [word for path in imports or () for word in ("--import", str(path))]
        arguments += [] if dask is None else ["--dask", dask]
        arguments += [flag for flag, on in (("--yes", yes), ("--any-version", any_version)) if on]
        say(f"{outcome.pending:,} to go: didsim run {shlex.join(arguments)}")
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def show(store: StorePath) -> None:
    """Show how many cells of a study are done, and which diverged or failed, and why."""
    from didsim.sweeps.results import open_results, summarise

    summary = summarise(store)
    dataset = open_results(store)
    say(
        summary.table(),
        "Axes: " + ", ".join(f"{dim} ({size})" for dim, size in dataset.sizes.items()),
        "Metrics: " + ", ".join(name for name in map(str, dataset) if "step" in dataset[name].dims),
    )
    _list("Failed", summary.failures)
    _list("Diverged", {cell: f"after {step} steps" for cell, step in summary.diverged.items()})


@app.command()
def plot(
    store: Annotated[
        Path, typer.Argument(help="Folder with the results of a study, or a NetCDF file of labelled data.")
    ],
    y: Annotated[str, typer.Option(help="Metric on the vertical axis.")] = "js_to_target",
    x: Annotated[str, typer.Option(help="Dimension of the horizontal axis.")] = "step",
    hue: Annotated[str | None, typer.Option(help="Dimension with a colour for each value.")] = None,
    col: Annotated[str | None, typer.Option(help="Dimension with a panel for each value.")] = None,
    over: Annotated[
        str | None, typer.Option(help="Dimension that a band is taken over. By default the seeds.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Plot one value only: dimension=value. May be given again."),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic vertical axis.")] = False,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic horizontal axis.")] = False,
    out: Annotated[Path | None, typer.Option(help="File; by default STORE-METRIC.png, here.")] = None,
) -> None:
    """Plot a metric of a study, a line for the median and a band for the central 95% over the seeds.

    Exact limits are dashed, if the study has them.
    """
    from didsim import plotting
    from didsim.sweeps.results import open_netcdf, open_results, select_values

    out = Path(f"{store.stem}-{y}.png") if out is None else out
    out = out if out.suffix else out.with_name(f"{out.name}.png")
    _output(out)
    dataset = open_netcdf(store) if store.is_file() else open_results(store)
    try:
        chosen = select_values(dataset, select or ())
        figure = plotting.plot_study(chosen, y, x=x, hue=hue, col=col, over=over, log=log, log_x=log_x)
    except ValueError as error:
        if "experiment" not in dataset.attrs:
            raise
        command = dataset.attrs["command"]
        raise ValueError(f"{error}. The picture that belongs to {store} is drawn by: {command}") from None
    with written_whole(out) as (draft,), plotting.style():
        figure.savefig(draft)
    say(f"Written to {out}")


@app.command()
def export(
    store: StorePath, out: Annotated[Path, typer.Argument(help="File: .nc, .csv or .parquet.")]
) -> None:
    """Write the results of a study to NetCDF, CSV or Parquet."""
    from didsim.sweeps.results import export as export_results

    export_results(store, _output(out))
    say(f"Written to {out}")


@app.command()
def verify(store: StorePath, debug: Debug = False) -> None:
    """Read every file of a study's results and check that it is whole. The exit status is 1 if one is not."""
    from didsim.sweeps.folder import verify as verify_files

    found = verify_files(store)
    say(*(f"{store / name}: {what}" for name, what in found.damaged.items()))
    if found.damaged:
        say(f"damaged: {len(found.damaged):,} of {found.files:,} files; didsim run makes them again")
        raise typer.Exit(1)
    say(f"{found.files:,} files are whole")


@app.command()
def diagnose(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Logs of a training run, or tables of its pairs.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Table with a row for each preference pair.")] = None,
    ref_samples: Annotated[Path | None, typer.Option(help="Table of samples of the reference.")] = None,
    policy_samples: Annotated[Path | None, typer.Option(help="Table of samples of the policy.")] = None,
    beta: Annotated[float | None, typer.Option(help="Beta of the run, to tell rewards in nats.")] = None,
    loss_type: Annotated[str | None, typer.Option(help="Loss of the run, as TRL names it.")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--map", help="Column with a name of its own: ours=theirs. May be given again."),
    ] = None,
    drop_bad: Annotated[
        bool, typer.Option("--drop-bad", help="Leave out pairs with NaN or positive log-probabilities.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Diagnose a simulated run, beside the truth.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report: HTML, Markdown, JSON and pictures.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what the files of a real training run show, why, and what they cannot tell."""
    from didsim.diagnostics.report.terminal import beside_truth, on_terminal

    mapping = dict(_named("--map", one) for one in names or ())
    if demo and (files or pairs or ref_samples or policy_samples):
        raise ValueError("--demo makes files of its own, and must stand without others")
    if out is not None:
        from didsim.diagnostics.report.files import report_folder

        report_folder(out)
    from didsim.diagnostics.diagnose import diagnose as diagnose_files

    truth = None
    if demo:
        from didsim.diagnostics.demo import write_demo

        with tempfile.TemporaryDirectory() as folder:
            truth = write_demo(folder)
            diagnosis = diagnose_files(truth.log, truth.pairs, beta=truth.beta)
    else:
        diagnosis = diagnose_files(
            files or (), pairs, ref_samples, policy_samples, beta, loss_type, mapping, drop_bad
        )
    if out is not None:
        from didsim.diagnostics.report.files import write_report

        # Before anything is printed: a reader such as `head` may close the pipe.
        write_report(diagnosis, out)
    say(on_terminal(diagnosis))
    if truth is not None:
        say(beside_truth(diagnosis, truth.known))
    if out is not None:
        say(f"Written to {out / 'report.html'}")


@app.command()
def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8642,
    host: Annotated[str, typer.Option(help="Address; this machine alone by default.")] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
    export_to: Annotated[
        Path | None,
        typer.Option("--export", help="Write the page as static files into this new folder, and end."),
    ] = None,
) -> None:
    """Open a page in the browser on which the theory moves: bars to drag, and the exact limit beside them."""
    if export_to is not None:
        from didsim.explorer.export import export as export_page

        export_page(local_path("export", export_to))
        say(f"Written to {export_to / 'index.html'}; any web host serves it")
        return
    from didsim.explorer.serve import serve

    try:
        serve(host, port, browser=not no_browser)
    except KeyboardInterrupt:
        # A thread may still compile. Only the end of the process stops it.
        os._exit(INTERRUPTED)


def _named(option: str, text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not (ours and separator and theirs):
        raise ValueError(f"{option} must be ours=theirs; got {text!r}")
    return ours, theirs


def _output(out: Path) -> Path:
    """The path of a file to write, which must be neither a URL nor a folder."""
    if local_path("out", out).is_dir():
        raise ValueError(f"`out` must be a file; {out} is a folder")
    return out


def _list(title: str, lines: Mapping[str, str]) -> None:
    if not lines:
        return
    say(f"{title}:")
    say(*(f"  {cell}: {text}".replace("\n", "\n    ") for cell, text in list(lines.items())[:_MANY_FAILURES]))
    if len(lines) > _MANY_FAILURES:
        say(f"  … and {len(lines) - _MANY_FAILURES:,} more")
