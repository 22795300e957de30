"""The gallery: experiments in the order of a reader, and the page of a folder of pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from didsim._files import written_whole
from experiments.shared.findings import Finding, read_findings

GROUPS = {
    "Figures of the paper": (
        "four_answers",
        "optimal_rejected",
        "log_ratio_reward",
        "objective_zoo",
        "objective_maps",
        "log_margin_order",
        "displacement",
        "did_entropy",
        "estimator_study",
    ),
    "What the paper leaves open": (
        "beta_mismatch",
        "power_law_violation",
        "chosen_shift",
        "entropy_map",
        "projected_gradient",
        "iterative_refinement",
        "token_level",
        "gradient_flow_turns",
        "simpo_learns_the_did",
        "exploration",
        "best_of_n_pairs",
    ),
    "A real language model": ("real_lm",),
    "Finite data": ("two_stage", "generalisation", "finite_data", "overfitting"),
    "Simulations of other papers": (
        "sampling_rates",
        "squeezing",
        "similar_responses",
        "deterministic_preferences",
        "misspecified",
        "rejected_drop",
    ),
}
_INTRODUCTION = """# Figures

`make figures` makes this page and all that it shows. The command below a picture makes that one alone, with
its data (`NAME.nc`, which `xarray.open_dataset` opens) and a PDF. Unless a title says otherwise, lines are
medians over seeds, bands are the central 95%, and dashed lines are exact values. Every number in a finding
is computed from the data of its picture.
"""


def grouped(found: Mapping[str, Finding]) -> Iterator[tuple[str, dict[str, Finding]]]:
    """The findings by group, in the order of `GROUPS`; those that it does not name come last."""
    rest = dict(found)
    for group, names in GROUPS.items():
        if own := {name: rest.pop(name) for name in names if name in rest}:
            yield group, own
    if rest:
        yield "More", rest


def heading(name: str) -> str:
    """An experiment's name as a heading."""
    words = name.replace("_", " ").capitalize()
    return (
        words.replace("Did ", "DID ").replace(" did", " DID").replace("Simpo", "SimPO").replace(" lm", " LM")
    )


def in_numbers(one: Finding) -> str:
    """How large an experiment is, and how long it took beside another on two cores."""
    facts = [f"{count:,} {what}" for what, count in one.facts.items()]
    return f"{', '.join(facts)}; {one.seconds} s"


def write_page(folder: Path) -> Path:
    """Write README.md of a folder: the picture, title, finding and command of each experiment in it.

    Raises:
        ValueError: the file of findings is damaged.
        OSError: the page cannot be written.
    """
    parts = [_INTRODUCTION]
    for group, found in grouped(read_findings(folder)):
        parts.append(f"## {group}\n")
        parts += [_section(name, one) for name, one in found.items()]
    page = folder / "README.md"
    with written_whole(page) as (draft,):
        draft.write_text("\n".join(parts), encoding="utf-8")
    return page


def _section(name: str, one: Finding) -> str:
    pictures = "\n".join(f"![{one.title}]({picture})\n" for picture in one.pictures)
    return (
        f"### {heading(name)}\n\n{pictures}\n**{one.title.rstrip('.')}.** {one.finding}\n\n"
        f"`{one.command}` ({in_numbers(one)})\n"
    )
