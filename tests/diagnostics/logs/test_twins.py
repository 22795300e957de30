"""Twins of the cases with known answers: other trainers, other losses, other betas, evaluations alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from didsim.diagnostics import Diagnosis, diagnose
from tests.diagnostics.logs.test_stated import bars


def softplus(x: float) -> float:
    return float(np.logaddexp(0, x))


def console(rows: list[dict[str, float]], head: str = "") -> str:
    return "\n".join([head, *map(repr, rows)])


def rewards(chosen: float, rejected: float, prefix: str = "", **more: float) -> dict[str, float]:
    margin = chosen - rejected
    names = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": margin}
    return {prefix + name: value for name, value in names.items()} | more


def openrlhf(chosen: Callable[[int], float], rejected: Callable[[int], float], loss: float) -> str:
    return bars(
        [
            {"loss": loss, "acc": 0.8, "chosen_reward": chosen(k), "reject_reward": rejected(k), "lr": 5e-7}
            for k in range(1, 80)
        ]
    )


def original(rows: list[tuple[float, float]]) -> str:
    return "\n".join(
        f"train stats after {64 * k} examples: "
        + repr(
            {
                "rewards_train/chosen": f"{chosen:.5g}",
                "rewards_train/rejected": f"{rejected:.5g}",
                "rewards_train/margins": f"{chosen - rejected:.5g}",
                "loss/train": f"{softplus(rejected - chosen):.5g}",
                "counters/updates": k,
            }
        )
        for k, (chosen, rejected) in enumerate(rows)
    )


def llamafactory(losses: list[float]) -> str:
    return "\n".join(
        json.dumps({"current_steps": 10 * (k + 1), "loss": loss, "lr": 5e-4, "accuracy": 0.5})[:-1]
        + f', "rewards/chosen": {-0.1 * k}, "rewards/rejected": {-0.2 * k}}}'
        for k, loss in enumerate(losses)
    )


TWINS: dict[str, tuple[str, str, str]] = {
    "OpenRLHF, reference": (
        openrlhf(lambda k: 4.77 + 0.01 * k, lambda k: 2.69, 0.3),
        "wrong",
        "reference_is_not_initial_policy",
    ),
    "OpenRLHF, stuck": (openrlhf(lambda k: 0.0, lambda k: 0.0, 0.6931), "wrong", "nothing_reaches_the_loss"),
    "LlamaFactory, divergence": (llamafactory([0.6931, 0.68, 0.7, 31.2, 22.1, 590]), "wrong", "divergence"),
    "original code, collapse": (
        original([(-8 * k / 40, -17 * k / 40) for k in range(60)]),
        "wrong",
        "saturated_collapse",
    ),
    "evaluations alone, no generalisation, beta 0.01": (
        console(
            [
                rewards(-0.1 * k, -0.08 * k, "eval_", eval_loss=0.69 + 0.02 * k, epoch=k / 5)
                for k in range(1, 6)
            ],
            "pref_beta: 0.01\npref_loss: sigmoid",
        ),
        "wrong",
        "no_generalisation",
    ),
    "hinge that nobody named": (
        console([rewards(0.01 * k, -0.01 * k, loss=max(0, 1 - 0.02 * k), step=k) for k in range(60)]),
        "look",
        "loss_is_another_one",
    ),
    "hinge that the settings name": (
        console(
            [rewards(0.01 * k, -0.01 * k, loss=max(0, 1 - 0.02 * k), step=k) for k in range(60)],
            "loss_type='hinge'",
        ),
        "fine",
        "displacement",
    ),
    "KTO, healthy": (
        console(
            [rewards(0.02 * k, -0.03 * k, loss=0.5 - 0.003 * k, kl=0.3, step=k) for k in range(50)],
            "KTOConfig(beta=0.1)",
        ),
        "fine",
        "displacement",
    ),
    "KTO, clamped": (
        console(
            [rewards(-0.02 * k, -0.05 * k, loss=0.5, kl=0.0, step=k) for k in range(50)],
            "KTOConfig(beta=0.1)",
        ),
        "look",
        "kl_clamped_at_zero",
    ),
    "SimPO, healthy": (
        console(
            [rewards(-2.5 - 0.01 * k, -2.6 - 0.04 * k, loss=1.2 - 0.01 * k, step=5 * k) for k in range(50)],
            "SimPOConfig(beta=2.5, loss_type='sigmoid')",
        ),
        "fine",
        "margin_is_positive",
    ),
    "a stated beta that the rewards deny": (
        console(
            [
                rewards(-0.09 * k, -0.27 * k, loss=softplus(-0.18 * k), step=10 * k)
                | {"logps/chosen": -100 - 0.3 * k, "ref_logps/chosen": -100.0}
                for k in range(1, 40)
            ],
            "DPOConfig(beta=0.1)",
        ),
        "wrong",
        "rewards_are_not_beta_log_ratios",
    ),
    "SFT in the loss": (
        console(
            [
                rewards(0.04 * k, -0.04 * k, loss=softplus(-0.08 * k) + 0.8, nll_loss=0.8, step=5 * k)
                | {"rewards/accuracies": 1.0}
                for k in range(1, 90)
            ],
            "DPOConfig(beta=0.1, loss_type=['sigmoid', 'sft'])",
        ),
        "look",
        "loss_holds_another_term",
    ),
}


def diagnosis_of(text: str, folder: Path) -> Diagnosis:
    path = folder / "log"
    path.write_text(text)
    return diagnose(path)


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_answers(name: str, tmp_path: Path) -> None:
    text, grade, first = TWINS[name]
    diagnosis = diagnosis_of(text, tmp_path)
    assert (diagnosis.grade, diagnosis.findings[0].name) == (grade, first), diagnosis.verdict


def test_rewards_that_are_all_negative_may_have_no_reference(tmp_path: Path) -> None:
    text = console([rewards(-2.5 - 0.01 * k, -2.6 - 0.04 * k, loss=1.2, step=5 * k) for k in range(50)])
    diagnosis = diagnosis_of(text, tmp_path)
    assert diagnosis.findings[0].name == "reference_is_not_initial_policy"
    assert "say so with --loss-type" in diagnosis.findings[0].advice
