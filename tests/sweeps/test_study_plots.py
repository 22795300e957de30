from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from didsim.plotting import COLORS, plot_study
from tests.sweeps.store_cases import panels_of


@pytest.fixture
def curves() -> xr.Dataset:
    """Results with numbers that are known: `js_to_target` over two dimensions, seeds and steps."""
    rng = np.random.default_rng(0)
    coords: dict[str, Any] = {
        "rejected": ("rejected", np.array(["optimal", "uniform"]), {"long_name": "Rejected"}),
        "beta": ("beta", [0.1, 0.3, 1.0, 3.0], {"long_name": "Beta"}),
        "seed": range(5),
        "step": ("step", [0, 10, 20], {"long_name": "Step"}),
    }
    dims = ("rejected", "beta", "seed", "step")
    about = {"long_name": "JS(learned, target)", "units": "nats"}
    loss = {"long_name": "Exact loss", "units": "1"}
    return xr.Dataset(
        {
            "js_to_target": (dims, rng.uniform(size=(2, 4, 5, 3)), about),
            "loss": (dims, rng.uniform(size=(2, 4, 5, 3)), loss),
            "js_limit": (dims[:3], rng.uniform(size=(2, 4, 5)), about),
        },
        coords,
    )


def test_a_panel_for_each_value_and_a_line_for_each_hue(curves: xr.Dataset) -> None:
    figure = plot_study(curves, "js_to_target", hue="rejected", col="beta")
    panels = panels_of(figure)
    assert [ax.get_title(loc="left") for ax in panels] == [f"Beta: {beta}" for beta in (0.1, 0.3, 1.0, 3.0)]
    assert figure.get_supxlabel() == "Step"
    assert figure.get_supylabel() == "JS(learned, target) (nats)"
    (legend,) = figure.legends
    assert [one.get_text() for one in legend.get_texts()] == ["optimal", "uniform"]
    assert legend.get_title().get_text() == "Rejected"
    handles = {one.get_label(): one.get_color() for one in legend.get_lines()}
    for k, ax in enumerate(panels):
        assert [line.get_label() for line in ax.lines] == ["optimal", "uniform"]
        assert len(ax.collections) == 2
        for j, line in enumerate(ax.lines):
            values = curves["js_to_target"].values[j, k]
            np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20])
            np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=0))
            assert line.get_color() == handles[line.get_label()] == COLORS[j]
            outline = ax.collections[j].get_paths()[0].vertices
            for at, step in enumerate((0, 10, 20)):
                heights = outline[outline[:, 0] == step, 1]
                low, high = np.quantile(values[:, at], [0.025, 0.975])
                assert (heights.min(), heights.max()) == pytest.approx((low, high))


def test_a_share_has_no_units(curves: xr.Dataset) -> None:
    figure = plot_study(curves.isel(beta=0), "loss", hue="rejected")
    assert figure.get_supylabel() == "Exact loss"
    (panel,) = panels_of(figure)
    assert panel.get_title(loc="left") == ""
    assert len(panel.lines) == 2


def test_one_run_is_a_line_without_a_band(curves: xr.Dataset) -> None:
    figure = plot_study(curves.isel(beta=0, rejected=1, seed=2), "js_to_target")
    (panel,) = panels_of(figure)
    (line,) = panel.lines
    np.testing.assert_array_equal(line.get_ydata(), curves["js_to_target"].values[1, 0, 2])
    assert len(panel.collections) == 0
    assert figure.legends == []


def test_dimensions_of_one_value_need_no_place(curves: xr.Dataset) -> None:
    small = curves.isel(beta=[1], rejected=[0])
    (panel,) = panels_of(plot_study(small, "js_to_target"))
    np.testing.assert_allclose(
        panel.lines[0].get_ydata(), np.median(curves["js_to_target"].values[0, 1], axis=0)
    )


def test_bands_may_be_over_another_dimension(curves: xr.Dataset) -> None:
    (panel,) = panels_of(plot_study(curves.isel(rejected=0), "js_to_target", hue="seed", over="beta"))
    assert [line.get_label() for line in panel.lines] == ["0", "1", "2", "3", "4"]
    values = curves["js_to_target"].values[0]
    np.testing.assert_allclose(panel.lines[3].get_ydata(), np.median(values[:, 3], axis=0))


