"""From a grid to a full store: blocks go out to an executor, and are written as they come back."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from didsim import _checks
from didsim._files import local_path
from didsim._memory import size_text
from didsim.sweeps.cells import compute
from didsim.sweeps.grid import Block, Sweep
from didsim.sweeps.store import Status, Store, locked, open_store
from didsim.training.progress import shown_bar

MEMORY = 2**30
_QUIET_SECONDS = 60.0


class Outcome(NamedTuple):
    """The number of cells of each status in a store after `run_sweep`.

    Attributes:
        done: cells with complete results.
        diverged: cells whose training came to a number that is not finite.
        failed: cells that could not be computed; `didsim show` says why.
        pending: cells that are still to be computed, as the sweep was interrupted.
    """

    done: int
    diverged: int
    failed: int
    pending: int


def run_sweep(
    sweep: Sweep,
    store: str | Path,
    executor: Executor | None = None,
    *,
    memory: int = MEMORY,
    in_flight: int = 16,
    progress: bool = False,
    any_version: bool = False,
) -> Outcome:
    """Compute all cells of a sweep that a store does not have yet.

    Cells that share a program are computed in blocks of at most 64. A block is written when all of it is
    computed, and its status last. If the process is killed, the next call computes the blocks that are
    missing, with the same bits on the same machine. After SIGINT (Ctrl-C) the call finishes and writes the
    blocks that are being computed, then returns. A second SIGINT raises KeyboardInterrupt at once. Without an
    executor, a thread of this process still finishes its block, and the process ends after that. Cells that
    cannot be computed are recorded as failed, and the next call tries them again.

    Args:
        sweep: the grid.
        store: the folder of its results, made if there is none.
        executor: where blocks are computed: any object with `submit`, by default a thread of this process. A
            process computes one block at a time, however many threads it has. What you added to a registry
            must be added in the executor's processes, too: a study is sent to them as names and numbers.
        memory: bytes that a block may take. It sets the size of the blocks of a new store. A warning says so
            if a single cell takes more.
        in_flight: the largest number of blocks that an executor has at once.
        progress: whether to show the number of cells that are done: as a bar on a terminal, elsewhere as a
            line every minute.
        any_version: whether to go on in a store that other versions of JAX, NumPy, … began.

    Returns:
        The numbers of cells by status.

    Raises:
        StoreError: the store is of another study or of other versions, or another process writes to it.
        ValueError: a cell takes more memory than `memory`, and more than this machine has.
        OSError: it cannot be written to.
        RuntimeError: a worker of the executor died; the message names a cell. What was done is kept.
    """
    _checks.instance("sweep", sweep, Sweep, "a Sweep")
    path = local_path("store", store)
    memory = _checks.positive_int("memory", memory)
    in_flight = _checks.positive_int("in_flight", in_flight)
    sweep.check_fits(memory)
    if sweep.cell_bytes() > memory:
        needed, given = size_text(sweep.cell_bytes()), size_text(memory)
        warnings.warn(f"a cell takes about {needed}, more than the {given} of `memory`", stacklevel=2)
    opened = open_store(sweep, path, sweep.cells_within(memory), any_version=any_version)
    with locked(path), _stopping() as stop, ExitStack() as stack:
        opened.tidy()
        blocks, done = _to_do(sweep, opened)
        advance = stack.enter_context(_shown(sweep.size, done, progress))
        if executor is None:
            # Two blocks, so that the thread never waits for its next one.
            executor, in_flight = ThreadPoolExecutor(1), 2
            stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        _compute_all(sweep, opened, blocks, executor, in_flight, stop, advance)
        status = opened.status()
    kinds = (Status.DONE, Status.DIVERGED, Status.FAILED, Status.PENDING)
    return Outcome(*(int((status == one).sum()) for one in kinds))


def _to_do(sweep: Sweep, store: Store) -> tuple[list[Block], int]:
    """The blocks that are not done, and the number of cells that are."""
    status = store.status()
    done = (status == Status.DONE) | (status == Status.DIVERGED)
    blocks = [block for block in sweep.blocks(store.block_shape) if not done[block].all()]
    return blocks, sweep.size - sum(done[block].size for block in blocks)


def _compute_all(
    sweep: Sweep,
    store: Store,
    blocks: Sequence[Block],
    executor: Executor,
    in_flight: int,
    stop: threading.Event,
    advance: Callable[[int], None],
) -> None:
    size = int(np.prod(store.block_shape))
    waiting = iter(blocks)
    running: dict[Future[Any], Block] = {}
    while True:
        while len(running) < in_flight and not stop.is_set():
            block = next(waiting, None)
            if block is None:
                break
            cells = [sweep.cell(index) for index in sweep.cells_of(block)]
            running[executor.submit(compute, cells, size)] = block
        if not running:
            return
        # With a timeout, as Python handles a signal only between waits.
        finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in finished:
            block = running.pop(future)
            _write(sweep, store, block, future, executor)
            advance(sum(1 for _ in sweep.cells_of(block)))


def _write(sweep: Sweep, store: Store, block: Block, future: Future[Any], executor: Executor) -> None:
    first = sweep.describe(next(sweep.cells_of(block)))
    failures: dict[int, str] = {}
    try:
        results = _result(future, f"the block that begins with the cell {first}")
    except ValueError:
        results, failures = _one_by_one(sweep, block, executor)
    store.write(block, results, failures)


def _result(future: Future[Any], what: str) -> dict[str, np.ndarray]:
    """The result of `compute`. It raises ValueError itself; any other error means that the worker failed."""
    try:
        found: dict[str, np.ndarray] = future.result()
    except ValueError:
        raise
    except Exception as error:
        raise RuntimeError(f"a worker failed at {what}: {error or type(error).__name__}") from error
    return found


def _one_by_one(
    sweep: Sweep, block: Block, executor: Executor
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Compute a block cell by cell, as at least one of its cells cannot be computed."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    failures: dict[int, str] = {}
    indices = list(sweep.cells_of(block))
    for number, index in enumerate(indices):
        try:
            future = executor.submit(compute, [sweep.cell(index)], 1)
            parts[number] = _result(future, f"the cell {sweep.describe(index)}")
        except ValueError as error:
            failures[number] = str(error)
    if not parts:
        return {}, failures
    joined = dict(next(iter(parts.values())))
    for name, one in joined.items():
        if name != "steps":
            joined[name] = np.full(
                (len(indices), *one.shape[1:]), -1 if name == "diverged_at" else np.nan, one.dtype
            )
            for number, part in parts.items():
                joined[name][number] = part[name][0]
    return joined, failures


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that the first SIGINT sets, in place of interrupting; the second interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not through Python's buffered stream, which the signal may have interrupted.
        text = "Stopping: waiting for the blocks that are being computed; Ctrl-C again stops now"
        os.write(2, f"\n{text}\n".encode())

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Progress:
    """Counts cells, and shows how many are done, how fast, and how long the rest will take."""

    def __init__(self, total: int, done: int, show: Callable[[int, float, float], None], seconds: float):
        self._total, self._done, self._show, self._seconds = total, done, show, seconds
        self._before = done
        self._began = self._last = time.monotonic()

    def advance(self, cells: int) -> None:
        """Count cells; show the count if the last time was long ago, or it is complete."""
        self._done += cells
        now = time.monotonic()
        if now - self._last >= self._seconds or self._done == self._total:
            self._last = now
            rate = (self._done - self._before) / max(now - self._began, 1e-9)
            self._show(self._done, rate, (self._total - self._done) / rate if rate else 0.0)


@contextmanager
def _shown(total: int, done: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with a number of cells that are done; it moves a bar, or prints a line a minute."""
    console = Console(stderr=True)
    if not progress:
        yield lambda cells: None
    elif console.is_terminal:
        with shown_bar("cells", total, console=console) as move:
            move(done)
            yield _Progress(total, done, lambda count, rate, left: move(count, f"{rate:.3g}/s"), 0.0).advance
    else:

        def line(count: int, rate: float, left: float) -> None:
            minutes = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
            console.print(
                f"{count:,} of {total:,} cells, {rate:.3g} a second, {minutes} left", highlight=False
            )

        yield _Progress(total, done, line, _QUIET_SECONDS).advance
