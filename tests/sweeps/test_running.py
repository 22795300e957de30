import os
import signal
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import didsim
from didsim.sweeps import running
from didsim.sweeps.layout import Status
from didsim.sweeps.results import summarise
from tests.sweeps.run_cases import MEMORY, sweep_of


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
            400,
            record=didsim.Record(100),
            target=target,
        )
        stored = results["js_to_target"].sel(rejected=name, seed=77)
        np.testing.assert_allclose(stored, run.metrics["js_to_target"], rtol=1e-9, atol=1e-14)


def test_a_full_store_is_not_computed_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "compute", None)
    assert didsim.run_sweep(sweep_of(), whole, memory=10 * MEMORY).done == 600


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
    assert all("must give every sequence a positive" in reason for reason in failures.values())
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


def fail_for(monkeypatch: pytest.MonkeyPatch, seeds: set[int]) -> list[list[int]]:
    """Make `compute` fail for blocks with these seeds; the seeds of all blocks that are computed then."""
    compute, computed = running.compute, []

    def odd(cells: Any, size: int) -> dict[str, np.ndarray]:
        computed.append([cell["seed"] for cell in cells])
        if seeds & set(computed[-1]):
            raise ValueError("odd")
        return compute(cells, size)

    monkeypatch.setattr(running, "compute", odd)
    return computed


def test_a_cell_that_fails_for_ever_is_all_that_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sweep = tmp_path / "r.zarr", sweep_of({"seed": range(8)})
    with monkeypatch.context() as patched:
        computed = fail_for(patched, {2, 5})
        assert didsim.run_sweep(sweep, path, memory=MEMORY) == (6, 0, 2, 0)
        assert sorted(computed) == [[0], [0, 1, 2, 3], [1], [2], [3], [4], [4, 5, 6, 7], [5], [6], [7]]
        before = didsim.open_results(path).load()
        computed.clear()
        assert didsim.run_sweep(sweep, path, memory=MEMORY) == (6, 0, 2, 0)
        assert computed == [[2], [5]]
        assert didsim.open_results(path).load().identical(before)
        assert set(summarise(path).failures.values()) == {"odd"}
    # Once it can be computed, it is, and the others keep their bits.
    assert didsim.run_sweep(sweep, path, memory=MEMORY) == (8, 0, 0, 0)
    after = didsim.open_results(path).load()
    others = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(after["loss"].sel(seed=others), before["loss"].sel(seed=others))
    assert didsim.run_sweep(sweep, tmp_path / "whole.zarr", memory=MEMORY).done == 8
    expected = didsim.open_results(tmp_path / "whole.zarr").load()
    for name in ("loss", "js_to_target"):
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-9, atol=1e-14)


def test_an_interrupt_is_heard_between_the_cells_of_a_block_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sweep = tmp_path / "r.zarr", sweep_of({"seed": range(8)})
    with monkeypatch.context() as patched:
        computed = fail_for(patched, {1})
        compute = running.compute

        def interrupted(cells: Any, size: int) -> dict[str, np.ndarray]:
            if [cell["seed"] for cell in cells] == [2]:
                os.kill(os.getpid(), signal.SIGINT)
            return compute(cells, size)

        patched.setattr(running, "compute", interrupted)
        assert didsim.run_sweep(sweep, path, memory=MEMORY, in_flight=1).pending > 0
        assert [3] not in computed
    status = didsim.open_results(path)["status"].values.tolist()
    assert status[:4] == [Status.DONE, Status.FAILED, Status.DONE, Status.PENDING]
    with monkeypatch.context() as patched:
        computed = fail_for(patched, {1})
        assert didsim.run_sweep(sweep, path, memory=MEMORY) == (7, 0, 1, 0)
        assert [one for one in computed if one[0] < 4] == [[1], [3]]
        once = tmp_path / "once.zarr"
        assert didsim.run_sweep(sweep, once, memory=MEMORY) == (7, 0, 1, 0)
    assert didsim.open_results(path).load().identical(didsim.open_results(once).load())


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


def test_a_line_a_minute_and_one_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    didsim.run_sweep(sweep_of({"seed": range(8)}), tmp_path / "r.zarr", memory=MEMORY, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("8 of 8 cells, ")
    clock = iter([100.0, 159.0, 160.0])
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown: list[tuple[int, float, float]] = []
    counter = running._Progress(100, 20, lambda *shows: shown.append(shows), 60)
    counter.advance(10)
    assert not shown, "too early"
    counter.advance(20)
    assert shown == [(50, 30 / 60, 50 / (30 / 60))]


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
