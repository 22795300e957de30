import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest
import xarray as xr

import didsim
from didsim.sweeps import running
from didsim.sweeps.clusters import dask_executor
from didsim.sweeps.results import summarise
from didsim.sweeps.store import Status

TABLES: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 3},
    "steps": 2000,
    "record": {"every": 500, "metrics": ["js_to_target", "loss"]},
}
AXES: dict[str, Any] = {"problem.rejected": ["optimal", "uniform"], "seed": {"start": 0, "count": 300}}
# Blocks of a few cells.
MEMORY = 60_000


def sweep_of(axes: dict[str, Any] | None = None, **changes: Any) -> didsim.Sweep:
    return didsim.Sweep({**TABLES, **changes}, AXES if axes is None else axes)


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = didsim.open_results(one).load(), didsim.open_results(other).load()
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=str(name))
    xr.testing.assert_identical(first.coords.to_dataset(), second.coords.to_dataset())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "results.zarr"
    assert didsim.run_sweep(sweep_of(), path, memory=MEMORY) == (600, 0, 0, 0)
    return path


def test_cells_are_what_train_gives(whole: Path) -> None:
    results = didsim.open_results(whole)
    assert results.sizes == {"rejected": 2, "seed": 300, "step": 5}
    assert len(list((whole / "js_to_target" / "c").rglob("*"))) > 20, "there are many blocks"
    space = didsim.SequenceSpace(2, 3)
    keys = jax.random.split(jax.random.key(77), 8)
    reference, target = didsim.normal_logits(keys[:2], space.size)
    for name in ("optimal", "uniform"):
        arguments = {"reference": reference, "target": target, "beta": 0.1}
        used = arguments if name == "optimal" else {"reference": reference}
        rejected = didsim.REJECTED[name](**used)
        run = didsim.train(
            didsim.EnergyBased(reference),
            reference,
            didsim.Contrastive(reference, rejected),
            didsim.dpo(0.1),
            optax.adam(0.1),
            2000,
            record=didsim.Record(500),
            target=target,
        )
        stored = results["js_to_target"].sel(rejected=name, seed=77)
        np.testing.assert_allclose(stored, run.metrics["js_to_target"], rtol=1e-9, atol=1e-14)


def test_a_full_store_is_not_computed_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "compute", None)
    assert didsim.run_sweep(sweep_of(), whole, memory=10 * MEMORY).done == 600


SCRIPT = textwrap.dedent(
    """
    import json, sys
    import didsim
    tables, axes, path, memory = json.loads(sys.argv[1])
    print(didsim.run_sweep(didsim.Sweep(tables, axes), path, memory=memory, progress=True), flush=True)
    """
)


