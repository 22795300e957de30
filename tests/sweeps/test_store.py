import os
import resource
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xarray as xr
import zarr

import didsim
from didsim.sweeps import store as stores
from didsim.sweeps.folder import StoreError, seal_fixed_files
from didsim.sweeps.layout import Status
from didsim.sweeps.results import export, summarise
from didsim.sweeps.store import difference, locked, open_store

TABLES: dict[str, Any] = {"space": {"vocab_size": 2, "max_length": 1}, "steps": 4, "record": {"every": 2}}


def sweep_of(**changes: Any) -> didsim.Sweep:
    return didsim.Sweep({**TABLES, **changes}, {"objective.beta": [0.1, 0.5], "seed": range(6)})


def results_of(cells: int, value: float, steps: tuple[int, ...] = (0, 2, 4)) -> dict[str, np.ndarray]:
    names = sweep_of().metrics
    found = {name: np.full((cells, len(steps)), value) for name in names}
    return {**found, "steps": np.array(steps), "diverged_at": np.full(cells, -1)}


def test_a_new_store_is_empty_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.zarr"
    sweep = sweep_of()
    store = open_store(sweep, path, 4)
    assert store.block_shape == (1, 3)
    assert (store.status() == Status.PENDING).all()
    assert os.listdir(path.parent) == ["results.zarr"], "no draft is left"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = xr.open_zarr(path, chunks=None)
    assert results.sizes == {"beta": 2, "seed": 6, "step": 3}
    assert set(results) == {*sweep.metrics, "status", "diverged_at"}
    assert np.isnan(results["loss"]).all()
    assert results["js_to_target"].attrs == {"long_name": "JS(learned, target)", "units": "nats"}
    config = msgspec.json.decode(results.attrs["config"])
    assert config["axes"] == {"objective.beta": [0.1, 0.5], "seed": [0, 1, 2, 3, 4, 5]}
    assert config["study"]["steps"] == 4
    assert msgspec.json.decode(results.attrs["versions"])["jax"] == __import__("jax").__version__
    # Once more, whatever size of blocks is asked for then: a store keeps its own.
    assert open_store(sweep, path, 1).block_shape == (1, 3)


def test_a_block_goes_to_its_place(tmp_path: Path) -> None:
    sweep = sweep_of()
    store = open_store(sweep, tmp_path / "r.zarr", 4)
    block = sweep.blocks(store.block_shape)[3]
    assert block == (slice(1, 2), slice(3, 6))
    results = results_of(3, 7.0, steps=(0, 4))
    results["diverged_at"] = np.array([-1, 3, -1])
    store.write(block, results, {2: "no reason"})
    expected = np.zeros((2, 6), np.uint8)
    expected[1, 3:] = Status.DONE, Status.DIVERGED, Status.FAILED
    np.testing.assert_array_equal(store.status(), expected)
    found = didsim.open_results(store.path)
    there = found["loss"].values
    assert (there[1, 3:][:, [0, 2]] == 7.0).all()
    assert np.isnan(there[1, 3:, 1]).all(), "no record at that step"
    assert np.isnan(there[0]).all()
    assert np.isnan(there[1, :3]).all()
    np.testing.assert_array_equal(found["diverged_at"].values[1], [-1, -1, -1, -1, 3, -1])
    summary = summarise(store.path)
    assert summary.failures == {"beta=0.5, seed=5": "no reason"}
    assert summary.diverged == {"beta=0.5, seed=4": 3}
    # It is tried again by the next process, which may be killed before that.
    open_store(sweep, store.path, 4).tidy()
    assert summarise(store.path) == summary
    store.write(block, results_of(3, 7.0))
    assert summarise(store.path).failures == {}
    assert summarise(store.path).diverged == {}


def test_a_block_is_not_done_until_all_of_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    store = open_store(sweep, tmp_path / "r.zarr", 4)
    block = sweep.blocks(store.block_shape)[0]
    written = []
    put = stores.Store._put

    def failing(self: stores.Store, array: Any, *rest: Any) -> None:
        written.append(array.basename)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        put(self, array, *rest)

    monkeypatch.setattr(stores.Store, "_put", failing)
    with pytest.raises(OSError, match="No space left"):
        store.write(block, results_of(3, 7.0))
    assert "status" not in written
    assert (store.status() == Status.PENDING).all()
    monkeypatch.setattr(stores.Store, "_put", put)
    store.write(block, results_of(3, 8.0))
    assert (didsim.open_results(store.path)["loss"].values[0, :3] == 8.0).all()
    assert (store.status()[0, :3] == Status.DONE).all()


def test_what_is_left_of_a_killed_write_is_removed(tmp_path: Path) -> None:
    store = open_store(sweep_of(), tmp_path / "r.zarr", 4)
    left = store.path / "loss" / "c" / "0.0123.partial"
    left.parent.mkdir()
    left.write_bytes(b"half")
    store.tidy()
    assert not left.exists()


def test_a_store_of_another_study_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    open_store(sweep_of(), path, 4)
    with pytest.raises(StoreError) as caught:
        open_store(sweep_of(steps=8, policy="autoregressive"), path, 4)
    assert "steps: 4 there, 8 here" in str(caught.value)
    assert "policy.name: energy_based there, autoregressive here" in str(caught.value)
    assert "objective" not in str(caught.value)
    # What is the same but for its spelling is the same.
    open_store(sweep_of(objective={"name": "dpo"}, policy={"name": "energy_based"}), path, 4)


