"""The distributions, pairs and objectives that a state stands for."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from didsim.explorer.state import COUNTS, INFINITE, State
from didsim.objectives import OBJECTIVES, Objective
from didsim.preferences import Contrastive, Pairs, Problem

_MOST = max(COUNTS)


def objective_names() -> list[str]:
    """The objectives of responses: all but those that look at single tokens."""
    return [name for name, make in OBJECTIVES.items() if "space" not in inspect.signature(make).parameters]


def settings_of(state: State) -> dict[str, float]:
    """The settings of the state's objective: its beta, by whatever name, and no margin."""
    settings = {"beta": state.beta, "tau": state.beta, "gamma": 0.0}
    taken = inspect.signature(OBJECTIVES[state.objective]).parameters
    return {name: value for name, value in settings.items() if name in taken}


def objective_of(state: State) -> Objective:
    """The objective of a state.

    Raises:
        ValueError: there is none of this name, or it looks at single tokens.
    """
    if state.objective not in objective_names():
        raise ValueError(f"objective: must be one of {', '.join(objective_names())}; got {state.objective!r}")
    return OBJECTIVES[state.objective](**settings_of(state))


def log_probs(shares: Sequence[float]) -> Float[Array, " sequences"]:
    """Shares as normalised log-probabilities."""
    logs = np.log(np.asarray(shares, float))
    return jnp.asarray(logs - np.logaddexp.reduce(logs))


def population(state: State) -> Contrastive:
    """The pairs of a state, if there were infinitely many."""
    return Contrastive(log_probs(state.chosen), log_probs(state.rejected))


def counts_of(state: State) -> Float[np.ndarray, "winners losers"] | None:
    """How often each response was chosen over each other one, in the pairs of a state; None for a population.

    A larger number of pairs begins with the pairs of a smaller one. Counts have the same shape for all
    numbers of pairs, so that another number compiles nothing.
    """
    if state.pairs == INFINITE:
        return None
    size = len(state.names)
    drawn = population(state).sample(jax.random.key(state.seed), _MOST)
    cells = np.asarray(drawn.winners) * size + np.asarray(drawn.losers)
    return np.bincount(cells[: state.pairs], minlength=size * size).reshape(size, size).astype(float)


def problem_of(state: State) -> Problem:
    """The pairs of a state: a population, or a finite sample of it."""
    counts = counts_of(state)
    if counts is None:
        return population(state)
    winners, losers = np.divmod(np.arange(counts.size), len(counts))
    return Pairs(winners, losers, counts.ravel())


def numbers(values: Any) -> list[Any]:
    """An array as lists; what is not finite becomes null in JSON."""
    found: list[Any] = np.asarray(values, float).tolist()
    return found
