"""The command line: `python -m experiments NAME [--set key=value …]`, or `all` for every figure."""

import importlib
import pkgutil
import shlex
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated

import jax
import typer

import experiments
from didsim._imports import import_files
from experiments.shared.configs import override
from experiments.shared.results import label, save


def find() -> dict[str, ModuleType]:
    """The experiments by name, in alphabetical order."""
    names = sorted(found.name for found in pkgutil.iter_modules(experiments.__path__))
    modules = {name: importlib.import_module(f"experiments.{name}") for name in names if name != "__main__"}
    parts = ("Config", "run", "plot")
    return {name: module for name, module in modules.items() if all(hasattr(module, part) for part in parts)}


EXPERIMENTS = find()

app = typer.Typer(add_completion=False)


@app.command()
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
) -> None:
    """Run an experiment and write its data (NetCDF) and its picture (PNG and PDF)."""
    if name != "all" and name not in EXPERIMENTS:
        raise typer.BadParameter(f"unknown experiment {name!r}; there are all, {', '.join(EXPERIMENTS)}")
    # A limit that is nearly deterministic depends on the gradients of sequences of tiny probability.
    jax.config.update("jax_enable_x64", True)
    chosen = EXPERIMENTS if name == "all" else {name: EXPERIMENTS[name]}
    try:
        import_files(imports or ())
        configs = {one: override(module.Config, settings or []) for one, module in chosen.items()}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise typer.BadParameter(f"--out must be a folder that can be written to: {error}") from None
    options = [word for path in imports or () for word in ("--import", str(path))]
    options += [word for setting in settings or () for word in ("--set", setting)]
    for one, module in chosen.items():
        began = time.perf_counter()
        command = f"python -m experiments {shlex.join([one, *options])}"
        try:
            dataset = label(module.run(configs[one], progress=not quiet), one, configs[one], command)
        except FloatingPointError as error:
            typer.echo(f"{one}: {error}", err=True)
            raise typer.Exit(1) from None
        paths = save(dataset, module.plot(dataset), one, out)
        written = ", ".join(str(path) for path in paths)
        typer.echo(f"{one}: {written} in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(app())
