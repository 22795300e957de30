"""Beta and the loss, read from the text of a log; contradictions; and what the user says, which wins."""

from pathlib import Path

import numpy as np
import pytest

from didsim.diagnostics import diagnose, read_log
from didsim.diagnostics.logs.settings import evidence_of
from didsim.diagnostics.logs.stated import Stated, stated_in
from tests.diagnostics.log_cases import console, simulated

ROWS = simulated(45)
LONG = ", ".join(f"setting_{k}={k}" for k in range(40))


@pytest.mark.parametrize(
    ("text", "betas", "losses"),
    [
        ("beta=0.1", (0.1,), ()),
        (f"DPOConfig({LONG}, adam_beta1=0.9, beta=0.25, loss_type='sigmoid', x=1)", (0.25,), ("sigmoid",)),
        (
            "DPOConfig(\nadam_beta1=0.9,\nadam_beta2=0.999,\nbeta=0.05,\nloss_type=['ipo'],\n",
            (0.05,),
            ("ipo",),
        ),
        ("DPOConfig(beta=0.1, loss_type=['sigmoid', 'sft'], loss_weights=[1, 1])", (0.1,), ()),
        ("pref_beta: 0.1\npref_loss: sigmoid\n", (0.1,), ("sigmoid",)),
        ("  pref_beta: 1e-1\n  pref_loss: 'orpo'  # comment", (0.1,), ("orpo",)),
        ("rl: dpo\nrl_beta: 0.3\n", (0.3,), ("sigmoid",)),
        ("rl: ipo\ndpo_beta: .2\n", (0.2,), ("ipo",)),
        ("python train.py --beta 0.1 --loss_type hinge", (0.1,), ("hinge",)),
        ("deepspeed --module openrlhf.cli.train_dpo --beta=0.1 --adam_betas 0.9 0.95", (0.1,), ()),
        ("python -u train.py model=pythia28 loss=dpo loss.beta=0.1", (0.1,), ()),
        ("loss:\n  name: dpo\n  beta: 0.1\n  label_smoothing: 0", (0.1,), ()),
        ("loss:\n  _component_: torchtune.rlhf.loss.DPOLoss\n  beta: 0.05", (0.05,), ()),
        ('{\n "beta": 0.1,\n "loss_type": "nca_pair"\n}', (0.1,), ("nca_pair",)),
        ("Namespace(beta=0.1, ipo=False, nll_loss_coef=0.0, label_smoothing=0.0)", (0.1,), ()),
        ("CPOConfig(beta=0.1, loss_type='sigmoid')", (0.1,), ("cpo",)),
        ("CPOConfig(beta=2.5, loss_type='simpo', simpo_gamma=0.5)", (2.5,), ("simpo",)),
        ("SimPOConfig(beta=2.0, gamma_beta_ratio=0.5, loss_type='sigmoid')", (2.0,), ("simpo",)),
        ("KTOConfig(beta=0.1, desirable_weight=1.0)", (0.1,), ("kto",)),
        ("ORPOConfig(beta=0.1)", (0.1,), ("orpo",)),
        ("beta=0.1\n…\nbeta: 0.1", (0.1,), ()),
        ("beta=0.1\n…\nbeta: 0.5", (0.1, 0.5), ()),
        ("beta=0.0", (0.0,), ()),
        # No settings.
        ("adam_beta1=0.9, adam_beta2=0.999, betas=(0.9, 0.95)", (), ()),
        ("AdamW(betas=[0.9, 0.999]), gamma_beta_ratio=0.5, mybeta=3, beta_2: 4", (), ()),
        ("Using beta 2 of the library", (), ()),
        ("{'loss': 0.6, 'beta': 0.3, 'rewards/chosen': 0.1}", (), ()),
        ("loss_type: my_own_loss\nbeta: auto", (), ()),
        ("", (), ()),
    ],
)
def test_settings_in_text(text: str, betas: tuple[float, ...], losses: tuple[str, ...]) -> None:
    assert stated_in(text) == Stated(betas, losses)


def log(folder: Path, head: str, tail: str = "") -> Path:
    path = folder / "log.txt"
    path.write_bytes(head.encode() + b"\n" + console(ROWS) + tail.encode())
    return path


def names(*arguments: object, **more: object) -> dict[str, str]:
    return {one.name: one.sentence for one in diagnose(*arguments, **more).findings}  # type: ignore[arg-type]


def test_a_stated_beta_tells_nats_and_says_so(tmp_path: Path) -> None:
    path = log(tmp_path, f"DPOConfig({LONG}, beta=0.1, loss_type='sigmoid')")
    evidence = evidence_of(read_log(path), None, None)
    assert (evidence.beta, evidence.beta_source, evidence.loss_type) == (0.1, "stated in the log", "sigmoid")
    diagnosis = diagnose(path)
    assert "beta is 0.1: stated in the log" in diagnosis.inputs[0].notes
    assert not any("how many nats" in one.what for one in diagnosis.unknowns)
    given = diagnose(path, beta=0.1, loss_type="sigmoid")
    assert [one.sentence for one in given.findings] == [one.sentence for one in diagnosis.findings]


def test_what_the_user_says_wins_and_the_difference_is_told(tmp_path: Path) -> None:
    path = log(tmp_path, "beta=0.1\nloss_type=sigmoid")
    evidence = evidence_of(read_log(path), 0.5, "ipo")
    assert (evidence.beta, evidence.beta_source, evidence.loss_type) == (0.5, "given", "ipo")
    told = names(path, beta=0.5, loss_type="ipo")["settings_contradict"]
    assert "beta 0.5 was given and is used, and the log states 0.1" in told
    assert "loss ipo was given and is used, and the log states sigmoid" in told
    assert "settings_contradict" not in names(path, beta=0.1, loss_type="sigmoid")
    assert "settings_contradict" not in names(path)


