"""DID entropy against the change of policy entropy and against displacement, over random updates."""

from typing import Annotated

import jax
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import didsim
from didsim import plotting
from experiments.shared.configs import SpaceConfig
from experiments.shared.updates import RANDOM_UPDATES, draw_updates, wilson_intervals
from experiments.shared.wording import number, share

RIGHT = {
    "entropy": ("o", "claim: entropy"),
    "displacement": ("s", "claim: displacement"),
    "criterion": ("^", "slope at the start"),
}
"""The statements whose signs are counted, with the marker and the words for them in the picture."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment: `instances` is the number of random updates of each family."""

    instances: Annotated[int, msgspec.Meta(ge=32, lt=2**31)] = 1000

    def numbers(self) -> dict[str, int]:
        """Vectors over the space for each instance."""
        return {"instances": 20 * self.instances * self.make_space().size}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Measure all instances, and how often the claim and the slope predict the right sign."""
    space = config.make_space()
    updates = draw_updates(config.seed, config.instances, space, progress and "did_entropy")
    measured = jax.jit(jax.vmap(jax.vmap(_measure)))(*updates)
    variables = {
        "did_entropy": "DID entropy",
        "entropy_change": "Change of policy entropy",
        "displacement": "Chosen displacement",
        "entropy_slope": "Slope of entropy along the geodesic at the reference",
    }
    dims = ("family", "instance")
    dataset = xr.Dataset(
        {
            name: (dims, np.asarray(measured[name]), {"long_name": text, "units": "nats"})
            for name, text in variables.items()
        },
        coords={"family": list(RANDOM_UPDATES), "instance": np.arange(config.instances)},
    )
    return dataset.merge(_shares(dataset))


def _measure(reference: Array, target: Array) -> dict[str, Array]:
    log_q = didsim.did(target, reference)
    mean_q, mean_reference = (didsim.expectation(reference, values) for values in (log_q, reference))
    return {
        "did_entropy": didsim.entropy(log_q),
        "entropy_change": didsim.entropy(target) - didsim.entropy(reference),
        "displacement": -didsim.kl(reference, target),
        "entropy_slope": -didsim.expectation(reference, (log_q - mean_q) * (reference - mean_reference)),
    }


def _shares(dataset: xr.Dataset) -> xr.Dataset:
    """Shares of right signs by family, with 95% Wilson intervals.

    The claim has two parts. A DID of low entropy reinforces the policy, and a DID of high entropy smooths it.
    Smoothing shows as displacement. Here low means below the median over all instances of all families, and
    high above it; the claim itself does not say.

    - The claim is right about entropy if `entropy_change` is positive exactly where the DID entropy is high.
    - It is right about displacement if the chosen log-likelihood falls by more than its median fall exactly
      where the DID entropy is high.
    - The criterion is right if the slope of the policy's entropy at the start has the sign of the whole
      change. The slope is `−Cov(log reference, log q)` under the reference.
    """
    median = float(dataset["did_entropy"].median())
    high = dataset["did_entropy"] > median
    displaced = dataset["displacement"] < float(dataset["displacement"].median())
    right = {
        "entropy": (dataset["entropy_change"] > 0) == high,
        "displacement": displaced == high,
        "criterion": (dataset["entropy_slope"] > 0) == (dataset["entropy_change"] > 0),
    }
    shares = xr.concat(list(right.values()), dim="statement").mean("instance")
    ends = wilson_intervals(shares.values, dataset.sizes["instance"])
    dims = ("statement", "family")
    attributes = {"units": "1", "did_entropy_median": median}
    return xr.Dataset(
        {
            "share": (dims, shares.values, {"long_name": "Share of signs that are right", **attributes}),
            "share_low": (dims, ends[..., 0], {"long_name": "Lower end of its 95% interval", "units": "1"}),
            "share_high": (dims, ends[..., 1], {"long_name": "Upper end of its 95% interval", "units": "1"}),
        },
        coords={"statement": list(right), "family": dataset["family"]},
    )


def finding(dataset: xr.Dataset) -> str:
    """How often the claim, in both its parts, and the slope predict the right sign."""
    shares = dataset["share"]
    families = dataset.sizes["family"]

    def range_of(statement: str) -> str:
        ends = shares.sel(statement=statement).sortby(shares.sel(statement=statement))
        (low, high), (first, last) = ends.values[[0, -1]], ends["family"].values[[0, -1]]
        return f"from {share(low)} (`{first}`) to {share(high)} (`{last}`) by family"

    mean = {statement: share(float(shares.sel(statement=statement).mean())) for statement in RIGHT}
    below = int((shares.sel(statement="displacement") < 0.5).sum())
    median = shares.attrs["did_entropy_median"]
    low, high = (
        number(float(dataset["displacement"].where(side).median()))
        for side in (dataset["did_entropy"] <= median, dataset["did_entropy"] > median)
    )
    updates = f"{families * dataset.sizes['instance']:,} random updates"
    return (
        f"The claim that low DID entropy reinforces a policy and high DID entropy smooths it gives the right "
        f"sign of the entropy change in {mean['entropy']} of {updates}, {range_of('entropy')}; low and high "
        f"are split at the median, {number(median)} nats. For displacement it is right in "
        f"{mean['displacement']}, and in {below} of {families} families in less than half: the median "
        f"displacement is {low} nats at low DID entropy and {high} at high. The slope of the entropy at the "
        f"start has the sign of the whole change in {mean['criterion']}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Two scatters over all instances, and the shares by family."""
    with plotting.style():
        figure, (change, displacement, shares) = plotting.new_figure(
            1, 3, height=3.1, width_ratios=(1, 1, 1.15)
        )
        for ax, name, title in (
            (change, "entropy_change", "(a) entropy"),
            (displacement, "displacement", "(b) displacement"),
        ):
            plotting.plot_families(ax, dataset, "did_entropy", name, "family")
            ax.axvline(
                dataset["share"].attrs["did_entropy_median"], color="black", linewidth=1, linestyle=":"
            )
            ax.set_title(title)
        change.axhline(0, color="black", linewidth=0.8)
        displacement.set_yscale("symlog", linthresh=0.01)
        displacement.set_ylim(top=0)
        for shift, (statement, (marker, text)) in zip((-0.27, 0.0, 0.27), RIGHT.items(), strict=True):
            one = dataset.sel(statement=statement)
            ends = one["share"], one["share_low"], one["share_high"]
            plotting.plot_shares(shares, *ends, "family", marker=marker, shift=shift, label=text)
        shares.axvline(0.5, color="0.6", linewidth=0.8, zorder=0)
        shares.set_title("(c) right signs")
        plotting.label_axes(shares, x="Share of updates")
        _legend(figure, dataset["family"].values, shares)
    return figure


def _legend(figure: Figure, families: np.ndarray, shares: Axes) -> None:
    """The legend of all three panels, below them."""
    dots = [
        Line2D([], [], linestyle="", marker=".", color=look.color, label=str(name))
        for name, look in plotting.looks_of(families).items()
    ]
    lines = [
        Line2D([], [], color="black", linewidth=1, linestyle=":", label="median: low left, high right"),
        Line2D([], [], color="0.6", linewidth=0.8, label="one half"),
        Line2D([], [], color="black", linewidth=1, label="95% interval"),
    ]
    # Matplotlib fills columns from top to bottom: a column of three entries each.
    figure.legend(
        handles=[*dots, *shares.get_legend_handles_labels()[0], *lines],
        loc="outside lower center",
        ncols=4,
        handletextpad=0.4,
        columnspacing=1.2,
    )
