"""Progress bars with numbers behind them, as OpenRLHF shows its metrics, read into records."""

import re
from typing import Any

_ANY = re.compile(r"\d+%\|[^|\r\n]*\|\s*\d+/\d+")
_BAR = re.compile(r"\d+%\|[^|\r\n]*\|\s*(\d+)/(\d+)\s*\[([^\]\r\n]*=[^\]\r\n]*)\]")
_NUMBER = re.compile(r"([\w/]+)=([-+]?(?:\d[\w.+-]*|\.\d+|nan|inf))")
_EPOCH = re.compile(r"epoch\s*\[?\s*(\d+)(\s*/\s*\d+)?", re.IGNORECASE)
_HELD_OUT = re.compile(r"\b(?:eval|valid|test)", re.IGNORECASE)
_LONG = 200  # characters before a bar that may name it


def is_bar(line: str) -> bool:
    """Whether a line shows a progress bar, with numbers or without."""
    return _ANY.search(line) is not None


def records_of_bars(text: str) -> list[dict[str, Any]]:
    """A record for each place of a bar: the last numbers shown there.

    A bar starts again with each epoch, which its name tells: `Train epoch [2/3]`, or `Train step of epoch 1`
    counted from 0. So a step is counted over all epochs. A bar of an evaluation has no step of its own; its
    last numbers are of the held-out pairs, at the step before it.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    evaluations, in_evaluation, run, before = 0, False, 0, 0
    for bar in _BAR.finditer(text):
        numbers = {name: value for name, value in _NUMBER.findall(bar[3]) if _is_number(value)}
        if not numbers:
            continue
        name = _name_of(text, bar.start())
        if _HELD_OUT.search(name):
            evaluations += not in_evaluation
            in_evaluation = True
            told = {key if _HELD_OUT.match(key) else f"eval_{key}": one for key, one in numbers.items()}
            found["eval", evaluations] = told
            continue
        in_evaluation = False
        place, size = int(bar[1]), int(bar[2])
        epoch = _EPOCH.search(name)
        done = 0 if epoch is None else int(epoch[1]) - bool(epoch[2])
        step = done * size + place
        run, before = run + (step < before), step  # a bar that goes back is one of another run
        found["train", run, step] = {"step": step, **numbers}
    return list(found.values())


def _name_of(text: str, end: int) -> str:
    """What stands before a bar in its line."""
    start = max(text.rfind("\n", max(0, end - _LONG), end), text.rfind("\r", max(0, end - _LONG), end)) + 1
    return text[max(start, end - _LONG) : end]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
