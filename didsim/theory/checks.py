"""Checks of statements, and the registry of all checks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from didsim import _checks, _extremes
from didsim._registry import Registry
from didsim.theory.cases import Case

PAPER = "arXiv 2505.23761"
OURS = "derived here"
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Check:
    """A statement, and how it is checked on one instance.

    Attributes:
        name: the name of the check.
        section: the section of the theory.
        statement: the statement, in words and formulas.
        source: where the statement comes from.
        kind: "exact" for an identity: its deviation must be within the tolerance on every instance. "claim"
            for a qualitative finding: the report gives the share of instances on which it holds.
        measure: a function of one instance, without batch axes. For an exact statement it returns the
            deviation, relative to one plus the size of the compared logarithms. For a claim it returns
            whether the claim holds.
        most: None if the check is a JAX function, which runs on a whole batch. Any other check runs on one
            instance after the other, and on at most this many.
        sizes: the numbers of sequences that the check is made for; None for any.
        tolerance: the largest deviation at which an exact statement holds.
    """

    name: str
    section: int
    statement: str
    source: str
    kind: Literal["exact", "claim"]
    measure: Callable[[Case], Any]
    most: int | None = None
    sizes: tuple[int, ...] | None = None
    tolerance: float = TOLERANCE


CHECKS: Registry[Check] = Registry("check", {})
"""Every check by its name. Reports sort them by section."""

_Measure = Callable[[Case], Any]


def exact(section: int, source: str, statement: str, **settings: Any) -> Callable[[_Measure], _Measure]:
    """Register a function of an instance as the deviation of an exact statement."""
    return _register(section, source, statement, "exact", settings)


def claim(section: int, source: str, statement: str, **settings: Any) -> Callable[[_Measure], _Measure]:
    """Register a function of an instance as whether a claim holds on it."""
    return _register(section, source, statement, "claim", settings)


def _register(
    section: int, source: str, statement: str, kind: Literal["exact", "claim"], settings: dict[str, Any]
) -> Callable[[_Measure], _Measure]:
    section = _checks.integer("section", section, 0)
    _checks.instance("source", source, str, "where the statement comes from, in words")
    _checks.instance("statement", statement, str, "a statement in words")

    def register(measure: _Measure) -> _Measure:
        name = measure.__name__
        CHECKS[name] = Check(name, section, statement, source, kind, measure, **settings)
        return measure

    return register


def off(left: Array, right: Array, *compared: Array) -> Array:
    """The largest difference, relative to 1 plus the largest magnitude of all arrays but `left`."""
    size = largest(*(jnp.abs(jnp.asarray(array)) for array in (right, *compared)))
    return largest(jnp.abs(left - right)) / (1 + size)


def largest(*deviations: Array) -> Array:
    """The largest of several deviations, numbers or arrays of them; NaN if any is."""
    return reduce(jnp.maximum, map(_extremes.largest, deviations))
