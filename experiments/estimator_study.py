"""How well samples tell the DID entropy: bias, spread and coverage of `estimate_did_entropy`.

Reference and update are random Markov chains over tokens. The policy is `π ∝ π_ref · q`, so the DID is the
update `q` itself, and its exact entropy is known for every length.
"""

from typing import Annotated

import jax
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.progress import track

import didsim
from didsim import plotting
from didsim.diagnostics.samples.estimate import LEAST_EFFECTIVE
from experiments.shared.configs import Count, NonNegative, SpaceConfig
from experiments.shared.wording import share

SHORTS = (1 / 3, 2 / 3, 1)
FEW = 32


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Lengths are a third, two thirds and the whole of `max_length`. `peaks` are the spreads of the reference's
    logits, `update` is that of the DID's. Of each of `seeds` random policies `repeats` sets of samples are
    drawn, for each of the numbers in `samples`.
    """

    max_length: Count = 6
    seeds: Count = 32
    repeats: Count = 10
    update: NonNegative = 0.5
    peaks: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1, max_length=4)] = (0.5, 1.0, 2.0)
    samples: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=2, lt=2**31)], ...], msgspec.Meta(min_length=1)
    ] = (
        8,
        FEW,
        128,
        512,
        2048,
    )

    def numbers(self) -> dict[str, int]:
        """Distributions for each seed, the samples of one set, and the estimates."""
        cells = len(self.peaks) * len(SHORTS) * len(self.samples) * self.seeds * self.repeats
        return {
            "seeds": 20 * self.seeds * self.make_space().size,
            "samples": 20 * max(self.samples),
            "repeats": 4 * cells,
        }

    def lengths(self) -> list[int]:
        """The lengths of sequences."""
        return sorted({max(1, round(part * self.max_length)) for part in SHORTS})


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Estimate from samples of the policy, and compare with the exact entropy."""
    lengths = config.lengths()
    shape = (len(config.peaks), len(lengths), len(config.samples), config.seeds, config.repeats)
    error, low, high, effective = np.full((4, *shape), np.nan)
    random = np.random.default_rng(config.seed)
    cells = [(peak, length) for peak in range(len(config.peaks)) for length in range(len(lengths))]
    for peak, length in track(cells, "estimator_study", disable=not progress):
        space = didsim.SequenceSpace(config.vocab_size, lengths[length], config.eos)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), peak), (2, config.seeds))
        reference = np.asarray(didsim.markov(keys[0], space, config.peaks[peak]), float)
        did = np.asarray(didsim.markov(keys[1], space, config.update), float)
        policy = np.asarray(didsim.bayes_update(reference, did), float)
        exact = np.asarray(didsim.entropy(did), float)
        for seed in range(config.seeds):
            for number, size in enumerate(config.samples):
                drawn = random.choice(space.size, (config.repeats, size), p=_normalised(policy[seed]))
                for repeat, rows in enumerate(drawn):
                    place = (peak, length, number, seed, repeat)
                    found = didsim.estimate_did_entropy(
                        policy[seed, rows], reference[seed, rows], least_effective=0
                    )
                    effective[place] = found.effective_samples
                    if found.entropy is not None:
                        error[place] = found.entropy.value - exact[seed]
                        if found.entropy.low is not None and found.entropy.high is not None:
                            low[place] = found.entropy.low - exact[seed]
                            high[place] = found.entropy.high - exact[seed]
    dims = ("peak", "length", "samples", "seed", "repeat")
    nats, count = {"units": "nats"}, {"units": "samples"}
    dataset = xr.Dataset(
        {
            "error": (dims, error, {"long_name": "Estimate less the exact DID entropy", **nats}),
            "low": (dims, low, {"long_name": "Lower end of the interval less the exact entropy", **nats}),
            "high": (dims, high, {"long_name": "Upper end of the interval less the exact entropy", **nats}),
            "effective": (dims, effective, {"long_name": "Effective number of samples", **count}),
        },
        coords={"peak": list(config.peaks), "length": lengths, "samples": list(config.samples)},
    )
    return dataset.merge(_summary(dataset))


def _normalised(log_probs: Float[np.ndarray, " sequences"]) -> Float[np.ndarray, " sequences"]:
    """Probabilities that add up to one in double precision, which NumPy asks for."""
    probs = np.exp(log_probs)
    return np.asarray(probs / probs.sum())


