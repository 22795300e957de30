import json
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax

import didsim
import experiments
from experiments import (
    did_entropy,
    estimator_study,
    log_margin_order,
    log_ratio_reward,
    objective_maps,
    objective_zoo,
    optimal_rejected,
)
from experiments.__main__ import EXPERIMENTS, find
from experiments.shared import limits, results, summary
from experiments.shared.configs import override
from experiments.shared.limits import Limit
from experiments.shared.names import readable
from experiments.shared.running import load
from tests.clipping import clipped
from tests.experiment_cases import ROOT, TABULAR, invoke, settings


@pytest.mark.parametrize("name", TABULAR)
def test_an_experiment_of_the_smallest_space_writes_data_and_pictures(name: str, tmp_path: Path) -> None:
    least = max(2, load(name).Config.least)
    small = settings(name, vocab_size=least, max_length=1, eos=True, seeds=1, steps=1)
    with patch.object(results, "save", wraps=results.save) as saved:
        result = invoke(name, *small, "--out", str(tmp_path), "--quiet")
    assert result.exit_code == 0, result.output
    (_, figures, tables, *_), _ = saved.call_args
    pictures = {f"{one}.{suffix}" for one in figures for suffix in ("png", "pdf")}
    written = {path.name for path in tmp_path.iterdir()}
    beside = {f"{name}.nc", f"{name}.done", "findings.json", "README.md"}
    assert written == {*pictures, *(f"{one}.json" for one in tables), *beside}
    assert set(figures) == {name, *({"objective_maps_all"} if name == "objective_maps" else ())}
    assert set(tables) == ({name} if name == "objective_zoo" else set())
    for one in pictures:
        begin = b"%PDF" if one.endswith(".pdf") else b"\x89PNG"
        assert (tmp_path / one).read_bytes().startswith(begin)
    for figure in figures.values():
        assert clipped(figure) == []
    with xr.open_dataset(tmp_path / f"{name}.nc") as dataset:
        assert shlex.split(dataset.attrs["command"]) == ["python", "-m", "experiments", name, *small]
        assert json.loads(dataset.attrs["config"])["max_length"] == 1
        assert dataset.attrs["seed"] == 0
        assert "jax" in json.loads(dataset.attrs["versions"])
        for variable in dataset.data_vars.values():
            assert {"long_name", "units"} <= set(variable.attrs)


def test_every_file_of_the_package_is_an_experiment() -> None:
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__"}
    assert list(EXPERIMENTS) == sorted(files)
    shown = " ".join(invoke("--help").output.replace("│", " ").split())
    assert f"all, or some of {', '.join(EXPERIMENTS)}." in shown


def test_a_new_file_is_a_new_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_new_figure.py").write_text("Config = run = plot = None")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    try:
        assert list(find()) == ["a_new_figure", *EXPERIMENTS]
    finally:
        sys.modules.pop("experiments.a_new_figure", None)
        vars(experiments).pop("a_new_figure", None)


def test_objectives_get_the_beta_of_the_data() -> None:
    expected: dict[str, dict[str, float]] = {
        "dpo": {"beta": 0.5},
        "cpo": {"beta": 0.5},
        "rdpo": {"beta": 0.5},  # it has a bonus for lengths, and divides by none
        "ipo": {"tau": 0.5},
        "simpo": {"beta": 2.0},
        "length_normalised_dpo": {"beta": 2.0},
        "orpo": {},
        "sft": {},
    }
    assert {name: limits.strength(name, 0.5, 4) for name in expected} == expected


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data() -> None:
    def data(seed: int) -> xr.Dataset:
        few = ("optimal", "uniform")
        config = optimal_rejected.Config(
            vocab_size=2, max_length=3, steps=20, seeds=3, seed=seed, rejected=few
        )
        return optimal_rejected.run(config)

    xr.testing.assert_identical(data(0), data(0))
    assert not np.array_equal(data(0)["js_to_target"], data(1)["js_to_target"])


