"""A study with every setting filled in and every value checked, from the tables of a file."""

import math
from collections.abc import Mapping
from functools import cache, lru_cache
from inspect import Parameter
from types import MappingProxyType
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec

from didsim import _checks
from didsim._memory import check_fits
from didsim.objectives.objective import Objective
from didsim.spaces import SequenceSpace
from didsim.sweeps.axes import RESERVED
from didsim.sweeps.makers import ROLES
from didsim.sweeps.optimizers import check_optimizer, schedule_defaults
from didsim.sweeps.settings import Maker, count_numbers, make, settings_of
from didsim.sweeps.study import PROBLEMS, Named, Recorded, Space, Study, nearest, with_problem_named
from didsim.training.metrics import METRICS, metric_of
from didsim.training.record import Record, not_by_default

# Whole numbers are 32-bit integers in a compiled program.
Whole = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


def _table(given: Named) -> dict[str, Any]:
    return {"name": given} if isinstance(given, str) else dict(given)


def _default(place: str) -> dict[str, Any]:
    *problem, key = place.split(".")
    tables = [kind() for kind in PROBLEMS.values()] if problem else [Study()]
    return next(_table(getattr(table, key)) for table in tables if hasattr(table, key))


DTYPES = ("float32", "float64")
_LARGE = 10**6  # numbers: what has more is checked by its shapes alone
_DEFAULTS = {place: _default(place) for place in ROLES}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "": Study.__struct_fields__,
    "space": Space.__struct_fields__,
    "record": Recorded.__struct_fields__,
}


