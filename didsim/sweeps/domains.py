"""The values that the numbers of an optimiser can have, by their names in optax."""

from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, NamedTuple

from didsim.sweeps.settings import Setting


class Domain(NamedTuple):
    """A set of real numbers, in words and as a function."""

    expected: str
    holds: Callable[[float], bool]


_POSITIVE = Domain("positive", lambda x: x > 0)
_NON_NEGATIVE = Domain("zero or more", lambda x: x >= 0)
_DECAY = Domain("at least 0 and below 1", lambda x: 0 <= x < 1)
_MOMENTUM = Domain("between -1 and 1, both excluded", lambda x: -1 < x < 1)
_SHRINKS = Domain("between 0 and 1, both excluded", lambda x: 0 < x < 1)
_GROWS = Domain("above 1", lambda x: x > 1)
_COUNT = Domain("at least 1", lambda x: x >= 1)

DOMAINS: Mapping[str, Domain] = {
    name: domain
    for domain, names in {
        _POSITIVE: "learning_rate max_learning_rate max_delta max_norm clipping clipping_threshold threshold "
        "min_step_size max_step_size min_scale trust_coefficient scaling scale_factor global_scale "
        "stepsize_precision decay_rate",
        _NON_NEGATIVE: "eps eps_root eta gamma weight_decay weight_decay_rate initial_accumulator_value "
        "initial_scale min_norm alpha beta atol rtol tol approx_dec_rtol reps_rel",
        _DECAY: "b1 b2 b3 decay rho smooth_beta signum.beta",
        _MOMENTUM: "momentum",
        _SHRINKS: "eta_minus decrease_factor slope_rtol curv_rtol",
        _GROWS: "eta_plus increase_factor",
        _COUNT: "k memory_size max_backtracking_steps max_linesearch_steps",
    }.items()
    for name in names.split()
}
"""The domain of each number, by its name, or by its optimiser's name and its own. A number that is not listed
may be any: a target loss, an offset, a factor whose sign matters."""


def check_domains(place: str, table: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """Raise unless the numbers of a table are in their domains, or have their default values.

    Raises:
        ValueError: a number is not; the message begins with its place.
    """
    for name, value in table.items():
        domain = DOMAINS.get(f"{table['name']}.{name}", DOMAINS.get(name))
        if domain is None or isinstance(value, str | bool) or domain.holds(value):
            continue
        default = settings[name].default
        if default is Parameter.empty or value != default:
            raise ValueError(f"`{place}.{name}` must be {domain.expected}; got {value}")
