"""The callback in runs of `transformers.Trainer`: what it writes, resumes, says and stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from didsim import lm
from didsim.diagnostics.findings import Grade
from didsim.diagnostics.pairs.findings import NAMES
from didsim.lm.callback import REASONS
from didsim.lm.table import read_table
from tests.lm.cases import END, expected, gpt2, rows

TRAIN, HELD_OUT = rows(16), rows(12, seed=1)
PAIRS = {"train": TRAIN, "held out": HELD_OUT}
ALL = [*TRAIN, *HELD_OUT]


def collated(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Chosen responses, then rejected ones, padded at the right."""
    both = [(one["prompt_ids"], one[f"{side}_ids"]) for side in ("chosen", "rejected") for one in pairs]
    width = max(len(prompt) + len(response) for prompt, response in both)
    batch = {name: torch.zeros(len(both), width, dtype=torch.long) for name in ("attention_mask", "mask")}
    batch["input_ids"] = torch.full((len(both), width), END)
    for row, (prompt, response) in enumerate(both):
        size = len(prompt) + len(response)
        batch["input_ids"][row, :size] = torch.tensor(prompt + response)
        batch["attention_mask"][row, :size] = 1
        batch["mask"][row, len(prompt) : size] = 1
    return batch


def log_probs(model: Any, batch: dict[str, Any]) -> Any:
    """With gradient, of chosen responses and of rejected ones."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    each = logits[:, :-1].log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    return (each * batch["mask"][:, 1:]).sum(1).chunk(2)


def loss_of(model: Any, reference: Any, batch: dict[str, Any], beta: float = 0.1) -> Any:
    with torch.no_grad():
        before = log_probs(reference, batch)
    chosen, rejected = (now - then for now, then in zip(log_probs(model, batch), before, strict=True))
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


class Dpo(transformers.Trainer):
    """DPO in five lines."""

    sign = 1

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        loss = self.sign * loss_of(model, REFERENCE, inputs)
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
        with torch.no_grad():
            return self.compute_loss(model, inputs), None, None


REFERENCE = gpt2(0).eval()


def trainer(folder: Path, *callbacks: Any, steps: int = 12, rate: float = 3e-2, **more: Any) -> Any:
    settings = transformers.TrainingArguments(
        str(folder),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 8,
            "learning_rate": rate,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_strategy": "steps",
            "save_steps": 4,
            "report_to": [],
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 0,
            **more,
        },
    )
    return Dpo(
        model=gpt2(0),
        args=settings,
        train_dataset=TRAIN,
        eval_dataset=HELD_OUT,
        data_collator=collated,
        callbacks=list(callbacks),
    )


def logged(run: Any, name: str) -> list[float]:
    return [one[name] for one in run.state.log_history if name in one]


def test_a_run_writes_the_table_says_the_verdict_and_is_not_changed(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "pairs.parquet"
    callback = lm.DiagnoseCallback(lm.PairsTable(path, PAIRS), beta=0.1, say=said.append)
    run = trainer(tmp_path / "run", callback)
    run.train()
    table = read_table(path).to_pydict()
    assert sorted(set(table["step"])) == [0, 4, 8, 12]
    last = slice(-len(ALL), None)
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(table[f"{side}_logps"][last], expected(run.model, ALL, side), rtol=1e-4)
        np.testing.assert_allclose(
            table[f"ref_{side}_logps"][last], expected(REFERENCE, ALL, side), rtol=1e-4
        )
    # The trainer's own held-out loss, from the table.
    columns = {name: np.reshape(values, (4, -1))[:, len(TRAIN) :] for name, values in table.items()}
    chosen, rejected = (
        columns[f"{one}_logps"] - columns[f"ref_{one}_logps"] for one in ("chosen", "rejected")
    )
    losses = np.logaddexp(0, -0.1 * (chosen - rejected).astype(float)).mean(1)
    np.testing.assert_allclose(losses[1:], logged(run, "eval_loss"), rtol=1e-4)
    assert [line.partition(":")[0] for line in said] == [f"didsim, step {step}" for step in (4, 8, 12)]
    assert callback.diagnosis is not None
    assert callback.diagnosis.verdict in said[-1]
    assert callback.stopped_for == ""
    alone = trainer(tmp_path / "alone")
    alone.train()
    for own, other in zip(run.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    class Kill(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 9:  # the table has 0, 2, 4, 6 and 8, the last trainer's checkpoint is 4
                raise KeyboardInterrupt

    def run(*callbacks: Any) -> Any:
        table = lm.PairsTable(path, PAIRS)
        one = lm.DiagnoseCallback(table, every=2, say=lambda text: None)
        return trainer(tmp_path / "run", one, *callbacks, save_steps=4)

    with pytest.raises(KeyboardInterrupt):
        run(Kill()).train()
    assert lm.PairsTable(path, PAIRS).steps == [0, 2, 4, 6, 8]
    resumed = run()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    table = read_table(path).to_pydict()
    assert table["step"] == [step for step in range(0, 13, 2) for _ in ALL]
    np.testing.assert_allclose(
        table["chosen_logps"][-len(ALL) :], expected(resumed.model, ALL, "chosen"), rtol=1e-4
    )
    np.testing.assert_allclose(
        table["ref_chosen_logps"][-len(ALL) :], expected(REFERENCE, ALL, "chosen"), rtol=1e-4
    )


def test_training_stops_for_a_reason_that_was_named(tmp_path: Path) -> None:
    said: list[str] = []
    table = lm.PairsTable(tmp_path / "pairs.parquet", PAIRS)
    callback = lm.DiagnoseCallback(table, beta=0.1, every=2, stop_on=["no_margin", "wrong"], say=said.append)
    run = trainer(tmp_path / "run", callback, steps=40, save_strategy="no")
    run.sign = -1  # as if chosen and rejected were swapped
    run.train()
    assert 2 <= run.state.global_step < 40
    assert "no_margin" in callback.stopped_for
    assert said[-1] == f"didsim, step {run.state.global_step}: training stops, on {callback.stopped_for}"
    assert table.steps[-1] == run.state.global_step


def test_a_finding_that_is_no_reason_does_not_stop_it(tmp_path: Path) -> None:
    callback = lm.DiagnoseCallback(
        lm.PairsTable(tmp_path / "p.jsonl", PAIRS), stop_on=["not_finite"], say=lambda text: None
    )
    run = trainer(tmp_path / "run", callback, steps=6)
    run.sign = -1
    run.train()
    assert run.state.global_step == 6
    assert callback.diagnosis is not None
    assert callback.diagnosis.grade is Grade.WRONG


@pytest.mark.parametrize(("stop_on", "steps"), [(["not_finite"], 2), (["wrong"], 2), (["separable"], 4)])
def test_a_policy_that_is_lost_is_told_and_can_be_a_reason(
    stop_on: list[str], steps: int, tmp_path: Path
) -> None:
    said: list[str] = []
    table = lm.PairsTable(tmp_path / "p.jsonl", PAIRS)
    callback = lm.DiagnoseCallback(table, every=1, stop_on=stop_on, say=said.append)
    run = trainer(tmp_path / "run", callback, steps=4, eval_strategy="no", save_strategy="no")

    class Lose(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            if state.global_step == 1:
                model.transformer.ln_f.weight.data[0] = np.nan

    run.add_callback(Lose())
    run.train()
    assert run.state.global_step == steps
    assert any("step 2: 56 of 56 log-probabilities are not finite" in line for line in said)
    assert table.steps == [0, 1]


def test_what_needs_all_weights_in_one_process_says_so(tmp_path: Path) -> None:
    callback = lm.DiagnoseCallback(lm.PairsTable(tmp_path / "p.jsonl", PAIRS))
    settings = type("Settings", (), {"fsdp": "full_shard"})
    with pytest.raises(ValueError, match="FSDP and DeepSpeed's third stage split them"):
        callback.on_train_begin(settings, None, None, model=gpt2())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table": "pairs.parquet"}, "`table` must be a PairsTable"),
        ({"beta": 0}, "`beta` must be a positive number; got 0"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"stop_on": "wrong"}, "`stop_on` must be a list of words; got 'wrong'"),
        ({"stop_on": ["no_margins"]}, r"got 'no_margins' \(did you mean 'no_margin'\?\)"),
        ({"stop_on": ["fine"]}, "`stop_on` must be one of wrong, look, not_finite, "),
        ({"say": "loudly"}, "`say` must be a function"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = lm.PairsTable(tmp_path / "p.jsonl", PAIRS)
    with pytest.raises(ValueError, match=message):
        lm.DiagnoseCallback(**({"table": table} | changed))


def test_every_reason_is_a_grade_or_the_name_of_a_finding() -> None:
    assert ("wrong", "look", "not_finite", *NAMES) == REASONS
