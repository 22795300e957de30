"""What the gallery shows of each experiment: its picture, what was found, and how it is made."""

from textwrap import indent

from docs.macros.files import ROOT
from docs.macros.objectives import zoo_table
from experiments.shared.findings import Finding, read_findings
from experiments.shared.gallery import grouped, heading, in_numbers

_ABOUT_NUMBERS = (
    "Medians over instances, in nats; 0 stands for less than 1e-12. The last four columns are shares of "
    'instances. "Found": the solver ended at a stationary point. "Full support": every sequence has a '
    'positive probability there. "Proven unique": there is no other minimiser. "Starts agree": all starts '
    "ended there. A dash stands for a single start, or if nothing is proven. If a policy runs off, towards "
    "probabilities of zero without end, its divergence and entropy are those at which the solver stopped."
)


def gallery() -> str:
    """A part for each group of experiments, those of the paper first, and a section for each of them."""
    parts = []
    for group, found in grouped(read_findings(ROOT / "figures")):
        parts += [f"## {group}", *(_section(name, one) for name, one in found.items())]
    return "\n\n".join(parts)


def _section(name: str, one: Finding) -> str:
    lines = [
        f"### {heading(name)}",
        f"![{one.title}](figures/{one.pictures[0]})",
        f"**{one.title.rstrip('.')}.** {one.finding}",
        f"`{one.command}` ({in_numbers(one)})",
    ]
    for more in one.pictures[1:]:
        lines += ['??? note "All of them"', f"    ![{one.title}](figures/{more})"]
    if name == "objective_zoo":
        lines += ['??? note "The numbers"', indent(_ABOUT_NUMBERS, "    "), indent(zoo_table(), "    ")]
    return "\n\n".join(lines)
