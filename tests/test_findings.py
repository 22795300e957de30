"""Every number of a finding, from datasets whose numbers are known."""

import numpy as np
import pytest
import xarray as xr

import didsim
from experiments import (
    did_entropy,
    displacement,
    log_margin_order,
    log_ratio_reward,
    objective_maps,
    objective_zoo,
    optimal_rejected,
)
from experiments.shared import zeros


def convergence(dim: str, ends: dict[str, float], dip: float, gap: dict[str, float]) -> xr.Dataset:
    names = list(ends)
    curves = np.array([[[0.9, ends[name] * dip, ends[name]]] * 3 for name in names])
    gaps = np.array([[gap[name], gap[name] / 2, gap[name] / 4] for name in names])
    return xr.Dataset(
        {"js_to_target": ((dim, "seed", "step"), curves), "js_to_limit": ((dim, "seed"), gaps)},
        coords={dim: names},
    )


def test_ends_are_in_order_of_the_data_whatever_the_names() -> None:
    ends = {"optimal": 0.3, "uniform": 0.02, "target": 0.5}
    text = optimal_rejected.finding(
        convergence("rejected", ends, 1, {"optimal": 1e-3, "uniform": 2e-7, "target": 0})
    )
    assert text.startswith("`uniform` ends nearest to the target: the median divergence is 0.02 nats.")
    assert (
        "For 2 other rejected-sampling distributions it goes from 0.3 (`optimal`) to 0.5 nats (`target`)"
        in text
    )
    assert "no run ends further than 0.001 nats from it (`optimal`)" in text
    one = optimal_rejected.finding(convergence("rejected", {"uniform": 0.02}, 1, {"uniform": np.nan}))
    assert one == "`uniform` ends nearest to the target: the median divergence is 0.02 nats."


def test_objectives_that_were_nearer_on_the_way_are_named() -> None:
    ends = {"dpo": 1e-9, "ipo": 0.2}
    gaps = dict.fromkeys(ends, 0.0)
    assert "Nearer" not in log_ratio_reward.finding(convergence("objective", ends, 1, gaps))
    text = log_ratio_reward.finding(convergence("objective", ends, 0.5, gaps))
    assert text.endswith("Nearer on the way than at the end: `dpo` (5.0·10⁻¹⁰ nats) and `ipo` (0.1 nats).")


def test_the_finding_of_displacement() -> None:
    dims = ("update", "seed", "step")
    values = {
        "chosen_displacement": [[[0, -0.2]] * 3, [[0, -0.3]] * 3],
        "rejected_displacement": [[[0, -0.4]] * 3, [[0, -0.5]] * 3],
        "policy_entropy": [[[2.0, 1.5]] * 3, [[2, 2.75]] * 3],
        "did_entropy": [[[4.0, 3.0]] * 3, [[4.0, 3.0]] * 3],
    }
    dataset = xr.Dataset(
        {name: (dims, one) for name, one in values.items()}, {"update": ["reinforcing", "smoothing"]}
    )
    for name in values:
        dataset[f"{name}_limit"] = dataset[name].isel(step=-1).copy(deep=True)
    dataset["did_entropy_limit"][1, 2] += 0.125
    text = displacement.finding(dataset)
    assert (
        "reinforcing target the chosen log-likelihood changes by −0.2 nats, the rejected one by −0.4, and"
        in text
    )
    assert "entropy by −0.5. With a smoothing target" in text
    assert "by −0.3 nats, the rejected one by −0.5, and the policy's entropy by 0.75." in text
    assert text.endswith("No run ends further than 0.12 nats from an exact limit.")


def test_the_finding_of_log_margin_order() -> None:
    margins = np.array(
        [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.5], [2.0, 2.0, 1.75, 0.5]]
    )
    by_noise = ("noise", "seed")
    dataset = xr.Dataset(
        {
            "pair_margin": (("policy", "pair"), margins),
            "fraction": (by_noise, [[1, 1], [0.6, 0.64]]),
            "known_fraction": (by_noise, [[1, 1], [0.7, 0.7]]),
            "spread": (by_noise, [[0, 0], [3, 3.2]]),
            "known_spread": (by_noise, [[0, 0], [2, 2]]),
        },
        {"noise": [0.0, 1.5], "policy": list(log_margin_order.POLICIES)},
    )
    text = log_margin_order.finding(dataset)
    assert "target on 75% of 4 pairs. The learned one is within 0.25 nats" in text
    assert "Noise of 1.5 nats leaves 62% of pairs in order (70% expected)" in text
    assert text.endswith("spreads the exponent by 3.1 (2 expected).")


def test_the_finding_of_did_entropy() -> None:
    shares = np.array([[0.4, 0.7], [0.1, 0.6], [0.9, 1.0]])
    n = 40
    entropy = np.stack([np.full(n, 1.0), np.full(n, 3.0)])
    dataset = xr.Dataset(
        {
            "did_entropy": (("family", "instance"), entropy),
            "displacement": (("family", "instance"), np.where(entropy > 2, -0.5, -2.0)),
            "share": (("statement", "family"), shares, {"did_entropy_median": 2.0}),
        },
        {"statement": ["entropy", "displacement", "criterion"], "family": ["zipf", "markov"]},
    )
    text = did_entropy.finding(dataset)
    assert (
        "right sign of the entropy change in 55% of 80 random updates, from 40% (`zipf`) to 70% (`markov`)"
        in text
    )
    assert "2 nats. For displacement it is right in 35%, and in 1 of 2 families in less than half" in text
    assert "the median displacement is −2 nats at low DID entropy and −0.5 at high." in text
    assert text.endswith("in 95%.")


