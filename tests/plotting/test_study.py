import numpy as np
import xarray as xr

from didsim import plotting


def test_more_lines_than_colours_are_told_apart() -> None:
    count = 3 * len(plotting.COLORS)
    values = np.random.default_rng(0).uniform(size=(count, 4))
    runs = xr.DataArray(values, dims=("run", "step"), coords={"run": np.arange(count), "step": np.arange(4)})
    figure = plotting.plot_study(xr.Dataset({"js": runs}), "js", hue="run")
    (panel,), (legend,) = figure.axes, figure.legends
    looks = {
        (line.get_color(), line.get_marker(), str(vars(line)["_unscaled_dash_pattern"]))
        for line in panel.lines
    }
    assert len(panel.lines) == len(legend.get_texts()) == len(looks) == count
    # The figure is high enough for its legend.
    figure.canvas.draw()
    assert legend.get_window_extent().height <= figure.bbox.height
