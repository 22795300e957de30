"""A study without axes: one run, described by plain tables in which every key and value is checked."""

import difflib
import math
from collections.abc import Mapping
from functools import cache, lru_cache
from inspect import Parameter
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import msgspec

from didsim import _checks
from didsim._memory import check_fits
from didsim.objectives.objective import Objective
from didsim.spaces import SequenceSpace
from didsim.sweeps.axes import RESERVED, as_toml
from didsim.sweeps.makers import ROLES
from didsim.sweeps.optimizers import check_optimizer, schedule_defaults
from didsim.sweeps.settings import Maker, count_numbers, make, settings_of
from didsim.training.metrics import METRICS, metric_of
from didsim.training.record import Record, not_by_default

# Numbers of steps and pairs are 32-bit integers in a compiled program.
Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Named = dict[str, Any] | str
"""A table with a `name` and settings, or the name alone."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        # A table that Python code makes is checked as one that a file holds.
        fields = msgspec.structs.fields(self)
        tables = {field.name: as_toml(getattr(self, field.name), field.name) for field in fields}
        if "problem" in tables:
            tables = _with_problem_named(tables)
        for field in fields:
            try:
                msgspec.convert(tables[field.name], field.type)
            except msgspec.ValidationError as error:
                raise ValueError(f"`{field.name}`: {error}") from None


class Space(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The space of sequences; see `didsim.SequenceSpace`.

    Attributes:
        vocab_size: number of tokens.
        max_length: largest number of tokens in a sequence; without `eos` all have that many.
        eos: whether a token ends the sequence, so that there are shorter ones.
    """

    vocab_size: Count = 4
    max_length: Count = 4
    eos: bool = False


class ContrastiveData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="contrastive"
):
    """Chosen and rejected sequences, each from its own distribution of `didsim.sweeps.DISTRIBUTIONS`.

    Attributes:
        chosen: where chosen sequences come from.
        rejected: where rejected sequences come from.
        pairs: if given, the data are that many pairs, drawn once for each seed, in place of a population.
    """

    chosen: Named = "reference"
    rejected: Named = "optimal"
    pairs: Count | None = None


class LabelledData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="labelled"
):
    """Sequences from two distributions, labelled by the reward `beta · log(target/reference)`.

    Attributes:
        first: where the first sequences of all pairs come from.
        second: where the second sequences come from.
        beta: the factor in the reward; the objective's by default.
        pairs: if given, the data are that many pairs, drawn once for each seed, in place of a population.
    """

    first: Named = "reference"
    second: Named = "reference"
    beta: float | None = None
    pairs: Count | None = None


class OnlineData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="online"
):
    """Pairs from a sampler of `SAMPLERS`, which depends on the policy, labelled by the same reward.

    Attributes:
        sampler: the sampler.
        beta: the factor in the reward `beta · log(target/reference)`; the objective's by default.
    """

    sampler: Named = "on_policy"
    beta: float | None = None


class Recorded(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and what is recorded; see `didsim.Record`.

    Attributes:
        every: number of steps from one record to the next.
        metrics: names in `METRICS`; by default all that cost one pass over the sequences.
        also: names of more metrics, beside these.
    """

    every: Count = 10
    metrics: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()


class Study(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of training, as plain data.

    A table that names something (`reference`, `objective`, `problem.rejected`, …) has a `name` and the
    settings of what it names, or is the name alone. The names are those of registries, to which you can add:
    `OBJECTIVES`, `REJECTED`, and those of `didsim.sweeps`; `didsim.sweeps.makers.ROLES` lists them by place.

    Attributes:
        space: the space of sequences.
        policy: "energy_based", "autoregressive" or "log_linear".
        reference: the family of the reference policy.
        target: the family of the target, or an update of the reference, "drifted" or "tempered".
        problem: where pairs come from: `name` is "contrastive", "labelled" or "online". A `beta` that is
            needed there and not given is the objective's.
        objective: the objective that is minimised.
        optimizer: "adam", "sgd", "rmsprop", or any optimiser of optax by its name there, with its numbers.
        schedule: how the learning rate changes: "constant", "cosine", which falls to zero, or any schedule of
            optax by its name there. Its `peak_value` (else its `init_value` or `value`) is the optimiser's
            learning rate unless it is given, and its `decay_steps` or `transition_steps` are `steps`.
        steps: number of steps.
        record: when and what is recorded.
        batch_size: pairs drawn for each step's gradient; None is the exact gradient.
        limit: whether to solve for the exact limit among all distributions, too. Then `js_limit` is the JS
            divergence from the limit to the target, and `js_to_limit` that from the learned policy to the
            limit. Both are NaN if there is no limit, or more than one. Takes up to 1 GiB of memory more.
        seed: the seed of all random draws.
        dtype: the dtype of all numbers.
    """

    space: Space = Space()
    policy: Named = "energy_based"
    reference: Named = "normal_logits"
    target: Named = "normal_logits"
    problem: ContrastiveData | LabelledData | OnlineData = ContrastiveData()
    objective: Named = "dpo"
    optimizer: Named = msgspec.field(default_factory=lambda: {"name": "adam", "learning_rate": 0.1})
    schedule: Named = "constant"
    steps: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 500
    record: Recorded = Recorded()
    batch_size: Count | None = None
    limit: bool = False
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float64"


def _with_problem_named(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables whose problem is a table with a name."""
    tables = dict(tables)
    problem = tables.get("problem")
    if isinstance(problem, str):
        problem = {"name": problem}
    if isinstance(problem, Mapping):
        name = problem.get("name", "contrastive")
        if not isinstance(name, str) or name not in _PROBLEMS:
            raise ValueError(f"`problem.name` is unknown: {name!r}; {nearest(str(name), list(_PROBLEMS))}")
        tables["problem"] = {**problem, "name": name}
    return tables


def _table(given: Named) -> dict[str, Any]:
    return {"name": given} if isinstance(given, str) else dict(given)


def _default(place: str) -> dict[str, Any]:
    *problem, key = place.split(".")
    tables = [kind() for kind in _PROBLEMS.values()] if problem else [Study()]
    return next(_table(getattr(table, key)) for table in tables if hasattr(table, key))


DTYPES = ("float32", "float64")
_LARGE = 10**6  # numbers: what has more is checked by its shapes alone
_PROBLEMS = {"contrastive": ContrastiveData, "labelled": LabelledData, "online": OnlineData}
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
    tables = _with_problem_named(tables)
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


def nearest(key: str, known: list[str]) -> str:
    """The end of a message on an unknown key: the known key that is nearest, or all of them."""
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"


def _check_keys(tables: Mapping[str, Any]) -> None:
    problem = tables.get("problem")
    known = dict(_KEYS)
    if isinstance(problem, Mapping):
        known["problem"] = ("name", *_PROBLEMS[problem["name"]].__struct_fields__)
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
