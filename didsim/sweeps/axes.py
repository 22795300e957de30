"""Axes of a sweep: the keys of a study, and the values that they take."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from didsim.training.metrics import METRICS

RESERVED = frozenset({"step", "status", "diverged_at", "js_limit", "js_to_limit"})
"""The names in a dataset of results that no metric and no axis can have."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evenly spaced values of an axis.

    Without `stop` they are `count` integers from `start` on. With `stop` they are `count` numbers from
    `start` to `stop`, both included; with `scale = "log"` their logarithms are evenly spaced.

    Raises:
        ValueError: `count` is no integer of at least 1, `scale` is neither "linear" nor "log", or a bound is
            no finite number.
    """

    start: float
    count: Annotated[int, msgspec.Meta(ge=1)]
    stop: float | None = None
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        # The same check as of a table in a file.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            value = value.item() if isinstance(value, np.generic) else value
            try:
                value = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ValueError(f"`{field.name}`: {error}; got {value!r}") from None
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{field.name}` must be finite; got {value}")
            msgspec.structs.force_setattr(self, field.name, value)

    def values(self) -> list[Any]:
        """The values.

        Raises:
            ValueError: there is no `stop` and `start` is not an integer, or the scale is "log" and a bound is
                not positive.
        """
        if self.stop is None:
            if self.start != int(self.start) or self.scale == "log":
                raise ValueError("a range of numbers other than integers needs `stop`")
            return list(range(int(self.start), int(self.start) + self.count))
        if self.scale == "linear":
            return [float(x) for x in np.linspace(self.start, self.stop, self.count)]
        if not (self.start > 0 and self.stop > 0):
            raise ValueError("a range on a log scale needs `start` and `stop` above zero")
        return [float(x) for x in np.geomspace(self.start, self.stop, self.count)]


class Axis(NamedTuple):
    """One axis of a sweep: a key of a study, its values, and the name and labels of the dimension."""

    key: str
    values: tuple[Any, ...]
    dim: str
    labels: np.ndarray


def flat_axes(axes: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Axes by dotted key, whether the key is quoted or made of tables."""
    if not isinstance(axes, Mapping) or not all(isinstance(key, str) for key in axes):
        raise ValueError(f"`sweep` must be a table of axes by key; got {axes!r}")
    found: dict[str, Any] = {}
    for key, value in axes.items():
        nested = isinstance(value, Mapping) and not {"start", "count"} & set(value)
        for full, one in flat_axes(value, f"{place}{key}.").items() if nested else [(place + key, value)]:
            if full in found:
                raise ValueError(f'`sweep."{full}"` is given twice, as a quoted key and as a table')
            found[full] = one
    return found


def listed(key: str, given: Any) -> Sequence[Any] | Range:
    """A list of values, or a `Range` whose values are not made yet, as there may be many."""
    place = f'sweep."{key}"'
    if isinstance(given, Mapping):
        try:
            given = msgspec.convert(given, Range)
        except msgspec.ValidationError as error:
            raise ValueError(f"`{place}` must be a list, or a range of start and count: {error}") from None
    if isinstance(given, Range):
        return given
    if _is_array(given) and given.ndim:
        given = list(np.asarray(given))
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"`{place}` must be a list of values, or a range; got {given!r}")
    if not given:
        raise ValueError(f"`{place}` must have at least one value; got an empty list")
    return given


def values_of(key: str, given: Sequence[Any] | Range) -> tuple[Any, ...]:
    """The values of an axis. Each must occur once."""
    place = f'sweep."{key}"'
    if isinstance(given, Range):
        try:
            given = given.values()
        except ValueError as error:
            raise ValueError(f"`{place}`: {error}") from None
    values = tuple(as_toml(one, place) for one in given)
    seen = set()
    for one in values:
        meant = str(int(one)) if isinstance(one, float) and one.is_integer() else str(one)
        if meant in seen:
            raise ValueError(f"`{place}` must have each value once; got {one} again")
        seen.add(meant)
    return values


def dims_of(keys: list[str]) -> list[str]:
    """The names of dimensions: the last parts of keys, or whole keys where the last part is taken."""
    taken = RESERVED | set(METRICS)

    def short(key: str) -> str:
        *parents, last = key.split(".")
        return parents[-1] if last == "name" and parents else last

    names = [short(key) for key in keys]
    return [
        key.replace(".", "_") if names.count(name) > 1 or name in taken else name
        for key, name in zip(keys, names, strict=True)
    ]


def labels_of(values: tuple[Any, ...]) -> np.ndarray:
    """Values of an axis as a coordinate: numbers, truth values, or words."""
    if all(isinstance(one, bool) for one in values):
        return np.asarray(values)
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return np.asarray(values)
    words = [word(one["name"] if isinstance(one, Mapping) and "name" in one else one) for one in values]
    if len(set(words)) < len(words):
        words = [_spelt(one) if isinstance(one, Mapping) else str(one) for one in values]
    return np.asarray(words)


def word(value: Any) -> str:
    """A value as a label of an axis of words, or in the name of a cell."""
    return str(value).lower() if isinstance(value, bool | np.bool) else str(value)


def _spelt(table: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in table.items() if key != "name")
    return f"{table.get('name', '')}({settings})"


def cell_name(axes: Iterable[tuple[str, Sequence[Any] | np.ndarray]], index: Iterable[int]) -> str:
    """A cell by its place in a grid: `beta=0.1, seed=3`.

    Args:
        axes: the name and the labels of each axis.
        index: the place of the cell on each axis.
    """
    places = (f"{name}={word(labels[k])}" for (name, labels), k in zip(axes, index, strict=True))
    return ", ".join(places) or "the only cell"


def put(tables: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested tables. A name alone counts as a table with that name."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = tables.get(parent, {})
        if not isinstance(inner, str | Mapping):
            raise ValueError(f"`{parent}` has no settings of its own, as {key!r} would be; it is {inner!r}")
        tables[parent] = {"name": inner} if isinstance(inner, str) else dict(inner)
        tables = tables[parent]
    tables[last] = value


def in_place_of(key: str, axes: Mapping[str, Any]) -> str | None:
    """The axis whose values take the place of a key's, if there is one."""
    return next((axis for axis in axes if key == axis or key.startswith(f"{axis}.")), None)


def as_toml(value: Any, place: str) -> Any:
    """A value as it could stand in TOML."""
    match value:
        case msgspec.Struct():
            named = {"name": value.__struct_config__.tag} if value.__struct_config__.tag else {}
            return as_toml(named | msgspec.structs.asdict(value), place)
        case Mapping():
            return {str(key): as_toml(one, f"{place}.{key}") for key, one in value.items()}
        case list() | tuple():
            return [as_toml(one, place) for one in value]
        case np.generic():
            return value.item()
        case _ if _is_array(value) and value.ndim == 0:
            return value.item()
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"`{place}` must be a table, a list, a word or a number; got {value!r}")


def _is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy or JAX, other than random keys, which hold no numbers."""
    return isinstance(value, np.ndarray | jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def parsed(setting: str, option: str = "--set") -> tuple[str, Any]:
    """The key and the value of an option `key=value` of the command line.

    Raises:
        ValueError: it is not of that form.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{option} must be key=value; got {setting!r}")
    return key.strip().replace('"', ""), parse_value(text.strip())


def parse_value(text: str) -> Any:
    """A value of the command line: TOML, or a plain word."""
    try:
        decoded = msgspec.toml.decode(f"value = {text}")
    except msgspec.DecodeError:
        return text
    return decoded["value"] if len(decoded) == 1 else text
