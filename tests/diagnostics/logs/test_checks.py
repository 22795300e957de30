"""Checks of logs: what healthy runs must not trigger, and what other runs must."""

import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from didsim import diagnose
from didsim.diagnostics import Grade
from didsim.diagnostics.logs.evidence import half_units, mean_number
from tests.diagnostics.log_cases import TEXT, Row, names_of, simulated, written


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize("seed", range(3))
def test_healthy_runs_trigger_nothing(seed: int, form: str, tmp_path: Path) -> None:
    diagnosis = diagnose(written(tmp_path, simulated(seed=seed), form), beta=0.1)
    assert diagnosis.grade is Grade.FINE
    assert names_of(diagnosis) == ["displacement", "margin_is_positive"]


@pytest.mark.parametrize(
    ("chosen", "rejected"), [(-0.4, -1.2), (0.5, -2.0), (-0.05, -0.3), (-2.0, -7.0), (1.5, 0.2)]
)
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0])
def test_jensens_bound_holds_on_runs_of_plain_sigmoid_dpo(
    chosen: float, rejected: float, spread: float, tmp_path: Path
) -> None:
    """With no spread the loss is the bound itself, but for the fourth decimal."""
    rows = simulated(chosen=chosen, rejected=rejected, spread=spread)
    assert "below_jensen_bound" not in names_of(diagnose(written(tmp_path, rows), loss_type="sigmoid"))


@pytest.mark.parametrize("factor", [0.5, 0.9])
def test_a_loss_that_is_a_part_of_dpos_is_below_the_bound(factor: float, tmp_path: Path) -> None:
    rows = [row | {"loss": factor * row["loss"]} for row in simulated(spread=0.1, held_out=False)]
    found = next(
        one for one in diagnose(written(tmp_path, rows)).findings if one.name == "below_jensen_bound"
    )
    margin = np.array([row["margin"] for row in rows])
    below = np.array([row["loss"] for row in rows]) < 0.99 * np.log1p(np.exp(-margin))
    assert found.numbers["share of rows below the bound"].value == pytest.approx(below.mean())


def test_losses_in_bfloat16_are_not_below_the_bound(tmp_path: Path) -> None:
    """log 2 is 0.69140625 in bfloat16."""
    rows = [{"step": k, "loss": 0.69140625, "margin": 0.0} for k in range(4)]
    assert "below_jensen_bound" not in names_of(diagnose(written(tmp_path, rows)))


def test_chosen_and_rejected_that_fall_together_are_displaced(tmp_path: Path) -> None:
    diagnosis = diagnose(written(tmp_path, simulated(chosen=-2.5, rejected=-3.6, spread=1.5)), beta=0.1)
    found = diagnosis.findings[0]
    assert (found.name, found.grade) == ("chosen_displaced", Grade.LOOK)
    number = found.numbers["chosen displacement, training pairs"]
    shares = np.arange(60)[-10:] / 59
    assert number.value == pytest.approx(-25 * shares.mean(), abs=0.5)
    assert number.low is not None
    assert number.high is not None
    assert number.low < -25 * shares.mean() < number.high


def test_displacement_per_token_where_lengths_are_logged(tmp_path: Path) -> None:
    rows = simulated(chosen_length=50.0, rejected_length=200.0)
    numbers = diagnose(written(tmp_path, rows), beta=0.5).findings[0].numbers
    whole, each = (numbers[f"rejected displacement{which}, training pairs"] for which in ("", " per token"))
    assert each.value == pytest.approx(whole.value / 200)
    assert each.unit == "nats per token"


def test_separable_data_have_no_minimiser(tmp_path: Path) -> None:
    rows = simulated(chosen=1.0, rejected=-9.0, spread=0.5, held_out=False)
    found = diagnose(written(tmp_path, rows)).findings[0]
    assert (found.name, found.grade) == ("separable_data", Grade.LOOK)
    # At rest, or with pairs that are ranked wrongly, nothing is said.
    still = [row | {name: rows[-1][name] for name in ("margin", "loss")} for row in rows]
    wrong = [row | {"accuracy": 0.9} for row in rows]
    for other in (still, wrong):
        assert "separable_data" not in names_of(diagnose(written(tmp_path, other)))


