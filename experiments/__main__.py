"""The command line: `python -m experiments NAME [--set key=value …]`, or `all` for every figure."""

import importlib
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import jax
import typer

from experiments.configs import override
from experiments.results import label, save

NAMES = (
    "optimal_rejected",
    "log_ratio_reward",
    "objective_zoo",
    "objective_maps",
    "log_margin_order",
    "displacement",
    "did_entropy",
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help=f"all, or one of {', '.join(NAMES)}.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: key=value. May be given again."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("figures"),
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Run an experiment and write its data (NetCDF) and its picture (PNG and PDF)."""
    if name != "all" and name not in NAMES:
        raise typer.BadParameter(f"unknown experiment {name!r}; there are all, {', '.join(NAMES)}")
    chosen = NAMES if name == "all" else (name,)
    modules = {one: importlib.import_module(f"experiments.{one}") for one in chosen}
    try:
        configs = {one: override(module.Config, settings or []) for one, module in modules.items()}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise typer.BadParameter(f"--out must be a folder that can be written to: {error}") from None
    # Limits that are nearly deterministic hang on the gradients of sequences of tiny probability.
    jax.config.update("jax_enable_x64", True)
    for one, module in modules.items():
        began = time.perf_counter()
        arguments = [one, *(word for setting in settings or [] for word in ("--set", setting))]
        command = f"python -m experiments {shlex.join(arguments)}"
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
