"""Boxes of the theory: a statement, how well it was found to hold, and what it needs."""

from functools import cache

import msgspec

from didsim.theory.report import Report
from docs.macros.files import ROOT

_REPORT = ROOT / "figures" / "checks.json"


@cache
def _report() -> Report:
    return msgspec.json.decode(_REPORT.read_bytes(), type=Report)


def check_command() -> str:
    """The command that measured the numbers of all boxes."""
    report = _report()
    return f"didsim check --instances {report.instances} --seed {report.seed}"


def check(name: str) -> str:
    """The box of one statement, as Markdown."""
    report = _report()
    row = next(one for one in report.rows if one.name == name)
    if row.shares is None:
        kind = "success" if row.verdict == "holds" else "failure"
        found = (
            f"**Exact**, {row.source}. Largest deviation on {row.instances:,} instances: {row.worst:.1e} "
            f"(allowed: {row.tolerance:.0e})."
        )
    else:
        kind = "question"
        low, high = min(row.shares, key=row.shares.__getitem__), max(row.shares, key=row.shares.__getitem__)
        found = (
            f"**Claim**, {row.source}. True of {row.share:.0%} of {row.instances:,} instances: from "
            f"{row.shares[low]:.0%} ({_spoken(low)}) to {row.shares[high]:.0%} ({_spoken(high)})."
        )
    lines = [f"{found} Check: `{name}`."]
    for one in report.counterexamples:
        if one.of == name:
            instance = "; ".join(f"{part} {text}" for part, text in one.instance.items())
            lines += [
                "",
                f"*Without* {_plain(one.dropped)}: {one.breaks}. The smallest instance has {one.size} "
                f"sequences: {instance} ({one.deviation:.3g} {one.unit}).",
            ]
    body = "\n".join(f"    {line}".rstrip() for line in lines)
    return f'!!! {kind} "{_plain(row.statement)}"\n{body}\n'


def _spoken(family: str) -> str:
    return family.replace("_", " ")


def not_held() -> str:
    """The paper's findings that are not true of all instances, with the share of which they are."""
    report = _report()
    lines = ["| finding | true of | from | to |", "| --- | --- | --- | --- |"]
    for row in sorted(report.rows, key=lambda one: one.section):
        if row.shares is None or row.share == 1:
            continue
        low, high = min(row.shares, key=row.shares.__getitem__), max(row.shares, key=row.shares.__getitem__)
        cells = (
            f"{_plain(row.statement)} (`{row.name}`)",
            f"{row.share:.0%} of {row.instances:,}",
            f"{row.shares[low]:.0%} ({_spoken(low)})",
            f"{row.shares[high]:.0%} ({_spoken(high)})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nMeasured by `{check_command()}`."


def _plain(text: str) -> str:
    """Text whose stars are stars."""
    return text.replace("*", "\\*")
