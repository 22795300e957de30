"""The layout of a store: its arrays, and an empty store of a sweep."""

import warnings
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from didsim._versions import versions
from didsim.sweeps.folder import FORMAT, ZARR_FORMAT, seal_fixed_files
from didsim.sweeps.grid import Sweep
from didsim.training.metrics import METRICS
from didsim.training.record import metric_attributes

LIMITS = {
    "js_limit": {"long_name": "JS(exact limit, target)", "units": "nats", "limit_of": "js_to_target"},
    "js_to_limit": {"long_name": "JS(learned at the end, exact limit)", "units": "nats"},
}


class Status(IntEnum):
    """The status of a cell."""

    PENDING = 0
    DONE = 1
    DIVERGED = 2
    FAILED = 3


def make_empty(sweep: Sweep, path: Path, block_shape: tuple[int, ...]) -> None:
    """Write the fixed files of a sweep's store into a folder. The same arguments give the same files.

    Args:
        sweep: the sweep.
        path: the folder, which must not exist.
        block_shape: the cells of a block. Each chunk of results is one block.

    Raises:
        OSError: a file cannot be written.
    """
    compressors = (ZstdCodec(), Crc32cCodec())
    coords: dict[str, Any] = {
        axis.dim: (
            axis.dim,
            axis.labels.astype(object) if axis.labels.dtype.kind == "U" else axis.labels,
            {"long_name": axis.dim.replace("_", " ").capitalize(), "key": axis.key},
        )
        for axis in sweep.axes
    }
    coords["step"] = ("step", np.asarray(sweep.steps), {"long_name": "Step"})
    encoding = {name: {"_FillValue": None, "compressors": compressors} for name in coords}
    xr.Dataset(coords=coords).to_zarr(path, zarr_format=ZARR_FORMAT, consolidated=False, encoding=encoding)
    group = zarr.open_group(path, mode="r+", zarr_format=ZARR_FORMAT, use_consolidated=False)
    for name, variable in variables(sweep).items():
        steps = (len(sweep.steps),) if variable.has_steps else ()
        group.create_array(
            name,
            shape=(*sweep.shape, *steps),
            chunks=(*block_shape, *steps),
            compressors=compressors,
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
        zarr.consolidate_metadata(path, zarr_format=ZARR_FORMAT)
    seal_fixed_files(path)


class _Variable(NamedTuple):
    dtype: str
    fill: Any
    about: Mapping[str, Any]
    has_steps: bool = False


def variables(sweep: Sweep) -> dict[str, _Variable]:
    """All variables of a store, by name. The status is the last."""
    found = {
        name: _Variable(sweep.dtype, np.nan, metric_attributes(name, METRICS[name]), has_steps=True)
        for name in sweep.metrics
    }
    if sweep.has_limits:
        for name, about in LIMITS.items():
            found[name] = _Variable(sweep.dtype, np.nan, about)
    steps = {"long_name": "Steps taken before the run diverged; −1: it did not"}
    found["diverged_at"] = _Variable("int64", -1, steps)
    flags = {
        "flag_values": [int(one) for one in Status],
        "flag_meanings": " ".join(one.name.lower() for one in Status),
    }
    found["status"] = _Variable("uint8", int(Status.PENDING), {"long_name": "Status", **flags})
    return found
