"""Where each objective ends when preferences encode the target: DPO alone, at the target."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.recording import js_to_target
from experiments.configs import Names, NonNegative, Positive, TrainingConfig
from experiments.instances import make_space, seed_keys, train, with_limits


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    `beta` is that of the data and of every objective that has one, and IPO's `tau`.
    """

    objectives: Names = (
        "dpo",
        "cdpo",
        "ipo",
        "simpo",
        "slic",
        "orpo",
        "cpo",
        "exponential",
        "reference_free",
    )
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.1
    gamma: NonNegative = 0.5
    delta: Positive = 1.0
    weight: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.objectives:
            didsim.OBJECTIVES[name]


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train all runs of every objective and compare them with the limits that exist and are unique."""
    beta, weight = config.beta, config.weight
    # The entries of the registry that take more than the data's beta.
    settings: dict[str, Callable[[], didsim.Objective]] = {
        "cdpo": lambda: didsim.cdpo(beta, config.label_smoothing),
        "ipo": lambda: didsim.ipo(beta),
        # It divides by lengths, so that this beta gives the reward the scale of the others'.
        "simpo": lambda: didsim.simpo(beta * config.max_length, config.gamma),
        "slic": lambda: didsim.slic(beta, config.delta),
        "orpo": lambda: didsim.orpo(weight),
        "cpo": lambda: didsim.cpo(beta, weight),
    }
    objectives = {
        name: settings[name]() if name in settings else didsim.OBJECTIVES[name](beta)
        for name in config.objectives
    }
    space = make_space(config)
    reference, target = didsim.normal_logits(seed_keys(config, 2), space.size)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, config.beta))
    runs = {
        name: train(
            config,
            space,
            reference,
            target,
            problem,
            objective,
            {"js_to_target": js_to_target},
            progress and f"log_ratio_reward: {name}",
        )
        for name, objective in objectives.items()
    }
    unknown = jnp.full(config.seeds, jnp.nan)
    limits, gaps = [], []
    for name, objective in objectives.items():
        try:
            limit = didsim.fixed_point(objective, reference, problem, space.lengths, starts=2)
        except didsim.NoMinimiserError:
            limits.append(unknown)
            gaps.append(unknown)
        else:
            limits.append(didsim.js(limit, target))
            gaps.append(didsim.js(runs[name].policy.log_probs(), limit))
    dataset = xr.concat([one.to_dataset(("seed",)) for one in runs.values()], dim="objective")
    dataset = with_limits(dataset, "objective", np.stack(limits), np.stack(gaps))
    return dataset.assign_coords(objective=list(objectives), seed=np.arange(config.seeds))


def plot(dataset: xr.Dataset) -> Figure:
    """Curves to their limits, and where each run ends."""
    return plotting.plot_convergence(dataset, "objective")
