"""What a diagnosis says: numbers with intervals, findings with a grade, and the verdict of them all."""

import enum
from typing import Literal

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


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What `diagnose` returns.

    Attributes:
        inputs: the files that were read.
        findings: what they show, the most worrying first.
        unknowns: what they cannot tell, and which file would.
    """

    inputs: tuple[Input, ...]
    findings: tuple[Finding, ...]
    unknowns: tuple[Unknown, ...]

    @property
    def grade(self) -> Grade:
        """The worst grade of the findings; fine if there is none."""
        return max((finding.grade for finding in self.findings), key=_ORDER.index, default=Grade.FINE)
