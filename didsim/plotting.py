"""Figures: one style, one function for each kind of picture.

Functions draw on a given `Axes` from labelled arrays. Over seeds, a line is the median and a band the
central 95% of the runs; a dashed line is an exact value that theory gives. Colours are those of Okabe and
Ito, which colour-blind readers tell apart, and every curve has a label or a place besides.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from cycler import cycler
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 5.5
"""Width of a figure in inches: the column of a one-column paper, without scaling."""

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
    "#888888",
)

_STYLE: Any = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "figure.dpi": 100,
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "savefig.dpi": 250,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def style() -> AbstractContextManager[None]:
    """The context in which all figures are made: sizes, colours and fonts for a printed column."""
    return mpl.rc_context(_STYLE)


def use_style() -> None:
    """Make `style` that of the whole session, for notebooks: call it once."""
    mpl.rcParams.update(_STYLE)


class _ShownFigure(Figure):
    """A figure that a notebook shows, at screen resolution, where a cell ends with it, without pyplot."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        # Without matplotlib's version in it, the image is the same wherever the pixels are.
        self.savefig(image, format="png", dpi="figure", metadata={"Software": None})
        return image.getvalue()


def new_figure(rows: int = 1, columns: int = 1, *, height: float, **options: Any) -> Any:
    """A figure of the common width and its axes, as `subplots` gives them, outside pyplot's global state."""
    figure = _ShownFigure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def describe(values: xr.DataArray) -> str:
    """An axis label from a variable's long name and units."""
    name = str(values.attrs.get("long_name", values.name))
    units = values.attrs.get("units", "1")
    return name if units == "1" else f"{name} ({units})"


def plot_band(ax: Axes, values: xr.DataArray, x: str, over: str = "seed", **options: Any) -> None:
    """The median of a variable along `x`, and the band of its central 95% over a dimension.

    Args:
        ax: where to draw.
        values: with dimensions `x` and `over`.
        x: name of the coordinate on the horizontal axis.
        over: the dimension that the band is over.
        options: passed to the line, `color` also to the band.
    """
    low, middle, high = values.quantile([0.025, 0.5, 0.975], dim=over).transpose("quantile", x)
    at = values[x]
    ax.fill_between(at, low, high, color=options.get("color"), alpha=0.18, linewidth=0)
    ax.plot(at, middle, **options)


def plot_limit(ax: Axes, values: xr.DataArray, over: str = "seed", **options: Any) -> None:
    """The median over a dimension of an exact value, as a dashed line across the axes."""
    ax.axhline(float(values.median(over)), linestyle=(0, (4, 2)), linewidth=0.9, **options)


def log_steps(ax: Axes, dataset: xr.Dataset) -> None:
    """A logarithmic axis of steps that is linear up to the first record, so that it begins at 0."""
    steps = dataset["step"].values
    ax.set_xscale("symlog", linthresh=max(float(steps[min(1, len(steps) - 1)]), 1), linscale=0.3)
    ax.set_xlim(0, max(float(steps[-1]), 1))


def plot_curves(
    ax: Axes,
    values: xr.DataArray,
    limits: xr.DataArray | None,
    hue: str,
    *,
    x: str = "step",
    over: str = "seed",
) -> None:
    """A variable along training, a curve with its band for each entry of `hue`, each with its exact limit.

    Args:
        ax: where to draw.
        values: with dimensions `hue`, `over` and `x`.
        limits: with dimensions `hue` and `over`; NaN for entries without a known limit.
        hue: the dimension that colours tell apart.
        x: name of the coordinate on the horizontal axis.
        over: the dimension that bands are over.
    """
    colors = color_of(values[hue].values)
    for name in values[hue].values:
        plot_band(ax, values.sel({hue: name}), x, over, color=colors[name], label=name)
        if limits is not None and not limits.sel({hue: name}).isnull().any():
            plot_limit(ax, limits.sel({hue: name}), over, color=colors[name])
    ax.set_xlabel(describe(values[x]))
    ax.set_ylabel(describe(values))


