"""How the programs of solvers are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx

# XLA's newer way to generate code takes up to twice as long for a program of many small operations, as these
# are, and the program runs no faster. Most problems are solved once, so that compilation is most of the time.
_OPTIONS = {"xla_cpu_use_fusion_emitters": False}

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`eqx.filter_jit` for a solver's program, which must not be called within another `jit`."""
    jitted: F = eqx.filter_jit(function, compiler_options=_OPTIONS)  # type: ignore[call-overload]
    return jitted