def complete(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A study with every setting filled in and every value checked, as plain data.

    Raises:
        ValueError: a key is unknown, a value has a wrong type or is out of range. The message begins with
            the key's place.
    """
    tables = with_problem_named(tables)
    _check_keys(tables)
    if "dtype" in tables and tables["dtype"] not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}; got {tables['dtype']!r}")
    try:
        study = msgspec.convert(tables, Study)
    except msgspec.ValidationError as error:
        raise ValueError(_placed(str(error))) from None
    if study.record.metrics == ():
        raise ValueError("`record.metrics` must name at least one metric; without the key, all standard ones")
    config: dict[str, Any] = msgspec.to_builtins(study)
    _check_finite(config)
    dtype = config["dtype"]
    config["objective"] = _completed("objective", config["objective"], dtype)
    beta = config["objective"].get("beta")
    for place in ROLES:
        table, key = _parent(config, place)
        if place == "schedule":
            at_hand = {"learning_rate": config["optimizer"].get("learning_rate"), "steps": config["steps"]}
        else:
            at_hand = {"beta": beta}
        if key in table and place != "objective":
            table[key] = _completed(place, table[key], dtype, at_hand)
    problem = config["problem"]
    if "beta" in problem and problem["beta"] is None:
        problem["beta"] = _beta_for("problem.beta", beta)
    if "beta" in problem and not problem["beta"] > 0:
        raise ValueError(f"`problem.beta` must be positive; got {problem['beta']}")
    check_optimizer(config)
    _check_recorded(config)
    try:
        SequenceSpace(**config["space"])
    except ValueError as error:
        raise ValueError(f"`space`: {error}") from None
    return config


def metrics_of(config: Mapping[str, Any]) -> list[str]:
    """The names of what a complete study records."""
    recorded = config["record"]
    metrics = recorded["metrics"] and {name: METRICS[name] for name in recorded["metrics"]}
    record = Record(recorded["every"], metrics, recorded["also"])
    has_support = config["problem"].get("pairs") is None
    return list(record.resolve(has_target=True, has_support=has_support))


def _check_keys(tables: Mapping[str, Any]) -> None:
    problem = tables.get("problem")
    known = dict(_KEYS)
    if isinstance(problem, Mapping):
        known["problem"] = ("name", *PROBLEMS[problem["name"]].__struct_fields__)
    for place, keys in known.items():
        table = tables.get(place, {}) if place else tables
        if isinstance(table, Mapping):
            for key in table:
                if key not in keys:
                    full = f"{place}.{key}" if place else key
                    raise ValueError(f"`{full}` is not a key of a study; {nearest(str(key), list(keys))}")


def _placed(message: str) -> str:
    """A message of msgspec's, which ends with a path, with the path first."""
    text, at, path = message.rpartition(" - at `$.")
    return f"`{path.rstrip('`')}`: {text}" if at else message


def _check_finite(config: Mapping[str, Any], place: str = "") -> None:
    for key, value in config.items():
        kind = type(value)
        if kind is dict:
            _check_finite(value, f"{place}{key}.")
        elif kind is float and not math.isfinite(value):
            raise ValueError(f"`{place}{key}` must be finite; got {value}")
        elif kind is int and not -(2**63) <= value < 2**63:
            raise ValueError(
                f"`{place}{key}` must be an integer of at most 64 bits; got one of {value.bit_length()}"
            )


def _parent(config: dict[str, Any], place: str) -> tuple[dict[str, Any], str]:
    *tables, key = place.split(".")
    for table in tables:
        config = config[table]
    return config, key


def _completed(
    place: str, given: Named, dtype: str, at_hand: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """A table that names something, with all settings of what it names.

    A setting that is not given and has no default is taken from what the study has at hand.
    """
    table = _table(given)
    if "name" not in table:
        table = {**_DEFAULTS[place], **table}
    role = ROLES[place]
    name = table.pop("name")
    maker = role.registry.get(name) if isinstance(name, str) else None
    if maker is None:
        raise ValueError(f"`{place}.name` is unknown: {name!r}; {nearest(str(name), list(role.registry))}")
    settings = settings_of(maker, role.given)
    if place == "schedule":
        at_hand = schedule_defaults(settings, **at_hand)
    # Only what is asked for, so that a value of the objective's beta leaves the optimiser's table as it is.
    asked = {key: at_hand[key] for key in at_hand if key in settings and key not in table}
    # A copy, as equal tables of other cells share the one that is kept.
    return dict(_filled(place, name, maker, msgspec.json.encode((table, asked)), dtype))


@lru_cache(100_000)
def _filled(place: str, name: str, maker: Maker, tables: bytes, dtype: str) -> Mapping[str, Any]:
    """A table with all settings of what it names, all checked. Cells with equal tables need it once.

    Args:
        place: the place of the table in a study.
        name: the name in it.
        maker: the function of that name.
        tables: its settings, and the values at hand for those that are not given, as JSON.
        dtype: the study's dtype.
    """
    table, at_hand = msgspec.json.decode(tables)
    settings = settings_of(maker, ROLES[place].given)
    for key in table:
        if key not in settings:
            what = nearest(key, list(settings)) if settings else "it has no settings"
            raise ValueError(f"`{place}.{key}` is not a setting of {name!r}; {what}")
    complete: dict[str, Any] = {"name": name}
    for key, (kind, default) in settings.items():
        full = f"{place}.{key}"
        kind = Whole if kind is int else kind
        if key in table:
            try:
                complete[key] = msgspec.convert(table[key], kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"`{full}`: {error}") from None
        elif default is None:
            continue
        elif default is not Parameter.empty:
            try:
                complete[key] = msgspec.convert(default, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"`{full}` must be given, as its default is no value: {error}") from None
        elif at_hand.get(key) is not None:
            complete[key] = at_hand[key]
        elif key == "beta":
            complete[key] = _beta_for(full, None)
        else:
            raise ValueError(f"`{full}` must be given to {name!r}")
    _check_finite({place: complete})
    _check_settings(place, maker, msgspec.json.encode(complete), dtype)
    return complete


def _beta_for(place: str, beta: float | None) -> float:
    if beta is None:
        raise ValueError(f"`{place}` must be given: the objective has no beta to take it from")
    return beta


@cache
def _check_settings(place: str, maker: Maker, table: bytes, dtype: str) -> None:
    """Make what a table names, on a space of two sequences, so that it raises for a wrong setting."""
    settings = msgspec.json.decode(table)
    with jax.enable_x64(dtype == "float64"):
        p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.4, 0.6]))
        at_hand: dict[str, Any] = {"reference": p, "target": q, "score": q, "learning_rate": 1.0, "steps": 1}
        at_hand |= {"key": jax.random.key(0), "space": SequenceSpace(2, 1), "size": 2}
        given = {name: at_hand[name] for name in ROLES[place].given}
        if any(type(value) is int for value in settings.values()):
            number = count_numbers(lambda: make(maker, settings, **given))
            check_fits(f"`{place}`: {settings['name']!r}", number * jnp.dtype(dtype).itemsize)
            if number > _LARGE:
                return
        try:
            made = make(maker, settings, **given)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{place}`: {error}") from None
    if place == "objective":
        _checks.instance("objective", made, Objective, "a function that makes an Objective")


def _check_recorded(config: Mapping[str, Any]) -> None:
    recorded = config["record"]
    if recorded["metrics"] is not None and recorded["also"]:
        raise ValueError(
            "`record.also` adds to the standard metrics, and must be empty beside `record.metrics`; got "
            f"{list(recorded['also'])}"
        )
    for place in ("metrics", "also"):
        for name in recorded[place] or ():
            known = list(METRICS) if place == "metrics" else sorted(not_by_default())
            if name in RESERVED:
                raise ValueError(f"`record.{place}` has a metric named {name!r}, which is a name of results")
            if name not in known:
                raise ValueError(f"`record.{place}` has an unknown metric {name!r}; {nearest(name, known)}")
    if config["problem"].get("pairs") is not None:
        for name in (*(recorded["metrics"] or ()), *recorded["also"]):
            if metric_of(METRICS[name]).needs_support:
                raise ValueError(
                    f"`record`: the metric {name!r} needs a rejected distribution without zeros, which "
                    "finite pairs do not have"
                )
