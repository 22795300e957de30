"""The settings of what a study names: the parameters of a function that a table of plain values can give."""

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cache
from inspect import Parameter
from typing import Any, NamedTuple, Union, get_args, get_origin

import equinox as eqx
import jax
import numpy as np

Maker = Callable[..., Any]
"""A function that a study can name. It makes what the study uses: a distribution, an objective, …"""


class Setting(NamedTuple):
    """A setting of a table: its type, and its default.

    A setting without a default has `inspect.Parameter.empty` there and must be given. One whose default is
    None is left out of the table unless it is given.
    """

    kind: Callable[..., Any]
    default: Any


@cache
def settings_of(maker: Maker, given: frozenset[str] = frozenset()) -> Mapping[str, Setting]:
    """The settings that a function takes, by name.

    A setting is a real number, an integer, a truth value or a word. `int`, `bool` and `str` are known by
    their annotation, the last two also by their default. A parameter that cannot be a number or a word (a
    mask, a function) is no setting. Parameters named in `given` are passed by the study itself.
    """
    found = {}
    for parameter in inspect.signature(maker, eval_str=True).parameters.values():
        if parameter.name not in given and parameter.name != "self":
            kind = _kind_of(parameter)
            if kind is not None:
                found[parameter.name] = Setting(kind, parameter.default)
    return found


def needs_more(maker: Maker) -> bool:
    """Whether a function needs an argument that is not a setting, or takes any number of arguments."""
    settings = settings_of(maker)
    return any(
        parameter.kind is Parameter.VAR_POSITIONAL
        or (
            parameter.kind is not Parameter.VAR_KEYWORD
            and parameter.default is Parameter.empty
            and parameter.name not in settings
        )
        for parameter in inspect.signature(maker).parameters.values()
    )


def make(maker: Maker, table: Mapping[str, Any], **at_hand: Any) -> Any:
    """Call what a table names with its settings, and with what it asks for of what is at hand."""
    settings = {name: value for name, value in table.items() if name != "name"}
    given = {name: value for name, value in at_hand.items() if name in _parameters(maker)}
    return maker(**given, **settings)


def count_numbers(made: Callable[[], Any]) -> int:
    """How many numbers are in the arrays that a function returns. They are not allocated.

    It is 0 for a function that raises, or that needs values that are not computed here.
    """
    try:
        leaves = jax.tree.leaves(eqx.filter_eval_shape(made))
    except Exception:
        return 0
    # Python's integers, which do not overflow.
    return sum(
        int(np.prod(one.shape, dtype=object)) for one in leaves if isinstance(one, jax.ShapeDtypeStruct)
    )


@cache
def _parameters(maker: Maker) -> frozenset[str]:
    return frozenset(inspect.signature(maker).parameters)


def _kind_of(parameter: Parameter) -> type | None:
    """The type of a setting, None for a parameter that is none."""
    annotation, default = parameter.annotation, parameter.default
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        return None
    if annotation in (bool, int, str):
        return annotation
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return float
    if default is Parameter.empty and annotation in (Parameter.empty, Any):
        return float
    if default is None or default is Parameter.empty:
        choices = _choices(annotation)
        return next((kind for kind in (float, int, str) if kind in choices), None)
    return None


def _choices(annotation: Any) -> list[Any]:
    """The members of a union, and of the unions in it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for member in get_args(annotation) for one in _choices(member)]
    return [annotation]
