"""Valid calls of the functions that draw."""

from typing import Any

import numpy as np
import xarray as xr

from didsim import plotting
from tests.arguments.calls import call
from tests.arguments.kinds import Argument, flag, host_number, instance, integer, only, text
from tests.arguments.of_distributions import P, Q

_, _AXES = plotting.new_figure(height=2)
AX = only(_AXES)
RUNS = xr.DataArray(np.arange(24.0).reshape(2, 3, 4), dims=("hue", "seed", "step"), name="js_to_target")
RUNS = RUNS.assign_coords(hue=["a", "b"], seed=[0, 1, 2], step=[0, 1, 2, 3])
ENDS = RUNS.isel(step=-1, drop=True)
RESULTS = xr.Dataset({"js_to_target": RUNS, "js_limit": ENDS, "js_to_limit": ENDS})
FAMILIES = xr.Dataset({"first": ENDS, "second": ENDS})
ONE = RUNS.isel(hue=0, drop=True)


def _style(values: Any) -> Any:
    return plotting.describe(values)


def _is_one_axis(values: Any) -> bool:
    if isinstance(values, dict):
        return bool(values)
    if isinstance(values, list | tuple):
        return not values
    return isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf"


CALLS = {
    "plotting.describe": call(plotting.describe, values=only(ENDS)),
    "plotting.label_axes": call(
        plotting.label_axes,
        ax=AX,
        x=Argument(ENDS, lambda value: isinstance(value, str | xr.DataArray)).or_none(),
        y=Argument("words", lambda value: isinstance(value, str | xr.DataArray)).or_none(),
    ),
    "plotting.labelled": call(
        plotting.labelled,
        values=Argument(np.arange(2.0), _is_one_axis),
        dims=only(["t"]),
        coordinates=Argument({}, lambda other: other is None or (isinstance(other, dict) and not other)),
        label=text().or_none(),
        units=text(),
    ),
    "plotting.new_figure": call(
        plotting.new_figure,
        rows=integer(1, 1, 10**400),
        columns=integer(1, 1, 10**400),
        height=host_number(2.0, 0, above=True),
    ),
    "plotting.looks_of": call(plotting.looks_of, names=Argument(["a"], lambda value: _is_list(value))),
    "plotting.color_of": call(plotting.color_of, names=Argument(["a"], lambda value: _is_list(value))),
    "plotting.log_steps": call(plotting.log_steps, ax=AX, dataset=only(RESULTS)),
    "plotting.plot_band": call(
        plotting.plot_band, ax=AX, values=only(ONE), x=only("step"), over=only("seed")
    ),
    "plotting.plot_limit": call(plotting.plot_limit, ax=AX, values=only(ENDS[0]), over=only("seed")),
    "plotting.plot_curves": call(
        plotting.plot_curves,
        ax=AX,
        values=only(RUNS),
        limits=only(ENDS).or_none(),
        hue=only("hue"),
        x=only("step"),
        over=only("seed"),
    ),
    "plotting.plot_ends": call(
        plotting.plot_ends,
        ax=AX,
        values=only(ENDS),
        limits=only(ENDS),
        gaps=only(ENDS),
        hue=only("hue"),
        over=only("seed"),
    ),
    "plotting.plot_convergence": call(plotting.plot_convergence, dataset=only(RESULTS), hue=only("hue")),
    "plotting.plot_study": call(
        plotting.plot_study,
        dataset=only(RESULTS),
        y=only("js_to_target"),
        x=only("step"),
        hue=only("hue").or_none(),
        col=only(None).or_none(),
        over=only("seed").or_none(),
        log=flag(),
        log_x=flag(),
    ),
    "plotting.plot_pair_margins": call(
        plotting.plot_pair_margins,
        ax=AX,
        margins=only(ENDS.rename(hue="policy", seed="pair")),
        policy=only("policy"),
    ),
    "plotting.plot_distributions": call(
        plotting.plot_distributions,
        ax=AX,
        distributions=only({"a": P, "b": Q}),
        sequences=Argument(
            ["x", "y", "z"], lambda value: _is_list(value, 3) and str(value[0]) == "a"
        ).or_none(),
        colors=instance(None, dict).or_none(),
    ),
    "plotting.plot_families": call(
        plotting.plot_families,
        ax=AX,
        dataset=only(FAMILIES),
        x=only("first"),
        y=only("second"),
        hue=only("hue"),
    ),
    "plotting.plot_shares": call(
        plotting.plot_shares,
        ax=AX,
        share=only(ENDS[:, 0] / 30),
        low=only(ENDS[:, 0] / 40),
        high=only(ENDS[:, 0] / 20),
        row=only("hue"),
        marker=text("o"),
        shift=host_number(0.1),
        label=text().or_none(),
    ),
    "plotting.plot_intervals": call(
        plotting.plot_intervals,
        ax=AX,
        values=only(ENDS),
        row=only("hue"),
        over=only("seed"),
        marks=only([{}, {}]).or_none(),
        places=only([0.0, 2.0]).or_none(),
        floor=host_number(0.1).or_none(),
    ),
    "plotting.plot_clipped": call(
        plotting.plot_clipped, ax=AX, x=only(np.zeros(5)), y=only(np.array([0.0, np.nan, 1.0, 2.0, 3.0]))
    ),
}


def _is_list(value: Any, length: int | None = None) -> bool:
    good = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)
    return good and length in (None, len(value))
