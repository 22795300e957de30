"""Where DPO ends under each rejected-sampling distribution: at the target under the optimal one alone."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.recording import js_to_target
from experiments.configs import Count, Names, NonNegative, Positive, TrainingConfig
from experiments.instances import make_space, seed_keys, train, with_limits


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    `beta` is that of the objective and of the optimal distribution. The others: `tempered` is the reference
    to the power `exponent`, `geodesic` lies at `-position * beta`, `perturbed` has `noise` in log space, and
    `worst_of_n` takes the worst of `n` under the log-ratio of target to reference.
    """

    steps: Count = 1000
    rejected: Names = tuple(didsim.REJECTED)
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
    makers = {name: didsim.REJECTED[name] for name in config.rejected}
    space = make_space(config)
    keys = seed_keys(config, 3)
    reference, target = didsim.normal_logits(keys[:2], space.size)
    arguments: dict[str, dict[str, Any]] = {
        "optimal": {"reference": reference, "target": target, "beta": config.beta},
        "uniform": {"reference": reference},
        "reference": {"reference": reference},
        "target": {"target": target},
        "tempered": {"reference": reference, "exponent": config.exponent},
        "reversed": {"reference": reference, "target": target, "beta": config.beta},
        "geodesic": {
            "reference": reference,
            "target": target,
            "position": -config.position * config.beta,
        },
        "perturbed": {
            "key": keys[2, 0],
            "reference": reference,
            "target": target,
            "beta": config.beta,
            "noise": config.noise,
        },
        "worst_of_n": {"reference": reference, "score": target - reference, "n": config.n},
    }
    rejected = jnp.stack([maker(**arguments[name]) for name, maker in makers.items()])
    problem = didsim.Contrastive(chosen=reference, rejected=rejected)
    objective = didsim.dpo(config.beta)
    trained = train(
        config,
        space,
        reference,
        target,
        problem,
        objective,
        {"js_to_target": js_to_target},
        progress and "optimal_rejected",
    )
    limit = didsim.fixed_point(objective, reference, problem)
    dataset = with_limits(
        trained.to_dataset(("rejected", "seed")),
        "rejected",
        didsim.js(limit, target),
        didsim.js(trained.policy.log_probs(), limit),
    )
    return dataset.assign_coords(rejected=list(makers), seed=np.arange(config.seeds))


def plot(dataset: xr.Dataset) -> Figure:
    """Curves to their limits, and where each run ends."""
    return plotting.plot_convergence(dataset, "rejected")
