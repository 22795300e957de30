"""How the programs of solvers are compiled."""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

# XLA's newer way to generate code takes up to twice as long for a program of many small operations, as these
# are, and the program runs no faster.
_FOR_LONG = {"xla_cpu_use_fusion_emitters": False}
# LLVM's higher levels of optimisation take about a seventh of a compilation. Over long axes they save a fifth
# of a run, which is worth it. Over short ones they save nothing. A level that `XLA_FLAGS` names is kept.
_LEVEL = "xla_backend_optimization_level"
_IS_NAMED = _LEVEL in os.environ.get("XLA_FLAGS", "")
_FOR_SHORT = _FOR_LONG if _IS_NAMED else _FOR_LONG | {_LEVEL: 1}
# Without LLVM's optimisation a program compiles in half of the time, and runs for two to three times as long.
_FOR_ONE_RUN = _FOR_LONG if _IS_NAMED else _FOR_LONG | {_LEVEL: 0}
_LONG = 2**14  # an axis with more entries than this is long

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`eqx.filter_jit` for a solver's program, which must not be called within another `jit`.

    Most problems are solved once, so that compilation is most of the time.
    """
    for_long = eqx.filter_jit(function, compiler_options=_FOR_LONG)  # type: ignore[call-overload]
    for_short = eqx.filter_jit(function, compiler_options=_FOR_SHORT)  # type: ignore[call-overload]

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        is_long = any(max(np.shape(leaf), default=0) > _LONG for leaf in jax.tree.leaves(args))
        return (for_long if is_long else for_short)(*args)

    return call  # type: ignore[return-value]


def compiled_for_one_run(function: F) -> F:
    """As `compiled`, for a program that a solver runs once.

    Such a program takes longer to compile than to run, but for sums over a million sequences.
    """
    jitted: F = eqx.filter_jit(function, compiler_options=_FOR_ONE_RUN)  # type: ignore[call-overload]
    return jitted