def plot_ends(
    ax: Axes,
    values: xr.DataArray,
    limits: xr.DataArray,
    gaps: xr.DataArray,
    hue: str,
    *,
    over: str = "seed",
) -> None:
    """Where runs end beside where theory says.

    A row for each entry of `hue`, in order of the ends' medians, with its name in its colour: a dot for each
    run, an open diamond for the median exact limit, and at the right the largest gap between the two.

    Args:
        ax: where to draw.
        values: with dimensions `hue` and `over`.
        limits: with dimensions `hue` and `over`; NaN for entries without a known limit.
        gaps: how far each run is from its own limit, with the same dimensions; NaN likewise.
        hue: the dimension of the rows.
        over: the dimension of the dots.
    """
    colors = color_of(values[hue].values)
    order = [str(name) for name in values.median(over).sortby(values.median(over))[hue].values]
    spread = np.linspace(-0.22, 0.22, values.sizes[over])
    for row, name in enumerate(order):
        ends = values.sel({hue: name})
        ax.plot(ends, row + spread, ".", color=colors[name], markersize=3.5, alpha=0.6, markeredgewidth=0)
        limit, gap = float(limits.sel({hue: name}).median(over)), float(gaps.sel({hue: name}).max())
        if np.isfinite(limit):
            ax.plot(limit, row, "D", markersize=5, markerfacecolor="none", color="black", markeredgewidth=0.8)
            mantissa, exponent = f"{gap:.0e}".split("e")
            text = rf"${mantissa}\cdot 10^{{{int(exponent)}}}$"
        else:
            text = "–"
        ax.annotate(
            text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, color="0.35"
        )
    ax.annotate(
        "largest gap\nto limit",
        (1.02, len(order) - 0.35),
        xycoords=("axes fraction", "data"),
        va="bottom",
        fontsize=6.5,
        color="0.35",
    )
    ax.set_yticks(range(len(order)), order)
    for label, name in zip(ax.get_yticklabels(), order, strict=True):
        label.set_color(colors[name])
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(describe(values))


def plot_convergence(dataset: xr.Dataset, hue: str) -> Figure:
    """The divergence to the target along training, and at its end, beside the exact limits.

    Args:
        dataset: `js_to_target` over `(hue, seed, step)`; `js_limit` and `js_to_limit` over `(hue, seed)`, NaN
            for entries without a known limit.
        hue: the dimension that colours tell apart.
    """
    with style():
        figure, (left, right) = new_figure(1, 2, height=2.5, width_ratios=(1.15, 1))
        curves, limits = dataset["js_to_target"], dataset["js_limit"]
        plot_curves(left, curves, limits, hue)
        log_steps(left, dataset)
        left.set_ylim(0, 1.3 * left.get_ylim()[1])
        left.set_title("(a) along training")
        left.plot([], [], color="black", label="median and 95% of seeds")
        left.plot([], [], color="black", linestyle=(0, (4, 2)), linewidth=0.9, label="exact limit")
        handles, labels = left.get_legend_handles_labels()
        left.legend(handles[-2:], labels[-2:], loc="upper left")
        plot_ends(right, curves.isel(step=-1), limits, dataset["js_to_limit"], hue)
        right.set_xlim(left=-0.02 * right.get_xlim()[1])
        right.set_title("(b) at the end")
        right.plot([], [], ".", color="black", markersize=4, label="one run")
        right.plot([], [], "D", color="black", markerfacecolor="none", markersize=4.5, label="exact limit")
        right.legend(loc="lower right")
    return figure


