"""The notebooks: the rules that they keep, and that their cells and the checks of their exercises work."""

import ast
import base64
import contextlib
import io
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import matplotlib as mpl
import nbformat
import numpy as np
import pytest

import didsim
from didsim.exercises import open_key
from tests.notebooks.answers import ANSWERS

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Where functions and classes of one's own are the subject.
DEFINES = {"05_build_your_own"}
DOTS = re.compile(r"^(answer =|    return) \.\.\.$", re.MULTILINE)
VERDICT = re.compile(r"check\((\d), \w+\)")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Executed(NamedTuple):
    """A notebook whose cells but those of the exercises have run, in one namespace."""

    name: str
    exercises: list[tuple[str, str]]
    namespace: dict[str, Any]
    printed: list[tuple[str, str]]
    shown: list[tuple[bytes, bytes]]
    seconds: float


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_answer(cell: Any) -> bool:
    return bool(DOTS.search(cell.source))


def text_of(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def images_of(cell: Any) -> list[Any]:
    return [output for output in cell.outputs if "data" in output and "image/png" in output.data]


def image_of(cell: Any) -> bytes:
    return base64.b64decode("".join(output.data["image/png"] for output in images_of(cell)))


def questions(cells: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """The exercises at a notebook's end: the question, the cell for the answer, and the verdict."""
    headings = [k for k, cell in enumerate(cells) if re.search(r"^## ", cell.source, flags=re.MULTILINE)]
    return zip(*[iter(cells[headings[-1] :])] * 3, strict=True)


def size_of(image: bytes) -> tuple[int, ...]:
    return struct.unpack(">II", image[16:24]) if image else ()


def execute(source: str, namespace: dict[str, Any]) -> tuple[str, bytes]:
    """Run a cell; what it prints, and the picture that it ends with."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(ast.Module(body, []), "<cell>", "exec"), namespace)
        value: Any = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
        show: Callable[[], tuple[bytes, Any]] = getattr(value, "_repr_png_", lambda: (b"", {}))
        return out.getvalue(), show()[0]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> Iterator[Executed]:
    cells = code_cells(nbformat.read(request.param, as_version=4))
    namespace: dict[str, Any] = {}
    exercises, printed, shown = [], [], []
    checked = False
    began = time.process_time()  # the time on a busy machine says nothing of the notebook
    # What a notebook adds to the registries is not there for other tests.
    added = patch.dict(didsim.OBJECTIVES), patch.dict(didsim.REJECTED)
    with mpl.rc_context({"backend": "agg"}), added[0], added[1], contextlib.chdir(FOLDER):
        for cell, following in zip(cells, [*cells[1:], None], strict=True):
            if is_answer(cell):
                exercises.append((cell.source, following.source))
            elif not checked:
                text, image = execute(cell.source, namespace)
                printed.append((text, text_of(cell)))
                shown.append((image, image_of(cell)))
            checked = is_answer(cell)
        yield Executed(request.param.stem, exercises, namespace, printed, shown, time.process_time() - began)


def test_there_are_notebooks_with_answers_to_all_exercises() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(ANSWERS)


def test_the_file_is_small_and_holds_nothing_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 300_000
    assert dict(notebook.metadata) == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert all(not cell.metadata for cell in notebook.cells)
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", path.read_text())


def test_it_begins_with_a_goal_and_ends_with_three_or_four_exercises(path: Path) -> None:
    first, *_ = cells = nbformat.read(path, as_version=4).cells
    assert first.cell_type == "markdown"
    assert re.match(r"# \d · .+\n\n\*\*Goal\.\*\* ", first.source)
    assert "after this notebook you can" in " ".join(first.source.lower().split())
    exercises = list(questions(cells))
    assert "## Exercises\n" in exercises[0][0].source
    assert len(exercises) in (3, 4)
    for number, (question, answer, verdict) in enumerate(exercises, start=1):
        assert (question.cell_type, answer.cell_type, verdict.cell_type) == ("markdown", "code", "code")
        assert f"**{number}.**" in question.source
        assert is_answer(answer)
        # Nothing but the number of the exercise: what is right stands in the key.
        found = VERDICT.fullmatch(verdict.source)
        assert found
        assert found[1] == str(number)
        assert text_of(verdict).startswith("Not answered yet")


def test_questions_state_the_tolerance_and_one_asks_for_code(path: Path) -> None:
    key = open_key(FOLDER / "keys" / f"{path.stem}.key")
    exercises = list(questions(nbformat.read(path, as_version=4).cells))
    assert len(key.exercises) == len(exercises)
    assert any(exercise.instances for exercise in key.exercises)
    for (question, answer, _), exercise in zip(exercises, key.exercises, strict=True):
        assert ("def " in answer.source) == bool(exercise.instances)
        value = exercise.expected[0] if exercise.instances else exercise.expected
        stated = re.findall(r"Tolerance:\s([\d.]*\d)", question.source)
        is_exact = np.asarray(value).dtype.kind in "bU"
        assert [float(one) for one in stated] == ([] if is_exact else [exercise.tolerance])


def test_cells_have_at_most_ten_lines_of_code(path: Path) -> None:
    imports, *others = code_cells(nbformat.read(path, as_version=4))
    for cell in (imports, *others):
        lines = [line for line in cell.source.splitlines() if re.match(r"\s*[^\s#]", line)]
        assert len(lines) <= 10, cell.source
    # Readers see the theory, not how labelled arrays are put together: `didsim.plotting` does that.
    assert "xarray" not in imports.source
    for cell in others:
        defines = path.stem in DEFINES or is_answer(cell)
        forbidden = r"^\s*(import|from) " if defines else r"^\s*(def|class|import|from) "
        assert not re.search(forbidden, cell.source, flags=re.MULTILINE), cell.source


def test_outputs_are_there_in_order_and_clean(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    images = [cell for cell in cells if images_of(cell)]
    assert images
    for cell in images:
        (output,) = images_of(cell)
        place = output.metadata["image/png"]
        assert place["width"] <= 600
        assert size_of(image_of(cell)) == (2 * place["width"], 2 * place["height"])


@pytest.mark.slow
def test_cells_print_and_show_what_is_committed(executed: Executed) -> None:
    for now, committed in executed.printed:
        assert NUMBER.sub("#", now).split() == NUMBER.sub("#", committed).split()
        numbers = np.array([[float(one) for one in NUMBER.findall(text)] for text in (now, committed)])
        np.testing.assert_allclose(numbers[0], numbers[1], rtol=0.02, atol=2e-3, err_msg=committed)
    for image, committed_image in executed.shown:
        assert size_of(image) == size_of(committed_image)


@pytest.mark.slow
def test_it_takes_less_than_a_minute(executed: Executed) -> None:
    assert executed.seconds < 60


@pytest.mark.slow
def test_exercises_tell_right_from_wrong(executed: Executed) -> None:
    answers = ANSWERS[executed.name]
    for (answer, verdict), (right, wrong) in zip(executed.exercises, answers, strict=True):
        for given, expected in ((right, "Right: "), (wrong, "Wrong: "), ("...", "Not answered yet: ")):
            dots = DOTS.search(answer)
            assert dots
            source = f"{answer[: dots.start()]}{dots[1]} {given}{answer[dots.end() :]}"
            text, _ = execute(f"{source}\n{verdict}", executed.namespace)
            assert text.startswith(expected), f"{given}: {text}"
            assert len(text) > len(expected) + 40
