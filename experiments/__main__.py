"""The command line: `python -m experiments NAME [--set key=value …]`, or `all` for every figure.

JAX and the experiments are imported when one is run, so that an error or Ctrl-C meanwhile is told in a line.
"""

import importlib
import pkgutil
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

import experiments
from didsim._command_line import SETTINGS, Command, Debug, say
from didsim._files import local_path
from didsim._imports import import_files

if TYPE_CHECKING:
    import xarray as xr


def find() -> list[str]:
    """The names of the experiments, in alphabetical order."""
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(one.name for one in found if not one.ispkg and one.name != "__main__")


def load(name: str) -> ModuleType:
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")


EXPERIMENTS = find()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command, context_settings=SETTINGS)
def main(
    name: Annotated[str, typer.Argument(help=f"all, or one of {', '.join(EXPERIMENTS)}.")],
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
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
    debug: Debug = False,
) -> None:
    """Run an experiment and write its data (NetCDF), its picture (PNG and PDF) and what the picture shows.

    The last goes into findings.json, which has an entry for each experiment.
    """
    if name != "all" and name not in EXPERIMENTS:
        raise typer.BadParameter(f"unknown experiment {name!r}; there are all, {', '.join(EXPERIMENTS)}")
    import jax

    from experiments.shared import results
    from experiments.shared.configs import override
    from experiments.shared.findings import Finding, read_findings, write_finding

    # A limit that is nearly deterministic depends on the gradients of sequences of tiny probability.
    jax.config.update("jax_enable_x64", True)
    chosen = {one: load(one) for one in (EXPERIMENTS if name == "all" else [name])}
    try:
        local_path("--out", out)
        import_files(imports or ())
        configs = {one: override(module.Config, settings or []) for one, module in chosen.items()}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        # A damaged file is told before any work, whose finding would have no place to go.
        read_findings(out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        raise typer.BadParameter(f"--out must be a folder that can be written to: {error}") from None
    options = [word for path in imports or () for word in ("--import", str(path))]
    options += [word for setting in settings or () for word in ("--set", setting)]
    for one, module in chosen.items():
        began = time.perf_counter()
        command = f"python -m experiments {shlex.join([one, *options])}"
        try:
            dataset = results.label(module.run(configs[one], progress=not quiet), one, configs[one], command)
        except FloatingPointError as error:
            raise FloatingPointError(f"{one}: {error}") from error
        figures = {one: module.plot(dataset), **_further(module, "more_plots", dataset)}
        paths = results.save(dataset, figures, _further(module, "tables", dataset), one, out)
        seconds = time.perf_counter() - began
        finding = Finding(
            title=(module.__doc__ or one).splitlines()[0],
            finding=module.finding(dataset),
            command=command,
            seconds=round(seconds),
            pictures=tuple(f"{name}.png" for name in figures),
            facts=results.facts(configs[one]),
        )
        write_finding(out, one, finding)
        written = ", ".join(str(path) for path in paths)
        say(f"{one}: {written} in {seconds:.0f} s")


def _further(module: ModuleType, name: str, dataset: "xr.Dataset") -> dict[str, Any]:
    """What an experiment makes beside its picture, by the names of files; nothing without such a function."""
    make: Callable[[xr.Dataset], dict[str, Any]] | None = getattr(module, name, None)
    return {} if make is None else make(dataset)


if __name__ == "__main__":
    sys.exit(app())
