import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from didsim.exercises import Exercise, Key, open_key, write_key

WHY: dict[str, Any] = {"because": "So it is.", "hint": "Look again."}
EXERCISES = [
    Exercise(expected=0.5, tolerance=0.1, **WHY),
    Exercise(expected=[0.2, -np.inf], **WHY),
    Exercise(expected="uniform", **WHY),
    Exercise(expected=False, **WHY),
    Exercise.of_function(
        lambda p, beta: np.asarray(p) * beta, [(jnp.array([0.3, 0.7]), 2.0), ([1.0, 0.0], 1)], **WHY
    ),
]
Verdict = Callable[..., str]


@pytest.fixture
def verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Verdict:
    """The verdict of a key that was written and read again."""
    write_key(tmp_path / "a.key", EXERCISES)
    key = open_key(tmp_path / "a.key")

    def say(number: int, answer: Any) -> str:
        key(number, answer)
        return " ".join(capsys.readouterr().out.split())

    return say


@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (1, 0.59, 0.61),
        (2, jnp.array([0.2, -jnp.inf]), [0.2, -700.0]),
        (3, "Uniform", "reference"),
        (4, False, True),
        (5, lambda p, beta: beta * p, lambda p, beta: p),
    ],
)
def test_right_and_wrong_are_told_apart_after_a_round_trip(
    verdict: Verdict, number: int, right: Any, wrong: Any
) -> None:
    assert verdict(number, right) == "Right: So it is."
    said = verdict(number, wrong)
    assert said.startswith("Wrong: ")
    assert said.endswith(" Look again.")


def test_dots_are_no_answer_and_neither_is_a_function_that_returns_them(verdict: Verdict) -> None:
    assert verdict(1, ...).startswith("Not answered yet: ")
    assert verdict(5, ...).startswith("Not answered yet: ")
    assert verdict(5, lambda p, beta: ...).startswith("Not answered yet: ")


def test_a_wrong_function_is_shown_the_call_that_it_fails(verdict: Verdict) -> None:
    fault = "called with [0.3, 0.7], 2.0, it gives a value that is not right: entry [1], 0.7, is too small."
    assert verdict(5, lambda p, beta: np.where(p > 0.5, p, beta * p)) == f"Wrong: {fault} Look again."
    assert "it raises ZeroDivisionError: division by zero. Look again." in verdict(5, lambda p, beta: 1 / 0)
    assert "a function is asked for, and yours is 2.0." in verdict(5, 2.0)


def test_functions_get_arrays_that_they_may_change(verdict: Verdict) -> None:
    def doubled(p: np.ndarray, beta: float) -> np.ndarray:
        p *= beta
        return p

    assert verdict(5, doubled) == verdict(5, doubled) == "Right: So it is."


def test_answers_are_not_in_plain_sight(tmp_path: Path) -> None:
    write_key(tmp_path / "a.key", EXERCISES)
    text = (tmp_path / "a.key").read_text()
    assert "uniform" not in text
    assert "So it is" not in text
    assert [one.expected for one in open_key(tmp_path / "a.key").exercises][2:4] == ["uniform", False]


@pytest.mark.parametrize("number", [0, 6, -1, True, 1.0])
def test_there_is_no_other_exercise(number: Any) -> None:
    with pytest.raises(ValueError, match=r"`number` must be an integer of at (least 1|most 5); got"):
        Key(EXERCISES)(number, 0.5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no base64",
        base64.b64encode(b"no msgpack"),
        base64.b64encode(msgspec.msgpack.encode([])),
        base64.b64encode(msgspec.msgpack.encode([{"expected": 1.0}])),
        base64.b64encode(msgspec.msgpack.encode([{"expected": None, "because": "a", "hint": "b"}])),
    ],
)
def test_another_file_is_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(ValueError, match="`path` must be a key that `write_key` wrote; got"):
        open_key(tmp_path / "a.key")


@pytest.mark.parametrize("values", [[], [1.0, 2.0], 1.0, [np.nan], [None]])
def test_a_function_has_one_right_value_for_each_instance(values: Any) -> None:
    with pytest.raises(ValueError, match="`expected` must be"):
        Exercise(expected=values, instances=((1.0,),), **WHY)


def test_a_solution_must_give_answers() -> None:
    with pytest.raises(ValueError, match="`expected` must be"):
        Exercise.of_function(lambda x: None, [(1.0,)], **WHY)
