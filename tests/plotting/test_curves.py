import numpy as np
import pytest
import xarray as xr

from didsim import plotting


@pytest.fixture
def curves() -> xr.DataArray:
    values = np.random.default_rng(0).uniform(size=(2, 40, 3)).cumsum(axis=-1)
    return xr.DataArray(
        values,
        dims=("rule", "seed", "step"),
        coords={"rule": ["a", "b"], "step": ("step", [0, 10, 20], {"long_name": "Step"})},
        name="js",
        attrs={"long_name": "JS(learned, target)", "units": "nats"},
    )


def test_a_band_is_the_median_and_the_central_95_percent(curves: xr.DataArray) -> None:
    _, ax = plotting.new_figure(height=2)
    plotting.plot_band(ax, curves.sel(rule="a"), "step", color="black")
    values = curves.sel(rule="a").values
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(values, axis=0))
    outline = ax.collections[0].get_paths()[0].vertices
    for k, step in enumerate((0, 10, 20)):
        heights = outline[outline[:, 0] == step, 1]
        low, high = np.quantile(values[:, k], [0.025, 0.975])
        assert heights.min() == pytest.approx(low)
        assert heights.max() == pytest.approx(high)


def test_curves_have_labels_units_and_dashed_limits_where_they_are_known(curves: xr.DataArray) -> None:
    _, ax = plotting.new_figure(height=2)
    limits = xr.DataArray([[0.5] * 40, [np.nan] * 40], dims=("rule", "seed"), coords={"rule": ["a", "b"]})
    plotting.plot_curves(ax, curves, limits, "rule")
    assert ax.get_xlabel() == "Step"
    assert ax.get_ylabel() == "JS(learned, target)\n(nats)"
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == ["a", "b"]
    dashed = [line for line in ax.lines if line.is_dashed()]
    assert [float(line.get_ydata()[0]) for line in dashed] == [0.5]
    assert dashed[0].get_color() == ax.lines[0].get_color()


def test_ends_are_in_order_with_their_gaps(curves: xr.DataArray) -> None:
    _, ax = plotting.new_figure(height=2)
    ends = xr.DataArray(
        [[0.3, 0.4], [0.1, 0.2]], dims=("rule", "seed"), coords={"rule": ["a", "b"]}, name="js"
    )
    gaps = xr.DataArray([[1e-9, 3e-8], [np.nan] * 2], dims=("rule", "seed"), coords=ends.coords)
    plotting.plot_ends(ax, ends, ends.where(ends["rule"] == "a"), gaps, "rule")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "a"]
    assert [text.get_text() for text in ax.texts][:2] == ["–", r"$3\cdot 10^{-8}$"]
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [float(np.ravel(line.get_xdata())[0]) for line in diamonds] == [pytest.approx(0.35)]


def test_a_step_axis_begins_at_0() -> None:
    _, ax = plotting.new_figure(height=2)
    plotting.log_steps(ax, xr.Dataset(coords={"step": [0, 5, 100]}))
    assert ax.get_xlim() == (0, 100)
    plotting.log_steps(ax, xr.Dataset(coords={"step": [0]}))
    assert ax.get_xlim() == (0, 1)


def test_entries_of_the_same_colour_have_other_lines_and_dots() -> None:
    names = [f"rule {number}" for number in range(len(plotting.COLORS) + 2)]
    values = xr.DataArray(
        np.random.default_rng(0).uniform(size=(len(names), 4, 3)),
        dims=("rule", "seed", "step"),
        coords={"rule": names, "step": [0, 10, 20]},
        name="js",
    )
    unknown = values.isel(step=0) * np.nan
    dataset = xr.Dataset({"js_to_target": values, "js_limit": unknown, "js_to_limit": unknown})
    left, right = plotting.plot_convergence(dataset, "rule").axes
    lines = {line.get_label(): line for line in left.lines}
    one, other = lines[names[1]], lines[names[1 + len(plotting.COLORS)]]
    assert one.get_color() == other.get_color()
    assert (one.is_dashed(), other.is_dashed()) == (False, True)
    places = [tick.get_text() for tick in right.get_yticklabels()]
    dots = {
        places[round(float(np.mean(np.asarray(line.get_ydata(), float))))]: line
        for line in right.lines[: len(names)]
    }
    # The dots of an entry are the marks on its line.
    assert dots[names[1]].get_marker() == "."
    assert dots[names[1 + len(plotting.COLORS)]].get_marker() == other.get_marker()
