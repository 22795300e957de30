"""Tables whose diagnosis is known, and numbers against brute force."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from didsim.diagnostics import pairs as package
from didsim.diagnostics.findings import Finding, Grade
from didsim.diagnostics.pairs.diagnosis import PairsDiagnosis, diagnose_pairs
from didsim.diagnostics.pairs.findings import NAMES
from tests.diagnostics.table_cases import columns_of, write

BETA = 0.1


def _by_name(diagnosis: PairsDiagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def _margins(random: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Margins that are calibrated at beta, if the slope is 1."""
    size_of = np.abs(random.normal(0, 20, size))
    return np.where(random.random(size) < expit(slope * BETA * size_of), size_of, -size_of)


def _table(
    centre: float, slope: float = 1.0, size: int = 2000, spread: float = 2.0, **more: Any
) -> dict[str, Any]:
    random = np.random.default_rng(7)
    margin = _margins(random, size, slope)
    middle = centre + random.normal(0, spread, size)
    return columns_of(middle + margin / 2, middle - margin / 2, **more)


@pytest.fixture
def diagnose(tmp_path: Path) -> Callable[..., PairsDiagnosis]:
    def of(columns: dict[str, Any], beta: float | None = BETA, **options: Any) -> PairsDiagnosis:
        return diagnose_pairs(write(tmp_path, columns), beta=beta, resamples=300, **options)

    return of


def test_a_healthy_run(diagnose: Callable[..., PairsDiagnosis]) -> None:
    """The margin grew as much as the preferences warrant, and the chosen response did not fall."""
    split = ["train", "test"] * 1000
    found = diagnose(_table(0.0, split=split, prompt_id=np.arange(2000)))
    assert {finding.grade for finding in found.findings} == {Grade.FINE}
    names = _by_name(found)
    slope = names["calibration"].numbers["slope"]
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < 1 < slope.high
    assert names["displacement"].numbers["chosen"].value > 0
    assert "compatible with 1" in names["calibration"].sentence


def test_a_displaced_run(diagnose: Callable[..., PairsDiagnosis]) -> None:
    """Both fell by more than the margin gained."""
    found = _by_name(diagnose(_table(-100.0)))["displacement"]
    assert found.grade is Grade.LOOK
    assert "fell" in found.sentence
    assert "KL(π_w‖π_ref) − KL(π_w‖π)" in found.reason
    assert "more than the margin gained" in found.advice
    quadrants = _by_name(diagnose(_table(-100.0)))["quadrants"]
    assert quadrants.numbers["both down"].value == 1
    assert "Most pairs: both down" in quadrants.sentence


def test_a_fall_of_less_than_the_margin_is_fine(diagnose: Callable[..., PairsDiagnosis]) -> None:
    found = _by_name(diagnose(_table(-9.0, slope=3.0)))["displacement"]
    assert found.grade is Grade.FINE
    assert "the first term is zero and a fall is certain" in found.reason


def test_a_rise_proves_that_the_reference_wrote_no_such_responses(
    diagnose: Callable[..., PairsDiagnosis],
) -> None:
    found = _by_name(diagnose(_table(20.0)))["displacement"]
    assert "rose" in found.sentence
    assert "are not the reference's own samples" in found.reason


@pytest.mark.parametrize(
    ("slope", "grade", "words"),
    [(0.3, "look", "overconfident"), (3.0, "look", "undertrained"), (-1.0, "wrong", "worse than chance")],
)
def test_calibration(slope: float, grade: str, words: str, diagnose: Callable[..., PairsDiagnosis]) -> None:
    columns = _table(0.0, slope=slope)
    found = _by_name(diagnose(columns))["calibration"]
    assert found.grade == grade
    assert words in found.sentence
    margin = (
        columns["chosen_logps"]
        - columns["ref_chosen_logps"]
        - columns["rejected_logps"]
        + columns["ref_rejected_logps"]
    )
    exact = minimize_scalar(lambda c: np.logaddexp(0, -c * BETA * margin).sum(), bracket=(-1, 1), tol=1e-10)
    assert found.numbers["slope"].value == pytest.approx(exact.x, rel=1e-5)
    right = found.numbers["beta that would have been right"]
    assert right.value == pytest.approx(BETA * exact.x, rel=1e-5)
    unjudged = _by_name(diagnose(columns, beta=None))["calibration"]
    assert unjudged.numbers["beta that would have been right"] == right
    assert "slope" not in unjudged.numbers


def test_swapped_pairs(diagnose: Callable[..., PairsDiagnosis]) -> None:
    found = _by_name(diagnose(_table(0.0, slope=-2.0)))["no_margin"]
    assert found.grade is Grade.WRONG
    assert "swapped" in found.advice


def test_separable_pairs(diagnose: Callable[..., PairsDiagnosis]) -> None:
    columns = columns_of(np.full(200, 3.0), np.linspace(-30, -1, 200))
    found = _by_name(diagnose(columns))
    assert "calibration" not in found
    assert found["separable"].grade is Grade.LOOK
    assert "no slope is finite" in found["separable"].sentence
    assert found["separable"].numbers["accuracy"].value == 1
    against = _by_name(diagnose(columns_of(np.full(200, -3.0), np.linspace(1, 30, 200))))
    assert against["separable"].grade is Grade.WRONG


