"""Files and folders that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

DRAFTS = ".partial"
"""How the name of a folder of drafts ends. A process that is killed leaves its own behind."""


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Drafts to write, which take the places of files or folders of one folder when the context ends.

    If the context ends with an error, what was at the paths stays as it was. A folder is replaced only if it
    is empty. When the context has ended, all is on the disk: a power failure takes none of it.

    Args:
        paths: where the drafts go in the end. A draft has the same name in a temporary folder beside them.

    Raises:
        OSError: a file cannot be written.
    """
    folder = paths[0].parent
    with tempfile.TemporaryDirectory(DRAFTS, f".{paths[0].name}-", folder) as temporary:
        drafts = [Path(temporary) / path.name for path in paths]
        yield drafts
        for draft in drafts:
            sync([draft, *draft.rglob("*")])
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
        sync([folder])


def sync(paths: Iterable[Path]) -> None:
    """Wait until files, and the names in folders, are on the disk.

    Raises:
        OSError: one of them is gone, or the disk fails.
    """
    # At once, as a disk takes about as long for all of them as for one.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(_sync, paths))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
