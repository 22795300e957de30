"""The command line: `python -m experiments NAME … [--set key=value …]`, or `all` for every figure.

JAX and the experiments are imported when one is run, so that an error or Ctrl-C meanwhile is told in a line.
"""

import os
import pkgutil
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import experiments
from didsim._command_line import FAILED, SETTINGS, Command, Debug, say
from didsim._files import local_path
from didsim._imports import import_files
from didsim._text import visible

if TYPE_CHECKING:
    from experiments.shared.findings import Finding
    from experiments.shared.running import Job


def find() -> list[str]:
    """The names of the experiments, in alphabetical order."""
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(one.name for one in found if not one.ispkg and one.name != "__main__")


EXPERIMENTS = find()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command, context_settings=SETTINGS)
def main(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help=f"all, or some of {', '.join(EXPERIMENTS)}.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: key=value. May be given again."),
    ] = None,
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            help="Python file to run first, which may add to OBJECTIVES or REJECTED. May be given again.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("figures"),
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Experiments to run side by side; by default one for each core, and at most 4."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what is finished.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Folder of a language model; the same as --set model=FOLDER.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run experiments and write their data (NetCDF), pictures (PNG and PDF) and what the pictures show.

    The last goes into findings.json, which has an entry for each experiment, and into README.md, which shows
    the pictures. An experiment is finished if its files are whole and of the same code, settings and
    versions. It is not run again.
    """
    for name in names:
        if name != "all" and name not in EXPERIMENTS:
            raise typer.BadParameter(f"unknown experiment {name!r}; there are all, {', '.join(EXPERIMENTS)}")
    import jax

    from experiments.shared.configs import override
    from experiments.shared.findings import read_findings, write_finding
    from experiments.shared.gallery import write_page
    from experiments.shared.running import Job, finished, load

    # A limit that is nearly deterministic depends on the gradients of sequences of tiny probability.
    jax.config.update("jax_enable_x64", True)
    settings = [*(settings or []), *([] if model is None else [f"model={model}"])]
    chosen = EXPERIMENTS if "all" in names else list(dict.fromkeys(names))
    try:
        local_path("--out", out)
        import_files(imports or ())
        configs = {one: override(load(one).Config, settings) for one in chosen}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        # A damaged file is told before any work, whose finding would have no place to go.
        known = read_findings(out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        raise typer.BadParameter(f"--out must be a folder that can be written to: {error}") from None
    options = [word for path in imports or () for word in ("--import", str(path))]
    options += [word for setting in settings for word in ("--set", setting)]
    todo = []
    for one, config in configs.items():
        command = f"python -m experiments {shlex.join([one, *options])}"
        from_data = "all" in names and getattr(load(one), "FROM_DATA", False)
        if from_data and not (out / f"{one}.nc").is_file():
            say(f"{one}: no data in {out} to draw; `{command}` makes them")
            continue
        job = Job(one, config, command, tuple(imports or ()), out, from_data)
        finding = None if again else finished(job)
        if finding is None:
            todo.append(job)
            continue
        if known.get(one) != finding:
            write_finding(out, one, finding)
        say(f"{one}: finished before; --again runs it again")
    # What takes longest begins first, so that no core is left alone with it in the end.
    todo.sort(key=lambda job: -known[job.name].seconds if job.name in known else 0)
    processes = min(jobs or min(os.cpu_count() or 1, 4), len(todo))
    failed = 0
    for job, found in _outcomes(todo, processes, quiet):
        if isinstance(found, Exception):
            failed += 1
            if debug or len(todo) == 1:
                raise found
            typer.echo(f"Error: {visible(str(found))}", err=True)
            continue
        write_finding(out, job.name, found)
        written = ", ".join(str(out / picture) for picture in (f"{job.name}.nc", *found.pictures))
        say(f"{job.name}: {written} in {found.seconds} s")
    write_page(out)
    if failed:
        raise typer.Exit(FAILED)


def _outcomes(
    jobs: "Sequence[Job]", processes: int, quiet: bool
) -> "Iterator[tuple[Job, Finding | Exception]]":
    """What each experiment found, or why it failed. A single process shows the progress of each."""
    from didsim.training.progress import tracked
    from experiments.shared.running import run, run_side_by_side

    if processes > 1:
        yield from tracked(run_side_by_side(jobs, processes), len(jobs), "Experiments", not quiet)
        return
    for job in jobs:
        try:
            yield job, run(job, not quiet)
        except (FloatingPointError, ValueError, OSError) as error:
            yield job, error


if __name__ == "__main__":
    sys.exit(app())
