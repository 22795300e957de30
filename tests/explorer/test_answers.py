"""The numbers that the page is given, against formulas written out in NumPy."""

import math
from typing import Any

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import didsim
from didsim.explorer.answers import answer
from didsim.explorer.presets import PRESETS
from didsim.explorer.problems import counts_of
from didsim.explorer.program import program
from didsim.explorer.state import COUNTS, State
from tests.compilations import counted_compilations

FIRST = next(iter(PRESETS.values()))().state


def state(**fields: Any) -> State:
    return msgspec.structs.replace(FIRST, **fields)


def asked(question: str, of: State) -> Any:
    return msgspec.json.decode(answer(question, of))


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("simpo", "sixty")])
def test_the_limit_of_dpo_and_its_counter(name: str) -> None:
    one = PRESETS[name]().state
    reference, chosen, rejected = (np.array(getattr(one, row)) for row in ("reference", "chosen", "rejected"))
    limit = reference * (chosen / rejected) ** (1 / one.beta)
    limit /= limit.sum()
    found = asked("limit", one)
    np.testing.assert_allclose(found["learned"], limit, rtol=1e-9)
    chosen, reference = chosen / chosen.sum(), reference / reference.sum()
    assert found["displacement"] == pytest.approx(np.sum(chosen * np.log(limit / reference)), abs=1e-9)
    assert found["kl_chosen_learned"] == pytest.approx(np.sum(chosen * np.log(chosen / limit)), abs=1e-9)
    assert found["kl_chosen_reference"] == pytest.approx(
        np.sum(chosen * np.log(chosen / reference)), abs=1e-9
    )
    ratio = np.log(chosen / (rejected / rejected.sum()))
    wins = (ratio[:, None] > ratio) + 0.5 * (ratio[:, None] == ratio)
    assert found["accuracy"] == pytest.approx(chosen @ wins @ (rejected / rejected.sum()), abs=1e-9)


@pytest.mark.parametrize("name", ["twelvefold", "half_way"])
def test_presets_with_a_target_end_there(name: str) -> None:
    one = PRESETS[name]().state
    np.testing.assert_allclose(asked("limit", one)["learned"], one.target, atol=1e-4)


def test_simpo_ends_at_the_differential_information() -> None:
    one = PRESETS["simpo"]().state
    did = np.array(one.target) / np.array(one.reference)
    np.testing.assert_allclose(asked("limit", one)["learned"], did / did.sum(), atol=1e-4)


def test_a_larger_number_of_pairs_begins_with_a_smaller_one() -> None:
    before = np.zeros((4, 4))
    for pairs in COUNTS[:-1]:
        counts = counts_of(state(pairs=pairs, seed=3))
        assert counts is not None
        assert counts.sum() == pairs
        assert np.all(counts >= before)
        before = counts
    drawn = didsim.Contrastive(*(jnp.log(jnp.array(p) / sum(p)) for p in (FIRST.chosen, FIRST.rejected)))
    np.testing.assert_allclose(before / before.sum(), jnp.exp(drawn.joint(4).log_probs), atol=0.02)
    assert counts_of(FIRST) is None


def test_sixty_pairs_have_no_minimiser_and_training_falls_after_it_rose() -> None:
    one = PRESETS["sixty"]().state
    found, run = asked("limit", one), asked("training", one)
    counts = np.array(found["counts"])
    # It never lost, so that no loss holds its reward down.
    assert found["unidentified"] == ["Best"]
    assert counts[:, 0].sum() - counts[0, 0] == 0
    assert found["verdict"] == "NOT_IDENTIFIED"
    assert found["displacement"] is None
    assert found["learned"] == [1, 0, 0, 0]
    curve = run["displacement"]
    assert max(curve) > 0.3
    assert curve[-1] < -5
    assert run["held_out_displacement"][-1] < -5


def test_training_ends_near_the_limit_and_its_records_agree() -> None:
    run, found = asked("training", FIRST), asked("limit", FIRST)
    policies = np.array(run["policies"])
    np.testing.assert_allclose(policies[0], FIRST.reference, atol=1e-12)
    np.testing.assert_allclose(policies[-1], found["learned"], atol=1e-3)
    np.testing.assert_allclose(run["entropy"], -np.sum(policies * np.log(policies), axis=1), atol=1e-9)
    mean = (policies + found["learned"]) / 2
    js = (
        np.sum(
            policies * np.log(policies / mean) + found["learned"] * np.log(found["learned"] / mean), axis=1
        )
        / 2
    )
    np.testing.assert_allclose(run["js"], js, atol=1e-9)
    np.testing.assert_allclose(run["displacement"], run["held_out_displacement"], atol=1e-9)