def plot_study(
    dataset: xr.Dataset,
    y: str,
    *,
    x: str = "step",
    hue: str | None = None,
    col: str | None = None,
    over: str | None = None,
) -> Figure:
    """A metric of a sweep's results: a panel for each value of a dimension, a line for each of another.

    Args:
        dataset: as `didsim.open_results` gives it.
        y: the metric on the vertical axis.
        x: the dimension of the horizontal axis. If it is another than `step`, runs are shown at their end.
        hue: the dimension that colours tell apart.
        col: the dimension of the panels.
        over: the dimension that bands are over; by default `seed`, unless it has another place. Without it
            there are lines alone.

    Raises:
        ValueError: there is no such metric or dimension, a dimension of more than one value is left over, no
            run is done, or there are more lines than colours.
    """
    if y not in dataset.data_vars:
        raise ValueError(f"`y` must be one of {', '.join(map(str, dataset.data_vars))}; got {y!r}")
    values = dataset[y]
    for name, dim in (("x", x), ("hue", hue), ("col", col)):
        if dim is not None and dim not in values.dims:
            raise ValueError(f"`{name}` must be one of {', '.join(map(str, values.dims))}; got {dim!r}")
    if over is None and "seed" in values.dims and "seed" not in (x, hue, col):
        over = "seed"
    places = [dim for dim in (x, hue, col, over) if dim is not None]
    for name, dim in (("x", x), ("hue", hue), ("col", col)):
        if dim is not None and places.count(dim) > 1:
            raise ValueError(f"`{name}` must be a dimension of its own; {dim!r} has another place, too")
    if hue is not None and values.sizes[hue] > len(COLORS):
        raise ValueError(
            f"`hue` must be of at most {len(COLORS)}, one for each colour; got {values.sizes[hue]}"
        )
    if "step" in values.dims and x != "step":
        count = values.notnull() * np.arange(1, values.sizes["step"] + 1)
        values = values.isel(step=count.argmax("step"))  # the last record that there is
    left = [str(dim) for dim in values.dims if dim not in (x, hue, col, over) and values.sizes[dim] > 1]
    if left:
        raise ValueError(f"`dataset` must be of one value of {', '.join(left)}, or these be given a place")
    values = values.squeeze([dim for dim in values.dims if dim not in (x, hue, col, over)], drop=True)
    if not values.notnull().any():
        raise ValueError(f"`dataset` has no value of {y!r} yet")
    hues = [None] if hue is None else list(values[hue].values)
    colors = color_of(hues)
    panels = [None] if col is None else list(values[col].values)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        height = 0.4 + 2.1 * rows
        figure, axes = new_figure(rows, columns, height=height, sharex=True, sharey=True, squeeze=False)
        for ax, panel in zip(axes.flat, panels, strict=False):
            shown = values if panel is None else values.sel({col: panel})
            for one in hues:
                line = shown if one is None else shown.sel({hue: one})
                label = None if one is None else str(one)
                if over is not None and over in line.dims:
                    plot_band(ax, line, x, over, color=colors[one], label=label)
                else:
                    ax.plot(line[x], line, color=colors[one], label=label)
            if panel is not None:
                ax.set_title(f"{describe(values[col])}: {panel}")
            ax.tick_params(labelbottom=True)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        figure.supxlabel(describe(values[x]), fontsize=8)
        figure.supylabel(describe(values), fontsize=8)
        if hue is not None:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            title = describe(values[hue])
            figure.legend(handles, labels, title=title, title_fontsize=7, loc="outside right center")
    return figure


def plot_pair_margins(ax: Axes, margins: xr.DataArray, *, policy: str = "policy") -> None:
    """Log-margins of pairs across policies: a thin line for each pair, from one policy to the next.

    Where policies are log-margin ordered, lines turned so that the first step rises never fall. Those
    that do, by more than a thousandth of the largest margin, have another colour. The mean is in black. The
    fewer the pairs, up to 200, the stronger their lines.

    Args:
        ax: where to draw.
        margins: with dimensions `pair` and `policy`.
        policy: the dimension that is laid out from left to right.
    """
    names = [str(name) for name in margins[policy].values]
    values = margins.transpose(policy, "pair").values
    falls = np.any(np.diff(values, axis=0) < -1e-3 * np.abs(values).max(), axis=0)
    places = np.arange(len(names))
    alpha = float(np.clip(50 / max(values.shape[1], 1), 0.25, 0.6))
    for chosen, color in ((~falls, COLORS[0]), (falls, COLORS[1])):
        if chosen.any():
            ax.plot(places, values[:, chosen], color=color, alpha=alpha, linewidth=0.6)
    ax.plot(places, values.mean(axis=1), color="black", marker="o", markersize=3, linewidth=1.2)
    ax.set_xticks(places, names)
    ax.set_xlim(-0.2, len(names) - 0.8)
    ax.set_ylabel(describe(margins))


