"""Training by DPO and DPO-PG against loops of its own, and what a stopped run leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import didsim
from didsim import lm
from didsim.lm.train import _gradient, _Rows
from tests.lm.cases import rows
from tests.lm.spaces import exact, responses, tiny

PROMPT, CONTEXT = [3, 1], [4, 0, 3]


def pairs(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Random pairs of one prompt, with the reference's log-probabilities."""
    each, logps = responses(), exact(tiny(), PROMPT)
    random = np.random.default_rng(seed)
    return [
        {
            "prompt_ids": PROMPT,
            "chosen_ids": each[one],
            "rejected_ids": each[two],
            "ref_chosen_logps": logps[one],
            "ref_rejected_logps": logps[two],
        }
        for one, two in random.integers(len(each), size=(count, 2))
    ]


def by_loop(model: Any, batch: list[dict[str, Any]], beta: float) -> tuple[Any, Any]:
    """The loss and the mean chosen log-probability, a response at a time."""
    losses, chosen = [], []
    for row in batch:
        ratios = []
        for side in ("chosen", "rejected"):
            tokens = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
            start = len(row["prompt_ids"])
            log_probs = model(input_ids=tokens).logits[0, start - 1 : -1].log_softmax(-1)
            own = log_probs.gather(1, tokens[0, start:, None]).sum()
            ratios.append(own - row[f"ref_{side}_logps"])
        losses.append(-torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1])))
        chosen.append(ratios[0])
    return torch.stack(losses).mean(), torch.stack(chosen).mean()


def vector(values: Any) -> np.ndarray:
    return np.concatenate([one.detach().numpy().ravel() for one in values])


@pytest.mark.parametrize("keeps_chosen", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_a_loop(keeps_chosen: bool, seed: int) -> None:
    model, batch = tiny(5), pairs(6, seed)
    trained = list(model.parameters())
    loss, chosen = by_loop(model, batch, 0.7)
    expected = vector(torch.autograd.grad(loss, trained, retain_graph=True))
    pull = vector(torch.autograd.grad(chosen, trained))
    if keeps_chosen and expected @ pull > 0:
        expected = expected - pull * (expected @ pull) / (pull @ pull)
    found = _gradient(model, trained, _Rows(batch).batch(range(6)), 0.7, keeps_chosen)
    assert found == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(vector(one.grad for one in trained), expected, rtol=1e-5, atol=1e-8)
    if keeps_chosen:
        assert vector(one.grad for one in trained) @ pull <= 1e-8


def test_a_step_of_adam_begins_at_log_two_and_moves_by_the_rate() -> None:
    model = tiny()
    before = vector(model.parameters())
    trained = lm.train_dpo(model, pairs(), beta=0.5, steps=1, learning_rate=1e-3)
    assert trained.losses[0] == pytest.approx(np.log(2), abs=1e-6)
    moved = abs(vector(model.parameters()) - before)
    assert moved.max() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.slow
def test_with_optimal_rejected_responses_it_learns_the_target() -> None:
    reference_model, beta, count = tiny(0, 0.2), 0.5, 3000
    reference, target = (exact(reference_model, prompt) for prompt in (PROMPT, CONTEXT))
    rejected = np.exp(np.asarray(didsim.optimal_rejected(reference, target, beta)))
    random, each = np.random.default_rng(0), responses()
    draws = [random.choice(len(each), count, p=one / one.sum()) for one in (np.exp(reference), rejected)]
    data = [
        {
            "prompt_ids": PROMPT,
            "chosen_ids": each[one],
            "rejected_ids": each[two],
            "ref_chosen_logps": reference[one],
            "ref_rejected_logps": reference[two],
        }
        for one, two in zip(*draws, strict=True)
    ]
    policy = tiny(0, 0.2)
    lm.train_dpo(policy, data, beta=beta, steps=200, batch_size=200, learning_rate=3e-3)
    learned = exact(policy, PROMPT)
    assert didsim.js(learned, target) < 0.25 * didsim.js(reference, target)
    fall = float(np.exp(reference) @ (learned - reference))
    assert fall < 0
    assert fall == pytest.approx(-float(didsim.kl(reference, learned)), rel=1e-9)
    assert fall == pytest.approx(-float(didsim.kl(reference, target)), rel=0.5)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"beta": 0.5, "steps": 9, "batch_size": 4, "every": 3, "seed": 1}
    whole = tiny()
    expected = lm.train_dpo(whole, pairs(), at=lambda step: {"step": step}, **settings)

    def stopped(step: int) -> dict[str, int]:
        if step == 6:
            raise KeyboardInterrupt
        return {"step": step}

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        lm.train_dpo(tiny(), pairs(), at=stopped, checkpoint=path, **settings)
    model = tiny()
    found = lm.train_dpo(model, pairs(), at=lambda step: {"step": step}, checkpoint=path, **settings)
    np.testing.assert_array_equal(found.losses, expected.losses)
    assert found.records == expected.records == {step: {"step": step} for step in (0, 3, 6, 9)}
    np.testing.assert_array_equal(vector(model.parameters()), vector(whole.parameters()))
    # A finished run does nothing more.
    again = lm.train_dpo(tiny(), pairs(), at=lambda step: 1 / 0, checkpoint=path, **settings)
    assert again.records == expected.records


def test_damage_and_other_runs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    lm.train_dpo(tiny(), pairs(), beta=0.5, steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="of a run with another beta, seed"):
        lm.train_dpo(tiny(), pairs(), beta=0.6, steps=1, seed=2, checkpoint=path)
    with pytest.raises(ValueError, match="of a run with another pairs"):
        lm.train_dpo(tiny(), pairs(seed=1), beta=0.5, steps=1, checkpoint=path)
    content = path.read_bytes()
    for damaged in (content[:-40], content[: len(content) // 2], b"", _flipped(content)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="`checkpoint` is damaged"):
            lm.train_dpo(tiny(), pairs(), beta=0.5, steps=1, checkpoint=path)
        assert path.read_bytes() == damaged


def _flipped(content: bytes) -> bytes:
    """A bit of the parameters is another."""
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0.0}, "`beta` must be positive and finite"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"batch_size": 13}, "`batch_size` must be an integer of at most 12"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"checkpoint": "no/folder/run.pt"}, "in a folder that is there"),
        ({"pairs": rows(12)}, r"`pairs\[0\]` must have finite log-probabilities under ref_chosen_logps"),
    ],
)
def test_a_wrong_argument_is_told(changes: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"pairs": pairs(), "beta": 0.5, "steps": 1} | changes
    with pytest.raises(ValueError, match=said):
        lm.train_dpo(tiny(), **arguments)


def test_a_model_without_trained_parameters_is_told() -> None:
    with pytest.raises(ValueError, match="`model` must have parameters that need a gradient"):
        lm.train_dpo(tiny().requires_grad_(False), pairs(), beta=0.5, steps=1)


def test_a_loss_that_is_not_finite_stops() -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan"):
        lm.train_dpo(model, pairs(), beta=0.5, steps=1)
