"""A diagnosis on a terminal: the verdict, what it rests on, and what the files cannot tell."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from didsim._text import literal
from didsim.diagnostics.findings import Diagnosis, Finding, Grade
from didsim.diagnostics.wording import interval_of, short, value_of

if TYPE_CHECKING:
    from didsim.diagnostics.demo import Known

_STYLES = {Grade.FINE: "bold green", Grade.LOOK: "bold yellow", Grade.WRONG: "bold red"}


def on_terminal(diagnosis: Diagnosis) -> RenderableType:
    """What Rich prints of a diagnosis."""
    parts: list[RenderableType] = [_graded(diagnosis.grade, diagnosis.verdict), Text()]
    if diagnosis.findings:
        parts.append(literal("What it rests on", "bold"))
        for finding in diagnosis.findings:
            parts += [Padding(_finding(finding), (0, 0, 1, 2), expand=False)]
    if diagnosis.unknowns:
        parts.append(literal("What these files cannot tell, and which would", "bold"))
        parts += [
            Padding(literal(f"{one.what}: {one.which_file}"), (0, 0, 0, 2), expand=False)
            for one in diagnosis.unknowns
        ]
        parts.append(Text())
    parts.append(literal("What was read", "bold"))
    for source in diagnosis.inputs:
        told = f"{source.path}: {source.role}, {source.format}, {source.rows:,} rows"
        parts += [Padding(literal(line), (0, 0, 0, 2), expand=False) for line in (told, *source.notes)]
    return Group(*parts)


def _graded(grade: Grade, sentence: str) -> Text:
    return literal(grade.upper(), _STYLES[grade]).append("  ").append_text(literal(sentence, "bold"))


def _finding(finding: Finding) -> Group:
    lines: list[RenderableType] = [
        literal(finding.grade, _STYLES[finding.grade]).append("  ").append_text(literal(finding.sentence)),
        literal(f"Why: {finding.reason}", "dim"),
    ]
    if finding.advice:
        lines.append(literal(f"What to do: {finding.advice}"))
    if finding.numbers:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
        for heading, justify in (("number", "left"), ("value", "right"), ("95% interval", "left")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for name, number in finding.numbers.items():
            table.add_row(literal(name), literal(value_of(number)), literal(interval_of(number)))
        lines.append(table)
    return Group(*lines)


def beside_truth(diagnosis: Diagnosis, known: Iterable["Known"]) -> Table:
    """What a simulation knows, beside what was diagnosed from its files."""
    table = Table(
        title="Beside the truth, which only a simulation knows", title_justify="left", box=box.SIMPLE_HEAD
    )
    for heading in ("number", "truth", "diagnosed", "95% interval"):
        table.add_column(heading)
    for one in known:
        for finding in diagnosis.findings:
            if finding.name == one.finding and one.number in finding.numbers:
                number = finding.numbers[one.number]
                table.add_row(one.what, short(one.value), value_of(number), interval_of(number))
    return table
