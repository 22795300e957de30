"""Sizes that no memory holds are refused by name, before anything is allocated."""

import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import didsim
from didsim import Sweep
from didsim._memory import machine_memory, size_text
from didsim.sweeps.completing import _filled, complete
from didsim.sweeps.makers import POLICIES
from didsim.sweeps.memory import bytes_of
from didsim.sweeps.plan import plan
from tests.sweeps.study_cases import entry
from tests.sweeps.sweep_cases import SMALL

KEY = jax.random.key(0)
HALVES = jnp.log(jnp.full(2, 0.5))
WHOLE = "Expected `int` <= 2147483647"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"steps": 2**31}, f"`steps`: {WHOLE}"),
        ({"record": {"every": 2**63}}, f"`record.every`: {WHOLE}"),
        ({"batch_size": 2**64}, f"`batch_size`: {WHOLE}"),
        ({"problem": {"pairs": 10**10}}, f"`problem.pairs`: {WHOLE}"),
        ({"space": {"vocab_size": 2**63}}, f"`space.vocab_size`: {WHOLE}"),
        ({"policy": {"name": "log_linear", "features": 10**12}}, f"`policy.features`: {WHOLE}"),
        ({"objective": {"beta": 10**400}}, "`objective.beta` must be an integer of at most 64 bits"),
        ({"reference": {"scale": -(10**30)}}, "`reference.scale` must be an integer of at most 64 bits"),
    ],
)
def test_whole_numbers_are_bounded(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        complete(tables)


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"problem": {"pairs": 2**31 - 1}}, "problem.pairs"),
        ({"batch_size": 2**31 - 1}, "batch_size"),
        ({"steps": 2**31 - 1, "record": {"every": 1}}, "record.every"),
        ({"optimizer": {"name": "lbfgs", "memory_size": 2**31 - 1}}, "optimizer"),
        ({"policy": {"name": "log_linear", "features": 2**31 - 1}}, "policy"),
        ({"space": {"vocab_size": 2**24, "max_length": 1}}, "space"),
    ],
)
def test_a_cell_beyond_the_machine_is_refused_in_a_dry_run(
    tables: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("didsim._memory.machine_memory", lambda: 2**33)
    monkeypatch.setattr("didsim.sweeps.grid.machine_memory", lambda: 2**33)
    with pytest.raises(ValueError, match=rf"^`{key}`: .* of memory; the limit here is 8,192.0 MiB$"):
        plan(Sweep(tables, {}), 2**30)
    with pytest.raises(ValueError, match=f"^`{key}`"):
        didsim.run_sweep(Sweep(tables, {}), tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_dry_run_allocates_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked on a space of two is made there only if it is small."""
    made = []

    def spy(space: didsim.SequenceSpace, features: int = 16) -> didsim.LogLinear:
        made.append(jnp.zeros((space.size, features)))
        return didsim.LogLinear(made[-1], jnp.zeros(features))

    monkeypatch.setattr("didsim._memory.machine_memory", lambda: 2**60)
    monkeypatch.setattr("didsim.sweeps.grid.machine_memory", lambda: 2**60)
    with entry(POLICIES, "spied", spy):
        plan(Sweep({"policy": {"name": "spied", "features": 2**31 - 1}}, {}), 2**30)
        assert made
        assert all(isinstance(one, jax.core.Tracer) for one in made)
        with pytest.raises(ValueError, match="`policy`"):
            Sweep({"policy": {"name": "spied", "features": -(2**31)}}, {})


def test_the_estimate_by_hand() -> None:
    config = complete(
        {
            **SMALL,
            "steps": 100,
            "record": {"every": 7, "metrics": ["loss"]},
            "policy": {"name": "log_linear", "features": 50},
            "problem": {"pairs": 30},
            "dtype": "float32",
        }
    )
    found = bytes_of(config)
    assert found["problem.pairs"] == 30 * 8 * 4
    # Records at 0, 7, …, 98 and 100.
    assert found["record.every"] == 16 * 4
    # Features of four sequences and weights, and at least these.
    assert 4 * (4 * 50 + 50) <= found["policy"] <= 2 * 4 * (4 * 50 + 50)
    # Adam keeps two numbers for each parameter.
    assert found["optimizer"] == 2 * found["policy"]


def test_a_billion_steps_make_no_list() -> None:
    sweep = Sweep({**SMALL, "steps": 10**9, "record": {"every": 1, "metrics": ["loss"]}}, {})
    began = time.process_time()
    assert sweep.count_steps() == 10**9 + 1
    assert time.process_time() - began < 0.1
    assert "steps" not in vars(sweep)
    some = Sweep({**SMALL, "steps": 10**9, "record": {"every": 4 * 10**8}}, {})
    assert some.steps.tolist() == [0, 400_000_000, 800_000_000, 1_000_000_000]


def test_sizes_of_functions() -> None:
    problem = didsim.Contrastive(HALVES, HALVES)
    for call, name in [
        (lambda: didsim.normal_logits(KEY, 2**63), "size"),
        (lambda: didsim.dirichlet(KEY, 2**45, 1.0), "size"),
        (lambda: didsim.zipf(2**62, 1.0), "size"),
        (lambda: didsim.markov(KEY, didsim.SequenceSpace(2**24, 1)), "space"),
        (lambda: problem.sample(KEY, 10**13), "num_pairs"),
        (lambda: didsim.Labelled(HALVES, HALVES, HALVES).sample(KEY, 2**63), "num_pairs"),
        (lambda: didsim.Pairs(np.array([0]), np.array([1])).joint(10**9), "size"),
        (lambda: didsim.solve(didsim.orpo(), HALVES, problem, starts=2**31 - 1), "starts"),
        (lambda: train(problem, batch_size=10**13), "batch_size"),
        (lambda: train(problem, steps=2**63), "steps"),
        (lambda: train(problem, steps=2**31 - 1, record=didsim.Record(1), runs=2**12), "record.every"),
    ]:
        with pytest.raises(ValueError, match=f"^`{name}`"):
            call()
    # More steps between records than there are steps.
    assert train(problem, steps=2, record=didsim.Record(2**70)).steps.tolist() == [0, 2]


def train(problem: didsim.Problem, steps: int = 1, runs: int = 1, **options: Any) -> didsim.Run:
    start = jnp.tile(HALVES, (runs, 1))
    return didsim.train(
        didsim.EnergyBased(start), start, problem, didsim.dpo(0.5), optax.sgd(0.1), steps, key=KEY, **options
    )


def test_memory_of_this_machine() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert machine_memory() == pytest.approx(int(total.split()[1]) * 1024, rel=0.01)
    assert size_text(3 * 2**20) == "3.0 MiB"
    assert size_text(600 * 2**30) == "600 GiB"


def test_grids_of_more_cells_than_can_be_checked() -> None:
    with pytest.raises(ValueError, match="`sweep` has 1,000,000,000 cells; a study has at most 16,777,216"):
        Sweep(SMALL, {"seed": range(10**9)}, allow_many=True)


def test_equal_tables_are_checked_once_and_a_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    betas, rates = np.linspace(0.1, 1, 100), np.linspace(0.01, 0.1, 101)
    _filled.cache_clear()
    Sweep(SMALL, {"objective.beta": betas, "optimizer.learning_rate": rates}, progress=True)
    # A cell has eight tables; without what is kept, 80,800 would be looked at.
    assert _filled.cache_info().misses <= 8 * (len(betas) + len(rates))
    assert capsys.readouterr().err == "checking cells: 10,100\n"
    # The last of all is looked at, too.
    with pytest.raises(ValueError, match=r"positive.*beta=-1\.0, learning_rate=0\.1"):
        Sweep(SMALL, {"objective.beta": [*betas, -1.0], "optimizer.learning_rate": rates[-1:]})
