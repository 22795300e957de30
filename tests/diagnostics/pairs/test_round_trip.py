"""Simulated runs, written as if logged, and diagnosed: intervals cover what is known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy.optimize import elementwise
from scipy.special import expit

import didsim
from didsim.diagnostics.pairs.diagnosis import diagnose_pairs

RUNS, KINDS, PROMPTS, EACH, BETA = 250, 6, 120, 3, 0.4
SPACE = didsim.SequenceSpace(3, 3, eos=True)
SIZE = SPACE.size


def _train() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-ratios `[runs, kinds, sequences]`, the reference, and the probabilities of pairs.

    A run has prompts of several kinds, each with a reference and a reward of its own.
    """
    keys = jax.random.split(jax.random.key(0), (2, RUNS, KINDS))
    reference = didsim.normal_logits(keys[0], SIZE)
    reward = 1.5 * didsim.normal_logits(keys[1], SIZE)
    problem = didsim.Labelled(reward, reference, reference)
    trained = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        problem,
        didsim.dpo(BETA),
        optax.adam(0.1),
        30,
        record=didsim.Record(30, {"entropy": didsim.METRICS["policy_entropy"]}),
    )
    table = jnp.exp(problem.joint(SIZE).log_probs)
    return np.asarray(trained.policy.log_probs() - reference), np.asarray(reference), np.asarray(table)


def _truths(ratio: np.ndarray, table: np.ndarray) -> dict[str, np.ndarray]:
    """Expectations over the pairs of a run, exact, for each run."""
    margin = ratio[..., :, None] - ratio[..., None, :]
    weight = table / KINDS

    def expect(values: np.ndarray) -> np.ndarray:
        return np.sum(weight * values, axis=(1, 2, 3))

    chosen = np.broadcast_to(ratio[..., :, None], margin.shape)
    rejected = np.broadcast_to(ratio[..., None, :], margin.shape)
    length = np.broadcast_to(SPACE.lengths[:, None], margin.shape)

    def gradient(slope: np.ndarray, run: np.ndarray) -> np.ndarray:
        h = margin[run]
        return np.sum(weight[run] * h * expit(-slope[:, None, None, None] * h), axis=(1, 2, 3))

    slope = elementwise.find_root(
        gradient, (np.full(RUNS, -1.0), np.full(RUNS, 50.0)), args=(np.arange(RUNS),)
    )
    assert slope.success.all()
    return {
        "chosen": expect(chosen),
        "rejected": expect(rejected),
        "margin": expect(margin),
        "accuracy": expect(np.where(margin == 0, 0.5, margin > 0)),
        "both down": expect((chosen < 0) & (rejected < 0)),
        "chosen per token": expect(chosen) / expect(length),
        "slope": slope.x,
        "loss": expect(np.logaddexp(0, -BETA * margin)),
    }


@pytest.mark.slow
def test_intervals_cover_the_truth_of_simulated_runs(tmp_path: Path) -> None:
    ratio, reference, table = _train()
    truths = _truths(ratio, table)
    random = np.random.default_rng(0)
    covered = dict.fromkeys(truths, 0)
    prompt = np.repeat(np.arange(PROMPTS), EACH)
    path = tmp_path / "pairs.parquet"
    for run in range(RUNS):
        kind = random.integers(KINDS, size=PROMPTS)[prompt]
        below = np.cumsum(table[run].reshape(KINDS, -1), axis=1)
        drawn = np.sum(below[kind] < random.random((len(prompt), 1)), axis=1)
        winner, loser = np.divmod(np.minimum(drawn, SIZE * SIZE - 1), SIZE)
        base = reference[run]
        columns = {
            "prompt_id": prompt,
            "chosen_logps": (base + ratio[run])[kind, winner],
            "rejected_logps": (base + ratio[run])[kind, loser],
            "ref_chosen_logps": base[kind, winner],
            "ref_rejected_logps": base[kind, loser],
            "chosen_length": SPACE.lengths[winner],
        }
        pa.parquet.write_table(pa.table(columns), path)
        found = {one.name: one for one in diagnose_pairs(path, beta=BETA, resamples=400).findings}
        numbers = {
            **found["displacement"].numbers,
            "accuracy": found["calibration"].numbers["accuracy"],
            "both down": found["quadrants"].numbers["both down"],
            "chosen per token": found["displacement_against_length"].numbers["chosen per token"],
            "slope": found["calibration"].numbers["beta that would have been right"],
            "loss": found["calibration"].numbers["loss"],
        }
        for name, truth in truths.items():
            number = numbers[name]
            assert number.low is not None
            assert number.high is not None
            covered[name] += number.low <= truth[run] <= number.high
    shares = {name: count / RUNS for name, count in covered.items()}
    assert all(0.92 <= share <= 0.98 for share in shares.values()), shares
