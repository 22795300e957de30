"""Answer keys: files that hold the right answers, so that these do not stand beside the questions.

A key is the list of a notebook's exercises, packed by msgpack and written in base64. That keeps answers out
of sight, and is no secret: `open_key(path).exercises` shows them.
"""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from didsim import _checks
from didsim._files import local_path, written_whole
from didsim.exercises.verdicts import check_expected, fault_of, say, shown


class Exercise(msgspec.Struct, frozen=True, kw_only=True):
    """What is right, and what a reader is told.

    Attributes:
        expected: the right answer: a word, `True` or `False`, a number or an array of numbers. For a
            function, a list of its right values, one for each instance.
        because: why it is right, in full sentences. It is shown with a right answer only.
        hint: what a wrong answer overlooks. It should not give the right answer away.
        tolerance: how far off an entry may be, in units of `max(1, |expected|)`. The question should say it.
        instances: for a function, the arguments of each call; None if the answer is no function.

    Raises:
        ValueError: a field is not as described.
    """

    expected: Any
    because: str
    hint: str
    tolerance: float = 1e-3
    instances: tuple[tuple[Any, ...], ...] | None = None

    def __post_init__(self) -> None:
        _checks.instance("because", self.because, str, "sentences")
        _checks.instance("hint", self.hint, str, "sentences")
        _checks.real("tolerance", self.tolerance, _checks.non_negative)
        if self.instances is None:
            check_expected("expected", self.expected)
            return
        calls = isinstance(self.instances, tuple) and self.instances
        if not calls or not all(isinstance(one, tuple) for one in self.instances):
            raise ValueError(
                f"`instances` must be the arguments of at least one call, as tuples; got {self.instances!r}"
            )
        values = self.expected
        if not isinstance(values, list) or len(values) != len(self.instances):
            raise ValueError(
                f"`expected` must be a list of one value for each of {len(self.instances)} instances; "
                f"got {values!r}"
            )
        for value in values:
            check_expected("expected", value)

    @classmethod
    def of_function(
        cls,
        solution: Callable[..., Any],
        instances: Sequence[Sequence[Any]],
        *,
        because: str,
        hint: str,
        tolerance: float = 1e-3,
    ) -> Self:
        """An exercise that asks for a function. The reader's is called on instances that they do not see.

        Args:
            solution: a right function. The key holds its values, not the function.
            instances: the positional arguments of each call: numbers, arrays or words. The reader's function
                gets NumPy arrays.
            because: as in `Exercise`.
            hint: as in `Exercise`.
            tolerance: as in `Exercise`.

        Raises:
            ValueError: `solution` is no function, `instances` has no list of arguments, or a value of the
                solution is no right answer.
        """
        _checks.function("solution", solution)
        listed = isinstance(instances, list | tuple) and instances
        if not listed or not all(isinstance(arguments, list | tuple) for arguments in instances):
            raise ValueError(
                f"`instances` must be the arguments of at least one call, as lists; got {instances!r}"
            )
        calls = tuple(tuple(arguments) for arguments in instances)
        values = [solution(*map(_given, map(_plain, arguments))) for arguments in calls]
        return cls(expected=values, because=because, hint=hint, tolerance=tolerance, instances=calls)


class Key:
    """The exercises of a notebook. Called with a number and an answer, it prints the verdict.

    Attributes:
        exercises: the exercises, of which the first has number 1.

    Examples:
        >>> key = Key([Exercise(expected=0.5, because="Half of two is one.", hint="Divide.")])
        >>> key(1, 0.7)
        Wrong: 0.7 is too large. Divide.
        >>> cases = [(1.0,), (3.0,)]
        >>> double = Exercise.of_function(lambda x: 2 * x, cases, because="Twice.", hint="Add x to x.")
        >>> Key([double])(1, lambda x: x + 1)
        Wrong: called with 3.0, it gives a value that is not right: 4 is too small. Add x to x.
    """

    exercises: tuple[Exercise, ...]

    def __init__(self, exercises: Sequence[Exercise]) -> None:
        self.exercises = _listed(exercises)

    def __call__(self, number: int, answer: Any) -> None:
        """Print whether an answer is right, and why; `...` stands for no answer yet.

        Numbers and arrays are compared as `check` does. A function is called on each instance of the key; one
        that returns `...` is not answered yet.

        Raises:
            ValueError: there is no exercise of that number.
        """
        number = _checks.integer("number", number, 1, len(self.exercises))
        exercise = self.exercises[number - 1]
        say(_fault(answer, exercise), exercise.because, exercise.hint)


def open_key(path: str | Path) -> Key:
    """The key in a file that `write_key` wrote.

    Raises:
        ValueError: `path` is no path, or there is something else in the file.
        OSError: the file cannot be read.
    """
    path = local_path("path", path)
    text = path.read_bytes()
    try:
        packed = base64.b64decode(text.replace(b"\n", b""), validate=True)
        return Key(msgspec.msgpack.decode(packed, type=list[Exercise]))
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"`path` must be a key that `write_key` wrote; got {str(path)!r}") from error


def write_key(path: str | Path, exercises: Sequence[Exercise]) -> None:
    """Write the exercises of a notebook into a file, with the answers out of sight.

    Raises:
        ValueError: `path` is no path, or `exercises` is no list of at least one `Exercise`.
        OSError: the file cannot be written.
    """
    path = local_path("path", path)
    packed = msgspec.msgpack.encode(_listed(exercises), enc_hook=_plain)
    with written_whole(path) as (draft,):
        draft.write_bytes(base64.encodebytes(packed))


def _listed(exercises: Any) -> tuple[Exercise, ...]:
    listed = tuple(exercises) if isinstance(exercises, list | tuple) else ()
    if not listed or not all(isinstance(one, Exercise) for one in listed):
        raise ValueError(f"`exercises` must be a list of `Exercise`, at least one; got {exercises!r}")
    return listed


def _fault(answer: Any, exercise: Exercise) -> str | None:
    """What is wrong with an answer, as a sentence; "" if nothing is, and None if it is no answer yet."""
    if answer is ...:
        return None
    if exercise.instances is None:
        return fault_of(answer, exercise.expected, exercise.tolerance) or ""
    if not callable(answer):
        return f"a function is asked for, and yours is {shown(answer)}."
    for arguments, expected in zip(exercise.instances, exercise.expected, strict=True):
        called = f"called with {', '.join(shown(_plain(one)) for one in arguments)}, it"
        try:
            value = answer(*map(_given, map(_plain, arguments)))
        # Whatever the reader's code raises is an answer to be judged.
        except Exception as error:
            return f"{called} raises {type(error).__name__}: {error}."
        if value is ...:
            return None
        if fault := fault_of(value, expected, exercise.tolerance):
            return f"{called} gives a value that is not right: {fault}"
    return ""


def _plain(value: Any) -> Any:
    """An array as nested lists, and anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _given(value: Any) -> Any:
    """Nested lists as an array, and anything else as it is."""
    return np.asarray(value) if isinstance(value, list) else value
