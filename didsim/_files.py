"""Files and folders that are written whole or not at all."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRAFTS = ".partial"
"""How the name of a folder of drafts ends. A process that is killed leaves its own behind."""


def local_path(name: str, value: Any) -> Path:
    """The value as a path on this machine.

    Raises:
        ValueError: it is no path, or it is a URL, whose parts would be taken for folders.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"`{name}` must be a path; got {value!r}")
    path = Path(text)
    # A `Path` writes `s3://b/x` as `s3:/b/x`.
    if url := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", str(path)):
        raise ValueError(f"`{name}` must be a path on this machine; got the URL '{url[1]}://{url[2]}'")
    return path


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Drafts to write, which take the places of files or folders of one folder when the context ends.

    If the context ends with an error, what was at the paths stays as it was. A folder is replaced only if it
    is empty. When the context has ended, all is on the disk: a power failure takes none of it. A device or a
    pipe is written to in place.

    Args:
        paths: where the drafts go in the end. A draft has the same name in a temporary folder beside them.

    Raises:
        OSError: a file cannot be written; it names the file.
    """
    if any(path.exists() and not path.is_file() and not path.is_dir() for path in paths):
        with _named(paths):
            yield list(paths)
        return
    folder = paths[0].parent
    with _named(paths), tempfile.TemporaryDirectory(DRAFTS, f".{paths[0].name}-", folder) as temporary:
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


@contextmanager
def _named(paths: tuple[Path, ...]) -> Iterator[None]:
    """Name a file, not its draft, in an error of writing; that of a full disk names nothing by itself."""
    try:
        yield
    except OSError as error:
        draft = Path(str(error.filename or paths[0]))
        if error.errno is None or not (error.filename is None or DRAFTS in str(draft)):
            raise
        path = next((path for path in paths if path.name == draft.name), paths[0])
        raise OSError(error.errno, error.strerror, str(path)) from error
