"""Python files of a user, run so that what they add to registries can be named: `--import my_module.py`."""

import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Source(NamedTuple):
    """A Python file that was read, to be run here and in the worker processes of a cluster."""

    path: str
    text: str


def import_files(paths: Iterable[Path]) -> list[Source]:
    """Run Python files as modules, in order.

    Returns:
        The files as they were read.

    Raises:
        ValueError: a file cannot be read, or raises. The message names it, and is one line.
    """
    sources = []
    for path in paths:
        try:
            sources.append(Source(str(path), path.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--import {path}: {getattr(error, 'strerror', None) or error}") from None
    run_sources(sources)
    return sources


def run_sources(sources: Iterable[Source]) -> None:
    """Run files that were read, each as a module of its own.

    Raises:
        ValueError: a file raises an error. The message names the file, in one line.
    """
    for source in sources:
        # A name of its own, so that a file named as an installed package does not take its place.
        module = ModuleType(f"imported_{Path(source.path).stem}")
        module.__file__ = source.path
        sys.modules[module.__name__] = module
        try:
            exec(compile(source.text, source.path, "exec"), module.__dict__)
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
            reason = str(error).partition("\n")[0]
            at = error.lineno if isinstance(error, SyntaxError) else lines[1] if len(lines) > 1 else None
            where = source.path if at is None else f"{source.path}, line {at}"
            raise ValueError(f"--import {where}: {type(error).__name__}: {reason}") from None
