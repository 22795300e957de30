"""The files in the folder of a store, each of them checked when it is read.

A store has three kinds of files, and each has its checksum:

- Fixed files describe it: the `zarr.json` of the store and of its arrays, and the coordinates. They never
  change. `checksums.json` holds the SHA-256 of each.
- Chunks of results end with a CRC-32C. It is a codec of Zarr, so that every reader of Zarr checks it.
- `checksums.json` and `failures.json` are sealed: each holds the SHA-256 of its own content.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import msgspec
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from didsim._files import DRAFTS, local_path, written_whole

FORMAT = 2
"""The number of the layout of a store. It changes when the layout does."""

CHECKSUMS = "checksums.json"
FAILURES = "failures.json"
LOCK = ".lock"
ZARR_FORMAT: Any = 3
CODECS = ("bytes", "vlen-utf8", "zstd", "crc32c")
"""All codecs of a store. To decode is to run code, so that no other codec is accepted."""

_METADATA = "zarr.json"
_METADATA_OF_VERSION_2 = (".zarray", ".zgroup", ".zattrs", ".zmetadata")
_CHANGED = "its checksum is wrong"
_GONE = "it is gone"


class StoreError(ValueError):
    """A folder holds another study, results of other versions, damaged files, or no results at all."""


class DamagedError(StoreError):
    """Files of a store are damaged or gone.

    Attributes:
        found: what is wrong with each file, by its name in the store.
    """

    def __init__(self, path: Path, found: Mapping[str, str]) -> None:
        self.found = dict(found)
        name, what = next(iter(self.found.items()))
        more = f" ({len(found) - 1:,} more files are damaged)" if len(found) > 1 else ""
        super().__init__(
            f"{path / name} is damaged: {what}{more}. `didsim verify` lists all such files, and `didsim run` "
            "computes them again"
        )


class CheckedFolder(LocalStore):
    """The files of a store, as Zarr reads and writes them. An error for a damaged chunk names its path."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The content of a file.

        Raises:
            DamagedError: it is a chunk whose checksum is wrong.
        """
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None and is_chunk(key) and not _is_whole(found.to_bytes()):
            raise DamagedError(self.root, {key: _CHANGED})
        return found


class Contents(NamedTuple):
    """A store whose fixed files are whole.

    Attributes:
        attributes: what is said of the whole: its study, its versions, its format.
        lost: what is wrong with the chunks that are gone, by their names.
    """

    attributes: dict[str, Any]
    lost: dict[str, str]


def contents_of(path: Path) -> Contents:
    """Check the fixed files of a store, and that each chunk of results is there.

    Raises:
        DamagedError: a fixed file is damaged.
        StoreError: the path holds no store, one of another format, or what no store of didsim has.
    """
    files = files_of(path)
    if CHECKSUMS in files and (found := _damage_of_fixed(path)):
        raise DamagedError(path, found)
    if _METADATA not in files:
        raise StoreError(f"{path} holds no results of a study")
    metadata = _metadata_of(path, files)
    attributes = metadata[_METADATA].get("attributes", {})
    found_format = attributes.get("format")
    if found_format != FORMAT:
        raise StoreError(
            f"{path} is a store of format {found_format}; this version of didsim reads only format {FORMAT}. "
            "Compute it again in another folder, or use the version that made it"
        )
    if CHECKSUMS not in files:
        raise DamagedError(path, {CHECKSUMS: _GONE})
    try:
        for key in ("config", "versions", "block_shape"):
            attributes[key] = msgspec.json.decode(attributes[key])
        lost = _lost_chunks(metadata, files)
    except (KeyError, TypeError, msgspec.DecodeError):
        raise StoreError(f"{path} is no store of didsim, though it says so") from None
    # A block that was written while files were listed is not lost.
    return Contents(attributes, {name: what for name, what in lost.items() if not (path / name).is_file()})


def open_arrays(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Arrays of a store, to be written to. Its fixed files must be whole."""
    # Zarr leaves out chunks of nothing but fill values. Here each is written, so that a lost one is noticed.
    with zarr.config.set({"array.write_empty_chunks": True}):
        folder = CheckedFolder(path)
        group = zarr.open_group(folder, mode="r+", zarr_format=ZARR_FORMAT, use_consolidated=False)
        return {name: group[name] for name in names}


def files_of(path: Path) -> list[str]:
    """The names of all files of a store.

    Raises:
        StoreError: there is no folder, or one that has what no store of didsim has: a symbolic link, through
            which a file outside would be written, or metadata of Zarr's version 2, which can name any code.
    """
    if not path.is_dir():
        raise StoreError(f"{path} holds no results of a study")
    found = []
    for name, is_link in _walk(path, ""):
        if is_link:
            raise StoreError(f"{path / name} is a symbolic link; a store of didsim has none")
        if name.rpartition("/")[2] in _METADATA_OF_VERSION_2:
            raise StoreError(f"{path / name} is of Zarr's version 2; didsim reads only its own, of version 3")
        found.append(name)
    return found


def is_chunk(name: str) -> bool:
    """Whether a file of a store holds numbers: `loss/c/0/1`, or `status/c` in a grid without axes."""
    return name.split("/")[1:2] == ["c"]


def status_chunk(name: str, axes: int) -> str:
    """The name of the status of a chunk's block in a grid of some number of axes."""
    return "/".join(["status", "c", *name.split("/")[2 : 2 + axes]])


# Checksums.


class Verified(NamedTuple):
    """What was found when all files of a store were read.

    Attributes:
        files: how many files are checked.
        damaged: what is wrong with each damaged one, by its name.
    """

    files: int
    damaged: dict[str, str]


