"""Cells of blocks against runs that are put together here, one by one, from the library's own parts."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax
import pytest

import didsim
from didsim.sweeps import makers
from didsim.sweeps.cells import compute
from didsim.sweeps.completing import complete
from tests.compilations import counted_compilations
from tests.sweeps.cell_cases import (
    ADAM,
    FEW,
    RECORD_FEW,
    SMALL,
    SPACE,
    alone,
    assert_is_run,
    cells_of,
    keys_of,
)

# Blocks.


def rates(*values: float) -> list[dict[str, Any]]:
    tables: dict[str, Any] = {
        "objective": {"name": "exponential", "beta": 1.0},
        "steps": 12,
        "record": {"every": 1, "metrics": FEW["metrics"]},
        "limit": True,
    }
    return cells_of(
        tables,
        *({"seed": k, "optimizer": {"name": "sgd", "learning_rate": one}} for k, one in enumerate(values)),
    )


def test_a_cell_that_diverges_leaves_the_others_alone() -> None:
    fine = compute(rates(0.1, 0.3, 0.2), 3)
    mixed = compute(rates(0.1, 1e6, 0.2), 3)
    assert fine["diverged_at"].tolist() == [-1, -1, -1]
    step = int(mixed["diverged_at"][1])
    assert mixed["diverged_at"].tolist() == [-1, step, -1]
    assert 0 < step < 12
    for name, values in mixed.items():
        if name in ("steps", "diverged_at"):
            continue
        for other in (0, 2):
            np.testing.assert_array_equal(values[other], fine[name][other], err_msg=name)
            assert np.isfinite(values[other]).all(), name
        if name in ("js_limit", "js_to_limit"):
            continue
        assert np.isfinite(values[1, :step]).all(), name
        assert np.isnan(values[1, step + 1 :]).all(), name
    # The limit is that of the instance, however the way there went.
    np.testing.assert_allclose(mixed["js_limit"], fine["js_limit"], rtol=1e-12)
    # The same run of `train`, told to raise.
    keys = keys_of(1)
    reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys[:2])
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 1.0))
    with pytest.raises(didsim.DivergenceError) as caught:
        didsim.train(
            didsim.EnergyBased(reference),
            reference,
            problem,
            didsim.exponential(1.0),
            optax.sgd(1e6),
            12,
            record=didsim.Record(1, RECORD_FEW.metrics),
            target=target,
        )
    assert caught.value.step == step
    records = len(caught.value.run.steps)
    assert np.isfinite(mixed["loss"][1]).sum() == records
    np.testing.assert_allclose(mixed["loss"][1, :records], caught.value.run.metrics["loss"], rtol=1e-9)


@pytest.fixture(scope="module")
def four() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Four cells that differ in everything that no program depends on, and their results in one block."""
    tables: dict[str, Any] = {
        "record": FEW,
        "limit": True,
        "reference": {"name": "dirichlet", "concentration": 1.5},
        "target": {"name": "drifted"},
        "batch_size": 3,
        "schedule": "cosine",
    }
    changes: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 2**31 - 1, "objective": {"beta": 0.7}},
        {"seed": 0, "optimizer": {"learning_rate": 0.02, "b2": 0.9, "eps": 1e-6}},
        {
            "seed": 5,
            "reference": {"name": "dirichlet", "concentration": 3},
            "target": {"name": "drifted", "strength": -0.3, "noise": 1.0},
            "problem": {"rejected": {"name": "optimal", "beta": 0.3}},
        },
    ]
    cells = cells_of(tables, *changes)
    return cells, compute(cells, 4)


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_block_again_gives_the_same_bits(four: tuple[list[dict[str, Any]], dict[str, np.ndarray]]) -> None:
    cells, found = four
    assert len({float(one) for one in found["js_to_target"][:, -1]}) == 4
    assert_same(compute(cells, 4), found)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_fewer_cells_than_the_block_has_room_for(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]], number: int
) -> None:
    cells, found = four
    with counted_compilations() as compiled:
        fewer = compute(cells[:number], 4)
    assert compiled == []
    for name, values in fewer.items():
        assert len(values) == (len(found["steps"]) if name == "steps" else number)
    assert_same(fewer, {name: one if name == "steps" else one[:number] for name, one in found.items()})