def test_values_that_contradict_one_another_are_told_and_not_used(tmp_path: Path) -> None:
    path = log(tmp_path, "beta=0.1\npref_loss: sigmoid\n", "beta: 0.3\nloss_type: ipo\n")
    evidence = evidence_of(read_log(path), None, None)
    assert evidence.beta_source != "stated in the log"
    assert evidence.loss_type is None
    told = names(path)["settings_contradict"]
    assert "the log states beta 0.1 and 0.3" in told
    assert "the log states the losses sigmoid and ipo" in told or "ipo and sigmoid" in told
    assert "beta" not in names(path, beta=0.1, loss_type="ipo").get("settings_contradict", "beta 0.1 was")[:4]


def test_the_last_of_two_runs_has_the_last_settings(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"beta=0.5\n" + console(ROWS) + b"\nbeta=0.1\n" + console(ROWS))
    evidence = evidence_of(read_log(path), None, None)
    assert evidence.log.runs == 2
    assert evidence.beta == 0.1
    assert "settings_contradict" not in names(path)


def test_a_stated_beta_of_0_is_the_cause_of_rewards_of_0(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    rows = [
        {"loss": 0.6931, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "step": 10 * k} for k in range(20)
    ]
    path.write_text("DPOConfig(beta=0.0)\n" + "\n".join(map(repr, rows)))
    assert "so beta is 0." in names(path)["nothing_reaches_the_loss"]


def test_a_stated_loss_switches_off_the_checks_of_another(tmp_path: Path) -> None:
    rows = [
        {"loss": 0.0224, "rewards/chosen": 0.5, "rewards/rejected": -0.8, "rewards/margins": 1.3, "step": k}
        for k in range(1, 30)
    ]
    path = tmp_path / "log.txt"
    text = "\n".join(map(repr, rows))
    path.write_text(text)
    assert "below_jensen_bound" in names(path)
    path.write_text(f"loss_type='ipo'\n{text}")
    assert "below_jensen_bound" not in names(path)


def bars(rows: list[dict[str, float]], *, epochs: int = 1, desc: str = "Train step of epoch {epoch}") -> str:
    """Progress bars as tqdm draws them: each batch twice, as its numbers come before its place."""
    size = len(rows) // epochs
    lines = []
    for number, row in enumerate(rows):
        place, epoch = number % size, number // size
        shown = ", ".join(f"{name}={value:.3g}" for name, value in row.items())
        for now in (place, place + 1):
            name = f"{desc.format(epoch=epoch, one=epoch + 1, all=epochs)}: {100 * now // size:3d}%"
            lines.append(f"{name}|{'█' * 3}▌      | {now}/{size} [02:13<02:41,  3.41it/s, {shown}]")
    return "\r".join(lines)


@pytest.mark.parametrize("desc", ["Train step of epoch {epoch}", "Train epoch [{one}/{all}]"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_openrlhf_shows_its_metrics_behind_progress_bars(desc: str, epochs: int, tmp_path: Path) -> None:
    rows = [
        {
            "loss": 0.69 - 0.004 * k,
            "acc": 0.7,
            "chosen_reward": -0.01 * k,
            "reject_reward": -0.03 * k,
            "lr": 5e-7,
        }
        for k in range(60)
    ]
    path = tmp_path / "log.txt"
    path.write_text(
        f"Train epoch:   0%|          | 0/{epochs} [00:00<?, ?it/s]\n" + bars(rows, epochs=epochs, desc=desc)
    )
    found = read_log(path)
    assert found.format == "console"
    assert found.runs == 1
    assert found.unit == "step"
    assert found.train.at[-1] == 60
    # At place 0 of an epoch the first batch is shown, and at each later place the batch after it.
    for name, theirs in (
        ("loss", "loss"),
        ("chosen_reward", "chosen_reward"),
        ("rejected_reward", "reject_reward"),
    ):
        assert set(np.round(found.train.columns[name], 6)) == {float(f"{row[theirs]:.3g}") for row in rows}
    assert found.train.columns["margin"][-1] == pytest.approx(0.02 * 59, abs=0.01)


def test_a_bar_of_an_evaluation_is_about_held_out_pairs(tmp_path: Path) -> None:
    train = [{"loss": 0.6, "acc": 0.7, "chosen_reward": 0.1, "reject_reward": -0.1}] * 20
    held_out = [{"eval_loss": 0.65 + 0.001 * k, "acc_mean": 0.6} for k in range(5)]
    text = bars(train) + "\n" + bars(held_out, desc="Eval stage of global_step 10") + "\n"
    path = tmp_path / "log.txt"
    path.write_text(text + text.replace("0.65", "0.75"))
    found = read_log(path)
    assert found.runs == 2  # the same bar again, from its start
    assert found.held_out.columns["accuracy"].tolist() == [0.6]
    assert found.train.columns["accuracy"].tolist() == [0.7] * 21
    assert found.held_out.columns["loss"].tolist() == pytest.approx([0.754])


def test_a_progress_bar_without_metrics_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("Loading:  45%|████▌     | 45/100 [02:13<02:41,  3.41it/s]\n" * 5)
    with pytest.raises(ValueError, match="is not a training log"):
        read_log(path)
