"""The best and the worst of n draws as a pair: what DPO learns, beside best-of-n at equal divergence.

The question, stated before any run: is DPO on such pairs better than best-of-n itself, at the same divergence
from the reference? Nothing is claimed.

**What is learned (derived here).** Let `F(y)` be the probability that a draw from the reference scores at
most as high as `y`, and `G(y)` that it scores the same. The best of `n` draws is `y` with probability
`reference(y) (F^n − (F − G)^n)/G`, and the worst with `reference(y) ((1 − F + G)^n − (1 − F)^n)/G`. DPO ends
at `reference · (best/worst)^(1/beta)`, normalised. For `n = 2` the ratio is exactly the odds `M/(1 − M)` of a
win over the reference, `M = F − G/2` (the check `best_and_worst_pairs` of `didsim check`). If no sequence has
much probability, it is `(M/(1 − M))^(n − 1)` for every `n`, nearly. Then

- only the rank of a reward counts, not its size;
- `n` and `beta` matter through `k = (n − 1)/beta` alone: `π ∝ reference · (M/(1 − M))^k`;
- `M` is nearly uniform under the reference, so it follows Beta(1 + k, 1 − k) under `π`, if `k < 1`. The
  divergence is `KL = k (ψ(1 + k) − ψ(1 − k)) − log(πk/sin πk)`, which has no bound as `k` nears 1. From there
  on the mass goes to the few best sequences, however many there are.

With the reference in place of the worst, DPO at `beta = 1` is best-of-n exactly.

**The comparison.** For each `n` the beta is chosen at which DPO on best and worst has the divergence of
best-of-n. The best policy at that divergence is `reference · exp(reward/λ)`, normalised. What each policy
gains over the reference is given as a share of that policy's gain.
"""

from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure
from scipy.special import digamma

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