def test_a_heavy_tail_of_wrong_pairs(tmp_path: Path) -> None:
    rows = simulated(chosen=0.2, rejected=-0.2, spread=8.0, held_out=False)
    assert diagnose(written(tmp_path, rows)).findings[0].name == "confidently_wrong_pairs"
    assert "confidently_wrong_pairs" not in names_of(diagnose(written(tmp_path, rows), loss_type="robust"))


def test_training_that_prefers_the_rejected(tmp_path: Path) -> None:
    found = diagnose(written(tmp_path, simulated(chosen=-3.0, rejected=-1.0))).findings[0]
    assert (found.name, found.grade) == ("training_prefers_the_rejected", Grade.WRONG)


@pytest.mark.parametrize("count", [2, 8, 32])
def test_a_loss_of_another_scale(count: int, tmp_path: Path) -> None:
    for factor, words in ((count, f"{count} times log 2"), (1 / count, f"log 2 over {count}")):
        rows = [row | {"loss": round(factor * row["loss"], 4)} for row in simulated(held_out=False)]
        diagnosis = diagnose(written(tmp_path, rows))
        assert names_of(diagnosis)[0] == "loss_of_another_scale"
        assert words in diagnosis.verdict


def test_held_out_pairs_that_are_ranked_right_and_far_too_surely(tmp_path: Path) -> None:
    """As logged by Zephyr's DPO: a loss of 0.75 with an accuracy of 0.78."""
    row: Row = {"step": 900, "eval_loss": 0.7496, "eval_chosen_reward": -4.52, "eval_rejected_reward": -8.32}
    found = diagnose(written(tmp_path, [row | {"eval_accuracy": 0.78}]), beta=0.1).findings[0]
    assert (found.name, found.grade) == ("overconfident_on_held_out_pairs", Grade.LOOK)
    found = diagnose(written(tmp_path, [row | {"eval_accuracy": 0.52}]), beta=0.1).findings[0]
    assert (found.name, found.grade) == ("no_generalisation", Grade.WRONG)


def test_ktos_clamped_divergence(tmp_path: Path) -> None:
    rows = [row | {"kl": 0.0 if k % 4 else 0.3} for k, row in enumerate(simulated(held_out=False))]
    found = next(
        one for one in diagnose(written(tmp_path, rows)).findings if one.name == "kl_clamped_at_zero"
    )
    assert found.numbers["share of rows at 0"].value == pytest.approx(44 / 59, abs=0.02)
    rows = [row | {"kl": 0.1 + 0.01 * k} for k, row in enumerate(rows)]
    assert "kl_clamped_at_zero" not in names_of(diagnose(written(tmp_path, rows)))


def with_logps(rows: list[Row], beta: float, *, references: bool) -> list[Row]:
    """Rows with the log-probabilities that make their rewards, over references of −90 and −140 nats."""
    told = []
    for row in rows:
        more: Row = {}
        for who, reference in (("chosen", -90.0), ("rejected", -140.0)):
            for side in ("", "eval_"):
                if f"{side}{who}_reward" in row:
                    more[f"{side}{who}_logps"] = reference + row[f"{side}{who}_reward"] / beta
                    if references:
                        more[f"{side}ref_{who}_logps"] = reference
        told.append(row | more)
    return told


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("references", [True, False])
def test_beta_is_read_off_a_log_that_has_log_probabilities(
    beta: float, references: bool, tmp_path: Path
) -> None:
    """Without references the evaluations tell, as they are on the same pairs each time."""
    path = written(tmp_path, with_logps(simulated(), beta, references=references))
    diagnosis = diagnose(path)
    assert any(f"beta is {beta:g}" in note for note in diagnosis.inputs[0].notes)
    rejected = diagnosis.findings[0].numbers["rejected displacement, held-out pairs"]
    assert rejected.value == pytest.approx(-3 / beta, rel=0.05)
    assert "rewards_are_not_beta_log_ratios" not in names_of(diagnose(path, beta=beta))
    found = next(
        one for one in diagnose(path, beta=3 * beta).findings if one.name == "rewards_are_not_beta_log_ratios"
    )
    assert found.grade is Grade.WRONG


