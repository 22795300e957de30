"""The results of a sweep, with a panel for each value of a dimension."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from didsim import _checks
from didsim.plotting.arguments import check_dim
from didsim.plotting.curves import plot_band
from didsim.plotting.looks import describe, looks_of, new_figure, style


def plot_study(
    dataset: xr.Dataset,
    y: str,
    *,
    x: str = "step",
    hue: str | None = None,
    col: str | None = None,
    over: str | None = None,
) -> Figure:
    """A metric of a sweep's results: a panel for each value of one dimension, a line for each of another.

    Args:
        dataset: the results, as `didsim.open_results` returns them.
        y: the metric on the vertical axis.
        x: the dimension of the horizontal axis. If it is not `step`, runs are shown at their end.
        hue: the dimension with a line for each value.
        col: the dimension of the panels.
        over: the dimension of the runs that bands summarise; by default `seed`, unless it is `x`, `hue` or
            `col`. Without this dimension, lines have no bands.

    Raises:
        ValueError: there is no such metric or dimension, a dimension of more than one value is left over, or
            no run is done.
    """
    _checks.instance("dataset", dataset, xr.Dataset, "an xarray.Dataset")
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
    looks = looks_of([None] if hue is None else values[hue].values)
    panels = [None] if col is None else list(values[col].values)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        height = max(0.4 + 2.1 * rows, 0.4 + 0.15 * len(looks))  # the legend has a row for each look
        figure, axes = new_figure(rows, columns, height=height, sharex=True, sharey=True, squeeze=False)
        for ax, panel in zip(axes.flat, panels, strict=False):
            shown = values if panel is None else values.sel({col: panel})
            for one, look in looks.items():
                line = shown if one is None else shown.sel({hue: one})
                label = None if one is None else str(one)
                if over is not None and over in line.dims:
                    plot_band(ax, line, x, over, label=label, **look.line)
                else:
                    ax.plot(line[x], line, label=label, **look.line)
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
