"""What DPO does to sequences that no pair shows: policies of few features, and of free logits.

Policies of `d` features are `π ∝ exp(features · weights)`. The first feature is the log-reference, so that
the reference is one of them. All policies are exact limits of gradient descent from the reference.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float
from matplotlib.figure import Figure
from rich.progress import track

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import number, share

FREE = "free"


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The true reward has variance 1. All but the share `rest` of it is linear in the first `linear` features
    after the log-reference; the rest is free noise. Pairs show `shares` of the space, at least two sequences,
    chosen at random for each seed. All pairs of them count the same, with labels of the true reward.
    """

    max_length: Count = 3
    seeds: Count = 32
    beta: Positive = 0.5
    linear: Count = 6
    rest: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    features: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=6)] = (4, 12, 32)
    shares: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, le=1)], ...], msgspec.Meta(min_length=1)] = (
        0.1,
        0.2,
        0.35,
        0.5,
        0.7,
        0.9,
    )

    def numbers(self) -> dict[str, int]:
        """Tables of pairs for each seed and share."""
        return {"seeds": 40 * self.seeds * len(self.shares) * self.make_space().size ** 2}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Solve for all classes of policies, shares of the space and seeds, exactly."""
    space, seeds = config.make_space(), config.seeds
    size = space.size
    keys = jax.random.split(jax.random.key(config.seed), 5)
    reference = didsim.markov(keys[0], space)
    dtype = reference.dtype
    dimensions = sorted({min(d, size - 1) for d in config.features})
    random = jax.random.normal(keys[1], (size, max(config.linear, dimensions[-1] - 1)), dtype)
    features = jnp.concatenate([reference[:, None], random], axis=1)
    slopes = jax.random.normal(keys[2], (seeds, config.linear), dtype) / jnp.sqrt(config.linear)
    rest = jax.random.normal(keys[3], (seeds, size), dtype)
    reward = jnp.sqrt(1 - config.rest) * slopes @ random[:, : config.linear].T + jnp.sqrt(config.rest) * rest
    target = didsim.kl_optimum(reward, reference, config.beta)
    ranks = np.argsort(jax.random.uniform(keys[4], (seeds, size)), axis=-1)
    counts = np.array([max(2, round(part * size)) for part in config.shares])
    seen = ranks < counts[:, None, None]
    objective = didsim.dpo(config.beta)
    policies = {}
    for d in track(dimensions, "generalisation", disable=not progress):
        start = didsim.LogLinear(features[:, :d], jnp.zeros(d, dtype).at[0].set(1))
        solution = didsim.solve(objective, reference, _pairs(reward, seen), policy=start)
        if not np.all(solution.certificate.converged):
            raise ValueError("`features` and `shares` must be such that every solver converges")
        found = solution.policy
        assert isinstance(found, didsim.LogLinear)
        weights = _of_descent(np.asarray(found.weights), start, seen)
        policies[f"{d}"] = didsim.LogLinear(start.features, weights).log_probs()
    # Descent on free logits keeps those of unseen sequences, and the sum of the others.
    moved = (reward - _mean(np.asarray(reward), seen)[..., None]) / config.beta
    policies[FREE] = jax.nn.log_softmax(reference + jnp.where(seen, moved, 0), axis=-1)
    return _dataset(config, policies, reference, target, seen)


def _pairs(reward: Float[Array, "*seeds size"], seen: Bool[np.ndarray, "*shares size"]) -> didsim.Pairs:
    """All pairs of seen sequences, with the probability that the first one wins."""
    i, j = np.triu_indices(seen.shape[-1], 1)
    weights = (seen[..., i] & seen[..., j]).astype(float)
    first, second = (np.broadcast_to(one, weights.shape) for one in (i, j))
    wins = jnp.broadcast_to(jax.nn.sigmoid(reward[..., i] - reward[..., j]), weights.shape)
    return didsim.Pairs(first, second, weights, win_probs=wins)


def _of_descent(
    weights: Float[np.ndarray, "shares seeds d"],
    start: didsim.LogLinear,
    seen: Bool[np.ndarray, "shares seeds size"],
) -> Float[Array, "shares seeds d"]:
    """The minimiser that gradient descent tends to.

    The gradient lies in the span of the differences of the features of seen sequences, along which the loss
    is strictly convex. So the limit is any minimiser, with its change projected onto this span.
    """
    features = np.asarray(start.features)
    shown = seen[..., None] * features
    centred = seen[..., None] * (features - shown.sum(-2, keepdims=True) / seen.sum(-1)[..., None, None])
    change = (weights - np.asarray(start.weights))[..., None]
    inside = np.linalg.pinv(centred, rcond=1e-10) @ (centred @ change)
    return jnp.asarray(start.weights + inside[..., 0])


def _dataset(
    config: Config,
    policies: dict[str, Array],
    reference: Array,
    target: Array,
    seen: Bool[np.ndarray, "shares seeds size"],
) -> xr.Dataset:
    """Errors of log-ratios, taken from their mean over the seen sequences, and what becomes of the others."""
    unseen = ~seen
    columns = []
    for policy in policies.values():
        moved = np.asarray(policy - reference)
        error = np.asarray(policy - target)
        error = error - _mean(error, seen)[..., None]
        columns.append(
            {
                "seen_error": np.sqrt(_mean(error**2, seen)),
                "unseen_error": np.sqrt(_mean(error**2, unseen)),
                "js": np.asarray(didsim.js(policy, target)),
                "displacement": _mean(moved, unseen),
                "unevenness": np.sqrt(_mean((moved - _mean(moved, unseen)[..., None]) ** 2, unseen)),
            }
        )
    wanted = _mean(np.broadcast_to(np.asarray(target - reference), seen.shape), unseen)
    about = {
        "seen_error": "Error of log-ratios, seen",
        "unseen_error": "Error of log-ratios, unseen",
        "js": "JS divergence to the target",
        "displacement": "Log-likelihood change, unseen",
        "unevenness": "Spread of the changes of unseen sequences",
    }
    nats, dims = {"units": "nats"}, ("policy", "share", "seed")
    found = {
        name: (dims, np.array([one[name] for one in columns]), {"long_name": text, **nats})
        for name, text in about.items()
    }
    limit = {"long_name": "The same of the target", "limit_of": "displacement", **nats}
    return xr.Dataset(
        {**found, "target_displacement": (dims[1:], wanted, limit)},
        {
            "policy": list(policies),
            "share": ("share", list(config.shares), {"long_name": "Share of the space in pairs"}),
        },
    )


def _mean(values: np.ndarray, among: Bool[np.ndarray, "*batch size"]) -> Float[np.ndarray, "*batch"]:
    """The mean over some of the sequences; NaN if there are none."""
    count = among.sum(-1)
    return np.where(count > 0, (values * among).sum(-1) / np.maximum(count, 1), np.nan)


def finding(dataset: xr.Dataset) -> str:
    """Errors on seen and unseen sequences for the smallest, the best and the largest policies."""
    middle = dataset.median("seed")
    few, most = middle.isel(share=0), middle.isel(share=-1)
    unseen = middle["unseen_error"]
    parts = []
    for name in dataset["policy"].values:
        errors = [number(float(one["seen_error"].sel(policy=name))) for one in (few, most)]
        others = [number(float(one["unseen_error"].sel(policy=name))) for one in (few, most)]
        called = "free logits" if name == FREE else f"{name} features"
        parts.append(
            f"With {called} the error of log-ratios goes from {errors[0]} to {errors[1]} nats on seen "
            f"sequences, and from {others[0]} to {others[1]} on unseen ones."
        )
    uneven = float(dataset["unevenness"].sel(policy=FREE).max())
    worst = unseen.max()
    where = unseen.where(unseen == worst, drop=True)
    peak = ""
    if where.size:
        name = str(where["policy"].values[0])
        called = "free logits" if name == FREE else f"{name} features"
        peak = f" The largest error on unseen sequences is {number(float(worst))} nats, with {called}."
    return (
        f"Pairs show from {share(float(dataset['share'][0]))} to {share(float(dataset['share'][-1]))} of the "
        f"space. {' '.join(parts)}{peak} Free logits keep the reference's ratios among unseen sequences to "
        f"{number(uneven)} nats."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Errors on seen and on unseen sequences, the divergence, and the fall of unseen sequences."""
    panels = {
        "seen_error": ("(a) seen sequences", "Error of log-ratios (nats)"),
        "unseen_error": ("(b) unseen sequences", "Error of log-ratios (nats)"),
        "js": ("(c) all sequences", "JS divergence to\nthe target (nats)"),
        "displacement": ("(d) unseen sequences", "Log-likelihood\nchange (nats)"),
    }
    marks = "osD^vPX"
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.4, sharex=True)
        for ax, (name, (title, text)) in zip(axes.flat, panels.items(), strict=True):
            for place, policy in enumerate(dataset["policy"].values):
                values = dataset[name].sel(policy=policy).dropna("share", how="any")
                if values.size:
                    called = "free logits" if policy == FREE else f"{policy} features"
                    look: dict[str, Any] = {
                        "color": plotting.COLORS[place],
                        "marker": marks[place],
                        "markersize": 3,
                    }
                    plotting.plot_band(ax, values, "share", label=called, **look)
            plotting.label_axes(ax, y=text)
            ax.set_title(title)
            ax.xaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
        wanted = dataset["target_displacement"].dropna("share", how="any")
        if wanted.size:
            axes[1, 1].plot(wanted["share"], wanted.median("seed"), color="black", **plotting.EXACT)
        axes[1, 1].plot([], [], color="black", label="target", **plotting.EXACT)
        axes[0, 1].set_yscale("log")
        axes[1, 1].set_yscale("symlog", linthresh=1)
        for ax in axes[1]:
            plotting.label_axes(ax, x=dataset["share"])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more = axes[1, 1].get_legend_handles_labels()
        handles, labels = [*handles, more[0][-1]], [*labels, more[1][-1]]
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