@pytest.mark.parametrize(
    "axes", [{"objective.beta": [0.1, 0.5], "seed": range(2)}, {"steps": [4], "seed": [1]}]
)
def test_a_store_of_the_same_axes_in_another_order_is_refused(axes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    open_store(didsim.Sweep(TABLES, axes), path, 4)
    open_store(didsim.Sweep(TABLES, dict(axes)), path, 4)
    other = didsim.Sweep(TABLES, dict(reversed(axes.items())))
    with pytest.raises(StoreError, match=r"dimensions: \['\w+', 'seed'\] there, \['seed', '\w+'\] here"):
        open_store(other, path, 4)


def test_a_store_of_other_versions_is_refused_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.zarr"
    open_store(sweep_of(), path, 4)
    now = stores.versions()
    monkeypatch.setattr(stores, "versions", lambda: {**now, "jax": "99.0"})
    with pytest.raises(StoreError, match=rf"jax: {now['jax']} there, 99\.0 here"):
        open_store(sweep_of(), path, 4)
    open_store(sweep_of(), path, 4, any_version=True)


def test_another_format_and_other_things_are_no_stores(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    open_store(sweep_of(), path, 4)
    zarr.open_group(path, mode="r+").attrs["format"] = 99
    (path / "checksums.json").unlink()
    seal_fixed_files(path)
    with pytest.raises(StoreError, match="a store of format 99; this version of didsim reads only format 2"):
        open_store(sweep_of(), path, 4)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("folder", "file"):
        with pytest.raises(StoreError, match=f"{name} holds no results of a study"):
            open_store(sweep_of(), tmp_path / name, 4)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="format None"):
        didsim.open_results(tmp_path / "other.zarr")


def test_no_store_is_made_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match="file"):
        open_store(sweep_of(), tmp_path / "file" / "r.zarr", 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=str(tmp_path)):
        open_store(sweep_of(), tmp_path / "r.zarr", 4)
    tmp_path.chmod(0o700)


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StoreError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_disk_that_is_full_names_the_file_and_keeps_what_is_done(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: small chunks are written, a large one is not."""
    script = textwrap.dedent(
        """
        import resource, signal, sys
        import numpy as np
        from tests.sweeps.test_store import open_store, results_of, sweep_of
        from pathlib import Path
        sweep = sweep_of()
        store = open_store(sweep, Path(sys.argv[1]), 4)
        blocks = sweep.blocks(store.block_shape)
        store.write(blocks[0], results_of(3, 7.0))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        try:
            store.write(blocks[1], results_of(3, 7.0))
        except OSError as error:
            print(error)
        """
    )
    root = Path(__file__).parents[2]
    path = tmp_path / "r.zarr"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "cannot write to the store: File too large" in done.stdout
    assert str(path) in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 16
    results = didsim.open_results(path).load()
    assert (results["loss"].values[0, :3] == 7.0).all()
    assert results["status"].values.sum() == 3 * Status.DONE
    assert not list(path.rglob("*.partial"))


def test_a_block_is_on_the_disk_before_its_status_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    store = open_store(sweep, tmp_path / "r.zarr", 4)
    status = store.path / "status" / "c" / "1" / "1"
    synced: dict[bool, set[Path]] = {False: set(), True: set()}
    fsync = os.fsync

    def watching(descriptor: int) -> None:
        synced[status.exists()].add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    store.write(sweep.blocks(store.block_shape)[3], results_of(3, 7.0), {1: "no reason"})
    for name in (*sweep.metrics, "diverged_at"):
        last = "0" if name in sweep.metrics else ""
        chunk = store.path / name / "c" / "1" / "1" / last
        assert {chunk, chunk.parent, store.path / name / "c", store.path / name} <= synced[False]
    assert store.path in synced[False], "the name of failures.json is there"
    assert {status, status.parent, store.path / "status"} <= synced[True]


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask(mask: int, tmp_path: Path) -> None:
    sweep = sweep_of()
    before = os.umask(mask)
    try:
        store = open_store(sweep, tmp_path / "new" / "r.zarr", 4)
        with locked(store.path):
            store.write(sweep.blocks(store.block_shape)[0], results_of(3, 7.0), {1: "no reason"})
        for suffix in ("nc", "csv", "parquet"):
            export(store.path, tmp_path / "new" / f"out.{suffix}")
    finally:
        os.umask(before)
    for one in (tmp_path / "new").rglob("*"):
        assert one.stat().st_mode & 0o777 == (0o777 if one.is_dir() else 0o666) & ~mask, one


def test_differences_are_told_by_key() -> None:
    old = {"study": {"steps": 1, "same": 2, "gone": {"a": 1}}, "axes": {"seed": [1, 2]}}
    new = {"study": {"steps": 3, "same": 2}, "axes": {"seed": [1]}}
    assert difference(old, new).splitlines() == [
        "  steps: 1 there, 3 here",
        "  gone.a: 1 there, nothing here",
        "  axes.seed: [1, 2] there, [1] here",
    ]
