"""What may stand in a study's TOML file, from the types and the functions that read it."""

import inspect
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from didsim.sweeps import study
from didsim.sweeps.makers import ROLES
from didsim.sweeps.settings import settings_of

_TABLES = (
    ("", study.Study),
    ("space.", study.Space),
    ("record.", study.Recorded),
    ("problem.", study.ContrastiveData),
    ("problem.", study.LabelledData),
    ("problem.", study.OnlineData),
)


def study_keys() -> str:
    """Every key, with its type and its default."""
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for prefix, table in _TABLES:
        meanings = _meanings(table)
        tag = table.__struct_config__.tag
        for field in msgspec.structs.fields(table):
            condition = f" (if `problem.name` is `{tag}`)" if tag else ""
            key = f"`{prefix}{field.name}`{condition}"
            cells = (key, _type(field.type), _default(field), meanings[field.name])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def study_names(place: str) -> str:
    """What a table of a study may name, with the settings of each and their defaults."""
    role = ROLES[place]
    lines = ["| name | settings | |", "| --- | --- | --- |"]
    for name, maker in role.registry.items():
        settings = settings_of(maker, role.given)
        shown = ", ".join(
            f"`{key}`" if one.default is inspect.Parameter.empty else f"`{key} = {_toml(one.default)}`"
            for key, one in settings.items()
        )
        first = (inspect.getdoc(maker) or "").split("\n\n")[0]
        lines.append(f"| `{name}` | {shown or '–'} | {_cell(first)} |")
    return "\n".join(lines)


def _meanings(table: type) -> dict[str, str]:
    """The `Attributes:` of a docstring, by name."""
    text = (inspect.getdoc(table) or "").split("Attributes:\n")[1]
    entries = re.split(r"^ {4}(?=\w+: )", text, flags=re.MULTILINE)[1:]
    return {name: _cell(meaning) for name, meaning in (entry.split(": ", 1) for entry in entries)}


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip()).replace("|", "\\|")


def _type(kind: Any) -> str:
    """A type as a reader of TOML says it."""
    if get_origin(kind) is Annotated:
        base, *limits = get_args(kind)
        least = next((limit.ge for limit in limits if limit.ge is not None), None)
        return _type(base) if least is None or least < 0 else f"{_type(base)}, {least} or more"
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{one}"`' for one in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        parts = [one for one in get_args(kind) if one is not types.NoneType]
        return " or ".join(dict.fromkeys(map(_type, parts)))
    if get_origin(kind) is tuple:
        return "list of names"
    words = {int: "whole number", float: "number", bool: "`true` or `false`", str: "name"}
    return words.get(kind, "table")


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None:
        return "–"
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        return f'`"{tag}"`' if tag else "see below"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
