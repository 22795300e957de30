"""Finished parts of a long experiment, kept in files, so that it can be stopped and resumed."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from didsim._files import written_whole


class Parts:
    """Finished parts, each a file of arrays with the digest of the study that it is of."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self._digest = folder, digest

    def get(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of a part, made if they are not there.

        Raises:
            ValueError: the file is damaged, or of another study.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            arrays = make()
            with written_whole(path) as (draft,):
                named: dict[str, Any] = {"digest": np.array(self._digest), **arrays}
                np.savez_compressed(draft, **named)
            return arrays
        mend = f"Move {self.folder} away to begin anew, or take another folder"
        try:
            with np.load(path) as file:
                arrays = {key: file[key] for key in file.files}
            digest = str(arrays.pop("digest"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}. {mend}") from None
        if digest != self._digest:
            raise ValueError(f"{path} is of another model, other prompts or other settings. {mend}")
        return arrays