def test_a_run_that_diverges_has_nulls_and_no_error() -> None:
    run = asked("training", state(objective="exponential", optimizer="sgd", rate=100.0, beta=10.0))
    assert run["diverged_at"] > 0
    assert run["displacement"][-1] is None
    assert run["entropy"][-1] is None


@pytest.mark.parametrize("objective", ["dpo", "ipo", "slic"])
def test_the_map_is_a_line_a_bounded_curve_or_a_staircase(objective: str) -> None:
    found = asked("map", state(objective=objective, beta=0.5))
    x, y = np.array(found["x"]), np.array(found["y"])
    assert y[len(y) // 2] == 0
    if objective == "dpo":
        np.testing.assert_allclose(y, x / 0.5, atol=1e-9)
        np.testing.assert_allclose(found["learned"], np.array(found["data"]) / 0.5, atol=1e-6)
    elif objective == "ipo":
        assert np.all(np.diff(y) > 0)
        assert y.max() < x.max() / 0.5
    else:
        steps = np.diff(y) * 0.5
        assert np.all((np.abs(steps) < 1e-6) | (steps > 0.1))
        assert (np.abs(steps) < 1e-6).any()


@pytest.mark.parametrize("sampler", didsim.REJECTED)
def test_sequences_obey_the_power_law_or_do_not(sampler: str) -> None:
    found = asked("sequences", state(sampler=sampler, vocabulary=2, length=4, beta=0.5))
    up, down = np.array(found["step_up"]), np.array(found["step_down"])
    slope = np.polyfit(up, down, 1)[0]
    exponents = {"optimal": 0.5, "geodesic": 0.5, "reversed": -0.5, "target": -1.0}
    assert found["exponent"] == pytest.approx(exponents.get(sampler, slope), abs=1e-6)
    i, j = np.triu_indices(len(up), 1)
    ordered = np.mean((up[i] - up[j]) * (down[i] - down[j]) > 0)
    if sampler not in ("reference", "uniform"):
        assert found["ordered"] == pytest.approx(ordered, abs=1e-6)
    shares = {name: np.array(values) for name, values in found["shares"].items()}
    limit = shares["reference"] * (shares["reference"] / shares["rejected"]) ** 2
    np.testing.assert_allclose(shares["learned"], limit / limit.sum(), rtol=1e-6)
    kl = np.sum(shares["reference"] * np.log(shares["reference"] / shares["learned"]))
    assert found["limits"]["chosen_displacement"] == pytest.approx(-kl, abs=1e-9)
    assert found["holds"] == (sampler in ("optimal", "geodesic"))


@pytest.mark.slow
def test_another_value_compiles_nothing() -> None:
    # Few pairs identify no limit here, and many do.
    asked_of = {"limit": (0, 20, 1000), "training": (0, 20), "map": (0,), "sequences": (0,)}
    warm, other = (
        {"beta": 0.3, "vocabulary": 2},
        {
            "beta": 0.7,
            "rate": 0.1,
            "seed": 9,
            "chosen": [0.1, 0.2, 0.3, 0.4],
            "reference": [0.4, 0.3, 0.2, 0.1],
            "vocabulary": 2,
        },
    )
    for question, counts in asked_of.items():
        for pairs in counts:
            answer(question, state(**warm, pairs=pairs))
    with counted_compilations() as compiled:
        for question, counts in asked_of.items():
            for pairs in counts:
                answer(question, state(**other, pairs={0: 0, 20: 30, 1000: 3000}[pairs]))
    assert compiled == []


@pytest.mark.parametrize(
    "fields",
    [{"objective": "ipo", "beta": 0.4}, {"pairs": 60, "chosen": [0.3, 0.3, 0.2, 0.2]}],
    ids=["ipo", "pairs"],
)
def test_the_program_of_a_state_computes_its_numbers(
    fields: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one, found = state(**fields), asked("limit", state(**fields))
    names: dict[str, Any] = {}
    exec(program(one), names)
    np.testing.assert_allclose(jnp.exp(names["learned"]), found["learned"], atol=1e-9)
    run = asked("training", one)["displacement"]
    assert float(names["run"].metrics["chosen_displacement"][-1]) == pytest.approx(run[-1], abs=1e-6)
    assert f"Best: {found['learned'][0]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(("family", "update"), [("zipf", "normal_logits")])
def test_the_program_of_a_space_computes_its_numbers(
    family: str, update: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = state(
        tab="sequences", family=family, update=update, sampler="perturbed", vocabulary=2, length=4, beta=0.5
    )
    found, names = asked("sequences", one), dict[str, Any]()
    exec(program(one), names)
    np.testing.assert_allclose(jnp.exp(names["learned"]), found["shares"]["learned"], rtol=1e-6)
    assert float(names["law"].exponent) == pytest.approx(found["exponent"], abs=1e-9)
    assert math.isfinite(found["ordered"])
    assert f"exponent {found['exponent']:.4f}" in capsys.readouterr().out