@pytest.mark.parametrize("loss_type", [None, "simpo"])
def test_rewards_without_a_reference_are_asked_nothing_about_it(
    loss_type: str | None, tmp_path: Path
) -> None:
    """SimPO's rewards are beta times mean log-probabilities, and far from 0 from the first step."""
    random = np.random.default_rng(0)
    rows = []
    for k in range(40):
        chosen, rejected = -0.9 + 0.05 * random.normal(), -1.0 - 0.01 * k + 0.05 * random.normal()
        rows.append(
            {
                "step": 1 + k,
                "loss": 1.1 - 0.01 * k,
                "chosen_logps": chosen,
                "rejected_logps": rejected,
                "chosen_reward": 2.5 * chosen,
                "rejected_reward": 2.5 * rejected,
            }
        )
    found = diagnose(written(tmp_path, rows), loss_type=loss_type)
    assert names_of(found) == ["margin_is_positive", "rewards_without_a_reference"]
    rows = [{name: value for name, value in row.items() if "logps" not in name} for row in rows]
    found = diagnose(written(tmp_path, rows), loss_type=loss_type)
    assert ("reference_is_not_initial_policy" in names_of(found)) == (loss_type is None)


def test_gradients_that_never_recover_are_no_skipped_steps(tmp_path: Path) -> None:
    """A trainer that filters NaN goes on logging a loss of 0."""
    rows = [
        row | ({"loss": 0.0, "grad_norm": math.nan} if k > 20 else {}) for k, row in enumerate(simulated())
    ]
    found = diagnose(written(tmp_path, rows, "console")).findings[0]
    assert (found.name, found.grade, found.step) == ("not_finite", Grade.WRONG, rows[21]["step"])


def test_no_beta_links_rewards_with_log_probabilities_of_another_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = with_logps(simulated(), 0.1, references=True)
    rows = [row | {"chosen_logps": float(random.normal(-90, 30))} for row in rows]
    assert "rewards_are_not_beta_log_ratios" in names_of(diagnose(written(tmp_path, rows)))


@pytest.mark.parametrize("form", TEXT)
def test_of_two_runs_in_one_log_the_last_is_diagnosed(form: str, tmp_path: Path) -> None:
    first = simulated(20, chosen=-8.0, rejected=-1.0, held_out=False)
    diagnosis = diagnose(written(tmp_path, first + simulated(50), form))
    assert names_of(diagnosis) == ["several_runs_in_one_log", "displacement", "margin_is_positive"]
    assert "2 runs" in diagnosis.verdict
    assert "rows 21 to" in diagnosis.inputs[0].notes[-1]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (["0.6931", "0.5", "27.3012"], ["0.00005"] * 3),  # four decimals
        (["0.6931", "27.31", "631.2"], ["0.00005", "0.005", "0.05"]),  # four digits
        (["1.3"], ["0.05"]),
        (["0.12"], ["0.005"]),
        (["0"], ["0.005"]),
    ],
)
def test_rounding_is_read_off_the_numbers(numbers: list[str], expected: list[str]) -> None:
    found = half_units(np.array([float(Decimal(one)) for one in numbers]))
    assert np.all(found >= np.array([float(one) for one in expected]) * (1 - 1e-9))
    assert np.all(found <= np.maximum(np.array([float(one) for one in expected]), 0.05) * (1 + 1e-9))


def test_full_precision_leaves_no_room() -> None:
    assert np.all(half_units(np.random.default_rng(0).normal(size=50)) < 1e-6)


def test_intervals_of_independent_values_are_students() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 20)
    number = mean_number(values, scale=5.0)
    low, high = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (number.low, number.high) == pytest.approx((5 * low, 5 * high))


def test_intervals_of_correlated_values_cover() -> None:
    """An autoregression with coefficient 0.8, where Student's interval of single values covers in 49%."""
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        values = np.zeros(1000)
        for k, shock in enumerate(random.normal(size=999), 1):
            values[k] = 0.8 * values[k - 1] + shock
        number = mean_number(values)
        assert number.low is not None
        assert number.high is not None
        covered += number.low < 0 < number.high
    assert covered / 400 > 0.91


def test_too_few_values_have_no_interval_and_the_reason() -> None:
    for size in (1, 9):
        number = mean_number(np.arange(1.0, 1 + size))
        assert number.low is None
        assert number.no_interval
    assert math.isfinite(mean_number(np.arange(10.0)).low or math.nan)
