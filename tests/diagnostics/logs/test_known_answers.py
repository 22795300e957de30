"""Logs whose right diagnosis is known, with twins of other numbers, in every format."""

import math
from pathlib import Path

import pytest

from didsim import diagnose
from didsim.diagnostics import Diagnosis, Finding, Grade
from tests.diagnostics.log_cases import TEXT, Row, names_of, simulated, written


def first(diagnosis: Diagnosis, name: str) -> Finding:
    """The finding that is the verdict."""
    assert names_of(diagnosis)[0] == name
    assert diagnosis.verdict == diagnosis.findings[0].sentence
    return diagnosis.findings[0]


def rewards(chosen: float, rejected: float, **more: float) -> Row:
    return {"chosen_reward": chosen, "rejected_reward": rejected, "margin": chosen - rejected, **more}


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(("chosen", "rejected"), [(9.77, 5.69), (-3.1, -2.9), (0.4, -14.0)])
def test_the_reference_is_not_the_initial_policy(
    chosen: float, rejected: float, form: str, tmp_path: Path
) -> None:
    rows = [rewards(chosen + 0.1 * k, rejected, step=k, loss=0.6) for k in range(1, 5)]
    found = first(diagnose(written(tmp_path, rows, form)), "reference_is_not_initial_policy")
    assert found.grade is Grade.WRONG
    assert found.step == 1
    assert found.numbers["chosen reward"].value == pytest.approx(chosen + 0.1)


def test_first_rewards_of_a_single_row(tmp_path: Path) -> None:
    diagnosis = diagnose(written(tmp_path, [rewards(9.77, 5.69, step=1)]))
    assert (
        "+9.77 (chosen) and +5.69 (rejected)" in first(diagnosis, "reference_is_not_initial_policy").sentence
    )


@pytest.mark.parametrize("first_step", [0, 1, 10])
@pytest.mark.parametrize("side", ["", "eval_"])
def test_rewards_near_zero_at_the_start_are_right(first_step: int, side: str, tmp_path: Path) -> None:
    rows = [rewards(0.02 - 0.1 * k, -0.4 * k, step=first_step + 10 * k) for k in range(30)]
    rows = [{name if name == "step" else side + name: value for name, value in row.items()} for row in rows]
    assert diagnose(written(tmp_path, rows)).grade is Grade.FINE


def test_rewards_far_from_zero_late_in_training_say_nothing_of_the_reference(tmp_path: Path) -> None:
    rows = [rewards(-1.5, -6.0 - k, step=500 * k, loss=0.2) for k in range(1, 6)]
    assert "reference_is_not_initial_policy" not in names_of(diagnose(written(tmp_path, rows)))


def test_small_first_rewards_are_dropout_or_rounding(tmp_path: Path) -> None:
    rows = [rewards(0.3, -0.2, step=1), rewards(0.1, -0.9, step=40)]
    found = first(diagnose(written(tmp_path, rows)), "first_rewards_are_not_zero")
    assert found.grade is Grade.LOOK
    assert "dropout" in found.reason.lower()


ZERO = rewards(0.0, 0.0, loss=0.6931)


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize("every", [1, 10])
def test_nothing_reaches_the_loss(every: int, form: str, tmp_path: Path) -> None:
    rows = [ZERO | {"step": step, "grad_norm": 7.5} for step in range(every, 501, every)]
    found = first(diagnose(written(tmp_path, rows, form)), "nothing_reaches_the_loss")
    assert found.grade is Grade.WRONG
    assert "beta is 0 or the reference log-probabilities come from the policy itself" in found.sentence
    assert "0.6931 up to step 500" in found.sentence
    assert "gradient norm is above 0" in found.reason


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({"grad_norm": 0.0}, "beta is 0, or nothing that is trained reaches the loss"),
        ({"grad_norm": 2.0, "learning_rate": 0.0}, "the policy never moves"),
        ({"chosen_logps": 0.0, "rejected_logps": 0.0}, "every token of the responses is masked"),
        ({"chosen_logps": -80.5, "ref_chosen_logps": -80.5}, "the reference is the policy itself"),
        ({"chosen_logps": -80.5, "ref_chosen_logps": -71.0}, "reference log-probabilities are ignored"),
        ({"beta": 0.0}, "beta is 0"),
        ({}, "or every token is masked"),
    ],
)
def test_which_of_the_causes_it_is_the_other_columns_tell(columns: Row, cause: str, tmp_path: Path) -> None:
    rows = [ZERO | columns | {"step": step} for step in range(1, 8)]
    assert cause in first(diagnose(written(tmp_path, rows)), "nothing_reaches_the_loss").sentence


def test_the_first_step_alone_has_rewards_of_zero_in_every_run(tmp_path: Path) -> None:
    rows = [ZERO | {"step": 1}]
    assert names_of(diagnose(written(tmp_path, rows))) == []
    rows.append(rewards(-0.1, -0.3, step=10, loss=0.61))
    assert "nothing_reaches_the_loss" not in names_of(diagnose(written(tmp_path, rows)))


