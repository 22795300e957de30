"""Samples of the reference beside pairs or a log: was the fall of the chosen responses to be expected?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from didsim.diagnostics import Diagnosis, Finding, diagnose
from tests.diagnostics.log_cases import trainer_state
from tests.diagnostics.table_cases import write

LOGITS, STEP = np.random.default_rng(0).normal(size=(2, 40))
REFERENCE, POLICY = log_softmax(LOGITS), log_softmax(LOGITS + STEP)
FALL = float(np.exp(REFERENCE) @ (REFERENCE - POLICY))  # KL(π_ref‖π)
BETA = 0.1


def samples(folder: Path, count: int = 3000) -> Path:
    drawn = np.random.default_rng(1).choice(40, count, p=np.exp(REFERENCE))
    return write(folder, {"policy_logp": POLICY[drawn], "ref_logp": REFERENCE[drawn]}, name="samples")


def pairs(folder: Path, chosen: np.ndarray, **more: Any) -> Path:
    """Chosen responses from a distribution, rejected ones from the reference."""
    random = np.random.default_rng(2)
    first = random.choice(40, 3000, p=np.exp(log_softmax(chosen)))
    other = random.choice(40, 3000, p=np.exp(REFERENCE))
    columns = {
        "chosen_logps": POLICY[first],
        "rejected_logps": POLICY[other],
        "ref_chosen_logps": REFERENCE[first],
        "ref_rejected_logps": REFERENCE[other],
        "prompt_id": np.arange(3000),
        **more,
    }
    return write(folder, columns)


def finding(diagnosis: Diagnosis) -> Finding:
    (found,) = [one for one in diagnosis.findings if one.name == "fall_beside_expected"]
    return found


DISTRIBUTIONS = {
    "as much as": REFERENCE,
    "less than": POLICY,
    "more than": 2 * REFERENCE - POLICY,
}


@pytest.mark.parametrize(("words", "chosen"), DISTRIBUTIONS.items())
def test_the_fall_of_pairs_is_held_against_the_expected_one(
    words: str, chosen: np.ndarray, tmp_path: Path
) -> None:
    truth = float(np.exp(log_softmax(chosen)) @ (POLICY - REFERENCE))
    diagnosis = diagnose(pairs=pairs(tmp_path, chosen), ref_samples=samples(tmp_path), beta=BETA)
    found = finding(diagnosis)
    assert words in found.sentence
    assert found.grade == ("look" if words == "more than" else "fine")
    for number, value in (("chosen", truth), ("expected fall", FALL), ("difference", truth + FALL)):
        one = found.numbers[number]
        assert one.low is not None
        assert one.high is not None
        assert one.low < value < one.high
    told = json.loads(diagnosis.to_json())["findings"]
    assert [one["sentence"] for one in told if one["name"] == "fall_beside_expected"] == [found.sentence]
    assert not any("to be expected" in one.what for one in diagnosis.unknowns)


def test_held_out_pairs_are_the_ones_that_count(tmp_path: Path) -> None:
    split = np.where(np.arange(3000) % 2, "train", "test")
    table = pairs(tmp_path, REFERENCE, split=split)
    found = finding(diagnose(pairs=table, ref_samples=samples(tmp_path)))
    assert found.sentence.startswith("The chosen responses of held-out pairs moved by")
    displaced = next(one for one in diagnose(pairs=table).findings if one.name == "displacement")
    assert found.numbers["chosen"] == displaced.numbers["chosen, held out"]
    assert found.numbers["chosen"] != displaced.numbers["chosen"]


@pytest.mark.parametrize("held_out", [False, True])
def test_a_log_with_beta_is_held_against_it_too(held_out: bool, tmp_path: Path) -> None:
    noise = 0.02 * np.random.default_rng(1).normal(size=60)
    reward = -BETA * FALL
    rows = [
        {"step": 10 * k, "loss": 0.6, "chosen_reward": reward * min(1, k / 20) + float(noise[k] * (k > 20)),
         "rejected_reward": -0.5 * min(1, k / 20)}
        for k in range(60)
    ]  # fmt: skip
    if held_out:
        rows += [{"step": 590, "eval_loss": 0.6, "eval_chosen_reward": -2.0, "eval_rejected_reward": -3.0}]
    path = tmp_path / "trainer_state.json"
    path.write_bytes(trainer_state(rows))
    table = samples(tmp_path)
    diagnosis = diagnose(path, ref_samples=table, beta=BETA)
    found = finding(diagnosis)
    side = "held-out" if held_out else "training"
    assert found.sentence.startswith(f"The chosen responses of {side} pairs moved by")
    expected = -20.0 if held_out else -FALL
    assert found.numbers["chosen"].value == pytest.approx(expected, abs=0.15)
    assert not any("to be expected" in one.what for one in diagnosis.unknowns)
    # Without beta rewards are no nats, and without samples nothing is known.
    assert all(one.name != "fall_beside_expected" for one in diagnose(path, ref_samples=table).findings)
    alone = diagnose(path, beta=BETA)
    assert all(one.name != "fall_beside_expected" for one in alone.findings)
    assert any("to be expected" in one.what and "--ref-samples" in one.which_file for one in alone.unknowns)


def test_samples_of_the_policy_say_nothing_of_it(tmp_path: Path) -> None:
    diagnosis = diagnose(pairs=pairs(tmp_path, REFERENCE), policy_samples=samples(tmp_path))
    assert all(one.name != "fall_beside_expected" for one in diagnosis.findings)
    assert any("to be expected" in one.what for one in diagnosis.unknowns)


def test_several_tables_are_each_held_against_it(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tables = [pairs(tmp_path, REFERENCE), pairs(other, POLICY)]
    diagnosis = diagnose(tables, ref_samples=samples(tmp_path))
    told = [one.sentence for one in diagnosis.findings if one.name == "fall_beside_expected"]
    assert sorted(sentence.partition(": The chosen")[0] for sentence in told) == sorted(map(str, tables))
