"""Optimisers and schedules of the learning rate that a study may name: those here, and those of optax."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Real

from didsim._registry import Registry
from didsim.sweeps.domains import check_domains
from didsim.sweeps.settings import Maker, make, needs_more, settings_of
from didsim.sweeps.tables import real_numbers, with_values, without_numbers

Number = Real[ArrayLike, ""]


def adam(
    learning_rate: Any, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8
) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def sgd(learning_rate: Any, momentum: Number = 0.0) -> optax.GradientTransformation:
    """Gradient descent, with momentum."""
    return optax.sgd(learning_rate, momentum=momentum)


def rmsprop(learning_rate: Any, decay: Number = 0.9, eps: Number = 1e-8) -> optax.GradientTransformation:
    """RMSProp."""
    return optax.rmsprop(learning_rate, decay=decay, eps=eps)


def constant(learning_rate: Any) -> Any:
    """The optimiser's learning rate at every step."""
    return learning_rate


def cosine(learning_rate: Any, steps: int) -> optax.Schedule:
    """From the optimiser's learning rate to zero at the last step, along half a period of a cosine."""
    return optax.cosine_decay_schedule(learning_rate, max(1, steps))


def _of_optax(returns: Callable[[Any], bool]) -> dict[str, Maker]:
    """The functions of optax that return such a thing and can be called with numbers and words alone."""
    public = {
        name: one for name, one in vars(optax).items() if inspect.isfunction(one) and not name.startswith("_")
    }
    return {
        name: function
        for name, function in sorted(public.items())
        if returns(inspect.signature(function, eval_str=True).return_annotation) and not needs_more(function)
    }


def _is_optimizer(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, optax.GradientTransformation)


def _is_schedule(annotation: Any) -> bool:
    return annotation == optax.Schedule


OPTIMIZERS: Registry[Maker] = Registry(
    "optimiser",
    {"adam": adam, "sgd": sgd, "rmsprop": rmsprop},
    Registry("optimiser", _of_optax(_is_optimizer)),
)
"""Optimisers: functions that return an `optax.GradientTransformation`. Those of optax are found by name."""

SCHEDULES: Registry[Maker] = Registry(
    "schedule",
    {"constant": constant, "cosine": cosine},
    Registry("schedule", _of_optax(_is_schedule)),
)
"""Schedules: functions that return an `optax.Schedule`, a function of the number of steps taken.

They may ask for the optimiser's `learning_rate` and the study's number of `steps`.
"""

_PEAKS = ("peak_value", "init_value", "value")
_LENGTHS = ("decay_steps", "transition_steps")

_PROBES = 1000

# What JAX raises where Python needs the value of a number that is traced.
_NEEDS_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def schedule_defaults(settings: Mapping[str, Any], learning_rate: float | None, steps: int) -> dict[str, Any]:
    """Values of a schedule's settings that have no default of their own: the study's learning rate and steps.

    The first of `peak_value`, `init_value` and `value` that is a setting is the learning rate; `decay_steps`
    and `transition_steps` are the study's steps, 1 at least.
    """
    found: dict[str, Any] = {name: max(1, steps) for name in _LENGTHS if name in settings}
    peak = next((name for name in _PEAKS if name in settings), None)
    return found if peak is None else {**found, peak: learning_rate}


def check_optimizer(config: Mapping[str, Any]) -> None:
    """Raise unless the optimiser can take steps, with its numbers as traced arrays and with its schedule.

    Raises:
        ValueError: it cannot, a number of it is outside its domain (`didsim.sweeps.domains`), or its learning
            rate becomes negative or infinite; the message begins with the place, `optimizer` or `schedule`.
    """
    table, schedule = config["optimizer"], config["schedule"]
    name, numbers = table["name"], ", ".join(real_numbers(table))
    optimizer, fixed = OPTIMIZERS[name], _without_numbers(table)
    check_domains("optimizer", table, settings_of(optimizer))
    try:
        _take_steps(optimizer, fixed, False, config["dtype"])
    except _NEEDS_VALUE:
        raise ValueError(
            f"`optimizer`: {name!r} needs the value of one of its numbers ({numbers}), as for a Python `if`; "
            "a study gives them as traced arrays, so that a new value compiles nothing"
        ) from None
    except Exception as error:
        raise ValueError(f"`optimizer`: {name!r} cannot take a step: {_first_line(error)}") from None
    if schedule["name"] == "constant":
        return
    if "learning_rate" not in table:
        raise ValueError(
            f"`schedule`: {schedule['name']!r} needs an optimiser with a learning rate; "
            f"`optimizer.learning_rate` is not given to {name!r}"
        )
    try:
        _take_steps(optimizer, fixed, True, config["dtype"])
    except Exception as error:
        raise ValueError(
            f"`schedule`: the learning rate of {name!r} cannot follow a schedule: {_first_line(error)}"
        ) from None
    _check_rates(SCHEDULES[schedule["name"]], msgspec.json.encode(schedule), config["steps"])