def test_a_loss_that_stays_at_log_2_with_rewards_that_are_not_zero(tmp_path: Path) -> None:
    rows = [rewards(0.001 * (k % 3), -0.002, step=10 * k, loss=0.6930) for k in range(1, 40)]
    assert first(diagnose(written(tmp_path, rows)), "nothing_learned").grade is Grade.LOOK
    # The same in the first steps of a run is no news.
    assert "nothing_learned" not in names_of(
        diagnose(written(tmp_path, [row | {"step": 1.0} for row in rows]))
    )


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(
    ("losses", "at"),
    [((0.6931, 27.3, 16.9, 631.0), 2), ((0.6931, 0.61, 0.55, 4.1, 9.9, 7.7), 4), ((0.6, 88.0), 2)],
)
def test_divergence_and_its_step(losses: tuple[float, ...], at: int, form: str, tmp_path: Path) -> None:
    rows = [
        {"step": 10 * k, "loss": loss, "margin": -0.1 * loss, "learning_rate": 5e-4}
        for k, loss in enumerate(losses, 1)
    ]
    found = first(diagnose(written(tmp_path, rows, form)), "divergence")
    assert found.step == 10 * at
    assert f"step {10 * at}:" in found.sentence
    assert "0.0005" in found.advice


def test_a_spike_that_comes_back_is_no_divergence(tmp_path: Path) -> None:
    rows = simulated()
    rows[30]["loss"], rows[31]["loss"] = 5.0, 4.0
    found = first(diagnose(written(tmp_path, rows)), "loss_spike")
    assert found.grade is Grade.LOOK
    assert found.step == rows[30]["step"]
    # One row alone may be a batch of a pair or two.
    for place in (30, -1):
        rows = simulated()
        rows[place]["loss"] = 5.0
        assert not {"loss_spike", "divergence"} & set(names_of(diagnose(written(tmp_path, rows))))


def test_a_loss_that_starts_high_is_no_divergence(tmp_path: Path) -> None:
    """IPO's loss starts at 1/(4 beta²), 25 with beta 0.1."""
    rows = [rewards(0.0, -0.02 * k, step=10 * k, loss=25.0 - 0.3 * k) for k in range(40)]
    path, healthy = written(tmp_path, rows), ["displacement", "margin_is_positive"]
    assert names_of(diagnose(path, loss_type="ipo")) == healthy
    # Where nobody says that it is IPO, the start tells.
    diagnosis = diagnose(path)
    assert names_of(diagnosis) == ["loss_is_another_one", *healthy]
    assert "IPO begins at 1/(2 beta)², which fits beta 0.1." in diagnosis.findings[0].reason


@pytest.mark.parametrize("form", ["trainer_state.json", "JSON lines", "console", "console, quoted", "CSV"])
@pytest.mark.parametrize("what", [math.nan, math.inf])
@pytest.mark.parametrize("column", ["loss", "chosen_reward", "eval_loss"])
def test_nan_is_told_with_its_step(column: str, what: float, form: str, tmp_path: Path) -> None:
    rows = simulated(25)
    bad = [row for row in rows if column in row][-1]
    bad[column] = what
    found = first(diagnose(written(tmp_path, rows, form)), "not_finite")
    assert found.grade is Grade.WRONG
    assert found.step == bad["step"]


def test_an_overflowing_gradient_is_skipped_by_half_precision(tmp_path: Path) -> None:
    rows = simulated()
    rows[3]["grad_norm"] = math.inf
    assert first(diagnose(written(tmp_path, rows)), "not_finite").grade is Grade.LOOK


HEALTHY = [
    {
        "step": 100,
        "eval_loss": 0.36,
        **{f"eval_{name}": value for name, value in rewards(-1.64, -7.24).items()},
    },
    {
        "step": 200,
        "eval_loss": 0.33,
        **{f"eval_{name}": value for name, value in rewards(-1.52, -8.84).items()},
    },
]
HEALTHY = [row | {"eval_accuracy": right} for row, right in zip(HEALTHY, (0.86, 0.87), strict=True)]


@pytest.mark.parametrize("form", TEXT)
def test_a_healthy_run_and_its_displacement_in_nats(form: str, tmp_path: Path) -> None:
    diagnosis = diagnose(written(tmp_path, HEALTHY, form), beta=0.1)
    assert diagnosis.grade is Grade.FINE
    assert diagnosis.verdict == (
        "Healthy: on held-out pairs the chosen responses went from 16.4 to 15.2 nats below the reference, "
        "and the rejected ones went from 72.4 to 88.4 nats below the reference."
    )
    numbers = diagnosis.findings[0].numbers
    assert numbers["chosen displacement, held-out pairs"].value == pytest.approx(-15.2)
    assert numbers["chosen displacement, held-out pairs"].no_interval
    # At half the beta the same rewards are twice as many nats.
    numbers = diagnose(written(tmp_path, HEALTHY, form), beta=0.05).findings[0].numbers
    assert numbers["rejected displacement, held-out pairs"].value == pytest.approx(-176.8)


