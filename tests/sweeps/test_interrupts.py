import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import didsim
from didsim.sweeps.clusters import dask_executor
from didsim.sweeps.layout import Status
from tests.sweeps.run_cases import MEMORY, start, sweep_of


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = didsim.open_results(one).load(), didsim.open_results(other).load()
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=str(name))
    xr.testing.assert_identical(first.coords.to_dataset(), second.coords.to_dataset())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where studies that are killed keep their compiled programs; a kill may damage what others rely on."""
    return tmp_path_factory.mktemp("cache")


def chunks_in(path: Path) -> int:
    return len(list((path / "status" / "c").rglob("*"))) if path.exists() else 0


@pytest.mark.slow
def test_killed_five_times_and_resumed_it_has_the_same_bits(whole: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    random = np.random.default_rng(0)
    done = 0
    kills = 0
    for k in range(5):
        process = start(path, cache)
        if k < 2:
            # At any moment of the start, in which the store is made.
            time.sleep(random.uniform(0.5, 4.0))
        else:
            deadline = time.monotonic() + 60
            before = chunks_in(path)
            while chunks_in(path) <= before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.1))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if path.exists():
            # What was done stays, and can be read.
            results = didsim.open_results(path).load()
            finished = results["status"] == Status.DONE
            assert int(finished.sum()) >= done
            done = int(finished.sum())
            assert results["js_to_target"].where(finished, 0).notnull().all()
    assert kills == 5, "each was killed while it ran"
    assert 0 < done < 600
    output, errors = start(path, cache).communicate(timeout=120)
    assert "done=600" in output, errors
    assert "600 of 600 cells" in errors
    assert not list(path.rglob("*.partial"))
    assert_same_bits(path, whole)


@pytest.mark.slow
def test_an_interrupt_finishes_the_blocks_in_hand(whole: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    process = start(path, cache)
    while not chunks_in(path):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    pending = int(output.split("pending=")[1].rstrip(")\n"))
    status = didsim.open_results(path)["status"].values
    assert pending == (status == Status.PENDING).sum()
    assert 0 < pending < 600
    assert didsim.run_sweep(sweep_of(), path) == (600, 0, 0, 0)
    assert_same_bits(path, whole)


LONG = """
steps = {steps}
space = {{ vocab_size = 4, max_length = 2 }}
record = {{ every = 200, metrics = ["loss"] }}
sweep.seed = {{ start = 0, count = 6_400 }}
"""


@pytest.fixture
def start_command(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `didsim run` of many blocks, in a process group of its own, as a terminal would."""
    started = []

    def start(steps: int, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "long.toml").write_text(LONG.format(steps=steps))
        process = subprocess.Popen(
            [Path(sys.executable).with_name("didsim"), "run", "long.toml", *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_an_interrupt_from_a_terminal_reaches_a_local_cluster_and_loses_nothing(
    tmp_path: Path, start_command: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "long.zarr"
    process = start_command(400, "--dask", "local:2")
    while chunks_in(path) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "to go: didsim run long.toml --store long.zarr --dask local:2" in output
    assert "Traceback" not in errors
    status = didsim.open_results(path)["status"].values
    assert 64 * 3 <= (status == Status.DONE).sum() < 6400


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(
    tmp_path: Path, start_command: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "long.zarr"
    process = start_command(10**8)
    while not (path / ".lock").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(1)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.endswith("long.zarr: stopped; the same command computes the rest\n")
    assert not chunks_in(path)


@pytest.mark.slow
def test_a_second_process_is_refused(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    process = start(path, cache)
    while not chunks_in(path):
        assert process.poll() is None
        time.sleep(0.005)
    with pytest.raises(didsim.StoreError, match="is being written to by another process"):
        didsim.run_sweep(sweep_of(), path)
    process.kill()
    process.communicate()
    # The lock is gone with the process.
    assert didsim.run_sweep(sweep_of(), path).done == 600


@pytest.mark.slow
def test_a_dask_cluster_of_which_a_worker_is_killed_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    with dask_executor("local:2") as executor:
        client = executor._client  # type: ignore[attr-defined]
        workers = client.run(os.getpid)
        assert len(workers) == 2
        assert os.getpid() not in workers.values()

        def kill_one() -> None:
            while chunks_in(path) < 3:
                time.sleep(0.005)
            os.kill(next(iter(workers.values())), signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        outcome = didsim.run_sweep(sweep_of(), path, executor, memory=MEMORY, in_flight=4)
        killer.join()
        assert next(iter(workers.values())) not in client.run(os.getpid).values(), "it was killed"
    assert outcome == (600, 0, 0, 0)
    assert_same_bits(path, whole)


def _die(*arguments: Any) -> None:
    os._exit(1)


class Dying(ProcessPoolExecutor):
    """Processes that die of their second block."""

    def __init__(self) -> None:
        super().__init__(1, multiprocessing.get_context("spawn"))
        self._blocks = 0

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        self._blocks += 1
        if self._blocks == 1:
            done: Future[Any] = Future()
            done.set_result(function(*arguments))
            return done
        return super().submit(_die, *arguments)


def test_a_worker_that_dies_names_a_cell_and_leaves_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    sweep = sweep_of({"seed": range(12)})
    with Dying() as executor, pytest.raises(RuntimeError, match="begins with the cell seed=4"):
        didsim.run_sweep(sweep, path, executor, memory=MEMORY, in_flight=1)
    status = didsim.open_results(path)["status"].values
    assert status.tolist() == [Status.DONE] * 4 + [Status.PENDING] * 8
    assert didsim.run_sweep(sweep, path).done == 12
