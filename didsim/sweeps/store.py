"""Results on disk: one Zarr store for each study, written block by block."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock, Timeout

from didsim._files import DRAFTS, sync, written_whole
from didsim._versions import versions
from didsim.sweeps.folder import (
    CHECKSUMS,
    FAILURES,
    LOCK,
    DamagedError,
    StoreError,
    contents_of,
    digests_of,
    failures_of,
    is_chunk,
    open_arrays,
    seal,
    status_chunk,
    unsealed,
    verify,
)
from didsim.sweeps.grid import Block, Sweep
from didsim.sweeps.layout import Status, make_empty, variables
from didsim.sweeps.tables import leaves


class Store:
    """A store that this process writes to. While `locked` holds, no other process may write to it.

    Every array has the axes of the sweep, and each of its chunks is one block. A chunk is written under a
    temporary name and then renamed. The chunk of `status` comes last, once all others of the block are on the
    disk. So a cell is done only if all its results are in the store.

    Attributes:
        path: the folder.
        block_shape: the cells of a block.
    """

    def __init__(self, sweep: Sweep, path: Path, block_shape: Sequence[int]) -> None:
        self._sweep = sweep
        self.path = path
        self.block_shape = tuple(block_shape)
        self._arrays = open_arrays(path, variables(sweep))

    def status(self) -> np.ndarray:
        """The status of every cell."""
        return np.asarray(self._arrays["status"][...])

    def write(
        self,
        block: Block,
        results: Mapping[str, np.ndarray],
        failures: Mapping[int, str] = MappingProxyType({}),
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Write the results of cells of a block, and then their status.

        Args:
            block: the place of the block in the grid.
            results: what `didsim.sweeps.cells.compute` returned for these cells; empty if all failed.
            failures: the reasons of cells that failed, by the number of the cell in the block.
            numbers: the numbers in the block of the cells that were computed; by default all. The others stay
                as they are.

        Raises:
            OSError: the disk is full, or cannot be written to.
        """
        cells = len(list(self._sweep.cells_of(block)))
        rows = np.arange(cells) if numbers is None else np.asarray(numbers)
        steps = np.searchsorted(self._sweep.steps, results.get("steps", []))
        status = np.full(len(rows), Status.DONE)
        if results:
            status[results["diverged_at"] >= 0] = Status.DIVERGED
        status[np.isin(rows, list(failures))] = Status.FAILED
        if failures:
            self._note_failures(block, failures)
        written = []
        for name, array in self._arrays.items():
            if name != "status":
                values = self._stored(array, block, cells)
                values[rows] = array.fill_value
                if name in results:
                    given = results[name]
                    values[(rows[:, None], steps) if given.ndim == 2 else rows] = given
                written.append(self._put(array, block, values))
        self._sync(written)
        values = self._stored(self._arrays["status"], block, cells)
        values[rows] = status
        self._sync([self._put(self._arrays["status"], block, values)])

    def tidy(self) -> None:
        """Remove what killed processes left half written, and chunks that are damaged.

        The status of a damaged chunk's block goes first. Its cells are then computed again.
        """
        for partial in list(self.path.rglob(f"*{DRAFTS}")):
            _remove(partial)
        damaged = verify(self.path).damaged
        axes = len(self.block_shape)
        states = {status_chunk(name, axes) for name in damaged if is_chunk(name)}
        for name in [*sorted(states), *damaged]:
            _remove(self.path / name)
        if FAILURES in damaged:
            seal(self.path / FAILURES, {})

    def _note_failures(self, block: Block, failures: Mapping[int, str]) -> None:
        indices = list(self._sweep.cells_of(block))
        named = {self._sweep.describe(indices[number]): reason for number, reason in failures.items()}
        seal(self.path / FAILURES, failures_of(self.path) | named)

    def _stored(self, array: Any, block: Block, cells: int) -> np.ndarray:
        """What an array holds of a block now, with one entry for each cell."""
        values = np.array(array[block])
        return values.reshape((cells, *values.shape[len(block) :]))

    def _put(self, array: Any, block: Block, values: np.ndarray) -> Path:
        """Write a block of an array; the chunk that now holds it."""
        try:
            shape = tuple(side.stop - side.start for side in block)
            array[block] = values.reshape((*shape, *values.shape[1:]))[()]
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write to the store: {error.strerror}", str(self.path / array.basename)
            ) from None
        places = [side.start // length for side, length in zip(block, self.block_shape, strict=True)]
        places += [0] * (array.ndim - len(places))
        return self.path.joinpath(array.basename, "c", *map(str, places))

    def _sync(self, chunks: Sequence[Path]) -> None:
        """Wait until chunks, and the folders that they are in, are on the disk."""
        folders = {folder for chunk in chunks for folder in chunk.parents if self.path in folder.parents}
        sync([*chunks, *folders])


def open_store(sweep: Sweep, path: Path, cells: int, *, any_version: bool = False) -> Store:
    """The store of a sweep, made if there is none. Fixed files that are damaged are made again.

    Args:
        sweep: the sweep whose results it holds.
        path: its folder.
        cells: the largest number of cells in a block of a new store. An old store keeps its blocks.
        any_version: whether to go on in a store that other versions of the packages began.

    Raises:
        StoreError: the path holds something else, results of another study, or results of other versions.
            Or a fixed file is damaged, and this sweep does not give it back.
        OSError: it cannot be written to.
    """
    if not path.exists():
        _create(sweep, path, sweep.block_shape(cells))
    try:
        found = contents_of(path).attributes
    except DamagedError as error:
        with locked(path):
            _mend(sweep, path, sweep.block_shape(cells), error)
        found = contents_of(path).attributes
    config = plain(sweep.config())
    if found["config"] != config:
        raise StoreError(
            f"{path} holds another study:\n{difference(found['config'], config)}\n"
            "Choose another folder for the results, or the study that this one was made by"
        )
    if found["versions"] != versions() and not any_version:
        raise StoreError(
            f"{path} was made by other versions, whose numbers may differ in the last bits:\n"
            f"{difference(found['versions'], versions())}\n"
            "Install those versions, choose another folder, or accept them (`any_version`, `--any-version`)"
        )
    return Store(sweep, path, found["block_shape"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a store. The lock ends with the process, however that ends.

    Raises:
        StoreError: another process writes to the store.
        OSError: the store cannot be written to.
    """
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{path} is being written to by another process; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys at which two nested tables differ, a line for each."""
    before, after = dict(leaves(old)), dict(leaves(new))
    for one in (before, after):
        if (digest := one.pop("digest", None)) is not None:
            one["some cells beyond the first"] = digest[:8]
    keys = [*before, *(key for key in after if key not in before)]
    nothing = "nothing"
    return "\n".join(
        f"  {key.removeprefix('study.')}: {before.get(key, nothing)} there, {after.get(key, nothing)} here"
        for key in keys
        if before.get(key, nothing) != after.get(key, nothing)
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _create(sweep: Sweep, path: Path, block_shape: tuple[int, ...]) -> None:
    """Make an empty store, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as (draft,):
            make_empty(sweep, draft, block_shape)
    except OSError:
        # Another process may have been first.
        if not path.exists():
            raise


def _mend(sweep: Sweep, path: Path, block_shape: tuple[int, ...], error: DamagedError) -> None:
    """Make damaged fixed files again, as the sweep tells what was in them.

    A file is taken only if it is proven to be what was there: by its checksum, or, if the checksums are what
    is damaged, as all other fixed files are those of the sweep.

    Raises:
        StoreError: it is not.
    """
    with tempfile.TemporaryDirectory(DRAFTS, f".{path.name}-", path.parent) as temporary:
        draft = Path(temporary) / path.name
        make_empty(sweep, draft, _block_shape_in(path) or block_shape)
        made = unsealed(draft, CHECKSUMS)
        if CHECKSUMS in error.found:
            proven = digests_of(path, made) == made
        else:
            expected = unsealed(path, CHECKSUMS)
            proven = all(made.get(name) == expected[name] for name in error.found)
        if not proven:
            name, what = next(iter(error.found.items()))
            raise StoreError(
                f"{path / name} is damaged: {what}; and this study does not give this file back, as the "
                "store is of another study, other versions, or blocks of another size (`memory`, `--memory`)"
            )
        for name in error.found:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft / name, path / name)
            sync([path / name, (path / name).parent])


def _block_shape_in(path: Path) -> tuple[int, ...] | None:
    """The cells of a block of a store that is damaged; None if that is not known either."""
    try:
        attributes = msgspec.json.decode((path / "zarr.json").read_bytes())["attributes"]
        return tuple(msgspec.json.decode(attributes["block_shape"], type=list[int]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
