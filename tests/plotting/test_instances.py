import numpy as np
import xarray as xr

from didsim import plotting


def test_families_are_dots_whose_look_can_be_set() -> None:
    _, ax = plotting.new_figure(height=2)
    dataset = xr.Dataset(
        {"x": (("rule", "pair"), [[0, 1], [2, 3]]), "y": (("rule", "pair"), [[4, 5], [6, 7]])},
        coords={"rule": ["a", "b"]},
    )
    plotting.plot_families(ax, dataset, "x", "y", "rule", markersize=5)
    first, second = ax.lines
    assert (first.get_xdata().tolist(), first.get_ydata().tolist()) == ([0, 1], [4, 5])
    assert (second.get_label(), second.get_markersize(), second.get_alpha()) == ("b", 5, 0.35)
    assert first.get_color() != second.get_color()


def test_intervals_are_medians_with_the_central_90_percent_and_infinities_at_the_edge() -> None:
    _, ax = plotting.new_figure(height=2)
    values = np.stack(
        [np.arange(1.0, 102.0), np.where(np.arange(101) < 30, -np.inf, 5.0), np.full(101, np.nan)]
    )
    rows = xr.DataArray(values, dims=("rule", "seed"), coords={"rule": ["a", "b", "c"]}, name="gap")
    plotting.plot_intervals(ax, rows, "rule")
    band, dot, clipped, second, arrow = ax.lines
    assert band.get_xdata().tolist() == [6, 96]
    assert (float(dot.get_xdata()[0]), float(second.get_xdata()[0])) == (51, 5)
    assert clipped.get_xdata().tolist() == [ax.get_xlim()[0], 5]
    assert arrow.get_marker() == "<"
    assert [text.get_text() for text in ax.texts] == ["−∞ 30%"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_intervals_below_a_floor_are_zero() -> None:
    _, ax = plotting.new_figure(height=2)
    ax.set_xscale("log")
    rows = xr.DataArray(
        [[1e-20] * 3, [1e-3] * 3], dims=("rule", "seed"), coords={"rule": ["a", "b"]}, name="js"
    )
    plotting.plot_intervals(ax, rows, "rule", floor=1e-12)
    assert [text.get_text() for text in ax.texts] == ["0"]
    assert 1e-12 < ax.get_xlim()[0] < 1e-3


def test_dots_beyond_a_panel_are_triangles_at_its_edge() -> None:
    _, ax = plotting.new_figure(height=2)
    ax.set_ylim(-1, 1)
    plotting.plot_clipped(ax, np.arange(4.0), np.array([0.5, np.inf, -3.0, np.nan]))
    dots, up, down = ax.lines
    assert [line.get_marker() for line in ax.lines] == [".", "^", "v"]
    assert (dots.get_xdata().tolist(), up.get_xdata().tolist(), down.get_xdata().tolist()) == ([0], [1], [2])
    assert 0.9 < float(up.get_ydata()[0]) < 1
    assert -1 < float(down.get_ydata()[0]) < -0.9


def test_dots_of_families_of_the_same_colour_have_other_shapes() -> None:
    _, ax = plotting.new_figure(height=2)
    count = len(plotting.COLORS) + 1
    places = (("rule", "pair"), np.zeros((count, 2)))
    dataset = xr.Dataset({"x": places, "y": places}, coords={"rule": [str(k) for k in range(count)]})
    plotting.plot_families(ax, dataset, "x", "y", "rule")
    first, *_, last = ax.lines
    assert first.get_color() == last.get_color()
    assert first.get_marker() != last.get_marker()
