"""Where each objective ends when preferences encode the target: DPO alone, at the target."""

from typing import Annotated

import msgspec
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.configs import Names, NonNegative, Positive, TrainingConfig
from experiments.instances import run_study


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
    beta = {"beta": config.beta}
    # The entries of the registry that take other settings than the data's beta.
    settings = {
        "cdpo": beta | {"label_smoothing": config.label_smoothing},
        "ipo": {"tau": config.beta},
        # It divides by lengths, so that this beta gives the reward the scale of the others'.
        "simpo": {"beta": config.beta * config.max_length, "gamma": config.gamma},
        "slic": beta | {"delta": config.delta},
        "orpo": {"weight": config.weight},
        "cpo": beta | {"weight": config.weight},
    }
    objectives = [{"name": name, **settings.get(name, beta)} for name in config.objectives]
    return run_study(config, {"objective": objectives}, progress)


def plot(dataset: xr.Dataset) -> Figure:
    """Curves to their limits, and where each run ends."""
    return plotting.plot_convergence(dataset, "objective")
