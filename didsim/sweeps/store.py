"""Results on disk: one Zarr store for each study, written block by block."""

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout

from didsim._files import DRAFTS, written_whole
from didsim._versions import versions
from didsim.sweeps.grid import Block, Sweep
from didsim.sweeps.tables import leaves
from didsim.training.metrics import METRICS
from didsim.training.record import metric_attributes

FORMAT = 1
"""The number of the layout of a store. It changes when the layout does."""

_FAILURES = "failures.json"
_LOCK = ".lock"


class Status(IntEnum):
    """The status of a cell."""

    PENDING = 0
    DONE = 1
    DIVERGED = 2
    FAILED = 3


LIMITS = {"js_limit": "JS(exact limit, target)", "js_to_limit": "JS(learned at the end, exact limit)"}


class StoreError(ValueError):
    """A folder holds another study, results of other versions, or no results at all."""


class Store:
    """A store that this process writes to. While `locked` holds, no other process may write to it.

    Every array has the axes of the sweep, and each of its chunks is one block. A chunk is written under a
    temporary name and then renamed. The chunk of `status` comes last, so that a cell is done only if all its
    results are in the store.

    Attributes:
        path: the folder.
        block_shape: the cells of a block.
    """

    def __init__(self, sweep: Sweep, path: Path):
        self._sweep = sweep
        self.path = path
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        self.block_shape = tuple(int(side) for side in attributes(group)["block_shape"])
        self._arrays: dict[str, Any] = {name: group[name] for name in _variables(sweep)}

    def status(self) -> np.ndarray:
        """The status of every cell."""
        return np.asarray(self._arrays["status"][...])

    def write(
        self,
        block: Block,
        results: Mapping[str, np.ndarray],
        failures: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """Write the results of a block, and then its status.

        Args:
            block: the place of the block in the grid.
            results: what `didsim.sweeps.cells.compute` returned; empty if all cells failed.
            failures: the reasons of cells that failed, by the number of the cell in the block.

        Raises:
            OSError: the disk is full, or cannot be written to.
        """
        shape = tuple(side.stop - side.start for side in block)
        steps = self._sweep.steps
        for name, values in results.items():
            if name != "steps":
                array = self._arrays[name]
                if values.ndim == 2:
                    spread = np.full((len(values), len(steps)), np.nan, array.dtype)
                    spread[:, np.searchsorted(steps, results["steps"])] = values
                    values = spread
                self._put(array, block, values.reshape((*shape, *values.shape[1:])))
        status = np.full(math.prod(shape), Status.DONE, np.uint8)
        if results:
            status[results["diverged_at"] >= 0] = Status.DIVERGED
        status[list(failures)] = Status.FAILED
        if failures:
            self._note_failures(block, failures)
        self._put(self._arrays["status"], block, status.reshape(shape))

    def _note_failures(self, block: Block, failures: Mapping[int, str]) -> None:
        indices = list(self._sweep.cells_of(block))
        named = {self._sweep.describe(indices[number]): reason for number, reason in failures.items()}
        with written_whole(self.path / _FAILURES) as (draft,):
            draft.write_bytes(msgspec.json.encode(failures_of(self.path) | named))

    def tidy(self) -> None:
        """Remove files that a killed process left half written."""
        for partial in list(self.path.rglob(f"*{DRAFTS}")):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def _put(self, array: Any, block: Block, values: np.ndarray) -> None:
        try:
            array[block] = values if values.ndim else values[()]
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write to the store: {error.strerror}", str(self.path / array.basename)
            ) from None