@pytest.mark.slow
def test_optimal_rejected_ends_at_the_target_and_all_others_at_their_limits() -> None:
    config = optimal_rejected.Config(seeds=2, max_length=3)
    dataset = optimal_rejected.run(config)
    ends = dataset["js_to_target"].isel(step=-1)
    assert float(ends.sel(rejected="optimal").max()) < 1e-6
    # The limit of worst_of_n is nearly deterministic, and its last sequences are slow to leave.
    assert float(dataset["js_to_limit"].max()) < 2e-3
    easy = [name for name in config.rejected if name != "worst_of_n"]
    assert float(dataset["js_to_limit"].sel(rejected=easy).max()) < 1e-5
    others = [name for name in config.rejected if name != "optimal"]
    assert float(ends.sel(rejected=others).min()) > 0.05


@pytest.mark.slow
def test_only_the_log_ratio_reward_ends_at_the_target() -> None:
    dataset = log_ratio_reward.run(log_ratio_reward.Config(seeds=2, max_length=3))
    ends = dataset["js_to_target"].isel(step=-1)
    assert float(ends.sel(objective="dpo").max()) < 1e-6
    others = [name for name in dataset["objective"].values if name != "dpo"]
    assert float(ends.sel(objective=others).min()) > 1e-3
    known = ["dpo", "ipo", "exponential", "reference_free"]
    assert float(dataset["js_to_limit"].sel(objective=known).max()) < 1e-5


def test_a_subset_of_distributions_with_an_autoregressive_policy() -> None:
    config = override(
        optimal_rejected.Config,
        ['rejected=["optimal", "uniform"]', "policy=autoregressive", "steps=20", "seeds=2", "max_length=2"],
    )
    assert optimal_rejected.run(config)["rejected"].values.tolist() == ["optimal", "uniform"]


def test_limits_are_shown_where_there_is_a_minimiser() -> None:
    def limits(name: str, gamma: float) -> xr.DataArray:
        config = log_ratio_reward.Config(objectives=(name,), gamma=gamma, steps=10, seeds=2, max_length=2)
        return log_ratio_reward.run(config)["js_limit"]

    assert limits("simpo", 0).notnull().all()
    assert limits("simpo", 0.5).notnull().all()
    assert limits("kto", 0.5).isnull().all()


def test_estimates_of_the_entropy_are_summed_up_and_told() -> None:
    config = estimator_study.Config(
        vocab_size=2, max_length=3, seeds=3, repeats=40, samples=(32, 512), peaks=(0.2, 2.0)
    )
    dataset = estimator_study.run(config)
    assert dataset["length"].values.tolist() == [1, 2, 3]
    # Flat policies and many samples: no bias, and intervals that cover.
    flat = dataset.sel(peak=0.2, samples=512)
    np.testing.assert_allclose(flat["bias"], 0, atol=0.03)
    assert float(flat["coverage"].mean()) > 0.9
    assert float(flat["taken"].min()) == 1
    covers = (dataset["low"] <= 0) & (dataset["high"] >= 0)
    least = dataset["effective"].values >= 10
    few, peaked = covers.sel(samples=32), covers.sel(samples=32, peak=2.0).values
    passing = least[1, :, 0]
    numbers = [
        few.sel(peak=0.2, length=1).mean(),
        few.sel(peak=2.0, length=3).mean(),
        passing.mean(),
        peaked[passing].mean(),
        *(covers.sel(samples=512).mean(("seed", "repeat")).quantile(end) for end in (0, 1)),
    ]
    told = estimator_study.finding(dataset)
    bias = float(dataset["error"].sel(samples=32, peak=2.0, length=3).mean())
    assert f"the mean error is {bias:+.2f} nats".replace("-", "−") in told
    shares = [float(number) for number in re.findall(r"(\d+)%", told.replace("95% intervals", ""))]
    np.testing.assert_allclose(shares, [100 * float(number) for number in numbers], atol=0.5000001)


