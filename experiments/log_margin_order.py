"""Log-margin ordering and the power law: on pairs, along training, and under noise."""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, NonNegative, TrainingConfig
from experiments.shared.training import seed_keys, train
from experiments.shared.wording import number, share

POLICIES = ("rejected", "reference", "target", "learned")
MARGINS = {f"margin_{policy}": didsim.METRICS[f"margin_{policy}"] for policy in POLICIES}


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment: `noises` are the sizes of the noise of `perturbed`, in nats."""

    least: ClassVar[int] = 2
    noises: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1)] = (
        0.0,
        0.1,
        0.2,
        0.4,
        0.6,
        0.8,
        1.0,
        1.5,
        2.0,
    )
    pairs: Count = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.isfinite(self.noises).all():
            raise ValueError(f"`noises` must be finite; got {self.noises}")

    def numbers(self) -> dict[str, int]:
        """Random pairs, and beside what training takes, all pairs of sequences for each noise and seed."""
        size = self.make_space().size
        every_pair = {"noises": len(self.noises) * self.seeds * size**2}
        return {**super().numbers(), "pairs": 16 * self.pairs, **every_pair}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train under the optimal distribution, and measure order under perturbed ones."""
    space = config.make_space()
    keys = seed_keys(config, 3)
    reference, target = didsim.normal_logits(keys[:2], space.size)
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    trained = train(
        config,
        space,
        reference,
        target,
        didsim.Contrastive(reference, rejected),
        didsim.dpo(config.beta),
        MARGINS,
        progress and "log_margin_order",
    )
    four = jnp.stack([rejected, reference, target, trained.policy.log_probs()])
    noises = jnp.asarray(config.noises)
    fraction, spread, known_fraction, known_spread = _order_under_noise(
        config, reference, target, keys[2], noises
    )
    nats, share = {"units": "nats"}, {"units": "1"}
    by_noise = ("noise", "seed")
    return (
        trained.to_dataset(("seed",))
        .assign(
            pair_margin=(
                ("policy", "pair"),
                _oriented_margins(config, four[:, 0]),
                {"long_name": "Log-margin of a pair", **nats},
            ),
            fraction=(by_noise, fraction, {"long_name": "Share of pairs ordered", **share}),
            spread=(by_noise, spread, {"long_name": "Exponent's interquartile range", **share}),
            known_fraction=(
                by_noise,
                known_fraction,
                {"long_name": "Expected share of pairs ordered", **share},
            ),
            known_spread=(by_noise, known_spread, {"long_name": "Expected interquartile range", **share}),
        )
        .assign_coords(
            seed=np.arange(config.seeds),
            policy=list(POLICIES),
            noise=("noise", np.asarray(config.noises), {"long_name": "Noise in log space", **nats}),
        )
    )


def _oriented_margins(config: Config, policies: Float[Array, "policies sequences"]) -> Array:
    """Margins of random pairs of different sequences, turned so that the step to the reference rises."""
    size = policies.shape[-1]
    pick = np.random.default_rng(config.seed)
    first = pick.integers(0, size, config.pairs)
    second = (first + pick.integers(1, max(size, 2), config.pairs)) % size
    margins = didsim.log_margin(policies, first, second)
    return margins * jnp.where(margins[1] >= margins[0], 1, -1)


