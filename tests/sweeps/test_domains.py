"""The values that the numbers of optimisers and schedules can have."""

import re
from typing import Any

import pytest

from didsim.sweeps.completing import complete
from didsim.sweeps.domains import DOMAINS, check_domains
from didsim.sweeps.optimizers import OPTIMIZERS
from didsim.sweeps.settings import settings_of


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"eps": -1}, "`optimizer.eps` must be zero or more; got -1.0"),
        ({"b2": 2}, "`optimizer.b2` must be at least 0 and below 1; got 2.0"),
        ({"b1": 1}, "`optimizer.b1` must be at least 0 and below 1; got 1.0"),
        ({"b1": -0.1}, "`optimizer.b1` must be at least 0 and below 1; got -0.1"),
        ({"learning_rate": 0}, "`optimizer.learning_rate` must be positive; got 0.0"),
        ({"name": "sgd", "learning_rate": 1, "momentum": 1}, "`optimizer.momentum` must be between -1 and 1"),
        ({"name": "rmsprop", "learning_rate": 1, "decay": 1.5}, "`optimizer.decay` must be at least 0"),
        ({"name": "adamw", "learning_rate": 1, "weight_decay": -1}, "`optimizer.weight_decay` must be zero"),
        ({"name": "rprop", "learning_rate": 1, "eta_plus": 0.5}, "`optimizer.eta_plus` must be above 1"),
        (
            {"name": "signum", "learning_rate": 1, "beta": 2},
            "`optimizer.beta` must be at least 0 and below 1",
        ),
        ({"name": "clip_by_global_norm", "max_norm": 0}, "`optimizer.max_norm` must be positive"),
    ],
)
def test_numbers_outside_their_domains(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        complete({"optimizer": tables})


def test_numbers_inside_their_domains() -> None:
    for table in (
        {"b1": 0, "b2": 0, "eps": 0},
        {"name": "sgd", "learning_rate": 1, "momentum": -0.5},
        {"name": "optimistic_gradient_descent", "learning_rate": 1, "beta": 2},
        {"name": "scale", "step_size": -0.1},
    ):
        complete({"optimizer": table})


def test_every_number_of_optax_has_a_domain_or_may_be_any() -> None:
    free = {"decay_offset", "f_min", "optimism", "step_size", "key", "mask", "axis", "seed"}
    numbers = set()
    for name in OPTIMIZERS:
        settings = settings_of(OPTIMIZERS[name])
        numbers |= {key for key, one in settings.items() if one.kind in (int, float)}
        defaults = {key: one.default for key, one in settings.items()}
        given = {k: v for k, v in defaults.items() if isinstance(v, int | float)}
        check_domains("optimizer", {"name": name, **given}, settings)
    assert numbers - free - {"min_dim_size_to_factor"} == {one for one in DOMAINS if "." not in one}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"name": "linear_schedule", "end_value": -1}, "`schedule` must give learning rates of zero or more"),
        ({"name": "exponential_decay", "decay_rate": -0.5}, "`schedule` must give learning rates of zero"),
        ({"name": "cosine_decay_schedule", "alpha": -1}, "`schedule` must give learning rates of zero or"),
    ],
)
def test_learning_rates_are_never_negative(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        complete({"schedule": schedule})
