"""The page as static files, for any web host."""

import shutil
from pathlib import Path

import jax
import msgspec

from didsim._files import written_whole
from didsim.explorer.answers import answer, settings
from didsim.explorer.presets import PRESETS

STATIC = Path(__file__).parent / "static"
_ASKED = ("limit", "map", "training", "program")


def export(folder: Path) -> None:
    """Write the page into a new or empty folder.

    Bars and presets work there without Python. All other panels show what the library answered for the
    presets, as long as a preset is not changed.

    Raises:
        ValueError: there is such a folder, and it holds something.
        OSError: the files cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`export` must be a new or an empty folder; {folder} is not")
    jax.config.update("jax_enable_x64", True)
    made = settings()
    # The text of an answer is put in as it is.
    made["answers"] = {
        name: {question: msgspec.Raw(answer(question, preset().state)) for question in _ASKED}
        for name, preset in PRESETS.items()
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as (draft,):
        shutil.copytree(STATIC, draft)
        (draft / "settings.json").write_bytes(msgspec.json.encode(made))
