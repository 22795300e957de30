"""The progress bar of a compiled program.

The program knows its bar by a number, which is an array like its other inputs, so that another bar does not
compile it again. It calls `tick` with that number to move the bar.
"""

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
    """Show a progress bar, unless `progress` is false; gives its number, or None without a bar."""
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
    """Move the bar with this number to `step`. The compiled program calls this."""
    # If the program was stopped, a call may come after its bar is gone.
    if int(number) in _METERS:
        bars, task = _METERS[int(number)]
        bars.update(task, completed=max(int(step), int(bars.tasks[0].completed)))