def test_known_order_under_noise_by_simulation() -> None:
    """The expected share and spread against 200 draws of fresh noise for one reference and target."""
    size, noise, beta = 24, 0.6, 0.5
    draw = np.random.default_rng(0)
    reference, target = log_softmax(draw.normal(size=(2, size)), axis=-1)
    u = target - reference
    i, j = np.triu_indices(size, k=1)
    steps = beta * (u[i] - u[j]) - noise * (z := draw.normal(size=(200, size)))[:, i] + noise * z[:, j]
    share = np.mean(steps * (u[i] - u[j]) > 0)
    low, high = np.quantile(steps / (u[i] - u[j]), [0.25, 0.75])
    config = log_margin_order.Config(vocab_size=2, max_length=2)
    measured = log_margin_order._order_under_noise(
        config,
        reference[None],
        target[None],
        jax.random.split(jax.random.key(0), 1),
        jnp.array([0.0, noise]),
    )
    assert float(measured[0][0, 0]) == 1.0
    assert float(measured[1][0, 0]) == pytest.approx(0, abs=1e-9)
    assert float(measured[2][1, 0]) == pytest.approx(share, abs=0.01)
    assert float(measured[3][1, 0]) == pytest.approx(high - low, rel=0.03)


def test_shares_count_signs_and_carry_wilson_intervals() -> None:
    n = 50
    measured = xr.Dataset(
        {
            "did_entropy": (("family", "instance"), [np.arange(n, dtype=float)]),
            "entropy_change": (("family", "instance"), [np.where(np.arange(n) < 30, -1.0, 1.0)]),
            "displacement": (("family", "instance"), [-np.arange(n, dtype=float)]),
            "entropy_slope": (("family", "instance"), [np.full(n, -1.0)]),
        },
        coords={"family": ["one"]},
    )
    shares = did_entropy._shares(measured)
    values = shares["share"].sel(family="one")
    # Entropy changes sign at 30 and not at the median, 24.5: five instances are wrong.
    assert float(values.sel(statement="entropy")) == pytest.approx(45 / 50)
    assert float(values.sel(statement="displacement")) == pytest.approx(1)
    assert float(values.sel(statement="criterion")) == pytest.approx(30 / 50)
    p, z = 45 / 50, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert float(shares["share_low"].sel(family="one", statement="entropy")) == pytest.approx(centre - half)
    assert float(shares["share_high"].sel(family="one", statement="entropy")) == pytest.approx(centre + half)


@pytest.fixture(scope="module")
def zoo() -> xr.Dataset:
    names = ("dpo", "ipo", "slic", "kto", "sft", "dpo_pg")
    return objective_zoo.run(objective_zoo.Config(max_length=3, seeds=5, objectives=names, steps=3000))


@pytest.fixture(scope="module")
def maps() -> xr.Dataset:
    names = ("dpo", "ipo", "slic", "exponential", "kto", "sft")
    return objective_maps.run(objective_maps.Config(max_length=3, seeds=5, objectives=names))


def test_dpo_alone_has_the_target_for_its_minimiser(zoo: xr.Dataset) -> None:
    dpo, others = zoo.sel(objective="dpo"), zoo.drop_sel(objective="dpo")
    assert float(dpo["js"].max()) < 1e-12
    assert float(others["js"].min()) > 1e-3
    for measure in ("entropy", "displacement", "margin"):
        np.testing.assert_allclose(dpo[measure], zoo[f"target_{measure}"], atol=1e-10)
    assert (dpo["unique"] == 1).all()
    assert zoo["converged"].all()


