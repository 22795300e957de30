"""One real DPO run, where its log-probabilities are at hand."""

import os
from pathlib import Path

import pytest

from didsim.diagnostics.findings import Finding, Grade
from didsim.diagnostics.pairs.diagnosis import PairsDiagnosis, diagnose_pairs
from didsim.diagnostics.pairs.figures import pair_figures

_BESIDE = Path(__file__).parents[4] / "shared" / "data" / "real_dpo_run"
_FILE = Path(os.environ.get("DIDSIM_REAL_RUN", _BESIDE)) / "pairs.parquet"

pytestmark = pytest.mark.skipif(
    not _FILE.is_file(), reason=f"the real run is not at {_FILE}; DIDSIM_REAL_RUN names its folder"
)


@pytest.fixture(scope="module")
def diagnosis() -> PairsDiagnosis:
    return diagnose_pairs(_FILE, resamples=300)


@pytest.fixture(scope="module")
def found(diagnosis: PairsDiagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def test_the_chosen_response_rises_and_later_falls(found: dict[str, Finding]) -> None:
    course = found["rise_then_fall"]
    assert course.step == 25
    assert course.numbers["rise"].value == pytest.approx(152.0 - 140.2, abs=0.1)
    assert course.numbers["fall"].value == pytest.approx(146.3 - 140.2, abs=0.1)


def test_all_else_falls_and_the_likeliest_tokens_take_the_mass(found: dict[str, Finding]) -> None:
    others = found["other_responses"]
    assert others.grade is Grade.LOOK
    assert "10 of 10 kinds of other responses fell" in others.sentence
    assert others.numbers["rejected"].value == pytest.approx(121.4 - 197.6, abs=0.1)
    assert found["mass_to_likeliest_tokens"].numbers["likeliest"].value == pytest.approx(
        113.5 - 72.3, abs=0.1
    )


def test_calibration_on_its_pairs(diagnosis: PairsDiagnosis, found: dict[str, Finding]) -> None:
    """All of its pairs are ranked rightly in the end, so the last finite slope is of an earlier
    checkpoint."""
    separable = found["separable"]
    assert separable.numbers["accuracy"].value == 1
    assert separable.numbers["last finite beta"].value > 0
    assert "may be the training pairs" in separable.sentence
    assert diagnosis.measured.judged["accuracy"][22, 0] < 1


def test_what_is_missing_is_said(diagnosis: PairsDiagnosis) -> None:
    unknown = " ".join(one.what for one in diagnosis.unknowns)
    for words in ("beta is not known", "the lengths are missing", "the true reference", "held out"):
        assert words in unknown


def test_it_can_be_drawn(diagnosis: PairsDiagnosis) -> None:
    assert set(pair_figures(diagnosis.measured)) == {"displacement", "pairs"}