def plot_distributions(
    ax: Axes,
    distributions: Mapping[str, Float[ArrayLike, " sequences"]],
    sequences: Sequence[str] | None = None,
    *,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Probabilities of every sequence under several distributions, as bars side by side.

    Args:
        ax: where to draw.
        distributions: log-probabilities by name, in the order of the bars.
        sequences: how the sequences are called, by default by their numbers.
        colors: by name, for those that should not have the style's next.

    Raises:
        ValueError: the distributions, or the names, are not over as many sequences.
    """
    own = color_of(list(distributions)) | dict(colors or {})
    probabilities = {name: np.exp(np.asarray(one)) for name, one in distributions.items()}
    shapes = {name: one.shape for name, one in probabilities.items()}
    expected: tuple[int, ...] = next(iter(shapes.values()), ())
    if sequences is not None:
        expected = (len(sequences),)
    if set(shapes.values()) != {expected} or len(expected) != 1:
        raise ValueError(f"`distributions` must all be over the same sequences; got shapes {shapes}")
    places = np.arange(expected[0])
    width = 0.8 / len(probabilities)
    for number, (name, heights) in enumerate(probabilities.items()):
        shift = width * (number - (len(probabilities) - 1) / 2)
        ax.bar(places + shift, heights, width, color=own[name], label=name)
    ax.set_xticks(places, places if sequences is None else sequences)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("Sequence")
    ax.set_ylabel("Probability")


def plot_families(ax: Axes, dataset: xr.Dataset, x: str, y: str, hue: str, **options: Any) -> None:
    """A scatter of two variables over many instances, coloured by family.

    Args:
        ax: where to draw.
        dataset: with variables `x` and `y` over dimensions `hue` and one of instances.
        x: the variable on the horizontal axis.
        y: the variable on the vertical axis.
        hue: the dimension that colours tell apart.
        options: of the dots, by default small and faint, as `markersize` and `alpha`.
    """
    colors = color_of(dataset[hue].values)
    look: dict[str, Any] = {"markersize": 2.2, "alpha": 0.35, "markeredgewidth": 0, "rasterized": True}
    for name in dataset[hue].values:
        one = dataset.sel({hue: name})
        ax.plot(one[x], one[y], ".", color=colors[name], label=name, **(look | options))
    ax.set_xlabel(describe(dataset[x]))
    ax.set_ylabel(describe(dataset[y]))


def plot_shares(
    ax: Axes,
    share: xr.DataArray,
    low: xr.DataArray,
    high: xr.DataArray,
    row: str,
    *,
    marker: str = "o",
    shift: float = 0.0,
    label: str | None = None,
) -> None:
    """Shares with their intervals, a row for each entry of a dimension, coloured as elsewhere.

    Args:
        ax: where to draw.
        share: with the one dimension `row`, from 0 to 1.
        low: lower ends of the intervals.
        high: upper ends.
        row: the dimension of the rows.
        marker: of the points.
        shift: of the rows, to set several series side by side.
        label: of the series.
    """
    colors = color_of(share[row].values)
    for place, name in enumerate(share[row].values):
        at = float(share.sel({row: name}))
        reach = [[at - float(low.sel({row: name}))], [float(high.sel({row: name})) - at]]
        ax.errorbar(
            at,
            place + shift,
            xerr=reach,
            fmt=marker,
            color=colors[name],
            markersize=4,
            linewidth=1,
            markerfacecolor="white" if marker == "s" else colors[name],
        )
    ax.plot(
        [],
        [],
        marker,
        color="black",
        markersize=4,
        label=label,
        markerfacecolor="white" if marker == "s" else "black",
    )
    ax.set_yticks(range(share.sizes[row]), [str(name) for name in share[row].values])
    for tick, name in zip(ax.get_yticklabels(), share[row].values, strict=True):
        tick.set_color(colors[name])
    ax.set_xlim(0, 1.03)
    ax.grid(visible=False, axis="y")


def plot_intervals(
    ax: Axes,
    values: xr.DataArray,
    row: str,
    *,
    over: str = "seed",
    marks: Sequence[dict[str, Any]] | None = None,
    floor: float | None = None,
) -> None:
    """A dot at the median and a line over the central 90%, a row for each entry of a dimension.

    Infinite values stand as arrows at the edge, with their share where it is not all. Missing values count
    for nothing.

    Args:
        ax: where to draw; its scale must be set before.
        values: with dimensions `row` and `over`.
        row: the dimension of the rows, the first at the top.
        over: the dimension that medians and lines are over.
        marks: options of each row's dot and line, as `color`, `marker` and `markerfacecolor`.
        floor: below it values stand as arrows at the left edge.
    """
    rows = [one[~np.isnan(one)] for one in values.transpose(row, over).values]
    below = -np.inf if floor is None else floor
    summaries = [
        np.quantile(one, [0.05, 0.5, 0.95], method="nearest") if one.size else np.full(3, np.nan)
        for one in rows
    ]
    flat = np.concatenate(summaries)
    shown = flat[np.isfinite(flat) & (flat >= below)]
    low_ones, high_ones = (flat < below) | np.isneginf(flat), np.isposinf(flat)
    left, right = _edges(ax, shown, bool(low_ones.any()), bool(high_ones.any()))
    ax.set_xlim(left, right)
    for place, (one, (low, middle, high)) in enumerate(zip(rows, summaries, strict=True)):
        options = {"color": COLORS[0], "marker": "o", **(marks[place] if marks else {})}
        if not one.size:
            continue
        ends = np.clip([low, high], left, right)
        ax.plot(ends, [place, place], color=options["color"], linewidth=1, solid_capstyle="butt")
        if below <= middle and np.isfinite(middle):
            ax.plot(middle, place, linestyle="", markersize=3.6, markeredgewidth=0.9, **options)
        for off, at, arrow, sign in (
            (one < below if floor is not None else np.isneginf(one), 0.0, "<", -1),
            (np.isposinf(one), 1.0, ">", 1),
        ):
            if not off.any():
                continue
            where: Any = {"transform": ax.get_yaxis_transform(), "clip_on": False}
            ax.plot(at, place, arrow, color=options["color"], markersize=4, **where)
            share = "" if off.all() else f" {100 * off.mean():.2g}%"
            ax.text(
                at - 0.06 * sign,
                place,
                f"0{share}" if floor is not None and sign < 0 else f"{'−' if sign < 0 else ''}∞{share}",
                va="center_baseline",
                ha="left" if sign < 0 else "right",
                fontsize=6,
                color=options["color"],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                **where,
            )
    ax.set_yticks(range(len(rows)), [str(name) for name in values[row].values])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(describe(values))


def plot_clipped(ax: Axes, x: np.ndarray, y: np.ndarray, **options: Any) -> None:
    """Dots, with triangles at the upper and lower edge for those that lie beyond it, infinite ones too.

    Args:
        ax: where to draw; its limits must be set before.
        x: horizontal places.
        y: vertical places, of the same shape; NaN is left out.
        options: passed to the dots, as `color`.
    """
    low, high = ax.get_ylim()
    inset = 0.03 * (high - low)
    for inside, marker, at in (
        ((y >= low) & (y <= high), ".", y),
        (y > high, "^", np.full_like(y, high - inset)),
        (y < low, "v", np.full_like(y, low + inset)),
    ):
        if inside.any():
            ax.plot(x[inside], at[inside], marker, markeredgewidth=0, **options)


def _edges(ax: Axes, shown: np.ndarray, room_left: bool, room_right: bool) -> tuple[float, float]:
    """Limits of an axis around values, with room for arrows."""
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.1, 1.0)
    transform = ax.xaxis.get_transform()
    ends = transform.transform(np.array([low, high]))
    span = float(ends[1] - ends[0]) or 1.0
    share = np.array([0.3 if room_left else 0.05, 0.3 if room_right else 0.05])
    left, right = transform.inverted().transform(ends + span * share * np.array([-1, 1]))
    return float(left), float(right)


def color_of(names: Sequence[Any] | np.ndarray) -> dict[Any, str]:
    """A colour for each name, in the style's order.

    Raises:
        ValueError: there are more names than colours that can be told apart.
    """
    if len(names) > len(COLORS):
        raise ValueError(f"`names` must be at most {len(COLORS)}, one for each colour; got {len(names)}")
    return dict(zip(names, COLORS, strict=False))
