"""The progress bar of a compiled program.

The program knows its bar by a number, which is an array like its other inputs, so that another bar does not
compile it again. It calls `tick` with that number to move the bar.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

_METERS: dict[int, Callable[[int], None]] = {}
_METER_NUMBERS = itertools.count()

_MOVES = 1000  # of a bar over many items


@contextmanager
def progress_bar(progress: bool | str, steps: int) -> Iterator[Array | None]:
    """Show a progress bar, unless `progress` is false; gives its number, or None without a bar."""
    if not progress:
        yield None
        return
    number = next(_METER_NUMBERS)
    with shown_bar(progress if isinstance(progress, str) else "training", steps) as move:
        _METERS[number] = move
        try:
            yield jnp.asarray(number)
            jax.effects_barrier()
        finally:
            del _METERS[number]


def tick(number: Array, step: Array) -> None:
    """Move the bar with this number to `step`. The compiled program calls this."""
    # If the program was stopped, a call may come after its bar is gone.
    if int(number) in _METERS:
        _METERS[int(number)](int(step))


@contextmanager
def shown_bar(
    label: str, total: int, *, console: Console | None = None, **options: Any
) -> Iterator[Callable[..., None]]:
    """Show a progress bar.

    The function that it gives moves the bar to a count, never back, and shows a note beside it.

    Args:
        label: what the bar is of.
        total: the count at its end.
        console: where it is shown; standard output by default.
        options: of `rich.progress.Progress`.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, **options) as bars:
        task = bars.add_task(label, total=total, note="")

        def move(count: int, note: str = "") -> None:
            bars.update(task, completed=max(count, int(bars.tasks[0].completed)), note=note)

        yield move


def tracked(items: Iterable[Item], total: int, label: str, progress: bool) -> Iterator[Item]:
    """The items one by one. A progress bar on standard error, or a line if that is no terminal, says so.

    Args:
        items: the items.
        total: their number.
        label: what is done with them.
        progress: whether to say anything.
    """
    console = Console(stderr=True)
    if not (progress and console.is_terminal):
        if progress and total:
            console.print(f"{label}: {total:,}", highlight=False)
        yield from items
        return
    seldom = max(1, total // _MOVES)
    with shown_bar(label, total, console=console, transient=True) as move:
        for count, item in enumerate(items, 1):
            yield item
            if count % seldom == 0:
                move(count)
