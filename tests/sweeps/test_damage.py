import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from didsim import Sweep, open_results, run_sweep
from didsim.cli import app
from didsim.sweeps import folder, running
from didsim.sweeps.folder import StoreError, verify
from didsim.sweeps.results import export
from didsim.sweeps.store import open_store
from tests.sweeps.damage_cases import TABLES, files_in, fill, flip, is_same, read, sweep_of

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "made.zarr"
    fill(path)
    return path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy.zarr"))


def flips(path: Path, count: int, random: np.random.Generator) -> list[tuple[Path, int]]:
    """Random bits: half of them anywhere, half in a file that is chosen first, so that small ones are hit."""
    files = files_in(path)
    sizes = [8 * file.stat().st_size for file in files]
    ends = np.cumsum(sizes)
    found = []
    for bit in random.integers(ends[-1], size=count // 2):
        k = int(np.searchsorted(ends, bit, side="right"))
        found.append((files[k], int(bit - ends[k] + sizes[k])))
    for k in random.integers(len(files), size=count // 2):
        found.append((files[k], int(random.integers(sizes[k]))))
    return found


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_no_flipped_bit_passes_for_a_result(count: int, copy: Path) -> None:
    before = read(copy)
    damaged = set()
    for file, bit in flips(copy, count, np.random.default_rng(0)):
        content = file.read_bytes()
        file.write_bytes(flip(bit)(content))
        with pytest.raises(StoreError) as caught:
            read(copy)
        assert f"{file} is damaged" in str(caught.value)
        file.write_bytes(content)
        damaged.add(file)
    assert count < 500 or damaged == set(files_in(copy)), "each file was hit"
    assert is_same(read(copy), before)


@pytest.mark.parametrize("change", [None, lambda content: content[:-1], lambda content: b""])
def test_no_file_is_deleted_or_truncated_unnoticed(
    change: Callable[[bytes], bytes] | None, copy: Path
) -> None:
    for file in files_in(copy):
        content = file.read_bytes()
        if change is None:
            file.unlink()
        else:
            file.write_bytes(change(content))
        is_status = file.is_relative_to(copy / "status" / "c")
        if change is None and is_status:
            # The block is not done, as if the process had been killed before its status was written.
            assert int((read(copy)[0]["status"] == 0).sum()) == 6
        else:
            with pytest.raises(StoreError, match=r"is damaged") as caught:
                read(copy)
            assert str(file) in str(caught.value)
            assert list(verify(copy).damaged) == [str(file.relative_to(copy))]
        file.write_bytes(content)
    assert verify(copy) == (len(files_in(copy)), {})


def test_a_folder_in_the_place_of_a_file_is_no_file(copy: Path) -> None:
    for file in files_in(copy):
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        is_status = file.is_relative_to(copy / "status" / "c")
        if not is_status:  # A block without a status is not done.
            with pytest.raises(StoreError, match=f"{file} is damaged: it is gone"):
                read(copy)
            assert verify(copy).damaged == {str(file.relative_to(copy)): "it is gone"}
        file.rmdir()
        file.write_bytes(content)
    chunk = copy / "loss" / "c" / "1" / "1" / "0" / "0"
    chunk.unlink()
    chunk.mkdir()
    open_store(sweep_of(), copy, 3).tidy()
    assert not chunk.exists()
    assert not (copy / "status" / "c" / "1" / "1" / "0").exists()


def test_other_readers_of_zarr_notice_a_damaged_chunk(copy: Path) -> None:
    for name in ("loss/c/1/0/0/0", "seed/c/0", "status/c/1/0/0"):
        file = copy / name
        file.write_bytes(flip(9)(file.read_bytes()))
        with pytest.raises(ValueError, match="checksum"):
            xr.open_zarr(copy)[name.partition("/")[0]].load()


def test_each_command_names_the_damaged_file(copy: Path, tmp_path: Path) -> None:
    chunk = copy / "js_to_target" / "c" / "1" / "1" / "0" / "0"
    chunk.write_bytes(flip(40)(chunk.read_bytes()))
    select = ["--select", "rejected=optimal", "--select", "eos=false"]
    with pytest.raises(StoreError, match=str(chunk)):
        export(copy, tmp_path / "out.csv")
    for arguments in (["plot", *select], ["export", str(tmp_path / "out.nc")]):
        result = RUNNER.invoke(app, [arguments[0], str(copy), *arguments[1:]])
        assert result.exit_code == 2, result.output
        assert f"Error: {chunk} is damaged: its checksum is wrong." in result.output
    seed = copy / "seed" / "c" / "0"
    seed.unlink()
    for arguments in (["show"], ["plot", *select], ["export", str(tmp_path / "out.nc")]):
        result = RUNNER.invoke(app, [arguments[0], str(copy), *arguments[1:]])
        assert result.exit_code == 2
        assert f"Error: {seed} is damaged: it is gone." in result.output
    assert not list(tmp_path.glob("out.*"))


def test_verify_lists_every_damaged_file(copy: Path) -> None:
    result = RUNNER.invoke(app, ["verify", str(copy)])
    assert (result.exit_code, result.output) == (0, f"{len(files_in(copy))} files are whole\n")
    broken = ["loss/c/0/1/1/0", "seed/c/0", "loss/zarr.json", "failures.json"]
    for name in broken:
        (copy / name).write_bytes(flip(77)((copy / name).read_bytes()))
    # Where the fixed files are damaged, chunks that are gone are not looked for.
    (copy / "js_to_target" / "c" / "1" / "0" / "0" / "0").unlink()
    result = RUNNER.invoke(app, ["verify", str(copy)])
    assert result.exit_code == 1
    *lines, last = result.output.splitlines()
    assert sorted(lines) == sorted(f"{copy / name}: its checksum is wrong" for name in broken)
    assert last.startswith(f"damaged: 4 of {len(files_in(copy))} files")
    assert RUNNER.invoke(app, ["verify", str(copy.parent)]).exit_code == 2


def test_a_block_that_is_written_while_files_are_listed_is_not_lost(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder.files_of(copy)
    late = "loss/c/1/1/0/0"
    assert late in files
    monkeypatch.setattr(folder, "files_of", lambda path: [name for name in files if name != late])
    read(copy)
    (copy / late).unlink()
    with pytest.raises(StoreError, match=f"{late} is damaged: it is gone"):
        read(copy)


# What is damaged is computed again.


def small_sweep(**changes: Any) -> Sweep:
    tables = {**TABLES, "optimizer": {"name": "sgd", "learning_rate": 0.1}, **changes}
    return Sweep(tables, {"objective.beta": [0.1, 0.5], "seed": range(1, 5)})


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("computed") / "computed.zarr"
    assert run_sweep(small_sweep(), path, memory=10_000).done == 8
    return path


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("loss/c/1/0/0", 1),
        ("status/c/1/0", 1),
        ("diverged_at/c/0/1", 1),
        ("seed/c/0", 0),
        ("step/c/0", 0),
        ("zarr.json", 0),
        ("status/zarr.json", 0),
        ("checksums.json", 0),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_the_next_run_mends_the_store(
    name: str, blocks: int, gone: bool, computed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(computed, tmp_path / "copy.zarr"))
    file = path / name
    if gone:
        file.unlink()
    else:
        file.write_bytes(flip(30)(file.read_bytes()))
    sizes = []
    compute = running.compute

    def counting(cells: Any, size: int) -> dict[str, np.ndarray]:
        sizes.append(len(cells))
        return compute(cells, size)

    monkeypatch.setattr(running, "compute", counting)
    assert run_sweep(small_sweep(), path, memory=10_000).done == 8
    side = open_store(small_sweep(), path, 1).block_shape[1]
    assert sizes == [side] * blocks, "no more is computed than what is damaged"
    assert is_same(read(path), read(computed))
    assert verify(path).damaged == {}
    # Not only the same numbers.
    assert [one.read_bytes() for one in files_in(path)] == [one.read_bytes() for one in files_in(computed)]
    assert [one.name for one in tmp_path.iterdir()] == ["copy.zarr"]


def test_another_study_does_not_mend_a_store(computed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(computed, tmp_path / "copy.zarr"))
    for name in ("step/c/0", "zarr.json", "checksums.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(flip(30)(content))
        with pytest.raises(StoreError, match=rf"{name} is damaged.* does not give this file back"):
            run_sweep(small_sweep(steps=3), path)
        (path / name).write_bytes(content)
    assert is_same(read(path), read(computed))


def test_reasons_that_are_lost_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(cells: Any, size: int) -> dict[str, np.ndarray]:
        raise ValueError("not on a Sunday")

    monkeypatch.setattr(running, "compute", failing)
    path = tmp_path / "r.zarr"
    assert run_sweep(small_sweep(), path).failed == 8
    (path / "failures.json").write_bytes(flip(99)((path / "failures.json").read_bytes()))
    with pytest.raises(StoreError, match=r"failures\.json is damaged: its checksum is wrong"):
        read(path)
    assert run_sweep(small_sweep(), path).failed == 8
    assert set(read(path)[1].failures.values()) == {"not on a Sunday"}
    (path / "failures.json").unlink()
    result = RUNNER.invoke(app, ["show", str(path)])
    assert result.exit_code == 2
    assert "failures.json is damaged: it is gone" in result.output


def test_a_store_of_an_earlier_format_is_refused(computed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(computed, tmp_path / "old.zarr"))
    (path / "checksums.json").unlink()
    text = json.loads((path / "zarr.json").read_text())
    text["attributes"]["format"] = 1
    (path / "zarr.json").write_text(json.dumps(text))
    for use in (open_results, lambda path: run_sweep(small_sweep(), path), verify):
        with pytest.raises(
            StoreError, match=r"old\.zarr is a store of format 1; this version.* only format 2"
        ):
            use(path)
