"""Likelihood displacement and entropy along training, for a reinforcing and a smoothing target."""

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.training.metrics import METRICS
from experiments.shared.configs import Count, NonNegative, PolicyName, Positive, TrainingConfig
from experiments.shared.training import seed_keys, train
from experiments.shared.wording import number

UPDATES = ("reinforcing", "smoothing")
RECORDED = ("chosen_displacement", "rejected_displacement", "policy_entropy", "did_entropy")


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The target is `reference · exp(±strength · log reference + noise · z)`, normalised. With the
    plus sign it reinforces what the reference finds likely. With the minus sign it smooths.
    """

    policy: PolicyName = "autoregressive"
    steps: Count = 1000
    learning_rate: Positive = 0.03
    strength: NonNegative = 0.4
    noise: NonNegative = 0.5


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train both kinds of update, with chosen responses from the reference, and compute the exact limits."""
    space = config.make_space()
    keys = seed_keys(config, 2)
    reference = didsim.markov(keys[0], space)
    bumps = config.noise * didsim.normal_logits(keys[1], space.size)
    signs = jnp.array([1.0, -1.0])[:, None, None]
    target = didsim.bayes_update(reference, signs * config.strength * reference + bumps)
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    trained = train(
        config,
        space,
        reference,
        target,
        didsim.Contrastive(reference, rejected),
        didsim.dpo(config.beta),
        {name: METRICS[name] for name in RECORDED},
        progress and "displacement",
    )
    limits = {
        "chosen_displacement": -didsim.kl(reference, target),
        "rejected_displacement": didsim.expectation(rejected, target - reference),
        "policy_entropy": didsim.entropy(target),
        "did_entropy": didsim.did_entropy(target, reference),
    }
    dims = ("update", "seed")
    return (
        trained.to_dataset(dims)
        .assign({f"{name}_limit": (dims, values, _about_limit(name)) for name, values in limits.items()})
        .assign_coords(update=list(UPDATES), seed=np.arange(config.seeds))
    )


def _about_limit(name: str) -> dict[str, str]:
    return {"long_name": f"Exact limit of {name}", "units": "nats", "limit_of": name}


def finding(dataset: xr.Dataset) -> str:
    """The falls of both likelihoods, the changes of entropy, and the gaps to the exact limits."""
    parts = []
    for update in UPDATES:
        one = dataset.sel(update=update)
        chosen, rejected = (
            number(float(one[f"{name}_displacement"].isel(step=-1).median("seed")))
            for name in ("chosen", "rejected")
        )
        entropy = one["policy_entropy"]
        change = float((entropy.isel(step=-1) - entropy.isel(step=0)).median("seed"))
        parts.append(
            f"With a {update} target the chosen log-likelihood changes by {chosen} nats, the rejected one by "
            f"{rejected}, and the policy's entropy by {number(change)}."
        )
    gap = max(
        float(np.abs(dataset[name].isel(step=-1) - dataset[f"{name}_limit"]).max()) for name in RECORDED
    )
    return f"{' '.join(parts)} No run ends further than {number(gap)} nats from an exact limit."


def plot(dataset: xr.Dataset) -> Figure:
    """A row for each update: displacement at the left, entropies at the right."""
    panels = (
        (
            "Log-likelihood change (nats)",
            {"chosen": "chosen_displacement", "rejected": "rejected_displacement"},
        ),
        ("Entropy (nats)", {"policy": "policy_entropy", "DID": "did_entropy"}),
    )
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.0, sharex=True, sharey="col")
        letters = iter("abcd")
        for row, update in zip(axes, UPDATES, strict=True):
            one = dataset.sel(update=update)
            for column, (ax, (label, curves)) in enumerate(zip(row, panels, strict=True)):
                for k, (name, variable) in enumerate(curves.items()):
                    color = plotting.COLORS[2 * column + k]
                    plotting.plot_band(ax, one[variable], "step", color=color, label=name)
                    plotting.plot_limit(ax, one[f"{variable}_limit"], color=color)
                plotting.log_steps(ax, dataset)
                plotting.label_axes(ax, y=label)
                ax.set_title(f"({next(letters)}) {update} target")
                ax.plot([], [], color="black", linestyle=(0, (4, 2)), linewidth=0.9, label="exact limit")
                ax.legend(loc="best")
        for ax in axes[-1]:
            plotting.label_axes(ax, x=dataset["step"])
    return figure