def compiled_in(config: Mapping[str, Any]) -> frozenset[str]:
    """The dotted places of real numbers whose values are compiled in: a new value compiles a new program.

    There are none unless the schedule needs the value of a number, as `exponential_decay` does to see whether
    its `decay_rate` is zero. Then they are all numbers of the schedule.
    """
    schedule = config["schedule"]
    maker = SCHEDULES[schedule["name"]]
    if _can_be_traced(maker, _without_numbers(schedule), config["steps"], config["dtype"]):
        return frozenset()
    return frozenset(real_numbers({"schedule": schedule}))


def optimizer_of(config: Mapping[str, Any], numbers: Mapping[str, Array]) -> Partial:
    """The optimiser of a study with its schedule, as a function of its real numbers for `didsim.train`.

    Args:
        config: a complete study.
        numbers: its real numbers by their dotted places, with an axis of runs; those that are compiled in are
            not among them.
    """
    tables = {place: config[place] for place in ("optimizer", "schedule")}
    traced = {place: numbers[place] for place in real_numbers(tables) if place in numbers}
    fixed = msgspec.json.encode(with_values(tables, dict.fromkeys(traced, 0.0)))
    makers = OPTIMIZERS[tables["optimizer"]["name"]], SCHEDULES[tables["schedule"]["name"]]
    return Partial(_scheduled(*makers, fixed, config["steps"]), traced)


@cache  # the same function for equal tables, as `train` would compile for another one
def _scheduled(
    optimizer: Maker, schedule: Maker, fixed: bytes, steps: int
) -> Callable[[Mapping[str, Any]], optax.GradientTransformation]:
    def made(numbers: Mapping[str, Any]) -> optax.GradientTransformation:
        tables = with_values(msgspec.json.decode(fixed), numbers)
        table = tables["optimizer"]
        if "learning_rate" in table:
            rate = make(schedule, tables["schedule"], learning_rate=table["learning_rate"], steps=steps)
            table = {**table, "learning_rate": rate}
        return make(optimizer, table)

    return made


def _without_numbers(table: Mapping[str, Any]) -> bytes:
    """A table with zeros for its real numbers. What is found out for it holds for any values."""
    return msgspec.json.encode(without_numbers(table, 0.0))


@cache
def _take_steps(optimizer: Maker, fixed: bytes, scheduled: bool, dtype: str) -> None:
    """Trace two steps of an optimiser. Of its numbers only the type is known."""
    table = msgspec.json.decode(fixed)

    def two_steps(numbers: dict[str, Any], start: Array) -> Array:
        settings = with_values(table, numbers)
        if scheduled:
            settings["learning_rate"] = lambda count, rate=settings["learning_rate"]: rate
        made = optax.with_extra_args_support(make(optimizer, settings))

        def loss(x: Array) -> Array:
            return jnp.sum(x**2)

        def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            x, state = carry
            value, gradient = jax.value_and_grad(loss)(x)
            updates, state = made.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
            return (optax.apply_updates(x, updates), state), None

        return jax.lax.scan(step, (start, made.init(start)), None, length=2)[0][0]

    with jax.enable_x64(dtype == "float64"):
        jax.eval_shape(two_steps, real_numbers(table), jnp.ones(2, dtype))


@lru_cache(100_000)
def _check_rates(schedule: Maker, table: bytes, steps: int) -> None:
    """Raise if a learning rate is negative or not finite. Of many steps a thousand are looked at."""
    made = make(schedule, msgspec.json.decode(table), learning_rate=1.0, steps=steps)
    counts = np.unique(np.linspace(0, max(0, steps - 1), _PROBES).astype(np.int32))
    rates = np.asarray(jax.vmap(made)(counts) if callable(made) else [made])
    bad = ~(np.isfinite(rates) & (rates >= 0))
    if bad.any():
        where = int(np.argmax(bad))
        raise ValueError(
            f"`schedule` must give learning rates of zero or more; got {rates[where]:.3g} "
            f"at step {counts[where]}"
        )


@cache
def _can_be_traced(schedule: Maker, fixed: bytes, steps: int, dtype: str) -> bool:
    """Whether a schedule can be computed from numbers of which nothing but the type is known."""
    table = msgspec.json.decode(fixed)

    def rate(numbers: dict[str, Any], learning_rate: Any, count: Any) -> Any:
        made = make(schedule, with_values(table, numbers), learning_rate=learning_rate, steps=steps)
        return made(count) if callable(made) else made

    with jax.enable_x64(dtype == "float64"):
        try:
            jax.eval_shape(rate, real_numbers(table), 1.0, 0)
        except _NEEDS_VALUE:
            return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
