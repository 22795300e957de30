"""What several test files of this folder share."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from experiments.__main__ import EXPERIMENTS, app
from experiments.shared.running import load

SMALL = ["--set", "vocab_size=2", "--set", "max_length=3", "--set", "steps=60", "--set", "seeds=4"]
"""Settings of an experiment that trains."""

FEW = ["--set", 'objectives=["dpo", "slic", "dpo_pg"]']
MORE = {
    "best_of_n_pairs": ["--set", "draws=[2,4]"],
    "did_entropy": ["--set", "instances=32"],
    "entropy_map": ["--set", "instances=32"],
    "estimator_study": ["--set", "repeats=3", "--set", "samples=[8,64]"],
    "finite_data": [
        word for one in ("pairs=[10,100,1000]", "fitted=[20,200]", "times=3") for word in ("--set", one)
    ],
    "generalisation": ["--set", "features=[2,4]", "--set", "shares=[0.4,0.8]"],
    "iterative_refinement": ["--set", "rounds=6"],
    "log_ratio_reward": ["--set", 'objectives=["dpo", "ipo", "slic"]'],
    "misspecified": ["--set", "instances=32", "--set", "features=[1,2]", "--set", "concentrations=[0.1,1]"],
    "objective_zoo": FEW,
    "objective_maps": FEW,
    "overfitting": [
        word for one in ("pairs=[6,60]", "held_out=30", "weights=2", "solved=2") for word in ("--set", one)
    ],
    "power_law_violation": ["--set", "repeats=2", "--set", "pairs=[50,200]"],
    "projected_gradient": ["--set", "batch_sizes=[1,8]"],
    "similar_responses": ["--set", "instances=32", "--set", "looks=3"],
    "simpo_learns_the_did": ["--set", "margins=[0,1]", "--set", "factors=[1,2]"],
    "token_level": ["--set", "betas=[0.5]"],
    "two_stage": ["--set", "shifts=[0,1]", "--set", "ridges=[0.01,10]"],
}
GIVEN = {"four_answers": {"vocab_size", "max_length", "eos"}}
"""Settings that an experiment has no choice of: there are as many answers as probabilities."""

TABULAR = [name for name in EXPERIMENTS if name != "real_lm"]
"""The experiments that need no language model."""

ROOT = Path(__file__).parent.parent

DRAWN = [name for name in EXPERIMENTS if name in TABULAR or (ROOT / "figures" / f"{name}.nc").exists()]
"""The experiments that `all` draws; one with a language model only where its data are."""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), terminal_width=200)


def settings(name: str, **values: object) -> list[str]:
    """Those of some settings that an experiment has, and more that make it small."""
    known = set(load(name).Config.__struct_fields__) - GIVEN.get(name, set())
    own = [f"{key}={str(value).lower()}" for key, value in values.items() if key in known]
    return [word for one in own for word in ("--set", one)] + MORE.get(name, [])