def test_cells_do_not_depend_on_their_places(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    for order in itertools.islice(itertools.permutations(range(4)), 5, 24, 6):
        moved = compute([cells[k] for k in order], 4)
        for name, values in moved.items():
            expected = found[name] if name == "steps" else found[name][list(order)]
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_cells_on_their_own_in_two_threads_are_the_same(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    with ThreadPoolExecutor(2) as pool:
        alone = list(pool.map(lambda cell: compute([cell], 1), cells))
    assert_same(compute(cells[1:2], 1), alone[1])
    for number, one in enumerate(alone):
        for name, values in one.items():
            expected = found[name] if name == "steps" else found[name][number : number + 1]
            np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-11, err_msg=name)


def test_new_numbers_and_seeds_compile_nothing(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    changes: Sequence[dict[str, Any]] = [
        {"seed": 17},
        {"objective": {"beta": 0.33}},
        {"optimizer": {"name": "adam", "learning_rate": 0.033, "b1": 0.77, "b2": 0.8, "eps": 1e-7}},
        {"reference": {"name": "dirichlet", "concentration": 0.77}},
        {"target": {"name": "drifted", "strength": 0.11, "noise": 0.22}},
        {"problem": {**cells[0]["problem"], "rejected": {"name": "optimal", "beta": 0.44}}},
    ]
    for change in changes:
        # Settings are checked by a trial, once for each value, which may trace small programs of its own.
        changed = [complete({**cell, **change}) for cell in cells]
        with counted_compilations() as compiled:
            other = compute(changed, 4)
        assert compiled == [], change
        assert not np.array_equal(other["js_to_target"], found["js_to_target"]), change
    changed = [complete({**cell, "steps": 6, "limit": False}) for cell in cells]
    with counted_compilations() as compiled:
        compute(changed, 4)
    assert compiled, "the listener sees a compilation when there is one"


# Entries of one's own.


def test_an_objective_and_a_distribution_of_ones_own() -> None:
    def halved(beta: float = 0.1, factor: float = 0.5) -> didsim.Objective:
        return didsim.dpo(beta * factor)

    def blunt(reference: Any, target: Any, share: float = 0.5) -> Any:
        return jax.nn.log_softmax(share * reference - (1 - share) * target)

    didsim.OBJECTIVES["halved"] = halved
    didsim.REJECTED["blunt"] = blunt
    try:
        cells = cells_of(
            {"objective": {"name": "halved", "beta": 1.0}, "record": FEW},
            {"problem": {"rejected": "blunt"}},
            {"problem": {"rejected": {"name": "blunt", "share": 0.9}}, "seed": 4},
        )
        found = compute(cells, 2)
    finally:
        del didsim.OBJECTIVES["halved"], didsim.REJECTED["blunt"]
    reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys_of(4)[:2])
    problem = didsim.Contrastive(reference, jax.nn.log_softmax(0.9 * reference - 0.1 * target))
    policy = didsim.EnergyBased(reference)
    run = alone(policy, reference, problem, didsim.dpo(0.5), ADAM, target=target, record=RECORD_FEW)
    assert_is_run(found, 1, run)


def test_a_distribution_of_ones_own_that_is_none_is_a_value_error() -> None:
    didsim.REJECTED["lost"] = lambda reference, by=0.0: reference + by
    try:
        good, bad = cells_of(
            {"record": FEW},
            {"problem": {"rejected": "lost"}},
            {"problem": {"rejected": {"name": "lost", "by": 0.1}}},
        )
        with pytest.raises(ValueError, match="`rejected` must be log-probabilities normalised"):
            compute([good, bad], 2)
        assert np.isfinite(compute([good, good], 2)["loss"]).all()
    finally:
        del didsim.REJECTED["lost"]


def test_a_name_with_another_entry_is_another_program() -> None:
    def tempered(exponent: float) -> Any:
        return lambda reference: jax.nn.log_softmax(exponent * reference)

    found = []
    for exponent in (0.5, 2.0):
        didsim.REJECTED["mine"] = tempered(exponent)
        try:
            found.append(compute(cells_of({"record": FEW}, {"problem": {"rejected": "mine"}}), 1)["loss"])
        finally:
            del didsim.REJECTED["mine"]
    assert not np.array_equal(found[0], found[1])


def test_a_policy_of_ones_own_has_the_numbers_of_its_cell() -> None:
    assert "sharp" not in makers.POLICIES
    makers.POLICIES["sharp"] = lambda reference, scale=1.0: didsim.EnergyBased(scale * reference)
    try:
        changes = [{"policy": {"name": "sharp", "scale": scale}} for scale in (1.0, 2.0)]
        found = compute(cells_of({"record": FEW}, *changes), 2)
    finally:
        del makers.POLICIES["sharp"]
    reference = didsim.normal_logits(keys_of(0).reference, SPACE.size)
    starts = [float(didsim.entropy(jax.nn.log_softmax(scale * reference))) for scale in (1.0, 2.0)]
    np.testing.assert_allclose(found["policy_entropy"][:, 0], starts, rtol=1e-12)


def test_a_metric_of_ones_own_that_is_replaced_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(s: Any) -> jax.Array:
        return s.log_probs.max()

    monkeypatch.setitem(didsim.METRICS, "peak", peak)
    cell = complete({**SMALL, "record": {"every": 5, "metrics": ["peak"]}})
    reference = didsim.normal_logits(keys_of(0).reference, SPACE.size)
    assert compute([cell], 1)["peak"][0, 0] == pytest.approx(float(reference.max()), rel=1e-12)
    monkeypatch.setitem(didsim.METRICS, "peak", lambda s: s.log_probs.min())
    assert compute([cell], 1)["peak"][0, 0] == pytest.approx(float(reference.min()), rel=1e-12)