def _summary(dataset: xr.Dataset) -> xr.Dataset:
    """Bias, spread and coverage for each seed, and the share of estimates that would not be refused."""
    taken = dataset["effective"] >= LEAST_EFFECTIVE
    covers = (dataset["low"] <= 0) & (dataset["high"] >= 0)
    found = {
        "bias": (dataset["error"].mean("repeat"), "Mean error", "nats"),
        "spread": (dataset["error"].std("repeat"), "Spread of the error", "nats"),
        "coverage": (covers.mean("repeat"), "Share of 95% intervals that cover", "1"),
        "taken": (taken.mean("repeat"), "Share that is not refused", "1"),
        "coverage_taken": (
            covers.where(taken).mean("repeat"),
            "Share of 95% intervals that cover, of those not refused",
            "1",
        ),
    }
    return xr.Dataset(
        {
            name: values.assign_attrs(long_name=text, units=units)
            for name, (values, text, units) in found.items()
        }
    )


def finding(dataset: xr.Dataset) -> str:
    """What the study found, in sentences with its numbers."""
    count = FEW if FEW in dataset["samples"] else int(dataset["samples"][0])
    few, many = dataset.sel(samples=count), dataset.isel(samples=-1)
    flat, peaked = (few.sel(peak=end) for end in (few["peak"].min(), few["peak"].max()))
    short, long = flat.sel(length=few["length"].min()), peaked.sel(length=few["length"].max())
    passing = (peaked["coverage_taken"] * peaked["taken"]).sum() / peaked["taken"].sum()
    later = many["coverage"].mean("seed")
    bias = f"{float(long['bias'].mean()):+.2f}".replace("-", "−")
    return (
        f"With {count} samples of flat policies and short sequences {_share(short['coverage'].mean())} of "
        "the 95% intervals cover the exact entropy. Of the most peaked policies and the longest sequences "
        f"{_share(long['coverage'].mean())} do, and the mean error is {bias} nats: likely sequences of the "
        f"DID were never drawn. An effective number of at least {LEAST_EFFECTIVE:g} is no proof. Of peaked "
        f"policies {_share(peaked['taken'].mean())} of the estimates pass this bound, and {_share(passing)} "
        "of their intervals cover, as samples that miss these sequences look even. With "
        f"{int(many['samples']):,} samples coverage is {_share(later.min())} to {_share(later.max())}."
    )


def _share(part: xr.DataArray) -> str:
    return share(float(part))


def plot(dataset: xr.Dataset) -> Figure:
    """A column for each peakedness: bias with the spread of errors, coverage, and the share not refused."""
    peaks = dataset["peak"].values
    looks = plotting.looks_of(dataset["length"].values)
    with plotting.style():
        figure, axes = plotting.new_figure(
            3, len(peaks), height=5.0, sharex=True, sharey="row", squeeze=False, height_ratios=(1.3, 1.3, 0.8)
        )
        for column, peak in enumerate(peaks):
            error, coverage, taken = axes[:, column]
            for length in dataset["length"].values:
                one = dataset.sel(peak=peak, length=length)
                color = looks[length].color
                label = "1 token" if length == 1 else f"{length} tokens"
                errors = one["error"].stack(all=("seed", "repeat"))
                low, high = errors.quantile([0.025, 0.975], "all")
                error.fill_between(one["samples"], low, high, color=color, alpha=0.15, linewidth=0)
                error.plot(
                    one["samples"], errors.mean("all"), color=color, marker="o", markersize=2.5, label=label
                )
                mean = one["coverage"].mean("seed")
                half = 1.96 * one["coverage"].std("seed") / np.sqrt(one.sizes["seed"])
                coverage.fill_between(
                    one["samples"],
                    mean - half,
                    np.minimum(mean + half, 1),
                    color=color,
                    alpha=0.15,
                    linewidth=0,
                )
                coverage.plot(one["samples"], mean, color=color, marker="o", markersize=2.5)
                passing = one["coverage_taken"].mean("seed")
                coverage.plot(one["samples"], passing, color=color, linestyle=":", marker="x", markersize=3)
                taken.plot(one["samples"], one["taken"].mean("seed"), color=color, marker="o", markersize=2.5)
            error.axhline(0, color="black", linewidth=0.8)
            coverage.axhline(0.95, color="black", **plotting.EXACT)
            error.set_title(f"({'abcd'[column]}) logits spread by {peak:g}")
            for ax in (coverage, taken):
                ax.set_ylim(-0.04, 1.04)
                ax.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
            taken.set_xscale("log", base=2)
            taken.set_xticks(dataset["samples"].values, [f"{size}" for size in dataset["samples"].values])
            taken.set_xlabel("Samples")
        axes[0, 0].set_ylabel("Error (nats)")
        axes[1, 0].set_ylabel("Intervals that cover")
        axes[2, 0].set_ylabel("Not refused")
        axes[0, -1].legend(loc="lower right")
        for style, text in (({"marker": "o"}, "all"), ({"marker": "x", "linestyle": ":"}, "not refused")):
            axes[1, 0].plot([], [], color="black", markersize=3, label=text, **style)
        axes[1, 0].legend(loc="lower right")
    return figure
