"""Every objective in one table: its formula, its source, and what is known of its minimiser."""

import importlib
import inspect
import json
import re
from html import escape
from types import ModuleType
from typing import Any

from didsim.objectives import OBJECTIVES
from docs.macros.files import ROOT
from experiments.shared import summary

_ZOO = ROOT / "figures" / "objective_zoo.json"
_FACTS = ROOT / "figures" / "objective_facts.json"


def zoo_table() -> str:
    """The minimisers of every objective on random instances, as `objective_zoo` found them."""
    return summary.table(json.loads(_ZOO.read_text()))


def objective_table() -> str:
    """Every objective, in the groups of the catalogue."""
    zoo = {row["objective"]: row for row in json.loads(_ZOO.read_text())}
    facts = json.loads(_FACTS.read_text())["objectives"]
    head = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"
    parts = []
    for group in dict.fromkeys(maker.__module__ for maker in OBJECTIVES.values()):
        names = [name for name, maker in OBJECTIVES.items() if maker.__module__ == group]
        rows = "\n".join(_row(name, zoo.get(name), facts[name]) for name in names)
        parts.append(f"## {_heading(importlib.import_module(group))}\n\n{head}\n{rows}\n")
    return "\n".join(parts)


_COLUMNS = (
    "objective",
    "loss of a pair",
    "in TRL",
    "convex in",
    "JS to the target",
    "never rejected",
    "never chosen",
    "source",
)


def _row(name: str, found: dict[str, Any] | None, facts: dict[str, Any]) -> str:
    maker = OBJECTIVES[name]
    text = inspect.getdoc(maker) or ""
    parameters = ", ".join(inspect.signature(maker).parameters)
    distance = "–" if found is None or found["js"] is None else _distance(found["js"])
    cells = (
        f"[`{name}({parameters})`][{maker.__module__}.{name}]",
        _formula(text),
        _in_trl(text),
        _convex(facts),
        distance,
        _end(facts["never_rejected"]),
        _end(facts["never_chosen"]),
        _sources(text),
    )
    return f"| {' | '.join(cells)} |"


def _convex(facts: dict[str, Any]) -> str:
    proven = [what for what in ("logits", "rewards") if facts[f"convex_in_{what}"]]
    return ", ".join(proven) or "–"


def _end(case: dict[str, Any]) -> str:
    """What becomes of a sequence: its probability, or what it tends to without a minimiser."""
    probability = case["probability"]
    if probability is None:
        return "unknown" if case["has_minimiser"] is None else "no minimiser"
    text = "0" if probability < 1e-6 else "1" if probability > 1 - 1e-6 else f"{probability:.2g}"
    return text if case["has_minimiser"] is not False else f"→ {text}"


def _distance(js: float | str) -> str:
    return "0" if float(js) < 1e-12 else f"{float(js):.2g}"


def _formula(text: str) -> str:
    """The first indented lines of a docstring, as code."""
    block = re.search(r"(?:^ {4}.+\n?)+", text.split("\nArgs:")[0], flags=re.MULTILINE)
    if block is None:
        return "–"
    lines = [re.sub(r"\s+", " ", line.strip()) for line in block[0].strip().splitlines()]
    # A bar would end the cell.
    return "<br>".join(f"<code>{escape(line).replace('|', '&#124;')}</code>" for line in lines)


def _in_trl(text: str) -> str:
    """How TRL calls the loss, as a docstring says."""
    found = re.search(r"In TRL: (.+?)\.(?=\n\n|\Z)", text, flags=re.DOTALL)
    return " ".join(found[1].split()) if found else "–"


def _sources(text: str) -> str:
    """The papers that a docstring names."""
    numbers = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", text))
    links = [f"[{number}](https://arxiv.org/abs/{number})" for number in numbers]
    return ", ".join(links) or _named_source(text)


def _named_source(text: str) -> str:
    found = re.search(r"Source: (.+?)\.(?: |\n|$)", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", found[1]) if found else "–"


def _heading(module: ModuleType) -> str:
    """The first sentence of a module's docstring, up to a colon."""
    return re.split(r"[.:]", inspect.getdoc(module) or module.__name__)[0]
