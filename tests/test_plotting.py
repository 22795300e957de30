import io
from itertools import pairwise

import matplotlib as mpl
import matplotlib.image
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


def test_the_style_is_undone_after_use() -> None:
    before = mpl.rcParams["font.size"]
    with plotting.style():
        assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["font.size"] == before


def test_the_style_can_be_kept_for_a_session() -> None:
    with mpl.rc_context():
        plotting.use_style()
        assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["font.size"] != 8


def test_figures_show_themselves_at_screen_resolution() -> None:
    with plotting.style():
        figure, ax = plotting.new_figure(height=2)
        ax.plot([0, 1], [0, 1])
        shown = figure._repr_png_()
    image = mpl.image.imread(io.BytesIO(shown), format="png")
    assert image.shape[:2] == (200, 550)
    assert b"Software" not in shown


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
    assert ax.get_ylabel() == "JS(learned, target) (nats)"
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


def test_pairs_out_of_order_have_another_colour() -> None:
    _, ax = plotting.new_figure(height=2)
    margins = xr.DataArray(
        [[-1.0, -1.0], [0.0, 0.0], [1.0, -2.0]],
        dims=("policy", "pair"),
        coords={"policy": ["rejected", "reference", "target"]},
        name="margin",
    )
    plotting.plot_pair_margins(ax, margins)
    ordered, unordered, mean = ax.lines
    assert ordered.get_ydata().tolist() == [-1, 0, 1]
    assert unordered.get_ydata().tolist() == [-1, 0, -2]
    assert ordered.get_color() != unordered.get_color()
    assert mean.get_ydata().tolist() == [-1, 0, -0.5]
    plotting.plot_pair_margins(ax, margins.isel(pair=[0] * 300))
    assert (ordered.get_alpha(), ax.lines[-2].get_alpha()) == (0.6, 0.25)


def test_distributions_are_bars_side_by_side() -> None:
    _, ax = plotting.new_figure(height=2)
    policies = {"reference": np.log([0.5, 0.3, 0.2]), "target": np.log([0.2, 0.3, 0.5])}
    plotting.plot_distributions(ax, policies, ["aa", "ab", "b"], colors={"target": "black"})
    bars = sorted(ax.patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == pytest.approx([0.5, 0.2, 0.3, 0.3, 0.2, 0.5])
    assert [container.get_label() for container in ax.containers] == ["reference", "target"]
    assert [bar.get_facecolor() for bar in bars[:2]] == [
        mpl.colors.to_rgba(c) for c in (plotting.COLORS[0], "black")
    ]
    # Side by side, none over another, around the tick of their sequence.
    assert all(left.get_x() + left.get_width() <= right.get_x() + 1e-9 for left, right in pairwise(bars))
    assert bars[2].get_x() + bars[2].get_width() == pytest.approx(1)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["aa", "ab", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Sequence", "Probability")


@pytest.mark.parametrize(
    ("distributions", "sequences"),
    [
        ({"a": np.zeros(1), "b": np.zeros(2)}, None),
        ({"a": np.zeros(2)}, ["a"]),
        ({"a": np.zeros((2, 2))}, None),
        ({}, None),
    ],
)
def test_distributions_over_other_sequences_are_refused(
    distributions: dict[str, np.ndarray], sequences: list[str] | None
) -> None:
    _, ax = plotting.new_figure(height=2)
    with pytest.raises(ValueError, match="`distributions` must all be over the same sequences; got shapes"):
        plotting.plot_distributions(ax, distributions, sequences)


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


def test_more_names_than_colours_are_refused() -> None:
    assert len(set(plotting.color_of("abcdefghi").values())) == 9
    with pytest.raises(ValueError, match="`names` must be at most 9, one for each colour; got 10"):
        plotting.color_of("abcdefghij")


def test_a_step_axis_begins_at_0() -> None:
    _, ax = plotting.new_figure(height=2)
    plotting.log_steps(ax, xr.Dataset(coords={"step": [0, 5, 100]}))
    assert ax.get_xlim() == (0, 100)
    plotting.log_steps(ax, xr.Dataset(coords={"step": [0]}))
    assert ax.get_xlim() == (0, 1)


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