def test_measures_of_the_zoo_by_their_definitions(zoo: xr.Dataset) -> None:
    """IPO's closed form and all measures again, for one instance, in plain numpy."""
    space = didsim.SequenceSpace(3, 3, eos=True)
    keys = jax.random.split(jax.random.key(0), (2, 5))
    w, target = (np.exp(np.asarray(one[3])) for one in didsim.normal_logits(keys, space.size))
    loser = w * (w / target) ** 0.5
    loser /= loser.sum()
    u = (w - loser) / (w + loser)
    b = 1 / (1 + np.sum((w - loser) ** 2 / (w + loser)) / 2)
    policy = w * np.exp(b * u)
    policy /= policy.sum()
    middle = (policy + target) / 2
    one = zoo.sel(objective="ipo", seed=3)
    half = [np.sum(p * np.log(p / middle)) / 2 for p in (policy, target)]
    assert float(one["js"]) == pytest.approx(sum(half))
    assert float(one["entropy"]) == pytest.approx(-np.sum(policy * np.log(policy)))
    assert float(one["displacement"]) == pytest.approx(np.sum(w * np.log(policy / w)))
    assert float(one["margin"]) == pytest.approx(np.sum((w - loser) * np.log(policy)))
    kept = zoo.sel(objective="sft", seed=3)
    assert float(kept["displacement"]) == pytest.approx(0, abs=1e-12)
    assert float(kept["entropy"]) == pytest.approx(-np.sum(w * np.log(w)))


def test_a_minimiser_without_full_support_has_infinite_displacement(zoo: xr.Dataset) -> None:
    kto = zoo.sel(objective="kto")
    assert (kto["displacement"] == -np.inf).all()
    assert (kto["margin"] == np.inf).all()
    assert (kto["full_support"] == 0).all()


def test_what_runs_off_has_no_full_support_however_far_the_solver_went() -> None:
    """Robust DPO on preferences surer than its noise: the solver may stop before probabilities vanish."""
    space = didsim.SequenceSpace(3, 3, eos=True)
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, 20)), space.size)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
    limit = limits.find_limit(
        didsim.robust(0.5), reference, problem, space, starts=2, steps=1, learning_rate=1.0
    )
    lost = ~limit.converged
    assert (limit.log_probs[lost].min(axis=-1) > -300).any()
    assert limit.runs_off.tolist() == lost.tolist()
    assert (objective_zoo._facts(limit)["full_support"] == limit.converged).all()


def test_dpo_pg_stays_where_the_chosen_likelihood_is_largest(zoo: xr.Dataset) -> None:
    """Chosen responses are the reference's, so that no policy makes them likelier than it does."""
    one, kept = zoo.sel(objective="dpo_pg"), zoo.sel(objective="sft")
    assert -5e-3 < float(one["displacement"].min()) < float(one["displacement"].max()) < 0
    np.testing.assert_allclose(one["js"], kept["js"], rtol=0.1)
    assert one["unique"].isnull().all()


def test_what_runs_off_is_infinite_and_what_ends_nowhere_is_missing() -> None:
    reference = didsim.normal_logits(jax.random.split(jax.random.key(0), 2), 4)
    problem = didsim.Contrastive(reference, didsim.normal_logits(jax.random.split(jax.random.key(1), 2), 4))
    gone = jnp.array([0.0, -1e3, -2e3, -3e3])
    never, unknown = np.zeros(2, bool), np.full(2, np.nan)
    limit = Limit(jnp.stack([gone, gone]), "", never, np.array([True, False]), unknown, unknown)
    measured = objective_zoo._measure(limit, reference, reference, problem)
    assert measured["displacement"][0] == -np.inf
    assert np.isinf(measured["margin"][0])
    assert measured["entropy"][0] == pytest.approx(0, abs=1e-12)
    assert all(np.isnan(values[1]) for values in measured.values())
    assert objective_zoo._facts(limit)["full_support"].tolist() == [0, pytest.approx(np.nan, nan_ok=True)]


