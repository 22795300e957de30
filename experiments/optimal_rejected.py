"""Where DPO ends under each rejected-sampling distribution: at the target only under the optimal one."""

import msgspec
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Names, NonNegative, Positive, TrainingConfig
from experiments.shared.training import ends_in_words, run_study


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The objective and every rejected distribution with a `beta` get the same `beta`. `exponent` is the power
    of `tempered`. `geodesic` lies at `-position * beta`. `noise` is the size of the noise in `perturbed`, in
    nats. `worst_of_n` takes the worst of `n` draws by the log-ratio of target to reference.
    """

    steps: Count = 1000
    rejected: Names = msgspec.field(default_factory=lambda: tuple(didsim.REJECTED))
    exponent: float = 0.5
    position: Positive = 2.0
    noise: NonNegative = 0.5
    n: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.rejected:
            didsim.REJECTED[name]


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train all runs and compare them with the exact limits."""
    settings: dict[str, dict[str, float]] = {
        "tempered": {"exponent": config.exponent},
        "geodesic": {"position": -config.position * config.beta},
        "perturbed": {"noise": config.noise},
        "worst_of_n": {"n": config.n},
    }
    rejected = [{"name": name, **settings.get(name, {})} for name in config.rejected]
    return run_study(config, {"problem.rejected": rejected}, progress)


def finding(dataset: xr.Dataset) -> str:
    """How far from the target, and from its exact limits, DPO ends."""
    return ends_in_words(dataset, "rejected", "rejected-sampling distributions")


def plot(dataset: xr.Dataset) -> Figure:
    """Curves to their limits, and where each run ends."""
    return plotting.plot_convergence(dataset, "rejected")
