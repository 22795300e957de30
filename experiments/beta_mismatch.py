"""Pairs built for one beta and DPO trained with another: the limit slides along the geodesic.

The claim, stated before any run. Chosen responses come from the reference. Rejected ones come from the
optimal distribution for `beta_data`, which is `reference · (reference/target)^beta_data`, normalised. DPO
with `beta_train` ends at `reference · (chosen/rejected)^(1/beta_train)`, normalised. With these pairs that is

    π_s ∝ reference · (target/reference)^s,    s = beta_data/beta_train,

the point `s` of the geodesic through reference and target. (Won et al., arXiv 2505.23761, have the case of
one beta; the check `dpo_other_beta` of `didsim check` is this statement.) So only the ratio of both matters:
too small a `beta_train` overshoots the target, and too large a one stops short of it. Along the geodesic the
chosen log-likelihood changes by `−KL(reference ‖ π_s)`, so it falls further with every larger `s`. The
entropy need not go one way.

Descent on the loss does not use this formula. Where it ends is compared with the formula.
"""

import math
from typing import Annotated, Any

import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, TrainingConfig
from experiments.shared.training import seed_keys, train
from experiments.shared.wording import listed, number, share

MEASURES = {
    "js_to_target": "JS to the target",
    "chosen_displacement": "Chosen displacement",
    "entropy_change": "Change of entropy",
}
Betas = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2, max_length=9)]


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have random logits. `data_betas` and `train_betas` are the axes of the maps. The runs
    have `beta` in training, and in the data each of `ratios` times that.
    """

    max_length: Count = 3
    data_betas: Betas = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    train_betas: Betas = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    ratios: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=6)] = (0.25, 0.5, 1.0, 2.0)

    def numbers(self) -> dict[str, int]:
        """Policies of every cell, and what training takes for every ratio."""
        size = self.make_space().size
        cells = len(self.data_betas) * len(self.train_betas)
        return {
            **{name: len(self.ratios) * count for name, count in super().numbers().items()},
            "data_betas": 10 * cells * self.seeds * size,
        }


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Find the exact limit of every cell, and train those of `ratios`."""
    space = config.make_space()
    reference, target = didsim.normal_logits(seed_keys(config, 2), space.size)
    data, trained = (np.sort(betas) for betas in (config.data_betas, config.train_betas))
    built = didsim.optimal_rejected(reference, target, data[:, None])
    limits = didsim.fixed_point(
        didsim.dpo(trained[:, None]), reference, didsim.Contrastive(reference, built[:, None])
    )
    some = np.sort(config.ratios)
    rejected = didsim.optimal_rejected(reference, target, config.beta * some[:, None])
    runs = train(
        config,
        space,
        reference,
        target,
        didsim.Contrastive(reference, rejected),
        didsim.dpo(config.beta),
        {"position": _position},
        progress and "beta_mismatch",
    )
    formula = didsim.geodesic(reference, target - reference, some[:, None])
    cells, of_ratio = ("data_beta", "train_beta", "seed"), ("ratio", "seed")
    nats = {"units": "nats"}
    measured = _measures(limits, reference, target)
    found: dict[str, Any] = {
        name: (cells, values, {"long_name": MEASURES[name], **nats}) for name, values in measured.items()
    }
    found["js_trained"] = (
        of_ratio,
        didsim.js(runs.policy.log_probs(), formula),
        {"long_name": "JS of trained policies to the formula", **nats},
    )
    found["position"] = (
        ("ratio", "seed", "step"),
        runs.metrics["position"],
        {"long_name": "Position on the geodesic", "units": "1"},
    )
    return xr.Dataset(
        found,
        {
            "data_beta": ("data_beta", data, {"long_name": "beta of the data", "units": "1"}),
            "train_beta": ("train_beta", trained, {"long_name": "beta of training", "units": "1"}),
            "ratio": ("ratio", some, {"long_name": "beta of the data / beta of training", "units": "1"}),
            "step": ("step", np.asarray(runs.steps), {"long_name": "Step", "units": "1"}),
            "seed": np.arange(config.seeds),
        },
    )


def _position(s: didsim.Snapshot) -> Array:
    """The place on the geodesic that fits a policy best: least squares of log-ratios, all sequences alike."""
    moved, whole = s.log_probs - s.reference, jnp.asarray(s.target) - s.reference
    moved, whole = (x - jnp.mean(x, axis=-1, keepdims=True) for x in (moved, whole))
    return jnp.sum(moved * whole, axis=-1) / jnp.sum(whole**2, axis=-1)