def test_the_maps_are_a_line_a_bounded_curve_a_staircase_and_a_cliff(maps: xr.Dataset) -> None:
    data = maps["data_log_ratio"].values
    n = data.shape[-1]
    np.testing.assert_allclose(np.diff(np.sort(data, axis=-1)), 8 / (n - 1), rtol=1e-9)
    learned = {
        name: maps["learned_log_ratio"].sel(objective=name).values for name in maps["objective"].values
    }
    np.testing.assert_allclose(learned["dpo"], data / 0.5, atol=1e-9)
    np.testing.assert_allclose(learned["exponential"], data / (2 * 0.5), atol=1e-9)
    # SFT ends at the chosen distribution, `reference · exp(u/2)`.
    np.testing.assert_allclose(learned["sft"], data / 2, atol=1e-9)
    for x, bounded, stairs, cliff in zip(data, learned["ipo"], learned["slic"], learned["kto"], strict=True):
        u = np.tanh(x / 2)
        slope, _ = np.polyfit(u, bounded, 1)
        np.testing.assert_allclose(bounded - bounded[0], slope * (u - u[0]), atol=1e-9)
        assert 0 < slope < 1
        steps = (stairs - stairs[0]) * 0.5
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert 3 <= len(set(np.round(steps))) < n / 2
        assert (np.isneginf(cliff) == (x < 0)).all()


def test_maps_are_drawn_with_and_without_room_for_the_legend(maps: xr.Dataset) -> None:
    (full,) = objective_maps.more_plots(maps.isel(objective=slice(5))).values()
    assert full.legends
    (figure,) = objective_maps.more_plots(maps).values()
    drawn = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title("left") for ax in drawn] == [readable(name) for name in maps["objective"].values]
    assert len(figure.axes) == 10
    assert not figure.legends


def test_the_first_maps_are_those_that_stand_for_a_kind(maps: xr.Dataset) -> None:
    other = maps.assign_coords(objective=["nca", "sppo", *maps["objective"].values[2:]])
    titles = [ax.get_title("left") for ax in objective_maps.plot(other).axes if ax.axison]
    assert titles == ["exponential loss", "SLiC (hinge)", "KTO", "SFT"]
    assert len(objective_maps.FRONT) == 9
    assert set(objective_maps.FRONT) <= set(objective_maps.Config().objectives)
    none = maps.isel(objective=[0]).assign_coords(objective=["nca"])
    assert [ax.get_title("left") for ax in objective_maps.plot(none).axes if ax.axison] == ["NCA"]


def test_every_objective_has_a_readable_name() -> None:
    names = [*didsim.OBJECTIVES, limits.SUM]
    assert len({readable(name) for name in names}) == len(names)
    assert not any("_" in readable(name) for name in names)
    assert readable("mine_own") == "mine_own"


def test_the_table_of_the_zoo_is_of_its_objectives() -> None:
    rows = json.loads((ROOT / "figures" / "objective_zoo.json").read_text())
    assert rows[0]["objective"] == "dpo"
    # One that was added since the last `make figures` is not in it.
    assert {row["objective"] for row in rows} <= set(objective_zoo.Config().objectives)
    assert len(summary.table(rows).splitlines()) == 2 + len(rows)


def test_the_table_of_the_zoo_is_of_medians_and_shares(zoo: xr.Dataset) -> None:
    rows = {row["objective"]: row for row in json.loads(json.dumps(summary.summarise(zoo), allow_nan=False))}
    assert next(iter(rows)) == "dpo"
    assert rows["ipo"]["js"] == pytest.approx(float(zoo["js"].sel(objective="ipo").median()), rel=1e-3)
    assert (rows["kto"]["displacement"], rows["kto"]["margin"], rows["kto"]["full_support"]) == (
        "-inf",
        "inf",
        0,
    )
    assert rows["dpo_pg"]["unique"] is None
    lines = {line.split("`")[1]: line for line in summary.table(list(rows.values())).splitlines()[2:]}
    assert lines["dpo"].startswith("| `dpo` | 0 | 0–0 |")
    assert "| −∞ | ∞ | Newton on logits | 100% | 0% |" in lines["kto"]
    assert lines["dpo_pg"].endswith("| gradient descent | 100% | 100% | – | – |")
