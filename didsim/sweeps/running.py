"""From a grid to a full store: blocks go out to an executor, and are written as they come back."""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from didsim.sweeps.layout import Status
from didsim.sweeps.store import Store, locked, open_store
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
    executor, a thread of this process still finishes its block, and the process ends after that.

    If a cell of a block cannot be computed, the cells of the block are computed one by one, and that cell is
    recorded as failed. The next call tries it again, alone.

    First of all, every file of the store is read. Blocks of which a file is damaged are computed again, and
    coordinates are written again.

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
        ValueError: an argument is of the wrong kind, or a cell takes more memory than `memory`, and more than
            this machine has.
        StoreError: the store is of another study or of other versions, another process writes to it, or a
            damaged file cannot be made again.
        OSError: it cannot be written to.
        RuntimeError: a worker of the executor died; the message names a cell. What was done is kept.
    """
    _checks.instance("sweep", sweep, Sweep, "a Sweep")
    path = local_path("store", store)
    if executor is not None and not hasattr(executor, "submit"):
        raise ValueError(f"`executor` must be an object with `submit`, or None; got {executor!r}")
    _checks.flag("progress", progress)
    _checks.flag("any_version", any_version)
    memory = _checks.positive_int("memory", memory)
    in_flight = _checks.positive_int("in_flight", in_flight)
    sweep.check_fits(memory)
    if sweep.cell_bytes() > memory:
        needed, given = size_text(sweep.cell_bytes()), size_text(memory)
        warnings.warn(f"a cell takes about {needed}, more than the {given} of `memory`", stacklevel=2)
    opened = open_store(sweep, path, sweep.cells_within(memory), any_version=any_version)
    with locked(path), _stopping() as stop, ExitStack() as stack:
        opened.tidy()
        whole, partial = _to_do(sweep, opened)
        left = sum(map(_cells, whole)) + sum(len(numbers) for _, numbers in partial)
        advance = stack.enter_context(_shown(sweep.size, sweep.size - left, progress))
        if executor is None:
            # Two blocks, so that the thread never waits for its next one.
            executor, in_flight = ThreadPoolExecutor(1), 2
            stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        work = _Work(sweep, opened, executor, stop, advance)
        work.compute_blocks(whole, in_flight)
        for block, numbers in partial:
            work.compute_cells(block, numbers)
        status = opened.status()
    kinds = (Status.DONE, Status.DIVERGED, Status.FAILED, Status.PENDING)
    return Outcome(*(int((status == one).sum()) for one in kinds))


def _to_do(sweep: Sweep, store: Store) -> tuple[list[Block], list[tuple[Block, list[int]]]]:
    """The blocks of which nothing is computed; and others, with the numbers of their cells that are left."""
    status = store.status()
    left = (status != Status.DONE) & (status != Status.DIVERGED)
    whole, partial = [], []
    for block in sweep.blocks(store.block_shape):
        if (status[block] == Status.PENDING).all():
            whole.append(block)
        elif left[block].any():
            partial.append((block, np.flatnonzero(left[block]).tolist()))
    return whole, partial


def _cells(block: Block) -> int:
    return math.prod(side.stop - side.start for side in block)


class _Work(NamedTuple):
    """What computing the cells of a sweep needs."""

    sweep: Sweep
    store: Store
    executor: Executor
    stop: threading.Event
    advance: Callable[[int], None]

    def compute_blocks(self, blocks: Sequence[Block], in_flight: int) -> None:
        """Compute whole blocks, and write each when it comes back, until it is asked to stop."""
        size = math.prod(self.store.block_shape)
        waiting = iter(blocks)
        running: dict[Future[Any], Block] = {}
        while True:
            while len(running) < in_flight and not self.stop.is_set():
                block = next(waiting, None)
                if block is None:
                    break
                cells = [self.sweep.cell(index) for index in self.sweep.cells_of(block)]
                running[self.executor.submit(compute, cells, size)] = block
            if not running:
                return
            # With a timeout, as Python handles a signal only between waits.
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                self._finish(running.pop(future), future)

    def _finish(self, block: Block, future: Future[Any]) -> None:
        indices = list(self.sweep.cells_of(block))
        try:
            results = _result(
                future, f"the block that begins with the cell {self.sweep.describe(indices[0])}"
            )
        except ValueError:
            # At least one of its cells cannot be computed.
            self.compute_cells(block, range(len(indices)))
        else:
            self.store.write(block, results)
            self.advance(len(indices))

    def compute_cells(self, block: Block, numbers: Sequence[int]) -> None:
        """Compute some cells of a block one by one, and write them, until it is asked to stop."""
        indices = list(self.sweep.cells_of(block))
        parts: dict[int, dict[str, np.ndarray]] = {}
        failures: dict[int, str] = {}
        for number in numbers:
            if self.stop.is_set():
                break
            try:
                future = self.executor.submit(compute, [self.sweep.cell(indices[number])], 1)
                parts[number] = _result(future, f"the cell {self.sweep.describe(indices[number])}")
            except ValueError as error:
                failures[number] = str(error)
        tried = sorted([*parts, *failures])
        if tried:
            self.store.write(block, _joined(parts, tried), failures, tried)
            self.advance(len(tried))


def _result(future: Future[Any], what: str) -> dict[str, np.ndarray]:
    """The result of `compute`. It raises ValueError itself; any other error means that the worker failed."""
    try:
        found: dict[str, np.ndarray] = future.result()
    except ValueError:
        raise
    except Exception as error:
        raise RuntimeError(f"a worker failed at {what}: {error or type(error).__name__}") from error
    return found


def _joined(parts: Mapping[int, dict[str, np.ndarray]], numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """The results of cells computed one by one, with an entry for each number; NaN where a cell failed."""
    if not parts:
        return {}
    joined = dict(next(iter(parts.values())))
    for name, one in joined.items():
        if name != "steps":
            nothing = np.full_like(one[0], -1 if name == "diverged_at" else np.nan)
            joined[name] = np.stack(
                [parts[number][name][0] if number in parts else nothing for number in numbers]
            )
    return joined


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
