"""The theory as a report that anyone can run: each statement checked on random instances."""

from didsim.theory import (  # noqa: F401, registers the checks
    differential_information,
    dynamics,
    estimation,
    log_margins,
    objective_limits,
    pair_sums,
    preference_data,
)
from didsim.theory.cases import CASE_FAMILIES, Case, make_cases
from didsim.theory.checks import CHECKS, Check
from didsim.theory.counterexamples import COUNTEREXAMPLES, Counterexample, Found
from didsim.theory.report import Report, Row, check_all

__all__ = [
    "CASE_FAMILIES",
    "CHECKS",
    "COUNTEREXAMPLES",
    "Case",
    "Check",
    "Counterexample",
    "Found",
    "Report",
    "Row",
    "check_all",
    "make_cases",
]
