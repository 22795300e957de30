"""Where the objective of a state ends, and what it learns of the data."""

from functools import lru_cache
from threading import Lock
from typing import Any

import jax.numpy as jnp
import msgspec
import numpy as np

from didsim.explorer.held_out import held_out_accuracy
from didsim.explorer.problems import counts_of, log_probs, numbers, objective_of, population, problem_of
from didsim.explorer.state import State, read_state
from didsim.fixed_points import Solution, Verdict, solve
from didsim.information import bayes_update, entropy, expectation, kl
from didsim.preferences import Contrastive

_LOCK = Lock()
_MAPPED = 41
_LEAST_REACH, _ROOM = 0.5, 1.25


def solved(state: State) -> Solution:
    """Where the objective of a state ends on its pairs.

    The page asks for the limit and for a run towards it at once. The first of these questions solves, and the
    other waits for it.
    """
    with _LOCK:
        return _solved(msgspec.json.encode(state))


@lru_cache(maxsize=2)
def _solved(written: bytes) -> Solution:
    state = read_state(written)
    return solve(objective_of(state), log_probs(state.reference), problem_of(state))


def limit(state: State) -> dict[str, Any]:
    """Where the objective of a state ends on its pairs, and the numbers of the counter.

    Expectations over chosen responses are those of the population, also if pairs are finite.
    """
    reference, chosen = log_probs(state.reference), log_probs(state.chosen)
    solution, counts = solved(state), counts_of(state)
    known = solution.certificate
    is_there = solution.verdict not in (Verdict.NOT_IDENTIFIED, Verdict.NO_LOSS, Verdict.RUNS_OFF)
    learned = solution.log_probs if is_there else jnp.asarray(known.limit)
    answer: dict[str, Any] = {
        "verdict": solution.verdict.name,
        "objection": solution.objection() or "",
        "unidentified": [
            name for name, sure in zip(state.names, known.identified, strict=True) if not bool(sure)
        ],
        "learned": None,
        "counts": None if counts is None else counts.astype(int).tolist(),
    }
    if not np.isnan(np.asarray(learned)).any():
        answer |= {
            "learned": numbers(jnp.exp(learned)),
            "displacement": float(expectation(chosen, learned) - expectation(chosen, reference)),
            "kl_chosen_reference": float(kl(chosen, reference)),
            "kl_chosen_learned": float(kl(chosen, learned)),
            "entropy_learned": float(entropy(learned)),
        }
        if np.isfinite(np.asarray(learned)).all():
            answer["accuracy"] = float(held_out_accuracy(state, learned))
    return answer


def learned_map(state: State) -> dict[str, Any]:
    """The log-ratio that the objective of a state learns, against the log-ratio of the data.

    The dots are the responses of the state. The curve is a space of its own: 41 responses with a uniform
    reference, whose data have log-ratios `u` in even steps. As in the figure of objectives, chosen responses
    come from `reference · exp(u/2)` and rejected ones from `reference · exp(−u/2)`. Each learned log-ratio is
    less the one learned at `u = 0`.
    """
    reference, chosen, rejected = (log_probs(p) for p in (state.reference, state.chosen, state.rejected))
    objective = objective_of(state)
    data = np.asarray(chosen - rejected)
    reach = max(_LEAST_REACH, _ROOM * float(np.abs(data).max()))
    grid = jnp.linspace(-reach, reach, _MAPPED)
    uniform = jnp.full(_MAPPED, -jnp.log(_MAPPED))
    even = Contrastive(bayes_update(uniform, grid / 2), bayes_update(uniform, -grid / 2))
    curve = _found(solve(objective, uniform, even)) - np.asarray(uniform)
    dots = _found(solve(objective, reference, population(state))) - np.asarray(reference)
    with np.errstate(invalid="ignore"):
        curve, dots = curve - curve[_MAPPED // 2], dots - _level(data, dots, np.asarray(grid), curve)
    return {
        "x": numbers(grid),
        "y": numbers(curve),
        "data": numbers(data),
        "learned": numbers(dots),
    }


def _found(solution: Solution) -> np.ndarray:
    """What a solver found, NaN where it found nothing."""
    return np.asarray(solution.log_probs)


def _level(data: np.ndarray, dots: np.ndarray, grid: np.ndarray, curve: np.ndarray) -> float:
    """The constant that the learned log-ratios of the dots have over the curve, as a median.

    A policy is normalised, so that its log-ratios are known only up to this constant.
    """
    over = dots - np.interp(data, grid, curve - curve[_MAPPED // 2])
    over = over[np.isfinite(over)]
    return float(np.median(over)) if len(over) else 0.0
