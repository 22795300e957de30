"""The files of an experiment: data, pictures and tables, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import xarray as xr
from matplotlib.figure import Figure

from didsim import plotting
from didsim._files import written_whole
from didsim._versions import NUMERICAL, versions
from experiments.shared.configs import BaseConfig

PACKAGES = sorted([*NUMERICAL, "matplotlib", "xarray"])
"""The packages that data and pictures depend on."""


def label(dataset: xr.Dataset, name: str, config: BaseConfig, command: str) -> xr.Dataset:
    """The dataset with its config, seed, versions and command in its attributes."""
    return dataset.assign_attrs(
        experiment=name,
        config=msgspec.json.encode(config).decode(),
        seed=config.seed,
        versions=msgspec.json.encode(versions(PACKAGES)).decode(),
        command=command,
    )


def save(
    dataset: xr.Dataset, figures: Mapping[str, Figure], tables: Mapping[str, str], name: str, folder: Path
) -> list[Path]:
    """Write `name.nc`, a PNG and a PDF of every figure, and JSON. The folder is made if there is none.

    All files are first written in full under temporary names and then renamed. A failure while writing
    therefore leaves the earlier files as they are.

    Args:
        dataset: the data.
        figures: the figures, by the names of their files without a suffix.
        tables: JSON, in the same way.
        name: the name of the experiment.
        folder: where to write.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [(figure, f"{one}.{suffix}") for one, figure in figures.items() for suffix in ("png", "pdf")]
    texts = [(text, f"{one}.json") for one, text in tables.items()]
    paths = [folder / file for file in (f"{name}.nc", *(file for _, file in (*pictures, *texts)))]
    with written_whole(*paths) as drafts:
        data, *others = drafts
        dataset.to_netcdf(data, engine="scipy")
        for (figure, _), draft in zip(pictures, others, strict=False):
            # No creation date: the same figure gives the same bytes.
            metadata = {"CreationDate": None} if draft.suffix == ".pdf" else None
            with plotting.style():
                figure.savefig(draft, metadata=metadata)
        for (text, _), draft in zip(texts, others[len(pictures) :], strict=True):
            draft.write_text(text, encoding="utf-8")
    return paths
