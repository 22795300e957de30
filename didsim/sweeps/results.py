"""Reading a store, while it is written or after."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from rich.table import Table

from didsim._files import local_path, written_whole
from didsim.sweeps.axes import cell_name, parsed, word
from didsim.sweeps.folder import ZARR_FORMAT, CheckedFolder, DamagedError, contents_of, failures_of
from didsim.sweeps.layout import Status


def open_results(path: str | Path) -> xr.Dataset:
    """The results of a sweep. Values are read from disk when they are used.

    The dimensions are the axes of the sweep, and `step`. Metrics are NaN where a cell has no record. `status`
    is 0 (pending), 1 (done), 2 (diverged) or 3 (failed). `diverged_at` is the number of steps before a cell
    diverged, or −1. The attributes hold the study, and the versions of the packages that computed it.

    The files that describe the results are checked here, and that all results are there. Each file of results
    is checked when it is read.

    Raises:
        StoreError: there are no results of a study at that path, or a file is damaged, here or when values
            are read. The message names the file.
        ValueError: it is no path on this machine.
    """
    path = local_path("path", path)
    if lost := contents_of(path).lost:
        raise DamagedError(path, lost)
    dataset = xr.open_zarr(
        CheckedFolder(path, read_only=True),
        chunks=None,
        consolidated=True,
        mask_and_scale=False,
        zarr_format=ZARR_FORMAT,
    )
    # Few libraries read words of variable length; NetCDF has words of a fixed length.
    words = {name: one for name, one in dataset.coords.items() if one.dtype.kind == "T"}
    return dataset.assign_coords({name: one.astype(object).astype(str) for name, one in words.items()})


def open_netcdf(path: Path) -> xr.Dataset:
    """The labelled data of a NetCDF file, as `export` and the experiments write it, in memory.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with xr.open_dataset(path, engine="scipy") as dataset:
            return dataset.load()
    except (TypeError, ValueError, KeyError, IndexError, EOFError) as error:
        raise ValueError(f"{path} is neither a folder with results nor a NetCDF file: {error}") from None


def select_values(dataset: xr.Dataset, settings: Iterable[str]) -> xr.Dataset:
    """The part of a dataset at some values of its dimensions, each given as `dimension=value`.

    Raises:
        ValueError: a setting is not of that form, or there is no such dimension or value.
    """
    for setting in settings:
        dim, value = parsed(setting, "--select")
        if dim not in dataset.dims:
            known = ", ".join(map(str, dataset.dims))
            raise ValueError(f"--select has an unknown dimension {dim!r}; there are {known}")
        labels = dataset[dim].values
        words = list(map(word, labels))
        try:
            if labels.dtype.kind in "Ub":
                dataset = dataset.isel({dim: words.index(word(value))})
            else:
                dataset = dataset.sel({dim: value})
        except (KeyError, ValueError):
            known = ", ".join(words)
            raise ValueError(f"--select has no {dim} {word(value)!r}; there are {known}") from None
    return dataset


def export(path: str | Path, out: str | Path) -> None:
    """Write the results of a store to a file: NetCDF, or a table with a row for each record, CSV or Parquet.

    The suffix of the file decides: `.nc`, `.csv` or `.parquet`. All results must fit in memory.

    Raises:
        StoreError: there are no results of a study at that path, or a file of them is damaged.
        ValueError: the suffix is another one, or Parquet is asked for and pyarrow is not installed.
        OSError: the file cannot be written.
    """
    path, out = local_path("path", path), local_path("out", out)
    if out.suffix not in (".nc", ".csv", ".parquet"):
        raise ValueError(f"`out` must end in .nc, .csv or .parquet; got {str(out)!r}")
    dataset = open_results(path).load()
    with written_whole(out) as (draft,):
        match out.suffix:
            case ".nc":
                dataset.to_netcdf(draft, engine="scipy")
            case ".csv":
                dataset.to_dataframe().reset_index().to_csv(draft, index=False)
            case _:
                try:
                    dataset.to_dataframe().reset_index().to_parquet(draft, index=False)
                except ImportError:
                    raise ValueError("`out`: Parquet needs pyarrow: pip install 'didsim[parquet]'") from None


class Summary(NamedTuple):
    """The cells of a store by status.

    Attributes:
        counts: the number of cells of each status.
        failures: why cells failed, by the names of the cells.
        diverged: the number of steps before cells diverged, by the names of the cells.
    """

    counts: dict[Status, int]
    failures: dict[str, str]
    diverged: dict[str, int]

    def table(self) -> Table:
        """The counts as a table."""
        table = Table("Cells", "Number")
        for status, count in self.counts.items():
            table.add_row(status.name.lower(), f"{count:,}")
        return table


def summarise(path: str | Path) -> Summary:
    """The cells of a store by status.

    Raises:
        StoreError: there are no results of a study at that path, or a file of them is damaged.
    """
    dataset = open_results(path)
    status, diverged_at = dataset["status"].values, dataset["diverged_at"].values
    counts = {one: int((status == one).sum()) for one in Status}
    axes = [(str(dim), dataset[dim].values) for dim in dataset["status"].dims]
    failed = [cell_name(axes, index) for index in np.argwhere(status == Status.FAILED).tolist()]
    reasons = failures_of(Path(path)) if failed else {}
    diverged = {
        cell_name(axes, index): int(diverged_at[tuple(index)])
        for index in np.argwhere(status == Status.DIVERGED).tolist()
    }
    return Summary(counts, {name: reasons.get(name, "no reason is known") for name in failed}, diverged)