def zoo(**changes: dict[str, float]) -> xr.Dataset:
    """Three instances of five objectives, one for each group; `changes` are of `js`, `converged`, …"""
    js = {"dpo": 0.0, "cdpo": 0.01, "sft": 0.2, "simpo": 0.3, "kto": 0.4}
    columns = {
        "js": js,
        "entropy": dict.fromkeys(js, 3.0) | {"simpo": 2.0},
        "displacement": dict.fromkeys(js, -1.0) | {"sft": 0.0, "kto": -np.inf},
        "margin": dict.fromkeys(js, 0.1),
        "converged": dict.fromkeys(js, 1.0),
        "full_support": dict.fromkeys(js, 1.0) | {"kto": 0.0},
    }
    dims = ("objective", "seed")
    dataset = xr.Dataset(
        {
            name: (dims, [[(one | changes.get(name, {}))[objective]] * 3 for objective in js])
            for name, one in columns.items()
        },
        {"objective": list(js), "seed": range(3)},
    )
    return dataset.assign(
        target_entropy=("seed", [3.0] * 3),
        target_displacement=("seed", [-1.0] * 3),
        method=("objective", ["closed form"] * 5),
    )


def test_objectives_of_the_zoo_are_grouped_by_what_becomes_of_the_policy() -> None:
    groups = objective_zoo.groups_of(zoo())
    assert list(groups.values()) == [["dpo"], ["cdpo"], ["sft"], ["simpo"], ["kto"]]
    moved = objective_zoo.groups_of(zoo(displacement={"cdpo": -0.1}, js={"dpo": 0.02}))
    assert list(moved.values()) == [["dpo"], ["cdpo", "sft"], ["simpo"], ["kto"]]
    assert list(moved) == [name for name in groups if name != "Reaches the target"]
    text = objective_zoo.finding(zoo())
    assert "- Reaches the target (JS divergence 0 nats): `dpo`." in text
    assert "- Zero probabilities (JS divergence 0.4 nats): `kto`." in text
    assert "no minimiser" not in text
    lost = zoo()
    lost["converged"][4, 0] = 0
    assert "The solver found no minimiser for `kto` in 33% of the instances." in objective_zoo.finding(lost)


def test_the_finding_of_the_maps() -> None:
    x = np.array([[-2.0, -1.0, 1.0, 2.0]])
    learned = {
        "dpo": 2 * x,
        "ipo": np.tanh(x),
        "slic": np.array([[-2.0, 0, 0, 2]]),
        "kto": np.where(x < -1, -np.inf, x),
    }
    dataset = xr.Dataset(
        {
            "data_log_ratio": (("seed", "sequence"), x),
            "learned_log_ratio": (("objective", "seed", "sequence"), list(learned.values())),
            "beta": 0.25,
        },
        {"objective": list(learned)},
    )
    text = objective_maps.finding(dataset)
    assert "A line of slope 1/beta = 4 means" in text
    assert "nats: `dpo` (slope 2)." in text
    assert "The curve of `ipo` spans 1.9 nats where the data span 4." in text
    assert "4 sequences are on 3 levels." in text
    assert "`kto` gives probability zero to 50% of the sequences" in text
    assert "rejected more often than chosen, and to 0% of the others." in text
    assert "simpo" not in text


@pytest.mark.parametrize(
    ("name", "never_rejected", "never_chosen"),
    [
        ("dpo", (False, 1.0), (False, 0.0)),
        ("sft", (True, 0.25), (True, 0.0)),
        ("ipo", None, None),
    ],
)
def test_what_becomes_of_a_zero(
    name: str, never_rejected: tuple[bool, float] | None, never_chosen: tuple[bool, float] | None
) -> None:
    """DPO runs off, and SFT copies the chosen. IPO's loss is quadratic, and least squares minimise it."""
    facts = zeros.facts_of(didsim.OBJECTIVES[name]())
    assert facts["convex_in_logits"] is facts["convex_in_rewards"] is True
    for case, expected in (("never_rejected", never_rejected), ("never_chosen", never_chosen)):
        found = facts[case]["has_minimiser"], facts[case]["probability"]
        if expected is None:
            expected = True, float(f"{_ipo(*zeros.CASES[case], tau=0.1):.4g}")
        assert found == (expected[0], pytest.approx(expected[1], rel=2e-3))


def _ipo(chosen: tuple[float, ...], rejected: tuple[float, ...], tau: float) -> float:
    """The probability of the first sequence that minimises `Σ w_i v_j (t_i − t_j − 1/(2 tau))²`."""
    w, v = np.array(chosen), np.array(rejected)
    # The gradient in t_k is w_k (t_k − v·t − c) + v_k (t_k − w·t + c), with c = 1/(2 tau).
    matrix = np.diag(w + v) - np.outer(w, v) - np.outer(v, w)
    t = np.linalg.lstsq(matrix, (w - v) / (2 * tau), rcond=None)[0]
    policy = np.array(zeros.REFERENCE) * np.exp(t)
    return float(policy[0] / policy.sum())