def test_without_beta_rewards_are_not_in_nats_and_the_report_asks_for_it(tmp_path: Path) -> None:
    diagnosis = diagnose(written(tmp_path, HEALTHY))
    assert "nats" not in diagnosis.verdict
    assert any("--beta" in unknown.which_file for unknown in diagnosis.unknowns)


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(
    ("margin", "held_out", "loss"), [(0.30, -0.079, 0.811), (2.5, -0.4, 1.9), (1.0, 0.2, 0.75)]
)
def test_no_generalisation(margin: float, held_out: float, loss: float, form: str, tmp_path: Path) -> None:
    rows = [
        {"step": 90, "margin": margin, "loss": 0.6},
        {"step": 100, "eval_margin": held_out, "eval_loss": loss, "eval_accuracy": 0.45},
    ]
    found = first(diagnose(written(tmp_path, rows, form)), "no_generalisation")
    assert found.grade is Grade.WRONG
    assert found.numbers["held-out loss"].value == loss
    assert found.numbers["held-out accuracy"].value == 0.45


def test_a_model_that_overfitted_is_sent_back_to_its_best_evaluation(tmp_path: Path) -> None:
    rows = [{"step": 10 * k, "margin": 0.3 * k, "loss": 0.6 - 0.05 * k} for k in range(1, 11)]
    rows += [{"step": 20, "eval_loss": 0.6}, {"step": 50, "eval_loss": 0.55}, {"step": 100, "eval_loss": 0.9}]
    found = first(diagnose(written(tmp_path, sorted(rows, key=lambda row: row["step"]))), "no_generalisation")
    assert found.step == 50
    assert "step 50: stop there" in found.advice
    rows[-1]["eval_loss"] = 0.6
    found = first(
        diagnose(written(tmp_path, sorted(rows, key=lambda row: row["step"]))), "held_out_loss_turned"
    )
    assert (found.grade, found.step) == (Grade.LOOK, 50)


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(
    ("loss", "chosen", "rejected"), [(0.0, -8.1, -16.4), (0.004, -5.0, -31.0), (0.03, -3.5, -9.0)]
)
def test_both_collapse_together(
    loss: float, chosen: float, rejected: float, form: str, tmp_path: Path
) -> None:
    rows = [rewards(chosen, rejected, step=900, loss=loss)]
    found = first(diagnose(written(tmp_path, rows, form), beta=0.1), "saturated_collapse")
    assert found.grade is Grade.WRONG
    assert found.numbers["chosen displacement, training pairs"].value == pytest.approx(10 * chosen)


@pytest.mark.parametrize(
    ("loss", "chosen", "rejected"), [(0.01, -0.5, -7.0), (0.004, 2.0, -9.0), (0.3, -4.0, -9.0)]
)
def test_a_small_loss_or_a_deep_fall_alone_is_no_collapse(
    loss: float, chosen: float, rejected: float, tmp_path: Path
) -> None:
    rows = [rewards(chosen, rejected, step=900, loss=loss)]
    assert "saturated_collapse" not in names_of(diagnose(written(tmp_path, rows)))


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(("nll", "weight"), [(0.875, 0.25), (2.0, 0.109), (None, None)])
def test_the_loss_holds_another_term(
    nll: float | None, weight: float | None, form: str, tmp_path: Path
) -> None:
    row = rewards(4.8, -5.3, step=900, loss=0.219, accuracy=1.0) | ({} if nll is None else {"nll": nll})
    found = first(diagnose(written(tmp_path, [row], form)), "loss_holds_another_term")
    part = found.numbers["sigmoid part if all pairs were alike"].value
    assert part == pytest.approx(math.log1p(math.exp(-10.1)))
    assert "near 4e-05" in found.sentence
    if weight is not None:
        excess = found.numbers["excess over the sigmoid part, per nat of nll"].value
        assert excess == pytest.approx(weight, abs=1e-3)


def test_a_likelihood_term_explains_a_loss_above_log_2(tmp_path: Path) -> None:
    rows = simulated(held_out=False)
    rows = [row | {"loss": row["loss"] + 1.3, "nll": 1.3} for row in rows]
    assert "loss_holds_another_term" in names_of(diagnose(written(tmp_path, rows)))
    assert "confidently_wrong_pairs" not in names_of(diagnose(written(tmp_path, rows)))


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize(("margin", "loss"), [(1.3, 0.0224), (0.0, 0.5), (4.0, 0.001), (-2.0, 1.9)])
def test_below_jensens_bound_it_is_not_plain_sigmoid_dpo(
    margin: float, loss: float, form: str, tmp_path: Path
) -> None:
    path = written(tmp_path, [{"step": 500, "margin": margin, "loss": loss}], form)
    diagnosis = diagnose(path)
    found = next(finding for finding in diagnosis.findings if finding.name == "below_jensen_bound")
    assert found.grade is Grade.LOOK
    assert found.numbers["least loss at that margin"].value == pytest.approx(math.log1p(math.exp(-margin)))
    # Whoever says that it is sigmoid DPO is contradicted; of another loss nothing is asked.
    grades = {one.name: one.grade for one in diagnose(path, loss_type="sigmoid").findings}
    assert grades["below_jensen_bound"] is Grade.WRONG
    assert "below_jensen_bound" not in names_of(diagnose(path, loss_type="ipo"))
