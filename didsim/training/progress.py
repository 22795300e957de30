"""The progress bar of a compiled program, which knows it by a number and calls back to move it on."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_METERS: dict[int, tuple[Progress, TaskID]] = {}
_METER_NUMBERS = itertools.count()


@contextmanager
def progress_bar(progress: bool | str, steps: int) -> Iterator[Array | None]:
    """A progress bar, as the number by which the compiled program knows it."""
    if not progress:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    number = next(_METER_NUMBERS)
    with Progress(*columns) as bars:
        label = progress if isinstance(progress, str) else "training"
        _METERS[number] = bars, bars.add_task(label, total=steps)
        try:
            yield jnp.asarray(number)
            jax.effects_barrier()
        finally:
            del _METERS[number]


def tick(number: Array, step: Array) -> None:
    """Move a bar on to a step; called by the compiled program."""
    # A callback may come late, after its bar is gone, when the program was stopped.
    if int(number) in _METERS:
        bars, task = _METERS[int(number)]
        bars.update(task, completed=max(int(step), int(bars.tasks[0].completed)))