REWARDS = ("normal", "heavy tails", "pass or fail")
POLICIES = {"best": "best-of-n itself", "pairs": "DPO on best and worst"}
_LOG_RANGE = 16.0
"""A power is searched between `e^−16` and `e^16`."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The reference has random logits. Rewards are standard normal, or have Student's distribution of
    `degrees` degrees of freedom, or the best `passing` of all sequences pass. `draws` are the `n`, and
    `powers` the `k = (n − 1)/beta` of the curve of divergences.
    """

    least: ClassVar[int] = 2
    seeds: Count = 32
    draws: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=2, le=1000)], ...], msgspec.Meta(min_length=2, max_length=8)
    ] = (2, 4, 8, 16, 32, 64)
    powers: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = tuple(
        float(power) for power in np.geomspace(0.05, 5, 25).round(4)
    )
    degrees: Positive = 3.0
    passing: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2

    def numbers(self) -> dict[str, int]:
        """Policies of each reward, number of draws and seed, and of each power."""
        each = 10 * self.seeds * self.make_space().size * len(self.draws)
        return {"draws": 10 * len(REWARDS) * each, "powers": each * len(self.powers)}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Find all limits, the betas of equal divergence, and what each policy gains."""
    del progress  # It takes a few seconds.
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (3, config.seeds))
    reference = didsim.normal_logits(keys[0], size)
    normal = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys[1])
    heavy = jax.vmap(lambda key: jax.random.t(key, config.degrees, (size,)))(keys[2])
    edge = jnp.sort(normal, axis=-1)[:, -max(1, round(config.passing * size))]
    rewards = jnp.stack([normal, heavy, (normal >= edge[:, None]).astype(normal.dtype)])
    draws = np.sort(config.draws)
    measured = {
        name: np.asarray(one) for name, one in _compare(reference, rewards, jnp.asarray(draws)).items()
    }
    powers = np.sort(config.powers)
    odds, ratios, divergence = _of_powers(reference, normal, jnp.asarray(draws), jnp.asarray(powers))
    cells = ("policy", "reward", "draws", "seed")
    of_draws = ("reward", "draws", "seed")
    nats = {"units": "nats"}
    gains = np.stack([measured[f"gain_{name}"] for name in POLICIES])
    data: dict[str, Any] = {
        "gain": (cells, gains, {"long_name": "Gain of reward over the reference", "units": "1"}),
        "best_gain": (of_draws, measured["gain_optimum"], {"long_name": "Largest gain", "units": "1"}),
        "share": (
            cells,
            gains / measured["gain_optimum"],
            {"long_name": "Share of the best gain", "units": "1"},
        ),
        "kl": (of_draws, measured["kl"], {"long_name": "KL(best-of-n ‖ reference)", **nats}),
        "beta": (
            of_draws,
            1 / measured["power_pairs"],
            {"long_name": "beta of equal divergence", "units": "1"},
        ),
        "odds": ("sequence", np.asarray(odds), {"long_name": "Log-odds of a win over the reference", **nats}),
        "log_ratio": (
            ("draws", "sequence"),
            np.asarray(ratios),
            {"long_name": "log(best/worst)", **nats},
        ),
        "kl_of_power": (
            ("draws", "power", "seed"),
            np.asarray(divergence),
            {"long_name": "KL(DPO ‖ reference)", **nats},
        ),
        "kl_of_beta_law": (
            "power",
            _spread_out(powers),
            {"long_name": "The same where no sequence has much probability", **nats},
        ),
    }
    return xr.Dataset(
        data,
        {
            "policy": list(POLICIES),
            "reward": list(REWARDS),
            "draws": ("draws", draws, {"long_name": "Draws n", "units": "1"}),
            "power": ("power", powers, {"long_name": "k = (n − 1)/beta", "units": "1"}),
            "seed": np.arange(config.seeds),
        },
    )


def _spread_out(powers: np.ndarray) -> np.ndarray:
    """The divergence of Beta(1 + k, 1 − k) from the uniform distribution; infinite from `k = 1` on."""
    k = np.where(powers < 1, powers, 0.5)
    found = k * (digamma(1 + k) - digamma(1 - k)) - np.log(np.pi * k / np.sin(np.pi * k))
    return np.where(powers < 1, found, np.inf)


@partial(jnp.vectorize, signature="(y),(y),()->(y),(y)")
def _best_and_worst(reference: Array, score: Array, n: Array) -> tuple[Array, Array]:
    return didsim.best_of_n(reference, score, n), didsim.worst_of_n(reference, score, n)


@jax.jit
def _compare(reference: Array, rewards: Array, draws: Array) -> dict[str, Array]:
    """Gains at the divergence of best-of-n, `[rewards, draws, seeds]`."""
    reward = rewards[:, None]
    best, worst = _best_and_worst(reference, reward, draws[:, None].astype(reference.dtype))
    kl = didsim.kl(best, reference)
    found = {"kl": kl, "gain_best": _gain(best, reference, reward)}
    for name, direction in (
        ("pairs", best - worst),
        ("optimum", jnp.broadcast_to(reward, best.shape)),
    ):
        power = _power_at(kl, reference, direction)
        policy = didsim.geodesic(reference, direction, power)
        found |= {f"gain_{name}": _gain(policy, reference, reward), f"power_{name}": power}
    return found


def _gain(policy: Array, reference: Array, reward: Array) -> Array:
    return didsim.expectation(policy, reward) - didsim.expectation(reference, reward)


def _power_at(kl: Array, reference: Array, direction: Array) -> Array:
    """The power `s` at which `reference · exp(s · direction)` has a divergence: it grows with `s`."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        below = didsim.kl(didsim.geodesic(reference, direction, jnp.exp(middle)), reference) < kl
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    edge = jnp.full(kl.shape, _LOG_RANGE)
    low, high = jax.lax.fori_loop(0, 70, halve, (-edge, edge))
    return jnp.exp((low + high) / 2)


@jax.jit
def _of_powers(reference: Array, reward: Array, draws: Array, powers: Array) -> tuple[Array, Array, Array]:
    """Of the first seed the log-odds of wins and of DPO's reward; of all the divergence of DPO's limits."""
    best, worst = _best_and_worst(reference, reward, draws[:, None].astype(reference.dtype))
    two, last = _best_and_worst(reference[0], reward[0], jnp.array(2.0))
    betas = (draws - 1)[:, None, None] / powers[:, None]
    limits = didsim.fixed_point(
        didsim.dpo(betas), reference, didsim.Contrastive(best[:, None], worst[:, None])
    )
    return two - last, best[:, 0] - worst[:, 0], didsim.kl(limits, reference)