def _course(levels: list[float], noise: float = 1.0, held_out: Any = None) -> dict[str, Any]:
    """Checkpoints at which the chosen response is at these levels, of the same 300 prompts."""
    random = np.random.default_rng(3)
    own = random.normal(0, noise, 300)
    margin = _margins(random, 300, 1.0)
    tables = [
        columns_of(level + own + margin / 2, level + own - margin / 2, prompt_id=np.arange(300))
        for level in levels
    ]
    whole: dict[str, Any] = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    whole["step"] = np.repeat(100 * np.arange(len(levels)), 300)
    if held_out is not None:
        whole["split"] = np.tile(np.where(np.arange(300) % 3 == 0, "eval", "train"), len(levels))
    return whole


def test_a_rise_and_a_fall(diagnose: Callable[..., PairsDiagnosis]) -> None:
    found = _by_name(diagnose(_course([0.0, 4.0, 9.0, 5.0, -2.0])))["rise_then_fall"]
    assert found.step == 200
    assert found.numbers["rise"].value == pytest.approx(9)
    assert found.numbers["fall"].value == pytest.approx(11)
    assert found.numbers["step of the peak"].value == 200
    assert "until step 200" in found.sentence


@pytest.mark.parametrize("levels", [[0.0, 1.0, 2.0, 3.0], [0.0, -1.0, -2.0], [0.0, 0.0, 0.0], [0.0]])
def test_no_rise_and_fall(levels: list[float], diagnose: Callable[..., PairsDiagnosis]) -> None:
    assert "rise_then_fall" not in _by_name(diagnose(_course(levels)))


def test_the_held_out_loss_turns_where_it_does(diagnose: Callable[..., PairsDiagnosis]) -> None:
    """Margins grow in proportion to the step: the loss is lowest where they are calibrated."""
    random = np.random.default_rng(0)
    margin = _margins(random, 3000, 1.0)
    tables = [columns_of(size * margin / 2, -size * margin / 2) for size in (0.0, 0.3, 1.0, 3.0, 9.0)]
    whole: dict[str, Any] = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    whole["step"] = np.repeat(10 * np.arange(5), 3000)
    whole["split"] = np.tile(np.where(np.arange(3000) % 2 == 0, "held out", "train"), 5)
    whole["prompt_id"] = np.tile(np.arange(3000), 5)
    diagnosis = diagnose(whole)
    found = _by_name(diagnosis)["best_checkpoint"]
    assert found.step == 20
    assert found.grade is Grade.LOOK
    assert found.advice == "Take step 20."
    judged = margin[::2]
    losses = [np.logaddexp(0, -BETA * size * judged).mean() for size in (0.0, 0.3, 1.0, 3.0, 9.0)]
    np.testing.assert_allclose(diagnosis.measured.judged["loss"][:, 0], losses, rtol=1e-6)
    assert found.numbers["difference"].value == pytest.approx(losses[-1] - losses[2], rel=1e-6)


def test_length(diagnose: Callable[..., PairsDiagnosis]) -> None:
    random = np.random.default_rng(0)
    length = random.integers(20, 300, (2, 500))
    columns = columns_of(
        -0.5 * length[0] + random.normal(0, 1, 500),
        -0.7 * length[1] - 20 + random.normal(0, 1, 500),
        chosen_length=length[0],
        rejected_length=length[1],
    )
    found = _by_name(diagnose(columns))["displacement_against_length"].numbers
    assert found["chosen per token"].value == pytest.approx(-0.5, abs=0.01)
    assert found["chosen for each further token"].value == pytest.approx(-0.5, abs=0.01)
    rejected = columns["rejected_logps"] - columns["ref_rejected_logps"]
    assert found["rejected per token"].value == pytest.approx(rejected.sum() / length[1].sum())
    line = np.polyfit(length[1], rejected, 1)
    assert found["rejected for each further token"].value == pytest.approx(line[0])


def test_mass_to_the_likeliest_tokens_and_all_else(diagnose: Callable[..., PairsDiagnosis]) -> None:
    columns = _course([0.0, -5.0, -9.0])
    gain = np.repeat([0.0, 10.0, 30.0], 300)
    columns["argmax_logps"] = -200 + gain + np.tile(np.random.default_rng(0).normal(0, 2, 300), 3)
    columns["rephrased_logps"] = -300 - gain
    columns["unrelated_logps"] = -300 - 2 * gain
    found = _by_name(diagnose(columns))
    mass = found["mass_to_likeliest_tokens"]
    assert mass.grade is Grade.LOOK
    assert mass.numbers["likeliest"].value == pytest.approx(30)
    assert mass.numbers["widening"].value == pytest.approx(39)
    others = found["other_responses"]
    assert "2 of 2 kinds of other responses fell" in others.sentence
    assert others.numbers["unrelated"].value == pytest.approx(-60)


