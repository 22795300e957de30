from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim.sweeps import cells as cells_module
from didsim.sweeps.cells import compute
from tests.compilations import counted_compilations
from tests.sweeps.cell_cases import EOS, SPACE, cells_of, keys_of

# Limits.

LIMITS: dict[str, tuple[dict[str, Any], didsim.Objective, Callable[[Any, Any], didsim.Problem]]] = {
    "dpo": (
        {"objective": {"beta": 0.5}, "problem": {"rejected": {"name": "optimal", "beta": 0.2}}},
        didsim.dpo(0.5),
        lambda p, q: didsim.Contrastive(p, didsim.optimal_rejected(p, q, 0.2)),
    ),
    "simpo": (
        {"objective": {"name": "simpo", "beta": 0.5, "gamma": 0}, "problem": "labelled"},
        didsim.simpo(0.5, 0.0),
        lambda p, q: didsim.Labelled(0.5 * (q - p), p, p),
    ),
    "sft": (
        {"objective": "sft", "problem": {"chosen": "tempered", "rejected": "uniform"}},
        didsim.sft(),
        lambda p, q: didsim.Contrastive(jax.nn.log_softmax(0.5 * p), p),
    ),
    "dpo_pg": (
        {"objective": "dpo_pg"},
        didsim.dpo_pg(0.1),
        lambda p, q: didsim.Contrastive(p, didsim.optimal_rejected(p, q, 0.1)),
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_fixed_point(name: str) -> None:
    """Without steps, the policy at the end is that at the start."""
    tables, objective, make_problem = LIMITS[name]
    space = {"vocab_size": 3, "max_length": 2, "eos": True}
    rest = {"record": {"metrics": ["js_to_target"]}, "limit": True, "steps": 0, "space": space}
    found = compute(cells_of({**tables, **rest}, {"seed": 0}, {"seed": 5}), 2)
    assert set(found) == {"steps", "diverged_at", "js_to_target", "js_limit", "js_to_limit"}
    assert found["steps"].tolist() == [0]
    for number, seed in enumerate((0, 5)):
        reference, target = (didsim.normal_logits(key, EOS.size) for key in keys_of(seed)[:2])
        js_limit = js_to_limit = np.nan
        try:
            limit = didsim.fixed_point(objective, reference, make_problem(reference, target), EOS.lengths)
        except didsim.NoMinimiserError:
            assert name == "dpo_pg", "a gradient rule minimises nothing, and all others something"
        else:
            js_limit, js_to_limit = float(didsim.js(limit, target)), float(didsim.js(reference, limit))
            assert js_limit > 1e-3
            assert js_to_limit > 1e-3
        np.testing.assert_allclose(found["js_limit"][number], js_limit, rtol=1e-8)
        np.testing.assert_allclose(found["js_to_limit"][number], js_to_limit, rtol=1e-8)
        at_start = float(didsim.js(reference, target))
        assert float(found["js_to_target"][number, 0]) == pytest.approx(at_start, rel=1e-12)


def test_the_distance_to_the_limit_is_that_of_the_policy_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DPO's limit at the beta of the optimal rejected distribution is the target."""
    tables = {"record": {"every": 4, "metrics": ["js_to_target"]}, "limit": True}
    betas = [{"seed": k, "objective": {"beta": beta}} for k, beta in enumerate((0.1, 0.7, 0.4))]
    found = compute(cells_of(tables, *betas), 3)
    np.testing.assert_allclose(found["js_limit"], 0, atol=1e-14)
    np.testing.assert_allclose(found["js_to_limit"], found["js_to_target"][:, -1], rtol=1e-7)
    assert (np.diff(found["js_to_target"], axis=1) < -1e-4).all()
    # Two at once, and the third one twice.
    monkeypatch.setattr(cells_module, "_SOLVED_AT_ONCE", 2 * SPACE.size**3)
    parts = compute(cells_of(tables, *betas), 3)
    for name, values in found.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-10, atol=1e-14, err_msg=name)


def test_a_cell_without_a_limit_leaves_those_of_the_others() -> None:
    """Of two sequences, pairs have a limit if either wins at least once; by hand, in closed form."""
    tables: dict[str, Any] = {
        "space": {"vocab_size": 2, "max_length": 1},
        "record": {"every": 5, "metrics": ["loss"]},
        "limit": True,
        "problem": {"pairs": 8},
    }
    found = compute(cells_of({**tables, "objective": {"beta": 0.5}}, *({"seed": k} for k in range(6))), 6)
    expected = []
    for seed in range(6):
        keys = keys_of(seed)
        reference, target = (didsim.normal_logits(key, 2) for key in keys[:2])
        population = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
        pairs = population.sample(keys.pairs, 8)
        winners, losers = np.asarray(pairs.winners), np.asarray(pairs.losers)
        wins = int((winners < losers).sum()), int((winners > losers).sum())
        if min(wins) == 0:
            expected.append(np.nan)
            continue
        # The mean of softplus(∓beta · d) is least where beta · d is the log of the ratio of wins.
        limit = log_softmax(np.asarray(reference) + np.array([np.log(wins[0] / wins[1]) / 0.5, 0.0]))
        expected.append(float(didsim.js(limit, target)))
    assert 0 < np.isnan(expected).sum() < 6, "there are both"
    assert np.isfinite(found["loss"]).all()
    np.testing.assert_array_equal(np.isnan(found["js_to_limit"]), np.isnan(expected))
    np.testing.assert_allclose(found["js_limit"], expected, rtol=1e-6)
    # Newton's method, as the rest, is compiled once.
    cells = cells_of({**tables, "objective": {"beta": 0.4}}, *({"seed": k} for k in range(6, 12)))
    with counted_compilations() as compiled:
        other = compute(cells, 6)
    assert compiled == []
    assert not np.array_equal(other["loss"], found["loss"])
