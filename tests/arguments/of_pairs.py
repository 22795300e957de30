"""Valid calls of sums over pairs, of problems, and of rejected distributions."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from didsim import pairwise, preferences
from didsim.preferences import REJECTED
from tests.arguments.calls import Call, call
from tests.arguments.kinds import (
    Argument,
    distribution,
    flag,
    function,
    host_number,
    indices,
    integer,
    number,
    only,
    values,
)
from tests.arguments.of_distributions import KEY, P, Q

X = jnp.array([0.0, 1.0, 2.0])
UNIFORM = np.log(np.full(3, 1 / 3))
FIRST, SECOND, VALUES = distribution(P), distribution(Q), values(X)
KERNEL = function(jnp.square)

TABLE = preferences.PreferenceTable.rao_kupper(X, 2.0)
PROBLEMS: dict[str, Any] = {
    "Contrastive": preferences.Contrastive(P, Q),
    "Pairs": preferences.Pairs([0, 1, 2], [1, 2, 0]),
    "Joint": preferences.Contrastive(P, Q).joint(3),
    "Labelled": preferences.Labelled(X, P, Q),
    "LabelledByTable": preferences.LabelledByTable(TABLE, P, Q),
    "Mixture": preferences.Mixture(
        (preferences.Labelled(X, P, Q), preferences.Labelled(X, Q, P)), np.log([0.5, 0.5])
    ),
}
# Of these the problems share one array, so that they have preferences.
PROBLEMS["Mixture"] = preferences.Mixture(
    tuple(preferences.Labelled(X, one, one) for one in (P, Q)), np.log([0.5, 0.5])
)
_ONLINE = preferences.Online(X, preferences.OnPolicy())


def _methods(name: str, problem: Any) -> dict[str, Call]:
    size = Argument(3, lambda value: name == "Pairs" and type(value) is int and 3 <= value < 2**31)
    most = 2**31 - 1 if name == "Pairs" else 3
    of_more = Argument(X, lambda value: values(X, None).allows(value) and value.shape[-1] >= 3)
    over = of_more if name == "Pairs" else VALUES
    pair = {"i": indices(0, most), "j": indices(1, most)}
    methods = {
        "preference": call(problem.preference, **pair),
        "sample": call(problem.sample, key=KEY, num_pairs=integer(2)),
        "expect": call(problem.expect, kernel=KERNEL, x=over, offset=number(jnp.array(0.5)).or_none()),
        "expect_across": call(problem.expect_across, kernel=KERNEL, x=over, y=over),
        "expect_exp": call(problem.expect_exp, x=over),
        "expect_ties": call(problem.expect_ties, kernel=KERNEL, x=over),
    }
    for method in (
        "check_size",
        "check_table",
        "wins",
        "joint",
        "listed",
        "chosen_marginal",
        "rejected_marginal",
    ):
        methods[method] = call(getattr(problem, method), size=size)
    return {f"preferences.{name}.{method}": one for method, one in methods.items()}


def _tiled(kernel: Any, weights_first: Any, weights_second: Any, x: Any) -> Any:
    return pairwise.tiled_pair_sum(kernel, weights_first, weights_second, x)


def _several_prompts() -> Argument:
    one = distribution(P, None)
    return Argument(np.stack([P, Q]), lambda other: one.allows(other) and other.ndim >= 2)


_BETA = number(0.5, 0, above=True)
_REJECTED = {
    "key": KEY,
    "reference": FIRST,
    "target": SECOND,
    "beta": _BETA,
    "exponent": number(0.5),
    "position": number(0.5),
    "noise": number(0.5, 0),
    "score": VALUES,
    "n": host_number(2, 1),
}
_ALONE = {"uniform", "reference", "target", "tempered"}


def _rejected(name: str) -> Call:
    own = dict(_REJECTED)
    if name in _ALONE:
        own |= {"reference": distribution(P, None), "target": distribution(Q, None)}
    parameters = REJECTED[name].__annotations__.keys() - {"return"}
    return call(REJECTED[name], **{parameter: own[parameter] for parameter in parameters})


CALLS = {
    "pairwise.Analytic": call(
        pairwise.Analytic,
        function=function(jnp.tanh),
        strip=host_number(1.0, 0, above=True),
        odd_slope=host_number(1.0).or_none(),
    ),
    "pairwise.Polynomial": call(
        pairwise.Polynomial, coefficients=Argument((1.0, 2.0), lambda v: _are_numbers(v))
    ),
    "pairwise.PiecewiseLinear": call(
        pairwise.PiecewiseLinear,
        knots=Argument((0.0, 1.0), lambda v: _are_numbers(v)),
        **{
            name: Argument((1.0, 2.0), lambda v: _are_numbers(v, 2) or (isinstance(v, tuple) and not v))
            for name in ("below", "left", "above", "right", "at")
        },
    ),
    "pairwise.pair_sum": call(
        pairwise.pair_sum,
        kernel=only(pairwise.Polynomial((0.0, 0.0, 1.0))),
        weights_first=Argument(X, lambda v: _are_floats(v, 3)),
        weights_second=Argument(X, lambda v: _are_floats(v, 3)),
        x=VALUES,
        offset=number(0.0),
        tolerance=host_number(1e-9, 1e-9, 0.99).or_none(),
    ),
    "pairwise.tiled_pair_sum": call(
        _tiled,
        kernel=KERNEL,
        weights_first=Argument(X, lambda v: _are_floats(v, 3)),
        weights_second=Argument(X, lambda v: _are_floats(v, 3)),
        x=Argument(X, lambda v: _are_floats(v, 3)),
    ),
    "preferences.Contrastive": call(preferences.Contrastive, chosen=FIRST, rejected=SECOND),
    "preferences.Labelled": call(
        preferences.Labelled, reward=VALUES, first=FIRST, second=SECOND, separable=flag().or_none()
    ),
    "preferences.Pairs": call(
        preferences.Pairs,
        winners=only(np.array([0, 1, 2])),
        losers=only(np.array([1, 2, 0])),
        weights=Argument(
            np.array([1.0, 2.0, 3.0]),
            lambda v: values(X).allows(v) and v.shape == (3,) and (v >= 0).all() and v.any(),
        ).or_none(),
        win_probs=Argument(
            np.array([0.1, 0.5, 1.0]),
            lambda v: values(X).allows(v) and v.shape == (3,) and (v >= 0).all() and (v <= 1).all(),
        ).or_none(),
        tied=Argument(
            np.array([True, False, False]),
            lambda v: isinstance(v, np.ndarray) and v.dtype == bool and v.shape == (3,),
        ).or_none(),
    ),
    "preferences.Joint": call(
        preferences.Joint,
        log_probs=only(PROBLEMS["LabelledByTable"].joint(3).log_probs),
        log_ties=only(PROBLEMS["LabelledByTable"].joint(3).log_ties).or_none(),
    ),
    "preferences.Mixture": call(
        preferences.Mixture,
        problems=only((PROBLEMS["Pairs"], PROBLEMS["Contrastive"])),
        log_weights=distribution(np.log([0.5, 0.5]), 2),
    ),
    "preferences.OnPolicy": call(preferences.OnPolicy, exponent=number(1.0, 0)),
    "preferences.PolicyAndUniform": call(preferences.PolicyAndUniform, exponent=number(1.0, 0)),
    "preferences.CappedRewardDifference": call(
        preferences.CappedRewardDifference, cap=number(1.0, 0).or_none()
    ),
    "preferences.PreferenceTable": call(
        preferences.PreferenceTable,
        wins=only(np.exp(TABLE.log_wins)),
        ties=only(1 - np.exp(TABLE.log_wins) - np.exp(TABLE.log_wins).T),
    ),
    "preferences.PreferenceTable.rao_kupper": call(
        preferences.PreferenceTable.rao_kupper, reward=values(X, None), theta=number(2.0, 1)
    ),
    "preferences.PreferenceTable.bradley_terry": call(
        preferences.PreferenceTable.bradley_terry, reward=values(X, None)
    ),
    "preferences.PreferenceTable.cyclic": call(
        preferences.PreferenceTable.cyclic, size=integer(3, 1, 10**4), win=number(0.9, 0, 1)
    ),
    "preferences.PreferenceTable.mixed": call(
        preferences.PreferenceTable.bradley_terry(np.stack([X, -X])).mixed, weights=only(np.array([0.5, 0.5]))
    ),
    "preferences.in_own_prompt": call(preferences.in_own_prompt, log_probs=_several_prompts()),
    "preferences.PreferenceTable.win_rates": call(TABLE.win_rates, log_probs=FIRST),
    "preferences.LabelledByTable": call(
        preferences.LabelledByTable, preferences=only(TABLE), first=FIRST, second=SECOND
    ),
    "preferences.RewardDifference": call(preferences.RewardDifference, of=only("policy")),
    "preferences.Online": call(
        preferences.Online, reward=values(X, None), sampler=only(preferences.OnPolicy())
    ),
    "preferences.Online.check_size": call(_ONLINE.check_size, size=only(3)),
    "preferences.Online.preference": call(_ONLINE.preference, i=indices(0, 3), j=indices(1, 3)),
    "preferences.Online.at": call(_ONLINE.at, log_probs=VALUES, implicit_reward=VALUES),
    "preferences.optimal_rejected": _rejected("optimal"),
    **{f"preferences.REJECTED.{name}": _rejected(name) for name in REJECTED},
    **{full: one for name, problem in PROBLEMS.items() for full, one in _methods(name, problem).items()},
}


def _are_floats(value: Any, size: int) -> bool:
    good = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim and value.size
    return bool(good) and value.shape[-1] == size


def _are_numbers(value: Any, length: int | None = None) -> bool:
    """A sequence of finite numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fui" or value.ndim != 1:
        return False
    return bool(value.size) and length in (None, value.size) and bool(np.isfinite(value).all())