def test_a_line_for_each_seed(curves: xr.Dataset) -> None:
    (panel,) = panels_of(plot_study(curves.isel(rejected=0, beta=0), "js_to_target", hue="seed"))
    assert [line.get_label() for line in panel.lines] == ["0", "1", "2", "3", "4"]
    for seed, line in enumerate(panel.lines):
        np.testing.assert_array_equal(line.get_ydata(), curves["js_to_target"].values[0, 0, seed])
    assert len(panel.collections) == 0


def test_what_has_no_steps_is_drawn_over_another_axis(curves: xr.Dataset) -> None:
    figure = plot_study(curves, "js_limit", x="beta", col="rejected")
    assert figure.get_supxlabel() == "Beta"
    panels = panels_of(figure)
    assert [ax.get_title(loc="left") for ax in panels] == ["Rejected: optimal", "Rejected: uniform"]
    for k, ax in enumerate(panels):
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0.1, 0.3, 1.0, 3.0])
        np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(curves["js_limit"].values[k], axis=1))


def test_a_metric_is_drawn_over_another_axis_as_it_is_at_the_end(curves: xr.Dataset) -> None:
    # Of a run of fewer steps than the others, the last record counts.
    curves["js_to_target"][:, 2, :, 2] = np.nan
    figure = plot_study(curves, "js_to_target", x="beta", hue="rejected")
    assert figure.get_supxlabel() == "Beta"
    (panel,) = panels_of(figure)
    for k, line in enumerate(panel.lines):
        values = curves["js_to_target"].values[k]
        ends = np.median(np.where(np.isnan(values[..., 2]), values[..., 1], values[..., 2]), axis=1)
        np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.3, 1.0, 3.0])
        np.testing.assert_allclose(line.get_ydata(), ends)


def test_an_axis_of_words_is_drawn_in_their_order(curves: xr.Dataset) -> None:
    figure = plot_study(curves.isel(beta=0), "js_to_target", x="rejected")
    (panel,) = panels_of(figure)
    assert panel.lines[0].get_xdata().tolist() == ["optimal", "uniform"]


def test_runs_that_diverged_are_left_out_of_bands(results: xr.Dataset) -> None:
    mixed = results.sel(objective="exponential", beta=0.3).stack(
        run=("learning_rate", "seed"), create_index=False
    )
    figure = plot_study(mixed, "js_to_target", over="run")
    (panel,) = panels_of(figure)
    values = mixed["js_to_target"].transpose("run", "step").values
    np.testing.assert_allclose(panel.lines[0].get_ydata(), np.nanmedian(values, axis=0))
    assert np.isfinite(panel.lines[0].get_ydata()).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": "js"}, r"^`y` must be one of js_to_target, loss, js_limit; got 'js'$"),
        ({"y": "beta"}, r"^`y` must be one of js_to_target, loss, js_limit; got 'beta'$"),
        ({"x": "steps"}, r"^`x` must be one of rejected, beta, seed, step; got 'steps'$"),
        ({"hue": "reject"}, r"^`hue` must be one of rejected, beta, seed, step; got 'reject'$"),
        ({"col": "loss"}, r"^`col` must be one of rejected, beta, seed, step; got 'loss'$"),
        ({"y": "js_limit"}, r"^`x` must be one of rejected, beta, seed; got 'step'$"),
        (
            {},
            r"^`dataset` must have one value of rejected, beta, unless `x`, `hue`, `col` or `over` names it$",
        ),
        (
            {"hue": "beta"},
            r"^`dataset` must have one value of rejected, unless `x`, `hue`, `col` or `over` names it$",
        ),
        (
            {"hue": "beta", "x": "rejected", "over": "step"},
            r"^`dataset` must have one value of seed, unless `x`, `hue`, `col` or `over` names it$",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(curves: xr.Dataset, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_study(curves, **{"y": "js_to_target", **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"hue": "beta", "col": "beta"},
        {"x": "seed", "over": "seed", "y": "js_limit", "hue": "beta"},
        {"x": "beta", "hue": "beta", "y": "js_limit"},
    ],
)
def test_a_dimension_has_one_place(curves: xr.Dataset, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`(x|hue|col|over)`"):
        plot_study(curves.isel(rejected=0), **{"y": "js_to_target", **arguments})


def test_figures_leave_the_style_of_the_session_alone(curves: xr.Dataset, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = plot_study(curves, "js_to_target", hue="rejected", col="beta")
    assert dict(mpl.rcParams) == before
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
