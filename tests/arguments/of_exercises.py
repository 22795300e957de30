"""Valid calls of what checks a reader's answers."""

import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from didsim import exercises
from tests.arguments.calls import call
from tests.arguments.kinds import Argument, anything, function, host_number, only, path, text

_KEY = Path(tempfile.mkdtemp(prefix="didsim-")) / "lesson.key"
_EXERCISE = exercises.Exercise(expected=1.0, because="So it is.", hint="Look again.")
exercises.write_key(_KEY, [_EXERCISE])
_TOLD: dict[str, Argument] = {"because": text(), "hint": text(), "tolerance": host_number(0.1, 0)}


def _are_calls(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, list) for one in value)


CALLS = {
    "exercises.check": call(
        exercises.check, answer=anything(1.0), expected=anything(jnp.array(1.0)), **_TOLD
    ),
    "exercises.Exercise": call(
        exercises.Exercise, expected=anything(1.0), instances=only(None).or_none(), **_TOLD
    ),
    "exercises.Exercise.of_function": call(
        exercises.Exercise.of_function,
        solution=function(lambda *_: 1.0),
        instances=Argument([[1.0]], _are_calls),
        **_TOLD,
    ),
    "exercises.Key": call(exercises.Key, exercises=only([_EXERCISE])),
    "exercises.open_key": call(exercises.open_key, path=path(_KEY)),
    "exercises.write_key": call(exercises.write_key, path=path(_KEY), exercises=only([_EXERCISE])),
}
