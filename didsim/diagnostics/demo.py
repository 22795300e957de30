"""A simulated run whose truth is known: DPO on finite pairs of a tabular policy. It rises, falls, overfits.

The policy has a number for each of 121 sequences, and 150 training pairs. Chosen responses come from a writer
that knows the reward better than the reference does, so their log-probability first rises. With more steps
the policy ranks the training pairs ever more surely, and the held-out ones no better. As every probability
is known, so is every expectation over the pairs from which the held-out ones were drawn.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from didsim._calibration import fit_slopes
from didsim._files import local_path, written_whole

BETA = 0.3
STEPS, EVERY, LEARNING_RATE = 600, 20, 0.03
TRAINED, HELD_OUT = 150, 1000


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A number that the simulation knows, and where a diagnosis estimates it.

    Attributes:
        what: what it is, in words.
        finding: the name of the finding that estimates it.
        number: the name of the number in that finding.
        value: the truth.
    """

    what: str
    finding: str
    number: str
    value: float


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a simulated run, and what is true of it.

    Attributes:
        log: the trainer's log, as `trainer_state.json`.
        pairs: the pairs table, as JSON lines.
        beta: beta of the run.
        known: numbers at the last checkpoint, each with the place of its estimate.
        lowest_loss: the step at which the expected loss on new pairs is lowest.
    """

    log: Path
    pairs: Path
    beta: float
    known: tuple[Known, ...]
    lowest_loss: float


def write_demo(folder: str | Path, *, seed: int = 0) -> Truth:
    """Simulate a run, and write its log and its pairs table into a folder.

    Args:
        folder: where to write `trainer_state.json` and `pairs.jsonl`; made if there is none.
        seed: seed of the reference, of the reward and of the pairs.

    Returns:
        The paths, and what is true.

    Raises:
        ValueError: `folder` is no path, or `seed` is no integer from 0 to 2³¹ − 1.
        OSError: the folder cannot be written to.

    Cost:
        About 3 s, most of it to compile.
    """
    import jax
    import optax

    import didsim
    from didsim import _checks

    folder = local_path("folder", folder)
    seed = _checks.integer("seed", seed, 0, 2**31 - 1)
    keys = jax.random.split(jax.random.key(seed), 4)
    space = didsim.SequenceSpace(3, 4, eos=True)
    reference = didsim.markov(keys[0], space)
    reward = didsim.normal_logits(keys[1], space.size)
    writer = didsim.mixture(didsim.bayes_update(reference, reward), reference, 0.7)
    population = didsim.Labelled(reward, writer, writer)
    trained, held_out = population.sample(keys[2], TRAINED), population.sample(keys[3], HELD_OUT)
    run = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        trained,
        didsim.dpo(BETA),
        optax.adam(LEARNING_RATE),
        STEPS,
        record=didsim.Record(EVERY, {"log_probs": lambda s: s.log_probs}),
    )
    policies = np.asarray(run.metrics["log_probs"], float)
    splits = {
        "train": (np.asarray(trained.winners), np.asarray(trained.losers)),
        "held out": (np.asarray(held_out.winners), np.asarray(held_out.losers)),
    }
    table = np.exp(np.asarray(population.joint(space.size).log_probs, float))
    base, lengths = np.asarray(reference, float), np.asarray(space.lengths)
    folder.mkdir(parents=True, exist_ok=True)
    log, pairs = folder / "trainer_state.json", folder / "pairs.jsonl"
    with written_whole(log, pairs) as (log_draft, pairs_draft):
        history = list(_history(run.steps, policies, base, splits))
        log_draft.write_bytes(msgspec.json.encode({"global_step": STEPS, "log_history": history}))
        rows = msgspec.json.Encoder().encode_lines(_rows(run.steps, policies, base, lengths, splits))
        pairs_draft.write_bytes(rows)
    losses = [np.sum(table * np.logaddexp(0, -BETA * _margins(one - base))) for one in policies]
    return Truth(
        log=log,
        pairs=pairs,
        beta=BETA,
        known=tuple(_known(policies[-1] - base, table)),
        lowest_loss=float(run.steps[int(np.argmin(losses))]),
    )


def _margins(log_ratio: np.ndarray) -> np.ndarray:
    return log_ratio[:, None] - log_ratio


def _known(log_ratio: np.ndarray, table: np.ndarray) -> Iterator[Known]:
    """What is true of a policy on new pairs, whose probabilities are in the table."""
    chosen, rejected = float(table.sum(1) @ log_ratio), float(table.sum(0) @ log_ratio)
    margins = _margins(log_ratio)
    slope = float(fit_slopes(margins.reshape(-1, 1), table.reshape(-1, 1))[0])
    loss = float(np.sum(table * np.logaddexp(0, -BETA * margins)))
    for what, finding, number, value in (
        ("chosen displacement on new pairs (nats)", "displacement", "chosen, held out", chosen),
        ("rejected displacement on new pairs (nats)", "displacement", "rejected, held out", rejected),
        ("slope of preferences on rewards", "calibration", "slope", slope / BETA),
        ("beta that would have been right", "calibration", "beta that would have been right", slope),
        ("loss on new pairs (nats)", "best_checkpoint", "loss at the last", loss),
    ):
        yield Known(what=what, finding=finding, number=number, value=value)


def _history(
    steps: np.ndarray, policies: np.ndarray, base: np.ndarray, splits: dict[str, Any]
) -> Iterator[dict[str, float]]:
    """The log's entries, with the keys of TRL."""
    for step, log_probs in zip(steps, policies, strict=True):
        for split, (winners, losers) in splits.items():
            prefix = "" if split == "train" else "eval_"
            chosen, rejected = (BETA * (log_probs - base)[one] for one in (winners, losers))
            entry = {
                "loss": np.logaddexp(0, rejected - chosen).mean(),
                "rewards/chosen": chosen.mean(),
                "rewards/rejected": rejected.mean(),
                "rewards/margins": (chosen - rejected).mean(),
                "rewards/accuracies": (chosen > rejected).mean(),
                "logps/chosen": log_probs[winners].mean(),
                "logps/rejected": log_probs[losers].mean(),
            }
            yield {"step": int(step)} | {prefix + name: float(value) for name, value in entry.items()}


def _rows(
    steps: np.ndarray, policies: np.ndarray, base: np.ndarray, lengths: np.ndarray, splits: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of the pairs table. Every pair counts for a prompt of its own."""
    return [
        {
            "step": int(step),
            "split": split,
            "prompt_id": f"{split} {place}",
            "chosen_logps": float(log_probs[winner]),
            "rejected_logps": float(log_probs[loser]),
            "ref_chosen_logps": float(base[winner]),
            "ref_rejected_logps": float(base[loser]),
            "chosen_length": int(lengths[winner]),
            "rejected_length": int(lengths[loser]),
        }
        for step, log_probs in zip(steps, policies, strict=True)
        for split, (winners, losers) in splits.items()
        for place, (winner, loser) in enumerate(zip(winners, losers, strict=True))
    ]
