"""What the page asks: once for its settings, and then questions about states, by name."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

import didsim
from didsim.explorer.limits import learned_map, limit
from didsim.explorer.presets import PRESETS
from didsim.explorer.problems import objective_names
from didsim.explorer.program import program
from didsim.explorer.sequences import sequences
from didsim.explorer.state import COUNTS, VERSION, State, schema
from didsim.explorer.trained import training
from didsim.objectives import OBJECTIVES
from didsim.preferences import REJECTED
from didsim.sweeps.makers import REFERENCES, TARGETS

QUESTIONS: Mapping[str, Callable[[State], Any]] = {
    "limit": limit,
    "map": learned_map,
    "training": training,
    "program": program,
    "sequences": sequences,
}
"""The questions about a state."""


def settings() -> dict[str, Any]:
    """What the page needs at its start: the presets, and the range of every field of a state."""
    choices = {
        "objective": objective_names(),
        "family": list(REFERENCES),
        "update": list(TARGETS),
        "sampler": list(REJECTED),
    }
    return {
        "library": didsim.__version__,
        "version": VERSION,
        "schema": schema(choices),
        "counts": COUNTS,
        "presets": {name: make() for name, make in PRESETS.items()},
        "objectives": {name: _first_line(OBJECTIVES[name]) for name in objective_names()},
    }


def answer(question: str, state: State) -> bytes:
    """The answer to a question, as JSON. Numbers that are not finite are null.

    Raises:
        ValueError: there is no such question, or the state has no answer to it.
    """
    if question not in QUESTIONS:
        raise ValueError(f"question: must be one of {', '.join(QUESTIONS)}; got {question!r}")
    return msgspec.json.encode(QUESTIONS[question](state))


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").partition("\n")[0]
