"""Valid calls of what is fitted to finite data, and of the tables and rankings that it is fitted to."""

from typing import Any

import jax
import numpy as np

import didsim
from didsim import estimation, preferences
from tests.arguments.calls import call
from tests.arguments.kinds import Argument, distribution, flag, host_number, integer, only, path
from tests.arguments.of_distributions import KEY, P

_GAMES = {"winner": ["x", "y", "z"], "loser": ["y", "z", "x"], "weight": [1.0, 2.0, 3.0]}
_DATA = preferences.Pairs(np.arange(24) % 3, (np.arange(24) + 1) % 3)
_FIT = estimation.reward_model(_DATA)
_RANKINGS = [["x", "y", "z"], ["z", "x"]]
_WEIGHTS = Argument(np.array([1.0, 2.0]), lambda value: _are_weights(value, 2)).or_none()
_LEVEL = Argument(0.9, lambda value: isinstance(value, float) and 0 < value < 1)
_DRAWS = estimation.bootstrap(_FIT, key=jax.random.key(0), resamples=4)
_ITEM = Argument(0, lambda value: type(value) in (int, bool, float) and value in (0, 1, 2))
_WITH_FEATURES = estimation.bootstrap(
    estimation.reward_model(_DATA, features=np.array([[0.0], [1.0], [3.0]]), ridge=1.0),
    key=jax.random.key(0),
    resamples=4,
)
_DPO = didsim.dpo()
_COLUMN = only("weight").or_none(None)


def _are_weights(value: Any, size: int) -> bool:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError):
        return False
    return (
        not np.iscomplexobj(value)
        and array.shape == (size,)
        and bool(np.isfinite(array).all() and (array >= 0).all() and array.any())
    )


def _is_lost(value: Any) -> bool:
    """Whether it is the NaN of a problem without a minimiser."""
    return isinstance(value, np.ndarray) and value.dtype == float and bool(np.isnan(value).all())


CALLS = {
    "preferences.Pairs.from_table": call(
        preferences.Pairs.from_table,
        table=Argument(_GAMES, lambda value: isinstance(value, dict) or path("a").allows(value)),
        winner=only("winner"),
        loser=only("loser"),
        between=only(None).or_none(),
        weight=_COLUMN,
        tie=only(None).or_none(),
        prompt=_COLUMN,
        shared_items=flag(),
    ),
    "preferences.Rankings.from_rankings": call(
        preferences.Rankings.from_rankings, rankings=only(_RANKINGS), weights=_WEIGHTS
    ),
    "preferences.Rankings.from_choices": call(
        preferences.Rankings.from_choices, chosen=only(["x", "y"]), sets=only(_RANKINGS), weights=_WEIGHTS
    ),
    "estimation.reward_model": call(
        estimation.reward_model,
        data=only(_DATA),
        features=only(None).or_none(),
        ridge=host_number(0.0, 0),
        alpha=host_number(None, 0).or_none(),
        ties=only("half"),
    ),
    "estimation.bootstrap": call(
        estimation.bootstrap,
        fit=only(_FIT),
        key=KEY,
        by=only("observations"),
        resamples=integer(2, 2),
    ),
    "estimation.split": call(
        estimation.split,
        data=only(_DATA),
        key=KEY,
        share=Argument(0.3, lambda value: isinstance(value, float) and 0 < value < 1),
        by=only("pair"),
    ),
    "estimation.held_out": call(
        estimation.held_out,
        objective=only(_DPO),
        log_probs=Argument(P, lambda value: distribution(P).allows(value) or _is_lost(value)),
        reference=distribution(P),
        pairs=only(_DATA),
        lengths=only(None).or_none(),
    ),
    "estimation.cross_validate": call(
        estimation.cross_validate,
        objective=only(didsim.dpo),
        # Items that are in no pair are not identified, which the verdicts say.
        reference=Argument(P, lambda value: distribution(P, None).allows(value) and np.size(value) >= 3),
        data=only(_DATA),
        lengths=only(None).or_none(),
        over=only({"beta": [1.0]}),
        key=KEY,
        folds=integer(2, 2),
        by=only("pair"),
    ),
    "estimation.BootstrapFit.interval": call(_DRAWS.interval, level=_LEVEL),
    "estimation.BootstrapFit.coefficient_interval": call(_WITH_FEATURES.coefficient_interval, level=_LEVEL),
    "estimation.Estimates.interval": call(_FIT.estimates().interval, level=_LEVEL),
    "estimation.RewardFit.index": call(_FIT.index, name=_ITEM),
    "estimation.RewardFit.contrast": call(_FIT.contrast, name=_ITEM, other=_ITEM),
    "estimation.RewardFit.log_ratios": call(
        _FIT.log_ratios, reference=distribution(P), beta=host_number(0.5, 0, above=True)
    ),
}
