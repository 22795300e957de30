"""The command line's own help, as a page."""

import subprocess
import sys

from docs.macros.files import ROOT


def command_line() -> str:
    """Every command of `didsim` with its options, in Markdown, as Typer writes it."""
    command = [sys.executable, "-m", "typer", "didsim.cli", "utils", "docs", "--name", "didsim"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # The page has a title of its own.
    return text.split("\n", 1)[1]