def _order_under_noise(
    config: Config, reference: Array, target: Array, keys: Array, noises: Array
) -> tuple[Array, Array, Array, Array]:
    """The share of ordered pairs and the spread of the exponent by size of noise, measured and expected.

    Let `u = log(target/reference)`, so that `v = log(reference/rejected)` is `beta u − noise z` up to a
    constant, with `z` standard normal. On a pair, the step of the target is `Δu`. The step of the rejected
    distribution is `Δv = beta Δu − noise √2 z'`, where `z'` is standard normal too.

    Given `Δu`, the pair is ordered with probability `Φ(beta |Δu| / (noise √2))`. The expected share is the
    mean of this over the pairs of an instance. Given `Δu`, the exponent of the pair is normal around `beta`
    with deviation `noise √2 / |Δu|`. The expected quartiles are those of the mixture over all pairs.
    (Derived here.)
    """
    size = reference.shape[-1]
    first, second = np.triu_indices(size, k=1)

    def one(key: Array, reference: Array, target: Array, noise: Array) -> tuple[Array, ...]:
        rejected = didsim.REJECTED["perturbed"](key, reference, target, config.beta, noise)
        order = didsim.check_order(target, reference, rejected)
        exponents = didsim.pair_exponent(target, reference, rejected, first, second)
        low, high = jnp.quantile(exponents, jnp.array([0.25, 0.75]))
        step = didsim.log_margin(target, first, second) - didsim.log_margin(reference, first, second)
        step = jnp.abs(step)
        deviation = noise * jnp.sqrt(2.0)
        ordered = jnp.mean(jax.scipy.stats.norm.cdf(config.beta * step / deviation))
        return order.fraction, high - low, ordered, 2 * _upper_quartile(deviation / step)

    batched = jax.vmap(jax.vmap(one, in_axes=(0, 0, 0, None)), in_axes=(None, None, None, 0))
    return jax.jit(batched)(keys, reference, target, noises)


def _upper_quartile(deviations: Array) -> Array:
    """The upper quartile of a mixture of centred normals of equal weights, by bisection."""
    top = jnp.max(deviations)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        below = jnp.mean(jax.scipy.stats.norm.cdf(middle / deviations)) < 0.75
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(top), top))
    return (low + high) / 2


def finding(dataset: xr.Dataset) -> str:
    """How many pairs are in order, how near the learned margins are, and what the largest noise does."""
    margins = dataset["pair_margin"].transpose("policy", "pair").values
    # A trained margin is off by rounding.
    rises = (np.diff(margins[:3], axis=0) >= -1e-9 * np.abs(margins).max()).all(axis=0).mean()
    gap = np.abs(margins[POLICIES.index("learned")] - margins[POLICIES.index("target")]).max()
    last = dataset.sel(noise=dataset["noise"].max())
    fraction, known_fraction, spread, known_spread = (
        float(last[name].median("seed")) for name in ("fraction", "known_fraction", "spread", "known_spread")
    )
    return (
        f"The log-margin rises from the rejected distribution over the reference to the target on "
        f"{share(rises)} of {margins.shape[1]} pairs. The learned one is within {number(gap)} nats of the "
        f"target's. Noise of {number(float(last['noise']))} nats leaves {share(fraction)} of pairs in order "
        f"({share(known_fraction)} expected) and spreads the exponent by {number(spread)} "
        f"({number(known_spread)} expected)."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Margins on pairs, expected margins along training, and two measures of order against noise."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.2)
        (pairs, expected), (ordered, spread) = axes
        plotting.plot_pair_margins(pairs, dataset["pair_margin"])
        pairs.set_title("(a) pairs of one seed; black: mean")
        colors = plotting.color_of(POLICIES)
        for name in POLICIES:
            values = dataset[f"margin_{name}"]
            if name == "learned":
                plotting.plot_band(expected, values, "step", color=colors[name], label=name)
            else:
                plotting.plot_limit(expected, values.isel(step=-1), color=colors[name], label=name)
        plotting.log_steps(expected, dataset)
        plotting.label_axes(expected, x=dataset["step"], y="Expected log-margin (nats)")
        expected.set_title("(b) pairs as sampled")
        expected.legend(loc="center right")
        for ax, name, title in (
            (ordered, "fraction", "(c) pairs ordered"),
            (spread, "spread", "(d) spread of the exponent"),
        ):
            plotting.plot_band(ax, dataset[name], "noise", color=plotting.COLORS[0], label="measured")
            known = dataset[f"known_{name}"].median("seed")
            ax.plot(dataset["noise"], known, "--", color="black", linewidth=0.9, label="expected")
            plotting.label_axes(ax, x=dataset["noise"], y=dataset[name])
            ax.set_title(title)
            ax.legend()
    return figure
