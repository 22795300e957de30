"""Where each objective ends when preferences encode the target: only DPO ends at the target."""

from typing import Annotated

import msgspec
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Names, NonNegative, Positive, TrainingConfig
from experiments.shared.limits import strength
from experiments.shared.training import ends_in_words, run_study
from experiments.shared.wording import listed, number


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The data have the strength `beta`. Every objective with a `beta` gets the same value, as does IPO's `tau`.
    An objective whose reward is divided by the length gets `beta · max_length`. `label_smoothing` belongs to
    cDPO, `gamma` to SimPO, `delta` to SLiC, and `weight` to ORPO and CPO.
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
    others = {
        "cdpo": {"label_smoothing": config.label_smoothing},
        "simpo": {"gamma": config.gamma},
        "slic": {"delta": config.delta},
        "orpo": {"weight": config.weight},
        "cpo": {"weight": config.weight},
    }
    objectives = [
        {"name": name, **strength(name, config.beta, config.max_length), **others.get(name, {})}
        for name in config.objectives
    ]
    return run_study(config, {"objective": objectives}, progress)


def finding(dataset: xr.Dataset) -> str:
    """How far from the target, and from their limits, objectives end, and which were nearer on the way."""
    text = ends_in_words(dataset, "objective", "objectives")
    curves = dataset["js_to_target"].median("seed")
    nearest, ends = curves.min("step"), curves.isel(step=-1)
    passing = [
        f"`{name}` ({number(float(nearest.sel(objective=name)))} nats)"
        for name in dataset["objective"].values
        if nearest.sel(objective=name) < 0.9 * ends.sel(objective=name)
    ]
    return f"{text} Nearer on the way than at the end: {listed(passing)}." if passing else text


def plot(dataset: xr.Dataset) -> Figure:
    """Curves to their limits, and where each run ends."""
    return plotting.plot_convergence(dataset, "objective")
