"""The log-ratio that each objective learns, against the log-ratio of the data."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.progress import track

import didsim
from didsim import plotting
from didsim.plotting.labels import fitted
from experiments.shared.configs import Count, Names, Positive, SpaceConfig
from experiments.shared.limits import GRADIENT_DESCENT, check_names, drawn_names, find_limit, make
from experiments.shared.names import readable
from experiments.shared.wording import listed, number, share

FRONT = (
    "dpo",
    "exponential",
    "ipo",
    "slic",
    "kto",
    "robust",
    "simpo",
    "length_normalised_dpo",
    "sft",
)
"""The objectives of the first picture: one for each kind of map."""

_FRONT_COLUMNS, _ALL_COLUMNS = 3, 5


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Up to a constant, the log-ratio of the data is an even grid from `−reach` to `reach`. `beta`, `starts`,
    `steps` and `learning_rate` are as in `objective_zoo`.
    """

    vocab_size: Count = 3
    max_length: Count = 5
    eos: bool = True
    seeds: Count = 4
    objectives: Names = msgspec.field(default_factory=drawn_names)
    beta: Positive = 0.5
    reach: Positive = 4.0
    starts: Count = 2
    steps: Count = 40_000
    learning_rate: Positive = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.objectives)


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Solve every objective on pairs from both sides of a reference.

    Let `u` be a grid, shuffled over the sequences. Chosen responses come from `reference · exp(u/2)`, and
    rejected responses from `reference · exp(−u/2)`, both normalised. Thus `log(π_w/π_l)` is `u` plus a
    constant.
    """
    space = config.make_space()
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    reference = didsim.normal_logits(keys[0], space.size)
    grid = jnp.linspace(-config.reach, config.reach, space.size)
    u = jax.vmap(lambda key: jax.random.permutation(key, grid))(keys[1])
    problem = didsim.Contrastive(
        didsim.bayes_update(reference, u / 2), didsim.bayes_update(reference, -u / 2)
    )
    data = np.asarray(problem.chosen - problem.rejected)
    learned, converged, methods = [], [], []
    for name in track(config.objectives, "objective_maps", disable=not progress):
        limit = find_limit(
            make(name, config.beta, config.max_length),
            reference,
            problem,
            space,
            starts=config.starts,
            steps=config.steps,
            learning_rate=config.learning_rate,
        )
        learned.append(_centred(data, np.asarray(limit.log_probs - reference)))
        converged.append(limit.converged)
        methods.append(limit.method)
    nats, share = {"units": "nats"}, {"units": "1"}
    by_sequence = ("seed", "sequence")
    return xr.Dataset(
        {
            "data_log_ratio": (by_sequence, data, {"long_name": "log(π_w/π_l)", **nats}),
            "learned_log_ratio": (
                ("objective", *by_sequence),
                np.stack(learned),
                {"long_name": "log(π_∞/π_ref), centred", **nats},
            ),
            "converged": (
                ("objective", "seed"),
                np.stack(converged).astype(float),
                {"long_name": "Whether the minimiser was found", **share},
            ),
            "method": ("objective", methods, {"long_name": "How the minimiser was found", **share}),
            "beta": ((), config.beta, {"long_name": "Beta", **share}),
            "length": ("sequence", np.asarray(space.lengths), {"long_name": "Length", "units": "tokens"}),
        },
        coords={"objective": list(config.objectives), "seed": np.arange(config.seeds)},
    )


def _centred(
    data: Float[np.ndarray, "seeds sequences"], learned: Float[np.ndarray, "seeds sequences"]
) -> Float[np.ndarray, "seeds sequences"]:
    """The learned log-ratio less its level where the data's log-ratio is zero.

    Of the sequences with positive probability, take the quarter whose data log-ratio is nearest to zero. The
    level is the intercept of the straight line fitted to them.
    """
    centred = np.full_like(learned, np.nan)
    for k, (x, y) in enumerate(zip(data, learned, strict=True)):
        known = np.flatnonzero(np.isfinite(y))
        if not known.size:
            continue
        near = known[np.argsort(np.abs(x[known]))[: max(2, known.size // 4)]]
        design = np.stack([np.ones(near.size), x[near]], axis=1)
        centred[k] = y - np.linalg.lstsq(design, y[near], rcond=None)[0][0]
    return centred


def finding(dataset: xr.Dataset) -> str:
    """What kind of map objectives draw, as far as those that stand for a kind are in the data."""
    shown, x = list(dataset["objective"].values), dataset["data_log_ratio"].values
    maps = {name: dataset["learned_log_ratio"].sel(objective=name).values for name in shown}

    def among(*names: str) -> list[str]:
        return [name for name in names if name in maps]

    slope = number(1 / float(dataset["beta"]))
    parts = [f"A line of slope 1/beta = {slope} means that the log-ratios of the data are learned in full."]
    if lines := among("dpo", "exponential", "sft"):
        fits = {name: _line(x, maps[name]) for name in lines}
        slopes = listed(f"`{name}` (slope {number(slope)})" for name, (slope, _) in fits.items())
        off = max(off for _, off in fits.values())
        parts.append(f"Straight to within {number(off)} nats: {slopes}.")
    if bounded := among("ipo"):
        learned, given = np.ptp(maps[bounded[0]], axis=1).max(), np.ptp(x, axis=1).max()
        parts.append(f"The curve of `ipo` spans {number(learned)} nats where the data span {number(given)}.")
    if stairs := among("slic"):
        levels = len(np.unique(np.round(maps[stairs[0]][0], 4)))
        parts.append(f"`slic` draws a staircase: {x.shape[1]} sequences are on {levels} levels.")
    if cliff := among("kto"):
        zero = np.isneginf(maps[cliff[0]])
        below, above = share(float(zero[x < 0].mean())), share(float(zero[x >= 0].mean()))
        parts.append(
            f"`kto` gives probability zero to {below} of the sequences that are rejected more often than "
            f"chosen, and to {above} of the others."
        )
    if scattered := among("simpo", "length_normalised_dpo"):
        widths = listed(f"`{name}` by up to {number(_line(x, maps[name])[1])} nats" for name in scattered)
        parts.append(f"Where the data's log-ratio alone does not decide, points leave the line: {widths}.")
    return " ".join(parts)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The slope of the line through finite points, by least squares, and how far they are from it at most."""
    known = np.isfinite(y)
    if np.unique(x[known]).size < 2:
        return np.nan, np.nan
    slope, level = np.polyfit(x[known], y[known], 1)
    return float(slope), float(np.abs(y[known] - slope * x[known] - level).max())