def finding(dataset: xr.Dataset) -> str:
    """What each policy gains at equal divergence, who is ahead, and how far the Beta law holds."""
    parts = []
    n = dataset["draws"].values
    for reward in REWARDS:
        one = dataset.sel(reward=reward)
        middle = one["share"].median("seed")
        told = listed(
            f"{share(float(middle.sel(policy=policy)[0]))} to {share(float(middle.sel(policy=policy)[-1]))} "
            f"({words})"
            for policy, words in POLICIES.items()
        )
        lead = one["share"].sel(policy="pairs") - one["share"].sel(policy="best")
        ahead = (lead > 1e-9).mean("seed")
        parts.append(
            f"{reward}, {told}, with DPO ahead in {share(float(ahead[0]))} of seeds at n = {n[0]} and in "
            f"{share(float(ahead[-1]))} at n = {n[-1]}"
        )
    betas = dataset["beta"].sel(reward="normal").median("seed")
    law = dataset["kl_of_beta_law"]
    inside = np.isfinite(law) & (law["power"] <= 0.5)
    off = float(abs(dataset["kl_of_power"].median("seed") / law - 1).where(inside).max())
    near = (
        f" DPO depends on `k = (n − 1)/beta`: up to k = 0.5 the median divergence is within {share(off)} of "
        "that of Beta(1 + k, 1 − k), for every n."
        if inside.any()
        else ""
    )
    return (
        "At the divergence of best-of-n, the shares of the largest possible gain, from the fewest draws to "
        f"the most, are for each kind of reward: {'; '.join(parts)}. The beta of that divergence for normal "
        f"rewards is {number(float(betas[0]))} at n = {n[0]} and {number(float(betas[-1]))} at n = {n[-1]}."
        f"{near}"
    )


def plot(dataset: xr.Dataset) -> Figure:
    """The reward that pairs encode, the divergence of DPO, and gains at equal divergence for two rewards."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=5.0)
        encoded, divergence, normal, heavy = axes.flat
        for n, look in plotting.looks_of(dataset["draws"].values).items():
            one = dataset.sel(draws=n)
            encoded.plot(
                dataset["odds"],
                one["log_ratio"] / (n - 1),
                ".",
                color=look.color,
                markersize=2.5,
                label=f"n = {n}",
            )
            plotting.plot_band(divergence, one["kl_of_power"], "power", color=look.color)
        ends = [float(dataset["odds"].min()), float(dataset["odds"].max())]
        encoded.plot(ends, ends, color="black", label="equal", zorder=1, **plotting.EXACT)
        encoded.legend(loc="upper left", ncols=2, columnspacing=0.8, handlelength=1.5)
        encoded.set_ylim(top=1.5 * encoded.get_ylim()[1])
        law = dataset["kl_of_beta_law"].where(np.isfinite(dataset["kl_of_beta_law"]))
        divergence.plot(dataset["power"], law, color="black", zorder=4, label="Beta law", **plotting.EXACT)
        divergence.set_xscale("log")
        divergence.set_yscale("log")
        divergence.legend(loc="lower right")
        for ax, reward in ((normal, "normal"), (heavy, "heavy tails")):
            for place, (policy, words) in enumerate(POLICIES.items()):
                plotting.plot_band(
                    ax,
                    100 * dataset["share"].sel(policy=policy, reward=reward),
                    "draws",
                    color=plotting.COLORS[-3 + place],
                    marker="os"[place],
                    markersize=3,
                    label=words,
                )
            ax.axhline(100, color="0.4", label="best policy at this divergence", **plotting.EXACT)
            ax.set_xscale("log", base=2)
            ax.set_xticks(dataset["draws"].values, [str(n) for n in dataset["draws"].values])
            ax.set_ylim(top=102)
            plotting.label_axes(ax, x=dataset["draws"], y="Share of the best gain (%)")
        handles, labels = normal.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, title="(c) and (d)")
        plotting.label_axes(encoded, x="Log-odds of a win (nats)", y="log(best/worst)/(n − 1) (nats)")
        plotting.label_axes(divergence, x=dataset["power"], y=dataset["kl_of_power"])
        titles = ("reward of the pairs, one seed", "divergence of DPO", "normal reward", "heavy tails")
        for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            ax.set_title(f"({letter}) {title}")
    return figure
