"""Exact limits and logarithmic axes in pictures of a study."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.lines import Line2D

from didsim.plotting import plot_study
from tests.sweeps.store_cases import panels_of

DIMS = ("rejected", "beta", "seed")


@pytest.fixture
def curves() -> xr.Dataset:
    rng = np.random.default_rng(0)
    coords: dict[str, Any] = {
        "rejected": ["optimal", "uniform"],
        "beta": [0.1, 0.3, 1.0],
        "seed": range(5),
        "step": [0, 10, 20],
    }
    limits = (DIMS, rng.uniform(0.1, 1, size=(2, 3, 5)), {"limit_of": "js"})
    return xr.Dataset(
        {
            "js": ((*DIMS, "step"), rng.uniform(0.1, 1, size=(2, 3, 5, 3))),
            "js_limit": limits,
            "fall": ((*DIMS, "step"), -rng.uniform(size=(2, 3, 5, 3))),
        },
        coords,
    )


def numbers(values: Any) -> np.ndarray:
    return np.asarray(values, float)


def dashes_of(ax: Any) -> list[Line2D]:
    return [line for line in ax.lines if line.is_dashed()]


def test_stored_limits_are_dashed_in_the_colour_of_their_line(curves: xr.Dataset) -> None:
    figure = plot_study(curves, "js", hue="rejected", col="beta")
    for k, ax in enumerate(panels_of(figure)):
        solid = [line for line in ax.lines if not line.is_dashed()]
        assert len(solid) == len(dashes_of(ax)) == 2
        for j, (line, limit) in enumerate(zip(solid, dashes_of(ax), strict=True)):
            assert line.get_color() == limit.get_color()
            expected = np.median(curves["js_limit"].values[j, k])
            np.testing.assert_allclose(numbers(limit.get_ydata()), expected)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["optimal", "uniform", "exact limit"]


def test_limits_over_another_axis_are_dashed_along_it(curves: xr.Dataset) -> None:
    (panel,) = panels_of(plot_study(curves.isel(rejected=1), "js", x="beta"))
    (limit,) = dashes_of(panel)
    assert numbers(limit.get_xdata()).tolist() == [0.1, 0.3, 1.0]
    np.testing.assert_allclose(numbers(limit.get_ydata()), np.median(curves["js_limit"].values[1], axis=1))


def test_the_limit_of_one_run_is_its_own(curves: xr.Dataset) -> None:
    (panel,) = panels_of(plot_study(curves.isel(rejected=0, beta=1, seed=3), "js"))
    (limit,) = dashes_of(panel)
    assert numbers(limit.get_ydata())[0] == curves["js_limit"].values[0, 1, 3]


def test_a_line_of_which_a_run_has_no_limit_gets_none(curves: xr.Dataset) -> None:
    curves["js_limit"][0, 0, 2] = np.nan
    (panel,) = panels_of(plot_study(curves.isel(beta=0), "js", hue="rejected"))
    assert [line.get_color() for line in dashes_of(panel)] == [panel.lines[-1].get_color()]
    # A run that was not begun has no say.
    curves["js"][0, 0, 2] = np.nan
    (panel,) = panels_of(plot_study(curves.isel(beta=0), "js", hue="rejected"))
    known = np.delete(curves["js_limit"].values[0, 0], 2)
    assert numbers(dashes_of(panel)[0].get_ydata())[0] == pytest.approx(np.median(known))


def test_another_metric_has_no_limits(curves: xr.Dataset) -> None:
    figure = plot_study(curves.isel(beta=0), "fall", hue="rejected")
    assert dashes_of(panels_of(figure)[0]) == []
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["optimal", "uniform"]


def test_axes_may_be_logarithmic(curves: xr.Dataset) -> None:
    (panel,) = panels_of(plot_study(curves.isel(rejected=0), "js", x="beta", log=True, log_x=True))
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    (panel,) = panels_of(plot_study(curves.isel(rejected=0, beta=0), "js", log_x=True))
    assert (panel.get_xscale(), panel.get_yscale()) == ("symlog", "linear")
    assert panel.get_xlim() == (0, 20)
    # A limit of nearly nothing takes no room from the curves.
    tiny = curves.isel(rejected=0, beta=0).assign(
        js_limit=curves["js_limit"].isel(rejected=0, beta=0) * 1e-30
    )
    (panel,) = panels_of(plot_study(tiny, "js", log=True))
    assert panel.get_ylim()[0] >= float(tiny["js"].min()) / 1e3
    # A value of 0 is at the lower edge.
    curves["js"][0, 0, :, 2] = 0
    plot_study(curves.isel(rejected=0, beta=0), "js", log=True).draw_without_rendering()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": "fall", "log": True}, r"^`log` must be False unless values of 'fall' are positive; they go"),
        ({"y": "js", "x": "rejected", "over": "seed", "log_x": True}, r"^`log_x` must be False unless all"),
        ({"y": "js", "log": 1}, r"^`log` must be True or False; got 1$"),
    ],
)
def test_what_has_no_logarithm_is_refused(
    curves: xr.Dataset, arguments: dict[str, Any], message: str
) -> None:
    chosen = curves.isel(beta=0) if "x" in arguments else curves.isel(beta=0, rejected=0)
    with pytest.raises(ValueError, match=message):
        plot_study(chosen, **arguments)
