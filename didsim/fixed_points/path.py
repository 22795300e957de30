"""The curve of minimisers along one parameter, each with its certificate."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Real

from didsim import _checks
from didsim.fixed_points.certificate import Certificate, Method, Solution, Verdict
from didsim.fixed_points.solve import solve
from didsim.fixed_points.task import on_device
from didsim.information import LogProbsLike
from didsim.objectives.objective import Objective
from didsim.policies import Policy
from didsim.preferences.problem import Problem

if TYPE_CHECKING:
    import xarray

# What a labelled dataset holds of a certificate, by its field.
_LONG_NAMES = {
    "gradient_norm": "Largest entry of the gradient",
    "duality_gap": "Duality gap",
    "last_step": "Next step of Newton's method",
    "steps": "Steps of Newton's method",
    "finite": "Whether the minimiser has full support",
    "unique": "Whether the minimiser is proven unique",
    "has_others": "Whether there are other minimisers",
    "flat": "Directions along which the loss is level",
    "converged": "Whether the solver converged",
    "runs_off": "Whether the policy runs off",
}


class SolutionPath(eqx.Module):
    """The minimisers along one parameter.

    Attributes:
        parameter: the name of the parameter.
        values: its values, in the order in which they were solved.
        log_probs: log-probabilities at each value, with the batch axes of the arguments. NaN for a problem
            without a minimiser at that value, or without one that the solver found.
        certificate: the certificates, with the axis of values first. Its `method` is `Method.SEVERAL` if
            values were solved in different ways. Its `note` joins theirs. Its `agreed` is True at values that
            had one start, unless all had one, when it is None.
        verdicts: the verdict at each value, for the worst problem of the batch.
        solutions: what `solve` gives at each value. Where a solver did not converge, `log_probs` of these are
            those at which it stopped.
    """

    parameter: str = eqx.field(static=True)
    values: Float[np.ndarray, " values"]
    log_probs: Float[Array, "values *batch sequences"]
    certificate: Certificate
    verdicts: tuple[Verdict, ...] = eqx.field(static=True)
    solutions: tuple[Solution, ...]

    def to_dataset(self, batch_dims: Sequence[str] = ()) -> "xarray.Dataset":
        """A labelled dataset with dimensions `(parameter, *batch_dims, "sequence")`.

        It holds the log-probabilities in nats, the numbers of the certificate, and the names of the verdicts.

        Raises:
            ValueError: `batch_dims` does not name every batch axis by a name of its own.
        """
        import xarray  # here, as the import takes longer than many a run

        batch_dims = _checks.words("batch_dims", batch_dims)
        dims = (self.parameter, *batch_dims)
        if len(batch_dims) != self.log_probs.ndim - 2 or len({*dims, "sequence"}) != len(dims) + 1:
            raise ValueError(
                f"`batch_dims` must name every batch axis of log-probabilities of shape "
                f"{self.log_probs.shape[1:]}, beside {self.parameter!r} and 'sequence'; got {batch_dims}"
            )
        variables: dict[str, Any] = {
            "log_probs": (
                (*dims, "sequence"),
                np.asarray(self.log_probs),
                {"long_name": "Log-probability", "units": "nats"},
            ),
            "verdict": (self.parameter, [one.name for one in self.verdicts], {"long_name": "Verdict"}),
        }
        for name, long_name in _LONG_NAMES.items():
            variables[name] = (dims, getattr(self.certificate, name), {"long_name": long_name})
        return xarray.Dataset(variables, coords={self.parameter: self.values})


def solve_path(
    objective: Objective | Callable[..., Objective],
    reference: LogProbsLike,
    problem: Problem | Callable[..., Problem],
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    over: Mapping[str, Real[ArrayLike, " values"] | Sequence[float]],
    policy: Policy | None = None,
    starts: int = 8,
) -> SolutionPath:
    """The minimisers along one parameter of an objective or of a problem, each with its certificate.

    The values are solved in the order in which they stand. Newton's method starts each from the solution
    before it (`solve(start=…)`), or from the last one that there was, and so needs few steps. All values
    share the compiled programs, so long as the functions return objectives and problems of one structure.

    A certificate is that of its value alone, as `solve` gives it. For a loss that is not known to be convex,
    the solution before is one of `starts` starts, and the lowest end is reported. Then minima can change
    places along the path, and the curve jumps. With `starts=1` the curve follows one branch of stationary
    points while it lasts, as training under a slowly changing parameter would; it need not be the lowest, and
    the certificate does not tell. The way back along the same values may then find another branch.

    Args:
        objective: a function of the parameter that returns the objective. So `didsim.dpo` is one of `beta`,
            and `functools.partial(didsim.cdpo, beta=0.1)` is one of `label_smoothing`. It is called with the
            parameter as a Python number, by keyword. Or an objective that does not depend on it.
        reference: the reference policy.
        problem: where pairs come from, or a function of the parameter that returns it, as for the weight of a
            mixture.
        lengths: number of tokens of every sequence; by default all count as one token.
        over: the name of the parameter, with its values.
        policy: a policy whose family is searched. Every value then starts from the policy as given.
        starts: number of starting points at each value, if the loss is not known to be convex.

    Returns:
        A `SolutionPath`. Costs as one `solve` for each value, with fewer steps.

    Raises:
        ValueError: `over` does not have one name with a list of finite numbers; neither `objective` nor
            `problem` is a function; one of them does not take the parameter, or returns something else; or
            `solve` refuses an argument.

    Examples:
        >>> import didsim
        >>> p, q = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5])
        >>> path = solve_path(didsim.dpo, q, didsim.Contrastive(p, q), over={"beta": [0.5, 1.0, 2.0]})
        >>> np.exp(path.log_probs[1]).round(6).tolist()  # of beta = 1: q · p/q
        [0.5, 0.3, 0.2]
        >>> path.certificate.unique.tolist()
        [True, True, True]
    """
    parameter, values = _parameter(over)
    if isinstance(objective, Objective) and isinstance(problem, Problem):
        raise ValueError(f"`objective` or `problem` must be a function of {parameter!r}; got {objective!r}")
    solutions: list[Solution] = []
    before = None
    for value in values.tolist():
        solution = solve(
            _made("objective", objective, Objective, "an Objective", parameter, value),
            reference,
            _made("problem", problem, Problem, "a Problem", parameter, value),
            lengths,
            policy=policy,
            starts=starts,
            start=before if policy is None else None,
        )
        solutions.append(solution)
        before = _last_found(before, solution)
    certificate = _stacked([one.certificate for one in solutions])
    policies = np.stack([one.log_probs for one in solutions])
    return SolutionPath(
        parameter=parameter,
        values=values,
        log_probs=on_device(np.where(certificate.converged[..., None], policies, np.nan)),
        certificate=certificate,
        verdicts=tuple(one.verdict for one in solutions),
        solutions=tuple(solutions),
    )


def _parameter(over: Any) -> tuple[str, Float[np.ndarray, " values"]]:
    """The name of the parameter, and its values."""
    if not isinstance(over, Mapping) or len(over) != 1 or not isinstance(next(iter(over)), str):
        raise ValueError(f"`over` must be a table of one parameter's name and its values; got {over!r}")
    ((name, given),) = over.items()
    if not name.isidentifier() or name == "sequence":
        raise ValueError(f"`over` must name a parameter, other than 'sequence'; got {name!r}")
    values = np.asarray(_checks.number(f"over[{name!r}]", given))
    if values.ndim != 1:
        raise ValueError(f"`over[{name!r}]` must have one axis, of values; got shape {values.shape}")
    return name, np.asarray(given, float)


def _made(name: str, make: Any, kind: type, expected: str, parameter: str, value: float) -> Any:
    """An argument that may be a function of the parameter, at one value."""
    if isinstance(make, kind):
        return make
    _checks.function(name, make, f"{expected}, or a function of {parameter!r} that returns one")
    try:
        made = make(**{parameter: value})
    except TypeError as error:
        raise ValueError(
            f"`{name}` must be a function that takes {parameter!r} by keyword; {error}"
        ) from error
    if not isinstance(made, kind):
        raise ValueError(f"`{name}` must be a function that returns {expected}; got {made!r}")
    return made


def _last_found(before: Solution | None, solution: Solution) -> Solution:
    """The last solution of each problem of a batch that the solver converged to."""
    if before is None:
        return solution
    new, old = np.asarray(solution.log_probs), np.asarray(before.log_probs)
    found = np.asarray(solution.certificate.converged) & ~np.isnan(new).any(axis=-1)
    return eqx.tree_at(
        lambda one: (one.log_probs, one.certificate.converged),
        solution,
        (np.where(found[..., None], new, old), np.where(found, True, before.certificate.converged)),
    )


def _stacked(certificates: Sequence[Certificate]) -> Certificate:
    """Certificates as one, with an axis more in front."""
    stacked: dict[str, Any] = {"agreed": None}
    for field in dataclasses.fields(Certificate):
        values = [getattr(one, field.name) for one in certificates]
        if field.name == "agreed" and any(value is not None for value in values):
            values = [
                np.ones_like(one.converged) if one.agreed is None else one.agreed for one in certificates
            ]
        if not field.metadata.get("static", False) and values[0] is not None:
            stacked[field.name] = np.stack(values)
    methods = {one.method for one in certificates}
    return Certificate(
        **stacked,
        method=methods.pop() if len(methods) == 1 else Method.SEVERAL,
        starts=max(one.starts for one in certificates),
        note=". ".join(dict.fromkeys(one.note for one in certificates if one.note)),
    )
