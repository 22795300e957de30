"""Every public function refuses every wrong value of every argument by name, with a `ValueError`."""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import pytest

import didsim
from didsim._registry import Registry
from tests.arguments import (
    of_diagnostics,
    of_distributions,
    of_estimation,
    of_exercises,
    of_games,
    of_objectives,
    of_pairs,
    of_pictures,
    of_runs,
    of_tables,
)
from tests.arguments.calls import Call
from tests.arguments.wrong_values import WRONG

CALLS: dict[str, Call] = {
    **of_distributions.CALLS,
    **of_estimation.CALLS,
    **of_exercises.CALLS,
    **of_pairs.CALLS,
    **of_games.CALLS,
    **of_objectives.CALLS,
    **of_runs.CALLS,
    **of_pictures.CALLS,
    **of_diagnostics.CALLS,
    **of_tables.CALLS,
}

MODULES = [
    didsim.diagnostics,
    didsim.estimation,
    didsim.exercises,
    didsim.families,
    didsim.fixed_points,
    didsim.games,
    didsim.information,
    didsim.margins,
    didsim.objectives,
    didsim.pairwise,
    didsim.plotting,
    didsim.policies,
    didsim.preferences,
    didsim.spaces,
    didsim.sweeps,
    didsim.theory,
    didsim.training,
]

# What functions of the library make and give; a user only reads it.
RESULTS = {
    "diagnostics.Diagnosis",
    "diagnostics.Finding",
    "diagnostics.Grade",
    "diagnostics.Input",
    "diagnostics.Number",
    "diagnostics.Pictures",
    "diagnostics.Rows",
    "diagnostics.TrainingLog",
    "diagnostics.Unknown",
    "diagnostics.DidEntropyEstimate",
    "diagnostics.PairsDiagnosis",
    "diagnostics.SamplesDiagnosis",
    "estimation.BootstrapFit",
    "estimation.CrossValidation",
    "estimation.HeldOut",
    "estimation.Estimates",
    "estimation.FitCertificate",
    "estimation.Identification",
    "estimation.RewardFit",
    "fixed_points.Certificate",
    "fixed_points.Given",
    "fixed_points.Method",
    "fixed_points.NoMinimiserError",
    "fixed_points.Sensitivity",
    "fixed_points.Solution",
    "fixed_points.SolutionPath",
    "fixed_points.Verdict",
    "games.Equilibrium",
    "games.GroupSolution",
    "margins.OrderReport",
    "margins.PowerLaw",
    "plotting.Look",
    "preferences.Draw",
    "preferences.DrawTable",
    "preferences.NamedPairs",
    "preferences.Rankings",
    "sweeps.Outcome",
    "sweeps.StoreError",
    "theory.Case",
    "theory.Check",
    "theory.Counterexample",
    "theory.Found",
    "theory.Report",
    "theory.Row",
    "training.DivergenceError",
    "training.Run",
    "training.Snapshot",
}
# Called in the middle of compiled programs, with arrays that were checked where they came in. Docstrings say
# that arguments are not checked, or the class is a part that solvers and training call.
INNER = {
    "diagnostics.Rows.together",
    "diagnostics.TrainingLog.where",
    "objectives.Objective.direction",
    "plotting.Look.marker",
    "objectives.Objective.curvature",
    "objectives.Objective.in_log_probs",
    "objectives.Objective.population_loss",
    "objectives.Objective.tabulated",
    "objectives.KeepsChosen.direction",
    "pairwise.potentials",
    "preferences.Problem.at",
    "preferences.Problem.check_table",
    "preferences.Problem.expect_ties",
    "preferences.Problem.listed",
    "preferences.Problem.wins",
    "sweeps.Sweep.check_fits",
    "training.Record.count",
    "training.Record.counts",
    "training.Record.resolve",
}
INNER_CLASSES = (
    didsim.objectives.Kernel,
    didsim.objectives.Reward,
    didsim.objectives.Term,
    didsim.objectives.Baseline,
    didsim.preferences.Sampler,
    didsim.pairwise.Analytic,
    didsim.pairwise.Polynomial,
    didsim.pairwise.PiecewiseLinear,
)
# An `Online` problem has no pairs of its own, and refuses these whatever the arguments.
ONLINE = ("sample", "expect", "expect_across", "expect_exp", "joint", "chosen_marginal", "rejected_marginal")
# Made by the library for runs over a batch, and asked by its solvers.
INNER_METHODS = ("over_runs", "own_curvature", "own_derivatives", "expansion")


def exported() -> Iterator[tuple[str, Any]]:
    """Everything that a user can name: the exports of each module, by their full names."""
    for module in MODULES:
        place = module.__name__.removeprefix("didsim.")
        names = getattr(module, "__all__", None)
        if names is None:
            names = [
                name
                for name, one in vars(module).items()
                if not name.startswith("_") and getattr(one, "__module__", None) == module.__name__
            ]
        for name in names:
            yield f"{place}.{name}", getattr(module, name)


def needed() -> Iterator[str]:
    """The names of all functions, constructors and methods with arguments."""
    for full, one in exported():
        if isinstance(one, type):
            if (
                full not in RESULTS
                and _takes(one)
                and not inspect.isabstract(one)
                and not getattr(one, "_is_protocol", False)
            ):
                yield full
            for name, method in vars(one).items():
                if name.startswith("_") or not isinstance(method, types.FunctionType | classmethod):
                    continue
                function = method.__func__ if isinstance(method, classmethod) else method
                is_inner = name in INNER_METHODS or issubclass(one, INNER_CLASSES)
                is_abstract = getattr(function, "__isabstractmethod__", False)
                of_online = one is didsim.Online and name in ONLINE
                if len(inspect.signature(function).parameters) > 1 and not (
                    is_inner or is_abstract or of_online
                ):
                    yield f"{full}.{name}"
        elif callable(one) and not isinstance(one, Registry) and _takes(one):
            yield full


def _takes(one: Any) -> bool:
    try:
        parameters = inspect.signature(one).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)


def test_every_export_has_a_valid_call() -> None:
    missing = sorted(set(needed()) - CALLS.keys() - INNER)
    assert missing == []


def test_top_level_names_are_those_of_the_modules() -> None:
    of_modules = {id(one) for _, one in exported()}
    others = [
        name
        for name in dir(didsim)
        if not name.startswith("_") and not isinstance(getattr(didsim, name), types.ModuleType)
    ]
    assert [name for name in others if id(getattr(didsim, name)) not in of_modules] == []


def test_there_are_more_than_thirty_wrong_values() -> None:
    assert len(WRONG) > 30


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    call = CALLS[name]
    faults = []
    for parameter, argument in call.arguments.items():
        for what, make in WRONG.items():
            if not argument.allows(make()):
                fault = _fault(call, parameter, make())
                faults += [] if fault is None else [f"{parameter} = {what}: {fault}"]
    assert not faults, "\n".join(faults)


def _fault(call: Call, parameter: str, wrong: Any) -> str | None:
    """How a call with one wrong argument falls short of a `ValueError` that names it, or None."""
    try:
        result = call(**{parameter: wrong})
    except ValueError as error:
        return None if f"`{parameter}" in str(error) else f"does not name it: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return f"gives {result!r}".splitlines()[0][:150]
