"""What a diagnosis says: numbers with intervals, findings with a grade, and the verdict of them all."""

import enum
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec


class Grade(enum.StrEnum):
    """How much a finding should worry its reader."""

    FINE = "fine"
    LOOK = "look"
    WRONG = "wrong"


_ORDER = (Grade.FINE, Grade.LOOK, Grade.WRONG)


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A measured number, with its interval or the reason why there is none.

    Attributes:
        value: the number.
        unit: its unit, such as "nats", "nats per token", "share" or "".
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        no_interval: why there is no interval; empty if there is one.
    """

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    no_interval: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the files show.

    Attributes:
        name: a short name in lower case, such as "reference_is_not_initial_policy".
        grade: fine, look or wrong.
        sentence: what was found, in one plain sentence with its numbers.
        reason: why this follows: the statement of the theory that it rests on, in a sentence or two.
        advice: what to do about it; empty if there is nothing to do.
        numbers: what was measured, by name.
        step: the training step it is about, where it is about one.
    """

    name: str
    grade: Grade
    sentence: str
    reason: str
    advice: str = ""
    numbers: dict[str, Number] = {}
    step: float | None = None


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the files cannot tell.

    Attributes:
        what: the question that stays open.
        which_file: what file or option would answer it.
    """

    what: str
    which_file: str


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read.

    Attributes:
        path: where it is.
        role: what it was taken for.
        format: the format that was recognised, such as "trainer_state.json".
        rows: the number of rows read.
        notes: what was left out or changed on reading, one sentence each.
    """

    path: str
    role: Literal["log", "pairs", "reference samples", "policy samples"]
    format: str
    rows: int
    notes: tuple[str, ...] = ()


class Pictures(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures for a report, drawn when it is written.

    Attributes:
        draw: makes Matplotlib figures, by the names of their files without endings. It is called in the style
            of the report, once for light pages and once for dark ones.
        captions: what to see in a picture, in a sentence or two, by its name.
    """

    draw: Callable[[], Mapping[str, Any]]
    captions: Mapping[str, str]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What `diagnose` returns.

    Attributes:
        inputs: the files that were read.
        findings: what they show, the most worrying first.
        unknowns: what they cannot tell, and which file would.
        pictures: pictures of what they show.
    """

    inputs: tuple[Input, ...]
    findings: tuple[Finding, ...]
    unknowns: tuple[Unknown, ...]
    pictures: tuple[Pictures, ...] = ()

    @property
    def grade(self) -> Grade:
        """The worst grade of the findings; fine if there is none."""
        return max((finding.grade for finding in self.findings), key=_ORDER.index, default=Grade.FINE)

    @property
    def verdict(self) -> str:
        """The diagnosis in one sentence: that of the most worrying finding."""
        if not self.findings:
            return "These files hold too little to be judged."
        first = self.findings[0].sentence
        return f"Healthy: {first[0].lower()}{first[1:]}" if self.grade is Grade.FINE else first

    def to_json(self) -> bytes:
        """The grade, the verdict and all that they rest on, as JSON."""
        fields = {
            name: getattr(self, name) for name in ("grade", "verdict", "inputs", "findings", "unknowns")
        }
        return msgspec.json.format(msgspec.json.encode(fields), indent=1)