def verify(path: Path) -> Verified:
    """Check every file of a store.

    Raises:
        ValueError: the path is a URL.
        StoreError: the path holds no store, one of another format, or what no store of didsim has.
    """
    path = local_path("path", path)
    try:
        lost = contents_of(path).lost
        damaged: dict[str, str] = {}
    except DamagedError as error:
        lost, damaged = {}, error.found
    files = files_of(path)
    chunks = [name for name in files if is_chunk(name) and name not in damaged]
    damaged |= lost | {name: _CHANGED for name in chunks if not _is_whole((path / name).read_bytes())}
    try:
        unsealed(path, FAILURES)
    except DamagedError as error:
        damaged |= error.found
    return Verified(len({*files, *damaged} - {LOCK}), damaged)


def seal_fixed_files(path: Path) -> None:
    """Write the checksums of all files of a new store, in which no cell has failed yet.

    Raises:
        OSError: they cannot be written.
    """
    seal(path / CHECKSUMS, digests_of(path, sorted(files_of(path))))
    seal(path / FAILURES, {})


def digests_of(path: Path, files: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of those files that are there, by name."""
    return {name: sha256((path / name).read_bytes()).hexdigest() for name in files if (path / name).is_file()}


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    sha256: str
    content: msgspec.Raw


def seal(path: Path, content: Mapping[str, str]) -> None:
    """Write texts by name, with a checksum of all of them.

    Raises:
        OSError: they cannot be written.
    """
    body = msgspec.json.encode(content)
    with written_whole(path) as (draft,):
        draft.write_bytes(msgspec.json.encode(_Sealed(sha256(body).hexdigest(), msgspec.Raw(body))))


def unsealed(path: Path, name: str) -> dict[str, str]:
    """The texts in a sealed file of a store.

    Raises:
        DamagedError: the file is damaged, or gone.
    """
    try:
        found = msgspec.json.decode((path / name).read_bytes(), type=_Sealed)
        if sha256(found.content).hexdigest() == found.sha256:
            return msgspec.json.decode(found.content, type=dict[str, str])
    except (FileNotFoundError, IsADirectoryError):
        raise DamagedError(path, {name: _GONE}) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise DamagedError(path, {name: _CHANGED})


def failures_of(path: Path) -> dict[str, str]:
    """Why cells failed at their last attempt, by their names. Some may have been computed since.

    Raises:
        DamagedError: the file that says so is damaged.
    """
    return unsealed(path, FAILURES)


def _damage_of_fixed(path: Path) -> dict[str, str]:
    expected = unsealed(path, CHECKSUMS)
    found = digests_of(path, expected)
    return {
        name: _CHANGED if name in found else _GONE for name in expected if found.get(name) != expected[name]
    }


def _is_whole(chunk: bytes) -> bool:
    """Whether a chunk ends with the CRC-32C of what is before it."""
    return len(chunk) > 4 and google_crc32c.value(chunk[:-4]) == int.from_bytes(chunk[-4:], "little")


# Names and metadata.


def _walk(path: Path, place: str) -> Iterator[tuple[str, bool]]:
    """The names of files and links in a folder and below it, and whether each is a link. No drafts."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.endswith(DRAFTS):
                    yield from _walk(Path(entry.path), f"{place}{entry.name}/")
            elif entry.is_symlink() or not entry.name.endswith(DRAFTS):
                yield place + entry.name, entry.is_symlink()


def _metadata_of(path: Path, files: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The metadata of a store and of its arrays, by file, read without Zarr: nothing that they name is run.

    The file of the store has a copy of those of its arrays, from which results are opened.
    """
    found = {}
    for name in files:
        if name.rpartition("/")[2] == _METADATA:
            found[name] = _decoded(path / name)
            copies = (found[name].get("consolidated_metadata") or {}).get("metadata", {})
            for array, copy in {"": found[name], **copies}.items():
                what = f"{path / name} ({array})" if array else str(path / name)
                _check_metadata(what, copy, "group" if name == _METADATA and not array else "array")
    return found


def _check_metadata(what: str, metadata: Mapping[str, Any], kind: str) -> None:
    version = metadata.get("zarr_format")
    if version != ZARR_FORMAT:
        raise StoreError(f"{what} is of Zarr's version {version}; didsim reads only its own, of version 3")
    if metadata.get("node_type") != kind:
        raise StoreError(f"{what} must describe a Zarr {kind}; got {metadata.get('node_type')!r}")
    for codec in metadata.get("codecs", ()):
        name = codec.get("name") if isinstance(codec, Mapping) else codec
        if name not in CODECS:
            raise StoreError(f"{what} has the codec {name!r}; a store of didsim has {', '.join(CODECS)}")


def _decoded(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is not the metadata of a Zarr store: {error}") from None


def _lost_chunks(metadata: Mapping[str, Mapping[str, Any]], files: Iterable[str]) -> dict[str, str]:
    """The chunks that blocks with a status lack. The status of a block is written last."""
    dims = {
        name.removesuffix(f"/{_METADATA}"): one.get("dimension_names") or []
        for name, one in metadata.items()
        if name != _METADATA
    }
    present = set(files)
    with_status = [
        name.removeprefix("status/") for name in present if is_chunk(name) and name.startswith("status/")
    ]
    found = []
    for array, names in dims.items():
        if array not in names:  # A coordinate is fixed.
            last = "/0" * (len(names) - len(dims["status"]))
            found += [chunk for one in with_status if (chunk := f"{array}/{one}{last}") not in present]
    return dict.fromkeys(sorted(found), _GONE)
