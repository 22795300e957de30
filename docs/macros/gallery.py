"""What the gallery shows of each experiment: its picture, what was found, and how it is made."""

import json
from textwrap import indent
from typing import Any

from docs.macros.files import ROOT
from docs.macros.objectives import zoo_table

_ABOUT_NUMBERS = (
    "Medians over instances, in nats; 0 stands for less than 1e-12. The last four columns are shares of "
    'instances. "Found": the solver ended at a stationary point. "Full support": every sequence has a '
    'positive probability there. "Proven unique": there is no other minimiser. "Starts agree": all starts '
    "ended there. A dash stands for a single start, or if nothing is proven. If a policy runs off, towards "
    "probabilities of zero without end, its divergence and entropy are those at which the solver stopped."
)
_FINDINGS = ROOT / "figures" / "findings.json"


def gallery() -> str:
    """A section for each experiment."""
    found: dict[str, dict[str, Any]] = json.loads(_FINDINGS.read_text())
    return "\n\n".join(_section(name, one) for name, one in found.items())


def _section(name: str, one: dict[str, Any]) -> str:
    heading = name.replace("_", " ").capitalize().replace("Did ", "DID ")
    lines = [
        f"## {heading}",
        f"![{one['title']}](figures/{name}.png)",
        f"**{one['title'].rstrip('.')}.** {one['finding']}",
        f"`{one['command']}` ({one['seconds']:.0f} s on two cores)",
    ]
    if name == "objective_zoo":
        lines += ['??? note "The numbers"', indent(_ABOUT_NUMBERS, "    "), indent(zoo_table(), "    ")]
    return "\n\n".join(lines)
