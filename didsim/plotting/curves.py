"""Runs along training, and where they end, beside their exact limits."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from didsim import _checks
from didsim.plotting.arguments import check_axes, check_dim, check_labelled
from didsim.plotting.labels import label_axes
from didsim.plotting.looks import EXACT, looks_of, new_figure, style


def plot_band(ax: Axes, values: xr.DataArray, x: str, over: str = "seed", **options: Any) -> None:
    """The median of a variable along `x`, with a band for the central 95% over a dimension.

    Args:
        ax: where to draw.
        values: with dimensions `x` and `over`.
        x: name of the coordinate on the horizontal axis.
        over: the dimension of the runs that the band summarises.
        options: options of the line. The band gets its `color`.
    """
    check_axes(ax)
    check_labelled("values", values)
    check_dim("x", x, values)
    check_dim("over", over, values)
    low, middle, high = values.quantile([0.025, 0.5, 0.975], dim=over).transpose("quantile", x)
    at = values[x]
    ax.fill_between(at, low, high, color=options.get("color"), alpha=0.18, linewidth=0)
    ax.plot(at, middle, **options)


def plot_limit(ax: Axes, values: xr.DataArray, over: str = "seed", **options: Any) -> None:
    """The median over a dimension of an exact value, as a dashed line across the axes."""
    check_axes(ax)
    check_labelled("values", values)
    check_dim("over", over, values)
    ax.axhline(float(values.median(over)), **EXACT, **options)


def log_steps(ax: Axes, dataset: xr.Dataset) -> None:
    """Make the axis of steps logarithmic. Up to the first record after 0 it is linear, so that it shows 0."""
    check_axes(ax)
    _checks.instance("dataset", dataset, xr.Dataset, "an xarray.Dataset")
    check_dim("dataset", "step", dataset)
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
    """A variable along training: a curve with its band and its exact limit for each entry of `hue`.

    Args:
        ax: where to draw.
        values: with dimensions `hue`, `over` and `x`.
        limits: with dimensions `hue` and `over`; NaN for entries without a known limit.
        hue: the dimension with a curve for each entry.
        x: name of the coordinate on the horizontal axis.
        over: the dimension of the runs that bands summarise.
    """
    check_axes(ax)
    check_labelled("values", values)
    for argument, dim in (("hue", hue), ("x", x), ("over", over)):
        check_dim(argument, dim, values)
    if limits is not None:
        check_labelled("limits", limits, hue, over)
    for name, look in looks_of(values[hue].values).items():
        plot_band(ax, values.sel({hue: name}), x, over, label=name, **look.line)
        if limits is not None and not limits.sel({hue: name}).isnull().any():
            plot_limit(ax, limits.sel({hue: name}), over, color=look.color)
    label_axes(ax, x=values[x], y=values)


def plot_ends(
    ax: Axes,
    values: xr.DataArray,
    limits: xr.DataArray,
    gaps: xr.DataArray,
    hue: str,
    *,
    over: str = "seed",
) -> None:
    """Where runs end, beside their exact limits.

    Each entry of `hue` has a row. Rows are in the order of the medians of the ends. A row shows a dot for
    each run, an open diamond for the median of the exact limits, and at the right the largest gap of a run to
    its limit.

    Args:
        ax: where to draw.
        values: with dimensions `hue` and `over`.
        limits: with dimensions `hue` and `over`; NaN for entries without a known limit.
        gaps: how far each run is from its own limit, with dimensions `hue` and `over`; NaN where there is no
            limit.
        hue: the dimension of the rows.
        over: the dimension of the dots.
    """
    check_axes(ax)
    check_labelled("values", values)
    check_dim("hue", hue, values)
    check_dim("over", over, values)
    check_labelled("limits", limits, hue, over)
    check_labelled("gaps", gaps, hue, over)
    looks = looks_of(values[hue].values)
    order = [str(name) for name in values.median(over).sortby(values.median(over))[hue].values]
    spread = np.linspace(-0.22, 0.22, values.sizes[over])
    for row, name in enumerate(order):
        ends, look = values.sel({hue: name}), looks[name]
        dots = {"linestyle": "", "marker": look.marker(), "color": look.color}
        ax.plot(ends, row + spread, markersize=3.5, alpha=0.6, markeredgewidth=0, **dots)
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
        label.set_color(looks[name].color)
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.grid(visible=False, axis="y")
    label_axes(ax, x=values)


def plot_convergence(dataset: xr.Dataset, hue: str) -> Figure:
    """The divergence to the target along training, and at its end, beside the exact limits.

    Args:
        dataset: `js_to_target` over `(hue, seed, step)`; `js_limit` and `js_to_limit` over `(hue, seed)`, NaN
            for entries without a known limit.
        hue: the dimension with a curve for each entry.
    """
    _checks.instance("dataset", dataset, xr.Dataset, "an xarray.Dataset")
    for name in ("js_to_target", "js_limit", "js_to_limit"):
        if name not in dataset:
            raise ValueError(f"`dataset` must have {name!r}; got {', '.join(map(str, dataset))}")
    check_dim("hue", hue, dataset)
    height = max(2.5, 0.7 + 0.16 * dataset.sizes[hue])
    with style():
        figure, (left, right) = new_figure(1, 2, height=height, width_ratios=(1.15, 1))
        curves, limits = dataset["js_to_target"], dataset["js_limit"]
        plot_curves(left, curves, limits, hue)
        log_steps(left, dataset)
        left.set_ylim(0, 1.3 * left.get_ylim()[1])
        left.set_title("(a) along training")
        left.plot([], [], color="black", label="median and 95% of seeds")
        left.plot([], [], color="black", label="exact limit", **EXACT)
        handles, labels = left.get_legend_handles_labels()
        left.legend(handles[-2:], labels[-2:], loc="upper left")
        plot_ends(right, curves.isel(step=-1), limits, dataset["js_to_limit"], hue)
        right.set_xlim(left=-0.02 * right.get_xlim()[1])
        right.set_title("(b) at the end")
        right.plot([], [], ".", color="black", markersize=4, label="one run")
        right.plot([], [], "D", color="black", markerfacecolor="none", markersize=4.5, label="exact limit")
        right.legend(loc="lower right")
    return figure