def plot(dataset: xr.Dataset) -> Figure:
    """Panels of the objectives in `FRONT`; of all, if none of these is in the data."""
    names = [name for name in FRONT if name in dataset["objective"].values]
    return _panels(dataset.sel(objective=names) if names else dataset, _FRONT_COLUMNS)


def more_plots(dataset: xr.Dataset) -> dict[str, Figure]:
    """Panels of all objectives."""
    return {"objective_maps_all": _panels(dataset, _ALL_COLUMNS)}


def _panels(dataset: xr.Dataset, columns: int) -> Figure:
    """A panel for each objective, with a thin line of slope 1/beta, which DPO follows."""
    lengths = dataset["length"].values
    tokens = np.arange(lengths.min(), lengths.max() + 1)
    colors = mpl.colormaps["plasma_r"](np.linspace(0.2, 0.95, tokens.size))
    x, slope = dataset["data_log_ratio"], 1 / float(dataset["beta"])
    reach = float(np.abs(x).max()) * 1.05
    names = dataset["objective"].values
    rows = -(-names.size // columns)
    with plotting.style():
        height = 0.9 + 4.6 / columns * rows
        figure, axes = plotting.new_figure(
            rows, columns, height=height, sharex=True, sharey=True, squeeze=False
        )
        for ax, name in zip(axes.flat, names, strict=False):
            one = dataset.sel(objective=name)
            y = one["learned_log_ratio"]
            ax.set_xlim(-reach, reach)
            ax.set_ylim(-1.25 * slope * reach, 1.25 * slope * reach)
            ax.axline((0, 0), slope=slope, color="black", linewidth=0.6, zorder=1)
            for other in range(1, y.sizes["seed"]):
                at = x.isel(seed=other).values, y.isel(seed=other).values
                plotting.plot_clipped(ax, *at, color="0.75", markersize=2, zorder=2)
            for count, color in zip(tokens, colors, strict=True):
                at = x.isel(seed=0).values[lengths == count], y.isel(seed=0).values[lengths == count]
                plotting.plot_clipped(ax, *at, color=color, markersize=3, zorder=3)
            ax.set_title(readable(str(name)), fontsize=7, pad=2)
            if not one["converged"].all():
                note = "not at rest" if str(one["method"].values) == GRADIENT_DESCENT else "runs off"
                ax.text(0.96, 0.06, note, transform=ax.transAxes, ha="right", fontsize=7)
            ax.tick_params(length=2, labelsize=6.5)
            ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 4, 5, 10]))
            ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 4, 5, 10]))
        blank = axes.flat[names.size :]
        for ax in blank:
            ax.set_axis_off()
        for ax in axes.flat[max(0, names.size - columns) : names.size]:
            ax.tick_params(labelbottom=True)
        figure.supxlabel(r"log-ratio of the data, $\log\,(\pi_w/\pi_l)$ (nats)", fontsize=8)
        learned = r"learned log-ratio, $\log\,(\pi_\infty/\pi_{\rm ref})$, centred (nats)"
        figure.supylabel(fitted(learned, 0.9 * height, 8), fontsize=8)
        _legend(figure, blank, tokens, colors)
    return figure


def _legend(figure: Figure, blank: np.ndarray, tokens: np.ndarray, colors: np.ndarray) -> None:
    """The legend, in the places without a panel, or above the panels if there are fewer than three."""
    dot: dict[str, Any] = {"linestyle": "", "markeredgewidth": 0}
    handles = [
        Line2D([], [], marker=".", color=color, label=f"{count} token{'' if count == 1 else 's'}", **dot)
        for count, color in zip(tokens, colors, strict=True)
    ]
    handles += [
        Line2D([], [], marker=".", color="0.75", label="other instances", **dot),
        Line2D([], [], marker="^", color="0.4", markersize=4, label="beyond the panel", **dot),
        Line2D([], [], color="black", linewidth=0.6, label=r"slope $1/\beta$"),
    ]
    if len(blank) >= 3:
        legend = blank[0].legend(handles=handles, loc="center left", ncols=2, borderaxespad=2)
        legend.set_in_layout(False)
    else:
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
