"""Many random instances: as dots, as shares, and as intervals around their median."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from didsim import _checks
from didsim.plotting.arguments import check_axes, check_dim, check_labelled
from didsim.plotting.labels import label_axes
from didsim.plotting.looks import COLORS, color_of, looks_of


def plot_families(ax: Axes, dataset: xr.Dataset, x: str, y: str, hue: str, **options: Any) -> None:
    """A scatter of two variables over many instances, with a look for each family.

    Args:
        ax: where to draw.
        dataset: with variables `x` and `y` over dimensions `hue` and one of instances.
        x: the variable on the horizontal axis.
        y: the variable on the vertical axis.
        hue: the dimension of the families.
        options: options of the dots, such as `markersize` and `alpha`. By default dots are small and faint.
    """
    check_axes(ax)
    _checks.instance("dataset", dataset, xr.Dataset, "an xarray.Dataset")
    _checks.one_of("x", x, map(str, dataset.data_vars))
    _checks.one_of("y", y, map(str, dataset.data_vars))
    check_dim("hue", hue, dataset)
    dots: dict[str, Any] = {"markersize": 2.2, "alpha": 0.35, "markeredgewidth": 0, "rasterized": True}
    for name, look in looks_of(dataset[hue].values).items():
        one = dataset.sel({hue: name})
        marked = {"linestyle": "", "marker": look.marker(), "color": look.color, "label": name}
        ax.plot(one[x], one[y], **(dots | marked | options))
    label_axes(ax, x=dataset[x], y=dataset[y])


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
    """Shares with their intervals, a row for each entry of a dimension, in the colours of `color_of`.

    Args:
        ax: where to draw.
        share: the shares, from 0 to 1, with the one dimension `row`.
        low: lower ends of the intervals.
        high: upper ends of the intervals.
        row: the dimension of the rows.
        marker: marker of the points.
        shift: how far points lie above their rows, so that several series fit side by side.
        label: name of the series in the legend.
    """
    check_axes(ax)
    check_labelled("share", share)
    check_dim("row", row, share)
    check_labelled("low", low, row)
    check_labelled("high", high, row)
    _checks.instance("marker", marker, str, "a marker of matplotlib")
    shift = _checks.real("shift", shift, _checks.number)
    if label is not None:
        _checks.instance("label", label, str, "a name, or None")
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
            # Of many instances the interval is short: a small mark leaves its ends in sight.
            markersize=2.4,
            markeredgewidth=0.7,
            linewidth=1,
            capsize=2.2,
            capthick=0.8,
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
    places: Sequence[float] | None = None,
    floor: float | None = None,
) -> None:
    """A dot at the median and a line over the central 90%, a row for each entry of a dimension.

    Infinite values are shown as an arrow at the edge. The share of infinite values stands beside the arrow,
    unless all are infinite. NaN is left out.

    Args:
        ax: where to draw; its scale must be set before.
        values: with dimensions `row` and `over`.
        row: the dimension of the rows, the first at the top.
        over: the dimension of the values that a row summarises.
        marks: options of each row's dot and line, such as `color`, `marker` and `markerfacecolor`.
        places: how far down each row is, so that gaps part groups of rows; by default 0, 1, 2, …
        floor: values below it count as 0 and are shown as an arrow at the left edge.
    """
    check_axes(ax)
    check_labelled("values", values)
    check_dim("row", row, values)
    check_dim("over", over, values)
    are_marks = isinstance(marks, Sequence) and all(isinstance(one, Mapping) for one in marks)
    if marks is not None and not (are_marks and len(marks) == values.sizes[row]):
        raise ValueError(f"`marks` must be options for each of {values.sizes[row]} rows; got {marks!r}")
    places = range(values.sizes[row]) if places is None else places
    if not isinstance(places, Sequence) or len(places) != values.sizes[row]:
        raise ValueError(f"`places` must be a number for each of {values.sizes[row]} rows; got {places!r}")
    at_rows = [_checks.real("places", place, _checks.number) for place in places]
    if floor is not None:
        floor = _checks.real("floor", floor, _checks.number)
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
    for number, (one, (low, middle, high)) in enumerate(zip(rows, summaries, strict=True)):
        place = at_rows[number]
        options = {"color": COLORS[0], "marker": "o", **(marks[number] if marks else {})}
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
    ax.set_yticks(at_rows, [str(name) for name in values[row].values])
    ax.set_ylim(max(at_rows) + 0.6, min(at_rows) - 0.6)
    label_axes(ax, x=values)


def plot_clipped(ax: Axes, x: np.ndarray, y: np.ndarray, **options: Any) -> None:
    """Dots. For a dot beyond the upper or lower edge, also an infinite one, a triangle stands at the edge.

    Args:
        ax: where to draw; its limits must be set before.
        x: horizontal places.
        y: vertical places, of the same shape; NaN is left out.
        options: options of dots and triangles, such as `color`.
    """
    check_axes(ax)
    x, y = _checks.numbers_given("x", x), _checks.numbers_given("y", y)
    if x.shape != y.shape:
        raise ValueError(f"`x` and `y` must have one shape; got shapes {x.shape} and {y.shape}")
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
    """Limits of an axis around values, with room for arrows at the sides that need it."""
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.1, 1.0)
    transform = ax.xaxis.get_transform()
    ends = transform.transform(np.array([low, high]))
    span = float(ends[1] - ends[0]) or 1.0
    share = np.array([0.3 if room_left else 0.05, 0.3 if room_right else 0.05])
    left, right = transform.inverted().transform(ends + span * share * np.array([-1, 1]))
    return float(left), float(right)