def open_store(sweep: Sweep, path: Path, cells: int, *, any_version: bool = False) -> Store:
    """The store of a sweep, made if there is none.

    Args:
        sweep: the sweep whose results it holds.
        path: its folder.
        cells: the largest number of cells in a block of a new store. An old store keeps its blocks.
        any_version: whether to go on in a store that other versions of the packages began.

    Raises:
        StoreError: the path holds something else, results of another study, or results of other versions.
        OSError: it cannot be written to.
    """
    if not path.exists():
        _create(sweep, path, sweep.block_shape(cells))
    found = stored_attributes(path)
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
    return Store(sweep, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a store. The lock ends with the process, however that ends.

    Raises:
        StoreError: another process writes to the store.
        OSError: the store cannot be written to.
    """
    lock = FileLock(path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{path} is being written to by another process; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def stored_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a store: its study, its versions, its format.

    Raises:
        StoreError: the path holds no store, or one of another format.
    """
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError, NotADirectoryError):
        raise StoreError(f"{path} holds no results of a study") from None
    found = attributes(group)
    if found.get("format") != FORMAT:
        raise StoreError(
            f"{path} is a store of format {found.get('format')}; this version of didsim reads only "
            f"format {FORMAT}"
        )
    return found


def attributes(group: Any) -> dict[str, Any]:
    """A store's attributes, decoded."""
    found = dict(group.attrs)
    return {
        key: msgspec.json.decode(value) if key in ("config", "versions", "block_shape") else value
        for key, value in found.items()
    }


def failures_of(path: Path) -> dict[str, str]:
    """Why cells failed at their last attempt, by their names. Some may have been computed since."""
    try:
        return msgspec.json.decode((path / _FAILURES).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}


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


def _create(sweep: Sweep, path: Path, block_shape: Sequence[int]) -> None:
    """Make an empty store, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as (draft,):
            _fill(sweep, draft, tuple(block_shape))
    except OSError:
        # Another process may have been first.
        if not path.exists():
            raise


def _fill(sweep: Sweep, path: Path, block_shape: tuple[int, ...]) -> None:
    coords: dict[str, Any] = {
        axis.dim: (
            axis.dim,
            axis.labels.astype(object) if axis.labels.dtype.kind == "U" else axis.labels,
            {"long_name": axis.dim.replace("_", " ").capitalize(), "key": axis.key},
        )
        for axis in sweep.axes
    }
    coords["step"] = ("step", np.asarray(sweep.steps), {"long_name": "Step"})
    encoding = {name: {"_FillValue": None} for name in coords}
    xr.Dataset(coords=coords).to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)

    for name, variable in _variables(sweep).items():
        steps = (len(sweep.steps),) if variable.has_steps else ()
        group.create_array(
            name,
            shape=(*sweep.shape, *steps),
            chunks=(*block_shape, *steps),
            dtype=variable.dtype,
            fill_value=variable.fill,
            dimension_names=(*sweep.dims, *(("step",) if steps else ())),
            attributes=dict(variable.about),
        )
    config = sweep.config()
    group.attrs.update(
        format=FORMAT,
        config=msgspec.json.encode(config).decode(),
        seed=config["study"]["seed"],
        versions=msgspec.json.encode(versions()).decode(),
        block_shape=msgspec.json.encode(block_shape).decode(),
    )
    with warnings.catch_warnings():
        # Zarr warns that this is not in its format yet. Readers that know it open one file in place of many.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


class _Variable(NamedTuple):
    dtype: str
    fill: Any
    about: Mapping[str, Any]
    has_steps: bool = False


def _variables(sweep: Sweep) -> dict[str, _Variable]:
    """All variables of a store, by name."""
    found = {
        name: _Variable(sweep.dtype, np.nan, metric_attributes(name, METRICS[name]), has_steps=True)
        for name in sweep.metrics
    }
    if sweep.has_limits:
        for name, text in LIMITS.items():
            found[name] = _Variable(sweep.dtype, np.nan, {"long_name": text, "units": "nats"})
    about = {"long_name": "Steps taken before the run diverged; −1: it did not"}
    found["diverged_at"] = _Variable("int64", -1, about)
    flags = {
        "flag_values": [int(one) for one in Status],
        "flag_meanings": " ".join(one.name.lower() for one in Status),
    }
    found["status"] = _Variable("uint8", int(Status.PENDING), {"long_name": "Status", **flags})
    return found
