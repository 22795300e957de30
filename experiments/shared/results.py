"""The files of an experiment: data, PNG and PDF, written whole or not at all."""

from pathlib import Path

import msgspec
import xarray as xr
from matplotlib.figure import Figure

from didsim import plotting
from didsim._files import written_whole
from didsim._versions import NUMERICAL, versions
from experiments.shared.configs import SpaceConfig

_PACKAGES = sorted([*NUMERICAL, "matplotlib", "xarray"])


def label(dataset: xr.Dataset, name: str, config: SpaceConfig, command: str) -> xr.Dataset:
    """The dataset with its config, seed, versions and command in its attributes."""
    return dataset.assign_attrs(
        experiment=name,
        config=msgspec.json.encode(config).decode(),
        seed=config.seed,
        versions=msgspec.json.encode(versions(_PACKAGES)).decode(),
        command=command,
    )


def save(dataset: xr.Dataset, figure: Figure, name: str, folder: Path) -> list[Path]:
    """Write `name.nc`, `name.png` and `name.pdf` in a folder, which is made if there is none.

    All three are first written in full under temporary names and then renamed. A failure while writing
    therefore leaves the earlier files as they are.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("nc", "png", "pdf")]
    with written_whole(*paths) as drafts:
        dataset.to_netcdf(drafts[0], engine="scipy")
        for draft in drafts[1:]:
            # No creation date: the same figure gives the same bytes.
            metadata = {"CreationDate": None} if draft.suffix == ".pdf" else None
            with plotting.style():
                figure.savefig(draft, metadata=metadata)
    return paths
