"""The results of a sweep, with a panel for each value of a dimension."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from didsim import _checks
from didsim.plotting.arguments import check_dim
from didsim.plotting.curves import log_steps, plot_band
from didsim.plotting.labels import fitted
from didsim.plotting.looks import EXACT, WIDTH, Look, describe, looks_of, new_figure, style

_BELOW = 1e3  # how far below all values a logarithmic axis goes, so that a limit of 1e-30 takes no room


def plot_study(
    dataset: xr.Dataset,
    y: str,
    *,
    x: str = "step",
    hue: str | None = None,
    col: str | None = None,
    over: str | None = None,
    log: bool = False,
    log_x: bool = False,
) -> Figure:
    """A metric of a sweep's results: a panel for each value of one dimension, a line for each of another.

    If the dataset has the exact limits of the metric, the median over the runs is dashed. They are a variable
    with an attribute `limit_of`, which names the metric. They are drawn where each run of a line has one.

    Args:
        dataset: the results, as `didsim.open_results` returns them.
        y: the metric on the vertical axis.
        x: the dimension of the horizontal axis. If it is not `step`, runs are shown at their end.
        hue: the dimension with a line for each value.
        col: the dimension of the panels.
        over: the dimension of the runs that bands summarise; by default `seed`, unless it is `x`, `hue` or
            `col`. Without this dimension, lines have no bands.
        log: whether the vertical axis is logarithmic. Values of 0 are then at its lower edge. A limit that
            lies more than a thousandfold below all values is beyond it.
        log_x: whether the horizontal axis is logarithmic. That of steps is linear up to the first record
            after step 0, so that it shows step 0.

    Raises:
        ValueError: there is no such metric or dimension, a dimension of more than one value is left over, no
            run is done, or an axis of values that are not positive would be logarithmic.
    """
    _checks.instance("dataset", dataset, xr.Dataset, "an xarray.Dataset")
    log, log_x = _checks.flag("log", log), _checks.flag("log_x", log_x)
    if not isinstance(y, str) or y not in dataset.data_vars:
        raise ValueError(f"`y` must be one of {', '.join(map(str, dataset.data_vars))}; got {y!r}")
    values = dataset[y]
    check_dim("x", x, values)
    for name, dim in (("hue", hue), ("col", col), ("over", over)):
        if dim is not None:
            check_dim(name, dim, values)
    truths = {dim: one for dim, one in values.coords.items() if one.dtype.kind == "b"}
    values = values.assign_coords({dim: one.astype(str).str.lower() for dim, one in truths.items()})
    if over is None and "seed" in values.dims and "seed" not in (x, hue, col):
        over = "seed"
    places = [dim for dim in (x, hue, col, over) if dim is not None]
    for name, dim in (("x", x), ("hue", hue), ("col", col)):
        if dim is not None and places.count(dim) > 1:
            raise ValueError(f"`{name}` must be a dimension that nothing else uses; got {dim!r}")
    if "step" in values.dims and x != "step":
        count = values.notnull() * np.arange(1, values.sizes["step"] + 1)
        values = values.isel(step=count.argmax("step"))  # the last record of each run
    left = [str(dim) for dim in values.dims if dim not in (x, hue, col, over) and values.sizes[dim] > 1]
    if left:
        raise ValueError(
            f"`dataset` must have one value of {', '.join(left)}, unless `x`, `hue`, `col` or `over` names it"
        )
    values = values.squeeze([dim for dim in values.dims if dim not in (x, hue, col, over)], drop=True)
    if not values.notnull().any():
        raise ValueError(f"`dataset` has no value of {y!r} yet")
    limits = _limits(dataset, y, values)
    if log:
        _check_not_negative(y, values)
    if log_x and x != "step" and not (values[x].dtype.kind in "iuf" and (values[x] > 0).all()):
        raise ValueError(f"`log_x` must be False unless all values of `x` are positive numbers; got {x!r}")
    looks = looks_of([None] if hue is None else values[hue].values)
    panels = [None] if col is None else list(values[col].values)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        height = max(0.4 + 2.1 * rows, 0.4 + 0.15 * (len(looks) + 1))  # the legend has a row for each look
        figure, axes = new_figure(rows, columns, height=height, sharex=True, sharey=True, squeeze=False)
        for ax, panel in zip(axes.flat, panels, strict=False):
            for one, look in looks.items():
                chosen = {dim: at for dim, at in ((col, panel), (hue, one)) if dim is not None}
                label = None if one is None else str(one)
                limit = None if limits is None else limits.sel(chosen)
                _draw(ax, values.sel(chosen), limit, x, over, label, look)
            if panel is not None:
                inches = ax.get_position().width * WIDTH
                ax.set_title(fitted(f"{describe(values[col])}: {panel}", inches, 8))
            ax.tick_params(labelbottom=True)
            if log:
                ax.set_yscale("log")
                lowest = float(values.where(values > 0).min()) / _BELOW
                ax.set_ylim(bottom=max(lowest, ax.get_ylim()[0]))
            if log_x and x == "step":
                log_steps(ax, dataset)
            elif log_x:
                ax.set_xscale("log")
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        figure.supxlabel(fitted(describe(values[x]), 0.9 * WIDTH, 8), fontsize=8)
        figure.supylabel(fitted(describe(values), 0.9 * height, 8), fontsize=8)
        _legend(figure, axes[0, 0], None if hue is None else describe(values[hue]), limits is not None)
    return figure


def _limits(dataset: xr.Dataset, y: str, values: xr.DataArray) -> xr.DataArray | None:
    """The exact limits of a metric over the dimensions of its values, without steps; None if there are none.

    They are the variable that says of itself that it is the `limit_of` this metric.
    """
    ends = values.isel(step=0, drop=True) if "step" in values.dims else values
    for limits in dataset.data_vars.values():
        if limits.attrs.get("limit_of") == y and set(limits.dims) <= set(dataset[y].dims):
            limits = limits.squeeze([dim for dim in limits.dims if dim not in ends.dims], drop=True)
            same = {dim: ends[dim] for dim in limits.dims if dim in ends.coords}
            return limits.assign_coords(same).broadcast_like(ends)
    return None


def _check_not_negative(y: str, values: xr.DataArray) -> None:
    """Raise `ValueError` unless values can stand on a logarithmic axis, at whose lower edge a zero is."""
    least, most = float(values.min()), float(values.max())
    if least < 0 or most == 0:
        raise ValueError(
            f"`log` must be False unless values of {y!r} are positive; they go from {least:.4g} to {most:.4g}"
        )


def _draw(
    ax: Axes,
    line: xr.DataArray,
    limit: xr.DataArray | None,
    x: str,
    over: str | None,
    label: str | None,
    look: Look,
) -> None:
    """A line with its band, and its exact limit, dashed, where that is known of every run that is drawn."""
    bands = over is not None and over in line.dims
    if bands:
        plot_band(ax, line, x, str(over), label=label, **look.line)
    else:
        ax.plot(line[x], line, label=label, **look.line)
    if limit is None:
        return
    began = line.notnull() if x in limit.dims else line.notnull().any(x)
    if not began.any() or (began & limit.isnull()).any():
        return
    limit = limit.where(began)
    middle = limit.median(over) if bands else limit
    if x in limit.dims:
        ax.plot(limit[x], middle, color=look.color, **EXACT)
    else:
        ax.axhline(float(middle), color=look.color, **EXACT)


def _legend(figure: Figure, ax: Axes, title: str | None, has_limits: bool) -> None:
    """The legend beside the panels: a line for each label, and the dashes of exact limits."""
    handles, labels = ax.get_legend_handles_labels()
    if has_limits:
        handles = [*handles, Line2D([], [], color="black", **EXACT)]
        labels = [*labels, "exact limit"]
    if handles:
        figure.legend(handles, labels, title=title, title_fontsize=7, loc="outside right center")
