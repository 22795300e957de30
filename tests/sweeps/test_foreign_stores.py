"""Stores that others made, to make reading them run code or write outside."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from didsim import open_results, run_sweep
from didsim.sweeps.folder import StoreError, digests_of, seal, verify
from didsim.sweeps.results import export, summarise
from didsim.sweeps.store import open_store
from tests.sweeps.damage_cases import fill, sweep_of


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def array_of_version_2(folder: Path, mark: Path) -> dict[str, Any]:
    """Write an array of one object that Zarr's version 2 reads by unpickling it; its metadata."""
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(pickle.dumps([Evil(mark), "O", (1,)]))
    about = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "filters": [{"id": "pickle", "protocol": 5}],
    }
    (folder / ".zarray").write_text(json.dumps(about))
    (folder / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["seed"]}))
    return about


USES = [open_results, summarise, verify, lambda path: export(path, path.parent / "out.csv")]
USES += [lambda path: run_sweep(sweep_of(), path)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "made.zarr"
    fill(path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store.zarr"))


def assert_refused(path: Path, message: str, mark: Path) -> None:
    for use in USES:
        with pytest.raises(StoreError, match=message):
            use(path)
    assert not mark.exists(), "no code of the author was run"


def test_the_pickle_does_run_if_it_is_read(tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    array_of_version_2(tmp_path / "array", tmp_path / "mark")
    pickle.loads((tmp_path / "array" / "0").read_bytes())
    assert (tmp_path / "mark").is_dir()


def test_a_store_of_version_2_is_refused_by_name(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.zarr", tmp_path / "mark"
    array_of_version_2(path / "seed", mark)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"format": 2, "config": "{}", "versions": "{}"}))
    assert_refused(path, r"evil\.zarr/.*\.z(group|attrs|array) is of Zarr's version 2", mark)


@pytest.mark.parametrize("place", ["seed", "group/seed", "loss"])
def test_an_array_of_version_2_in_a_store_is_refused_by_name(place: str, store: Path, tmp_path: Path) -> None:
    shutil.rmtree(store / place, ignore_errors=True)
    array_of_version_2(store / place, tmp_path / "mark")
    assert_refused(store, rf"store\.zarr/{place}/\.z(array|attrs) is of Zarr's version 2", tmp_path / "mark")


def resealed(store: Path) -> None:
    """Make the checksums of a store right again, as an author of evil would."""
    fixed = json.loads((store / "checksums.json").read_text())["content"]
    seal(store / "checksums.json", digests_of(store, fixed))


@pytest.mark.parametrize("copy_only", [True, False])
def test_metadata_of_version_2_in_a_file_of_version_3(copy_only: bool, store: Path, tmp_path: Path) -> None:
    """The file of a group has a copy of the metadata of its arrays, from which xarray opens them."""
    mark = tmp_path / "mark"
    about = array_of_version_2(tmp_path / "elsewhere", mark)
    (store / "seed" / "0").write_bytes((tmp_path / "elsewhere" / "0").read_bytes())
    about |= {"attributes": {"_ARRAY_DIMENSIONS": ["seed"]}}
    if copy_only:
        root = json.loads((store / "zarr.json").read_text())
        root["consolidated_metadata"]["metadata"]["seed"] = about
        (store / "zarr.json").write_text(json.dumps(root))
    else:
        (store / "seed" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match=r"zarr\.json is damaged"):
        open_results(store)
    resealed(store)
    expected = r"zarr\.json \(seed\)" if copy_only else r"seed/zarr\.json"
    assert_refused(store, rf"{expected} is of Zarr's version 2", mark)


@pytest.mark.parametrize("codec", ["numcodecs.pickle", "gzip"])
def test_no_other_codec_is_run(codec: str, store: Path, tmp_path: Path) -> None:
    for name in ("zarr.json", "loss/zarr.json"):
        content = json.loads((store / name).read_text())
        node = content if name != "zarr.json" else content["consolidated_metadata"]["metadata"]["loss"]
        node["codecs"] = [{"name": codec}, *node["codecs"]]
        (store / name).write_text(json.dumps(content))
    resealed(store)
    assert_refused(store, rf"has the codec '{codec}'; a store of didsim has bytes", tmp_path / "mark")


@pytest.mark.parametrize(
    "place", ["loss/c/0/0/0/0", "loss/c", "seed/c/0", "failures.json", ".lock", "new", "x.partial"]
)
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_nothing_is_written_through_a_link(place: str, target: str, store: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("what was there before")
    (outside / "folder").mkdir()
    link = store / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / target)
    assert_refused(store, rf"store\.zarr/{place} is a symbolic link", tmp_path / "mark")
    assert (outside / "file").read_text() == "what was there before"
    assert sorted(one.name for one in outside.rglob("*")) == ["file", "folder"]


def test_a_store_may_itself_be_a_link(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link.zarr").symlink_to(store)
    assert open_results(tmp_path / "link.zarr").load().identical(open_results(store).load())
    assert open_store(sweep_of(), tmp_path / "link.zarr", 3).block_shape == (1, 1, 3)
