from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from didsim.exercises import check

WHY: dict[str, Any] = {"because": "So it is.", "hint": "Look again."}


def verdict(capsys: pytest.CaptureFixture[str], answer: Any, expected: Any, **options: Any) -> str:
    check(answer, expected, **WHY, **options)
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (2, 2.0),
        (2.0009, 2),
        (1000.9, 1000.0),
        (jnp.array(0.25), 0.25),
        (np.float32(0.25), jnp.array(0.25)),
        (-np.inf, -np.inf),
        ([0.2, 0.8], jnp.array([0.2, 0.8])),
        ((0.2, -np.inf), np.array([0.2, -np.inf])),
        (True, True),
        (False, jnp.array(False)),
        (jnp.array(True), True),
        ("uniform", "uniform"),
        (" Uniform. ", "uniform"),
    ],
)
def test_right_answers_say_why(capsys: pytest.CaptureFixture[str], answer: Any, expected: Any) -> None:
    assert verdict(capsys, answer, expected) == "Right: So it is."


@pytest.mark.parametrize(
    ("answer", "expected", "fault"),
    [
        (2.01, 2.0, "2.01 is too large."),
        (-np.inf, 2.0, "-inf is too small."),
        (7.0, np.inf, "7 is too small."),
        (np.nan, 2.0, "it is not a number (NaN)."),
        ([0.2, np.nan], [0.2, 0.8], "an entry is not a number (NaN)."),
        ([0.2, 0.8], [0.8, 0.25], "entry [0], 0.2, is too small."),
        ([[1.0, 2.0], [3.0, 9.0]], np.array([[1.0, 2.0], [3.0, 4.0]]), "entry [1, 1], 9, is too large."),
        ([-np.inf, 0.8], [0.2, 0.7], "entry [0], -inf, is too small."),
        ([0.2, 0.8], [0.2, 0.3, 0.5], "an array of shape (3,) is asked for, and yours has shape (2,)."),
        (0.2, [0.2, 0.8], "an array of shape (2,) is asked for, and yours has shape ()."),
        ([2.0], 2.0, "a number is asked for, and yours has shape (1,)."),
        (
            [[1], [1, 2]],
            [1.0, 2.0],
            "an array of shape (2,) is asked for, and yours is [[1], [1, 2]].",
        ),
        ("two", 2.0, "a number is asked for, and yours is 'two'."),
        (None, 2.0, "a number is asked for, and yours is None."),
        (1j, 2.0, "a number is asked for, and yours is 1j."),
        (True, 1.0, "a number is asked for, and yours is True."),
        (1, True, "True or False is asked for, and yours is 1."),
        (False, True, "it is not False."),
        ("falls", "rises", "it is not 'falls'."),
        (1, "rises", "a word in quotes is asked for, and yours is 1."),
    ],
)
def test_wrong_answers_say_what_is_wrong(
    capsys: pytest.CaptureFixture[str], answer: Any, expected: Any, fault: str
) -> None:
    assert verdict(capsys, answer, expected) == f"Wrong: {fault} Look again."


@pytest.mark.parametrize("expected", [2.0, [0.2, 0.8], True, "rises"])
def test_dots_are_no_answer(capsys: pytest.CaptureFixture[str], expected: Any) -> None:
    assert verdict(capsys, ..., expected).startswith("Not answered yet: ")


def test_the_tolerance_is_relative_above_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, 0.55, 0.5, tolerance=0.1).startswith("Right")
    assert verdict(capsys, 0.65, 0.5, tolerance=0.1).startswith("Wrong")
    assert verdict(capsys, 54.0, 50.0, tolerance=0.1).startswith("Right")
    assert verdict(capsys, 56.0, 50.0, tolerance=0.1).startswith("Wrong")
    assert verdict(capsys, 0.5, 0.5, tolerance=0).startswith("Right")


def test_long_texts_are_broken_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    check(1, 1, because="word " * 60, hint="")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("expected", [..., None, np.nan, {"a": 1}])
def test_what_is_no_answer_cannot_be_expected(expected: Any) -> None:
    with pytest.raises(ValueError, match="`expected` must be a word, a truth value, a number or an array"):
        check(1, expected, **WHY)


@pytest.mark.parametrize("tolerance", [-1.0, np.nan])
def test_tolerances_are_not_negative(tolerance: float) -> None:
    with pytest.raises(ValueError, match="`tolerance` must be zero or more and finite; got"):
        check(1, 1, tolerance=tolerance, **WHY)