def _measures(policy: Array, reference: Array, target: Array) -> dict[str, Array]:
    return {
        "js_to_target": didsim.js(policy, target),
        "chosen_displacement": didsim.expectation(reference, policy - reference),
        "entropy_change": didsim.entropy(policy) - didsim.entropy(reference),
    }


def finding(dataset: xr.Dataset) -> str:
    """What a wrong beta costs on either side, how entropy goes, and how near descent comes."""
    middle = dataset.median("seed")
    ratios = dataset["data_beta"] / dataset["train_beta"]
    js, fall, entropy = (middle[name] for name in MEASURES)
    words = []
    for place in (math.exp(-1), math.e):
        # The cells whose ratio is nearest to 1/e or to e. All cells of one ratio are alike.
        distance = np.abs(np.log(ratios.values / place))
        row, column = np.argwhere(distance <= distance.min() + 1e-9)[0]
        at = {"data_beta": int(row), "train_beta": int(column)}
        s = float(ratios.isel(at))
        text = "right" if np.isclose(s, 1) else "too large" if s < 1 else "too small"
        words.append(
            f"with a beta of training that is {text} (`s` = {number(s)}) it is "
            f"{number(float(js.isel(at)))} nats from the target, the chosen log-likelihood changes by "
            f"{number(float(fall.isel(at)))} nats and the entropy by {number(float(entropy.isel(at)))}"
        )
    right = np.isclose(ratios, 1)
    exact = (
        f" Where both are equal, no cell is further than {number(float(js.where(right).max()))} nats from "
        "the target."
        if right.any()
        else ""
    )
    rises = dataset["entropy_change"] > 0
    risen = [
        f"in {share(float(rises.where(side).mean()))} of cells and seeds with `s` {text} 1"
        for side, text in ((ratios < 0.999, "below"), (ratios > 1.001, "above"))
        if side.any()
    ]
    entropies = f" Entropy rises {listed(risen)}." if risen else ""
    gap = number(float(dataset["js_trained"].max()))
    return (
        "DPO ends at the point `s = beta_data/beta_train` of the geodesic from the reference (0) to the "
        f"target (1): {words[0]}; {words[1]}.{exact}{entropies} No run of "
        f"descent ends further than {gap} nats from this formula."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """A map of each measure over both betas, and the position along training."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.9)
        maps, along = axes.flat[:3], axes.flat[3]
        for ax, name, letter in zip(maps, MEASURES, "abc", strict=False):
            _draw_map(ax, dataset[name].median("seed"))
            ax.set_title(f"({letter}) {MEASURES[name]} (nats)")
        for ratio, look in plotting.looks_of(dataset["ratio"].values).items():
            one = dataset["position"].sel(ratio=ratio)
            plotting.plot_band(along, one, "step", color=look.color, label=f"{ratio:g}")
            along.axhline(ratio, color=look.color, **plotting.EXACT)
        along.plot([], [], color="black", label="exact limit", **plotting.EXACT)
        plotting.log_steps(along, dataset)
        plotting.label_axes(along, x=dataset["step"], y="Position $s$ on the geodesic")
        along.set_title("(d) along training")
        along.set_ylim(top=1.65 * float(dataset["ratio"].max()))
        along.legend(loc="upper left", ncols=2, title="beta data / train", title_fontsize=7)
    return figure


def _draw_map(ax: Axes, values: xr.DataArray) -> None:
    """The median over seeds, with its number in each cell. A frame is around cells where both are equal."""
    values = values.transpose("data_beta", "train_beta")
    shown = values.values
    falls = float(shown.min()) < 0
    top = np.abs(shown).max()
    both = (
        {"cmap": "PuOr", "vmin": -top, "vmax": top} if falls else {"cmap": "Purples", "vmin": 0, "vmax": top}
    )
    ax.imshow(shown, origin="lower", aspect="auto", **both)
    for (row, column), value in np.ndenumerate(shown):
        dark = abs(value) > 0.6 * top
        text = "≈ 0" if abs(value) < 1e-3 else number(float(value))
        ax.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if dark else "black")
    for row, one in enumerate(values["data_beta"].values):
        for column in np.flatnonzero(np.isclose(values["train_beta"].values, one)):
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=1.0))
    ax.grid(False)
    for axis, name in ((ax.xaxis, "train_beta"), (ax.yaxis, "data_beta")):
        axis.set_ticks(range(values.sizes[name]), [f"{one:g}" for one in values[name].values])
    plotting.label_axes(ax, x=values["train_beta"], y=values["data_beta"])
