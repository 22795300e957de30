"""The list of notebooks, from their first cells."""

import re

import nbformat

from docs.macros.files import ROOT


def lessons() -> str:
    """Title and goal of every notebook."""
    return "\n".join(_entry(path.name) for path in sorted((ROOT / "notebooks").glob("*.ipynb")))


def _entry(name: str) -> str:
    first = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells[0].source
    title = re.search(r"^# (.+)$", first, flags=re.MULTILINE)
    goal = re.search(r"\*\*Goal\.\*\* (.+?)(?=\n\n|\Z)", first, flags=re.DOTALL)
    assert title, f"{name} has no title"
    assert goal, f"{name} states no goal"
    return f"- [{title[1]}](notebooks/{name}): {' '.join(goal[1].split())}"
