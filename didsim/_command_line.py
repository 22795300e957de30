"""What the commands `didsim` and `python -m experiments` share: how they print, and how they end.

The exit status is 0 if all went well, 2 if an argument or a study is wrong, 1 if anything else failed, and
130 after Ctrl-C.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from didsim._text import visible

WRONG, FAILED, INTERRUPTED = 2, 1, 130

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_WIDTH = 110  # of tables in a file or a pipe


class _Told:
    """Errors in one line, whatever is asked for: a command, the help or the version."""

    def main(self, args: Any = None, *more: Any, **options: Any) -> Any:
        with told("--debug" in (sys.argv if args is None else args)):
            return super().main(args, *more, **options)  # type: ignore[misc]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except KeyboardInterrupt:
            typer.echo("Interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


class Command(_Told, TyperCommand):
    """A command that tells errors in one line, unless it is called with `--debug`."""


class Group(_Told, TyperGroup):
    """Commands that tell errors in one line, unless they are called with `--debug`."""


@contextmanager
def told(debug: bool) -> Iterator[None]:
    """Tell any error in one line on standard error, and end with its exit status.

    Args:
        debug: whether to let errors through, with their tracebacks.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal may lack a character, and a path may be no text. Neither stops a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                yield
        finally:
            with _standard_output():
                sys.stdout.flush()
    except Exception as error:
        if debug:
            raise
        typer.echo(f"Error: {visible(_message(error))}", err=True)
        is_wrong = isinstance(error, ValueError) and not isinstance(error, UnicodeError | OSError)
        sys.exit(WRONG if is_wrong else FAILED)


def _show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    typer.echo(f"Warning: {visible(message)}", err=True)


def _message(error: Exception) -> str:
    match error:
        case OSError(strerror=str(reason), filename=path):
            return reason if path is None else f"{os.fsdecode(path)}: {reason}"
        case MemoryError():
            return f"not enough memory: {error}" if str(error) else "not enough memory"
        case ValueError() | OSError() | RuntimeError() | ArithmeticError():
            return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (--debug shows where it comes from)"


@contextmanager
def _standard_output() -> Iterator[None]:
    """Name standard output in an error of writing to it."""
    try:
        yield
    except BrokenPipeError:
        _close_standard_output()
        sys.exit(FAILED)  # the reader has seen enough, as with `| head`
    except OSError as error:
        _close_standard_output()
        raise OSError(error.errno, error.strerror, "standard output") from None


def _close_standard_output() -> None:
    """Send what is still buffered nowhere, as Python would try to write it at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Standard output, with a fixed width where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH)


def say(*things: Any) -> None:
    """Print words with control characters made visible, and tables as rich draws them, to standard output.

    Raises:
        OSError: standard output cannot be written to.
    """
    with _standard_output():
        for thing in things:
            if isinstance(thing, str):
                typer.echo(visible(thing))
            else:
                console().print(thing)