def start(path: Path, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """A study in a process of its own, which compiles from a cache."""
    given = msgspec.json.encode([TABLES, AXES, str(path), MEMORY]).decode()
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def chunks_in(path: Path) -> int:
    return len(list((path / "status" / "c").rglob("*"))) if path.exists() else 0


@pytest.mark.slow
def test_killed_ten_times_and_resumed_it_has_the_same_bits(whole: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "results.zarr", tmp_path / "cache"
    random = np.random.default_rng(0)
    done = 0
    kills = 0
    for k in range(10):
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
    assert kills == 10, "each was killed while it ran"
    assert 0 < done < 600
    output, errors = start(path, cache).communicate(timeout=120)
    assert "done=600" in output, errors
    assert "600 of 600 cells" in errors
    assert not list(path.rglob("*.partial"))
    assert_same_bits(path, whole)


@pytest.mark.slow
def test_an_interrupt_finishes_the_blocks_in_hand(whole: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "results.zarr", tmp_path / "cache"
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
record = {{ every = 1_000, metrics = ["loss"] }}
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
    process = start_command(2_000, "--dask", "local:2")
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
def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path, cache = tmp_path / "results.zarr", tmp_path / "cache"
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


def test_a_cell_that_diverges_is_recorded_and_stops_no_other(tmp_path: Path) -> None:
    rates = [0.1, 1e6, 0.2]
    sweep = sweep_of(
        {"optimizer.learning_rate": rates, "seed": range(2)},
        objective={"name": "exponential", "beta": 1.0},
        optimizer={"name": "sgd", "learning_rate": 0.1},
    )
    path = tmp_path / "results.zarr"
    assert didsim.run_sweep(sweep, path) == (4, 2, 0, 0)
    results = didsim.open_results(path)
    at = results["diverged_at"].values
    assert (at[[0, 2]] == -1).all()
    assert (at[1] > 0).all()
    assert results["status"].values.tolist() == [[1, 1], [2, 2], [1, 1]]
    assert np.isfinite(results["js_to_target"].isel(learning_rate=[0, 2])).all()
    assert np.isnan(results["js_to_target"].isel(learning_rate=1, step=slice(1, None))).all()
    diverged = summarise(path).diverged
    assert set(diverged) == {"learning_rate=1000000.0, seed=0", "learning_rate=1000000.0, seed=1"}


def test_a_cell_that_fails_says_why_and_stops_no_other(tmp_path: Path) -> None:
    # So steep that the last of Zipf's probabilities is zero, which no reference may be.
    steep = 1.7e308
    reference = {"name": "zipf", "exponent": steep}
    sweep = sweep_of(
        {"reference.exponent": [0.5, steep, 2.0], "seed": range(2)},
        record={"every": 500},
        reference=reference,
    )
    path = tmp_path / "results.zarr"
    assert didsim.run_sweep(sweep, path) == (4, 0, 2, 0)
    results = didsim.open_results(path)
    assert results["status"].values.tolist() == [[1, 1], [3, 3], [1, 1]]
    assert np.isfinite(results["loss"].isel(exponent=[0, 2])).all()
    assert np.isnan(results["loss"].isel(exponent=1)).all()
    failures = summarise(path).failures
    assert set(failures) == {"exponent=1.7e+308, seed=0", "exponent=1.7e+308, seed=1"}
    assert all("must give every sequence a positive probability" in reason for reason in failures.values())
    # Where all of a block fail, too; and they are tried again.
    other = tmp_path / "other.zarr"
    failing = sweep_of({"seed": range(2)}, reference=reference)
    assert didsim.run_sweep(failing, other) == (0, 0, 2, 0)
    assert didsim.run_sweep(failing, other) == (0, 0, 2, 0)
    assert set(summarise(other).failures) == {"seed=0", "seed=1"}


def test_whatever_a_function_of_a_study_raises_is_its_cells_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(reference: jax.Array) -> jax.Array:
        # Good on the two sequences that settings are checked on.
        if reference.shape[-1] > 2:
            raise TypeError("not today")
        return reference

    monkeypatch.setitem(didsim.REJECTED, "odd", odd)
    path = tmp_path / "results.zarr"
    sweep = sweep_of({"problem.rejected": ["uniform", "odd", "optimal"], "seed": range(2)})
    assert didsim.run_sweep(sweep, path) == (4, 0, 2, 0)
    assert set(summarise(path).failures.values()) == {"TypeError: not today"}


class Counting(ThreadPoolExecutor):
    """Threads that count what they have in hand."""

    def __init__(self) -> None:
        super().__init__(1)
        self.most = self.now = 0

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        future = super().submit(function, *arguments, **options)
        future.add_done_callback(self._finished)
        return future

    def _finished(self, future: Future[Any]) -> None:
        self.now -= 1


def test_no_more_blocks_are_in_flight_than_asked_for(tmp_path: Path) -> None:
    with Counting() as executor:
        sweep = sweep_of({"seed": range(30)})
        didsim.run_sweep(sweep, tmp_path / "results.zarr", executor, memory=MEMORY, in_flight=3)
    assert executor.most == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 0}, "`memory` must be"),
        ({"in_flight": 0}, "`in_flight` must be"),
        ({"sweep": {}}, "`sweep` must be a Sweep"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"sweep": sweep_of(), "store": tmp_path / "results.zarr", **changes}
    with pytest.raises(ValueError, match=message):
        didsim.run_sweep(**arguments)
    assert not (tmp_path / "results.zarr").exists()


def test_runs_outside_the_main_thread(tmp_path: Path) -> None:
    # Signals can be handled in the main thread alone.
    executor: Executor
    with ThreadPoolExecutor(1) as executor:
        outcome = executor.submit(didsim.run_sweep, sweep_of({"seed": range(2)}), tmp_path / "r.zarr")
        assert outcome.result().done == 2


def test_a_line_a_minute_and_one_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    didsim.run_sweep(sweep_of({"seed": range(8)}), tmp_path / "r.zarr", memory=MEMORY, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("8 of 8 cells, ")
    shown: list[tuple[int, float, float]] = []
    counter = running._Progress(100, 20, lambda *shows: shown.append(shows), 0.05)
    counter.advance(10)
    assert not shown, "too early"
    time.sleep(0.06)
    counter.advance(10)
    ((count, rate, left),) = shown
    assert count == 40
    assert 20 / 0.2 < rate < 20 / 0.06
    assert left == pytest.approx(60 / rate)


def test_a_name_that_another_function_took_is_that_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(number: int, shift: int) -> np.ndarray:
        monkeypatch.setitem(didsim.REJECTED, "shifted", lambda reference: jnp.roll(reference, shift))
        path = tmp_path / f"{number}.zarr"
        didsim.run_sweep(sweep_of({"seed": range(2)}, problem={"rejected": "shifted"}), path)
        return np.asarray(didsim.open_results(path)["loss"])

    first, second = losses(1, shift=1), losses(2, shift=2)
    assert (first[:, -1] != second[:, -1]).all()
    np.testing.assert_array_equal(losses(3, shift=1), first)
