from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import didsim
from didsim.diagnostics.findings import Grade, Number
from didsim.diagnostics.samples.estimate import estimate_did_entropy
from didsim.diagnostics.samples.table import compare_with_expected_fall, diagnose_samples
from tests.diagnostics.table_cases import write

SPACE = didsim.SequenceSpace(3, 3, eos=True)
REFERENCE, POLICY = (
    np.asarray(didsim.normal_logits(key, SPACE.size, 0.7)) for key in jax.random.split(jax.random.key(0))
)
RATIO = np.exp(POLICY - REFERENCE)
DID = RATIO / RATIO.sum()
ENTROPY = -np.sum(DID * np.log(DID))
PER_TOKEN = ENTROPY / np.sum(DID * SPACE.lengths)
SOURCES = {"policy": POLICY, "reference": REFERENCE}


def _draw(source: str, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(SPACE.size, size, p=np.exp(SOURCES[source]))


@pytest.mark.parametrize("source", SOURCES)
def test_many_samples_give_the_exact_values(source: str) -> None:
    drawn = _draw(source, 400_000)
    estimate = estimate_did_entropy(
        POLICY[drawn], REFERENCE[drawn], samples_of=source, lengths=SPACE.lengths[drawn]
    )
    assert estimate.entropy is not None
    assert estimate.per_token is not None
    assert estimate.entropy.value == pytest.approx(ENTROPY, abs=0.01)
    assert estimate.per_token.value == pytest.approx(PER_TOKEN, abs=0.005)
    weight = {"policy": 1 / np.exp(REFERENCE), "reference": np.exp(POLICY - 2 * REFERENCE)}[source][drawn]
    assert estimate.effective_samples == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert estimate.largest_weight == pytest.approx(weight.max() / weight.sum())
    if source == "reference":
        assert estimate.divergence is None
        assert estimate.expected_fall is not None
        truth = np.sum(np.exp(REFERENCE) * (REFERENCE - POLICY))
        assert estimate.expected_fall.value == pytest.approx(truth, abs=0.01)
    else:
        assert estimate.expected_fall is None
        assert estimate.divergence is not None
        truth = np.sum(np.exp(POLICY) * (POLICY - REFERENCE))
        assert estimate.divergence.value == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("source", SOURCES)
def test_the_jackknife_by_hand(source: str) -> None:
    drawn = _draw(source, 25)
    policy, reference = POLICY[drawn], REFERENCE[drawn]
    weight = 1 / np.exp(reference) if source == "policy" else np.exp(policy - 2 * reference)

    def plain(kept: np.ndarray) -> float:
        w, t = weight[kept], (policy - reference)[kept]
        return float(np.log(w.mean()) - np.sum(w * t) / w.sum())

    rows = np.arange(25)
    whole = plain(rows)
    without = np.array([plain(np.delete(rows, k)) for k in rows])
    bias = 24 * (without.mean() - whole)
    spread = np.sqrt(24 / 25 * np.sum((without - without.mean()) ** 2))
    estimate = estimate_did_entropy(policy, reference, samples_of=source, least_effective=0)
    assert estimate.bias == pytest.approx(bias)
    assert estimate.entropy is not None
    assert estimate.entropy.value == pytest.approx(whole - bias)
    assert estimate.entropy.high == pytest.approx(whole - bias + 2.063899 * spread, rel=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_bias_and_coverage(source: str) -> None:
    """Over many sets of samples: less bias than without the correction, and intervals that cover."""
    values, biases, covered, runs = [], [], 0, 400
    for seed in range(runs):
        drawn = _draw(source, 150, seed)
        estimate = estimate_did_entropy(POLICY[drawn], REFERENCE[drawn], samples_of=source, least_effective=0)
        assert estimate.entropy is not None
        assert estimate.entropy.low is not None
        assert estimate.entropy.high is not None
        values.append(estimate.entropy.value)
        biases.append(estimate.bias)
        covered += estimate.entropy.low <= ENTROPY <= estimate.entropy.high
    plain = np.array(values) + biases
    assert abs(np.mean(values) - ENTROPY) < 0.5 * abs(plain.mean() - ENTROPY) + 0.003
    assert 0.9 <= covered / runs <= 0.98


def test_several_prompts_are_averaged() -> None:
    """Against a loop over prompts, each with policies of its own."""
    keys = jax.random.split(jax.random.key(1), (2, 30))
    reference, policy = np.asarray(didsim.normal_logits(keys, 12, 0.6))
    random = np.random.default_rng(0)
    prompt = np.repeat(np.arange(30), 40)
    drawn = np.concatenate([random.choice(12, 40, p=np.exp(one)) for one in policy])
    given = policy[prompt, drawn], reference[prompt, drawn]
    order = random.permutation(len(prompt))
    whole = estimate_did_entropy(given[0][order], given[1][order], prompts=prompt[order] * 7 - 3)
    alone = []
    for one in range(30):
        estimate = estimate_did_entropy(given[0][prompt == one], given[1][prompt == one], least_effective=0)
        assert estimate.entropy is not None
        alone.append(estimate.entropy.value)
    assert whole.prompts == 30
    assert whole.entropy is not None
    assert whole.entropy.value == pytest.approx(np.mean(alone))
    half = 2.045230 * np.std(alone, ddof=1) / np.sqrt(30)
    assert whole.entropy.high == pytest.approx(np.mean(alone) + half, rel=1e-6)
    truth = np.mean(np.asarray(didsim.did_entropy(policy, reference)))
    assert whole.entropy.value == pytest.approx(truth, abs=0.1)


def test_no_update_has_the_entropy_of_all_responses_and_no_fall() -> None:
    drawn = _draw("reference", 100_000)
    estimate = estimate_did_entropy(REFERENCE[drawn], REFERENCE[drawn], samples_of="reference")
    assert estimate.entropy is not None
    assert estimate.expected_fall is not None
    assert estimate.entropy.value == pytest.approx(np.log(SPACE.size), abs=0.02)
    assert estimate.expected_fall == Number(value=0.0, unit="nats", low=0.0, high=0.0)


def test_too_few_effective_samples_are_refused_with_the_reason() -> None:
    reference = np.append(np.full(99, -1.0), -40.0)
    estimate = estimate_did_entropy(np.full(100, -3.0), reference)
    assert estimate.entropy is None
    assert estimate.per_token is None
    assert np.isnan(estimate.bias)
    assert estimate.effective_samples == pytest.approx(1)
    assert estimate.refused == (
        "100 samples count for 1.0 of equal weight, fewer than 10: a few of them decide the estimate"
    )
    assert estimate.divergence is not None
    alone = estimate_did_entropy(np.full(3, -3.0), np.full(3, -2.0), prompts=[0, 0, 1])
    assert alone.refused.startswith("a prompt has 1 sample")


@pytest.mark.parametrize("size", [700.0, 30_000.0])
def test_long_responses_do_not_overflow(size: float) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.3, (2, 500))
    low = estimate_did_entropy(-size + noise[0], -size + noise[1])
    high = estimate_did_entropy(-5 + noise[0], -5 + noise[1])
    assert low.entropy is not None
    assert high.entropy is not None
    assert low.entropy.value - high.entropy.value == pytest.approx(size - 5, rel=1e-9)
    assert low.effective_samples == pytest.approx(high.effective_samples, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"policy_logps": [-1.0, 0.5]},
            "`policy_logps` must be finite log-probabilities, none above 0; got 0.5",
        ),
        ({"policy_logps": [[-1.0, -2.0]]}, "`policy_logps` must be a number for each sample"),
        ({"policy_logps": []}, "`policy_logps` must be a number for each sample"),
        ({"ref_logps": [-1.0, np.nan]}, "`ref_logps` must be finite log-probabilities"),
        ({"ref_logps": [-1.0]}, r"`ref_logps` must have shape \(2,\)"),
        ({"samples_of": "both"}, "`samples_of` must be 'policy' or 'reference'; got 'both'"),
        ({"lengths": [1, 0]}, "`lengths` must be positive and finite"),
        ({"prompts": [0.5, 1.0]}, "`prompts` must be an integer for each sample"),
        ({"least_effective": -1}, "`least_effective`"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_did_entropy(**({"policy_logps": [-1.0, -2.0], "ref_logps": [-2.0, -1.0]} | changed))


def _table(folder: Path, source: str, size: int = 2000) -> Path:
    drawn = _draw(source, size)
    return write(
        folder,
        {"policy_logp": POLICY[drawn], "ref_logp": REFERENCE[drawn], "length": SPACE.lengths[drawn]},
        "JSONL",
    )


def test_a_table_of_samples_is_diagnosed(tmp_path: Path) -> None:
    found = diagnose_samples(_table(tmp_path, "reference"), "reference")
    assert found.input.role == "reference samples"
    assert [finding.name for finding in found.findings] == ["expected_fall", "did_entropy"]
    numbers = found.findings[1].numbers
    assert numbers["DID entropy"].value == pytest.approx(ENTROPY, abs=0.1)
    assert numbers["DID entropy per token"].value == pytest.approx(PER_TOKEN, abs=0.05)
    assert found.unknowns == []
    of_policy = diagnose_samples(_table(tmp_path, "policy"), "policy")
    assert [finding.name for finding in of_policy.findings] == ["divergence", "did_entropy"]


def test_a_refused_estimate_is_unknown_and_bad_rows_are_named(tmp_path: Path) -> None:
    rows = {"policy_logp": [-3.0] * 5, "ref_logp": [-1.0] * 4 + [-60.0]}
    found = diagnose_samples(write(tmp_path, rows), "policy")
    assert [finding.name for finding in found.findings] == ["divergence"]
    assert "5 samples count for 1.0" in found.unknowns[0].what
    path = write(tmp_path, {"policy_logp": [-3.0, 1.0, -2.0], "ref_logp": [-1.0, -1.0, -2.0]})
    with pytest.raises(ValueError, match=r"`policy_logp` is positive in 1 \(rows 2\)"):
        diagnose_samples(path, "policy")
    assert "1 rows" in diagnose_samples(path, "policy", drop_bad=True).input.notes[0]


@pytest.mark.parametrize(
    ("chosen", "grade", "words"),
    [(-5.2, "fine", "as much as"), (-2.0, "fine", "less than"), (-9.0, "look", "more than")],
)
def test_the_fall_of_the_chosen_beside_the_expected_one(chosen: float, grade: str, words: str) -> None:
    seen = Number(value=chosen, unit="nats", low=chosen - 0.3, high=chosen + 0.3)
    found = compare_with_expected_fall(seen, Number(value=5.0, unit="nats", low=4.6, high=5.4))
    assert found.grade is Grade(grade)
    assert words in found.sentence
    assert found.numbers["difference"].low == pytest.approx(chosen + 5 - 0.5)