def test_the_power_law(diagnose: Callable[..., PairsDiagnosis]) -> None:
    random = np.random.default_rng(1)
    margin = _margins(random, 800, 1.0)
    columns = columns_of(margin / 2, -margin / 2)
    step = 0.3 * margin + random.normal(0, 0.5, 800)
    columns["rejected_policy_chosen_logps"] = columns["ref_chosen_logps"] - step
    columns["rejected_policy_rejected_logps"] = columns["ref_rejected_logps"]
    slope = float(np.sum(margin * step) / np.sum(margin**2))
    found = _by_name(diagnose(columns, beta=slope))["power_law"]
    assert found.grade is Grade.FINE
    assert found.numbers["exponent"].value == pytest.approx(slope)
    fitted = np.sum(margin * step) ** 2 / (np.sum(margin**2) * np.sum(step**2))
    assert found.numbers["explained"].value == pytest.approx(fitted)
    assert found.numbers["ordered"].value == pytest.approx(np.mean((margin > 0) & (step > 0)))
    assert _by_name(diagnose(columns, beta=0.1))["power_law"].grade is Grade.LOOK


def test_means_over_tokens_are_asked_about(diagnose: Callable[..., PairsDiagnosis]) -> None:
    random = np.random.default_rng(0)
    length = random.integers(20, 400, 500)
    per_token = random.uniform(1.0, 2.0, (2, 500))
    sums = {
        "chosen_logps": -1.1 * per_token[0] * length,
        "rejected_logps": -1.2 * per_token[1] * length,
        "ref_chosen_logps": -per_token[0] * length,
        "ref_rejected_logps": -per_token[1] * length,
    }
    means = {name: values / length for name, values in sums.items()}
    lengths = {"chosen_length": length, "rejected_length": length}
    assert "means_over_tokens" in _by_name(diagnose({**means, **lengths}))
    assert "means_over_tokens" in _by_name(diagnose(means))
    assert "means_over_tokens" not in _by_name(diagnose({**sums, **lengths}))
    assert "means_over_tokens" not in _by_name(diagnose(sums))
    mixed = {**sums, "ref_chosen_logps": means["ref_chosen_logps"]}
    assert _by_name(diagnose(mixed))["sums_beside_means"].grade is Grade.WRONG


def test_checkpoints_of_different_prompts(diagnose: Callable[..., PairsDiagnosis]) -> None:
    columns = _course([0.0, 0.0])
    columns["prompt_id"] = np.concatenate([np.arange(300), np.arange(150, 450)])
    found = _by_name(diagnose(columns))["checkpoints_of_different_prompts"]
    assert "share 33% of their prompts" in found.sentence


def test_rounding_of_single_precision_is_no_preference(diagnose: Callable[..., PairsDiagnosis]) -> None:
    random = np.random.default_rng(0)
    columns = columns_of(np.zeros(100), np.zeros(100))
    for name in ("chosen", "rejected"):
        columns[f"{name}_logps"] = columns[f"ref_{name}_logps"] * (1 + 1e-7 * random.normal(size=100))
    measured = diagnose(columns).measured
    assert np.isnan(measured.judged["slope"][0, 0])
    assert measured.judged["accuracy"][0, 0] == 0.5


def test_what_is_missing_is_said(diagnose: Callable[..., PairsDiagnosis]) -> None:
    unknown = " ".join(f"{one.what}: {one.which_file}" for one in diagnose(_table(0.0), beta=None).unknowns)
    for words in ("--beta", "`chosen_length`", "`split`", "`step`", "`prompt_id`"):
        assert words in unknown
    assert "true reference" not in unknown


def test_few_pairs_have_no_interval_and_no_warning(diagnose: Callable[..., PairsDiagnosis]) -> None:
    found = _by_name(diagnose(columns_of(np.array([1.0]), np.array([-1.0]))))
    assert found["displacement"].numbers["chosen"].no_interval == "it takes 8 prompts; got 1"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("beta", 0.0), ("beta", "a"), ("resamples", 10), ("seed", -1), ("drop_bad", 1), ("names", ["a"])],
)
def test_wrong_arguments_are_refused_by_name(argument: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, columns_of(np.zeros(20), np.zeros(20)))
    with pytest.raises(ValueError, match=f"`{argument}`"):
        diagnose_pairs(path, **{argument: value})


def test_a_diagnosis_takes_no_memory_of_an_accelerator(tmp_path: Path) -> None:
    """JAX takes most of it as soon as an array is made, and training beside it would fail."""
    columns = columns_of(np.full(50, -1.0), np.full(50, -3.0), prompt_id=np.arange(50))
    program = (
        "import sys, didsim\n"
        "from jax._src import xla_bridge\n"
        "didsim.diagnose(pairs=sys.argv[1], beta=0.1)\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    path = write(tmp_path, columns)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_every_finding_of_pairs_is_a_reason_that_can_be_named() -> None:
    (folder,) = package.__path__
    written = {
        name for file in Path(folder).glob("*.py") for name in re.findall(r'\bname="(\w+)"', file.read_text())
    }
    assert written == set(NAMES)
