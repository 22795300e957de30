"""The theory as a report that anyone can run: each statement checked on random instances.

    checks            what a check is, and the registry of all
    cases             random instances, ordinary and hostile
    counterexamples   statements without one of their assumptions, and the instances that break them
    report            running all checks

The other files hold the checks: one file for each section of the theory, and `tokens` for what holds token by
token.
"""

from didsim.theory import (  # noqa: F401, registers the checks
    differential_information,
    dynamics,
    estimation,
    general_preferences,
    log_margins,
    objective_limits,
    pair_sums,
    preference_data,
    tokens,
    two_stages,
)
from didsim.theory.cases import CASE_FAMILIES, Case, make_cases
from didsim.theory.checks import CHECKS, Check, claim, exact
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
    "claim",
    "exact",
    "make_cases",
]
