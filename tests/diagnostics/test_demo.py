"""The simulated run: its files, its truth by brute force, and its diagnosis beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from didsim.diagnostics.demo import HELD_OUT, TRAINED, Truth, write_demo
from didsim.diagnostics.findings import Finding, Grade
from didsim.diagnostics.pairs.diagnosis import PairsDiagnosis, diagnose_pairs
from didsim.diagnostics.pairs.figures import pair_figures, plot_calibration


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return write_demo(tmp_path_factory.mktemp("demo") / "new")


@pytest.fixture(scope="module")
def diagnosis(truth: Truth) -> PairsDiagnosis:
    return diagnose_pairs(truth.pairs, beta=truth.beta, resamples=500)


@pytest.fixture(scope="module")
def found(diagnosis: PairsDiagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def test_intervals_cover_what_is_known(truth: Truth, found: dict[str, Finding]) -> None:
    assert len(truth.known) == 5
    for known in truth.known:
        number = found[known.finding].numbers[known.number]
        assert number.low is not None
        assert number.high is not None
        assert number.low <= known.value <= number.high, known.what
    best = found["best_checkpoint"].numbers["best step"]
    assert best.low is not None
    assert best.high is not None
    assert best.low <= truth.lowest_loss <= best.high


def test_it_rises_falls_and_overfits(truth: Truth, found: dict[str, Finding]) -> None:
    assert found["rise_then_fall"].grade is Grade.LOOK
    assert found["calibration"].grade is Grade.LOOK
    assert "overconfident" in found["calibration"].sentence
    assert 0 < truth.lowest_loss < 600


def test_the_files_are_those_of_a_trainer(truth: Truth) -> None:
    history = json.loads(truth.log.read_text())["log_history"]
    first, last = history[0], history[-2]
    assert (first["step"], last["step"]) == (0, 600)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    rows = [json.loads(line) for line in truth.pairs.read_text().splitlines()]
    assert len(rows) == 31 * (TRAINED + HELD_OUT)
    trained = [row for row in rows if row["step"] == 600 and row["split"] == "train"]
    chosen = np.mean([row["chosen_logps"] - row["ref_chosen_logps"] for row in trained])
    assert last["rewards/chosen"] == pytest.approx(truth.beta * chosen)
    assert history[-1]["eval_loss"] > history[-1 - 2 * 17]["eval_loss"]


def test_all_pictures_are_drawn(diagnosis: PairsDiagnosis) -> None:
    figures = pair_figures(diagnosis.measured)
    assert set(figures) == {"displacement", "pairs", "calibration", "length"}
    assert all(isinstance(figure, Figure) for figure in figures.values())
    for figure in figures.values():
        figure.canvas.draw()
    with pytest.raises(ValueError, match="`measured` must have a reliability curve"):
        plot_calibration(diagnosis.measured._replace(curve=None))


def test_the_same_seed_gives_the_same_run(truth: Truth, tmp_path: Path) -> None:
    assert write_demo(tmp_path).pairs.read_bytes() == truth.pairs.read_bytes()
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        write_demo(tmp_path, seed=-1)
