"""The command line: `didsim …`."""

from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console

from didsim.theory import CHECKS, check_all

_WIDTH = 110  # of tables in a file or a pipe

app = typer.Typer(add_completion=False, no_args_is_help=True)


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
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Check every statement of the theory on random instances, and show what its assumptions are worth.

    Exit status 1 if an exact statement fails.
    """
    for name in only or []:
        if name not in CHECKS:
            raise typer.BadParameter(f"unknown check {name!r}; there are {', '.join(CHECKS)}")
    try:
        out.open("a").close()
    except OSError as error:
        raise typer.BadParameter(f"--out must be a file that can be written to: {error}") from None
    jax.config.update("jax_enable_x64", True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    report = check_all(instances, seed, only, progress=not quiet and console.is_terminal)
    out.write_bytes(report.to_json())
    console.print(report.table())
    if report.counterexamples:
        console.print(report.counterexample_table())
    console.print(f"Written to {out}")
    if not report.passed:
        raise typer.Exit(1)
