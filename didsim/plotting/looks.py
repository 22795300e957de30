"""The style of all figures: sizes, colours, and looks for any number of entries."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image

from didsim import _checks

WIDTH = 5.5
"""Width of a figure in inches: the column of a one-column paper, without scaling."""

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
    "#888888",
)

_STYLE: Any = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "figure.dpi": 100,
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "savefig.dpi": 250,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def style() -> AbstractContextManager[None]:
    """A context manager in which all figures are made: sizes, colours and fonts for a printed column."""
    return mpl.rc_context(_STYLE)


def use_style() -> None:
    """Make `style` the style of the whole session; a notebook calls it once."""
    mpl.rcParams.update(_STYLE)


class _ShownFigure(Figure):
    """A figure that a notebook shows if it is the last expression of a cell.

    It has twice the pixels of the place that it takes, so that it is sharp on a projector. With 256 colours
    its file is about a third as large.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        drawn, shown = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=2 * self.dpi)
        Image.open(drawn).convert("RGB").quantize(256).save(shown, "png", optimize=True)
        width, height = (round(pixels) for pixels in self.bbox.size)
        return shown.getvalue(), {"width": width, "height": height}


def new_figure(rows: int = 1, columns: int = 1, *, height: float, **options: Any) -> Any:
    """A figure of the common width, not managed by pyplot, and its axes as `Figure.subplots` gives them."""
    rows, columns = _checks.positive_int("rows", rows), _checks.positive_int("columns", columns)
    height = _checks.real("height", height, _checks.positive)
    figure = _ShownFigure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def describe(values: xr.DataArray) -> str:
    """An axis label from a variable's long name and units."""
    _checks.instance("values", values, xr.DataArray, "an xarray.DataArray")
    name = str(values.attrs.get("long_name", values.name))
    units = values.attrs.get("units", "1")
    return name if units == "1" else f"{name} ({units})"


EXACT: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.9}
"""The line of an exact value: a limit, or what a measurement should give."""


class Look(NamedTuple):
    """How one of several entries is drawn.

    Attributes:
        color: one of `COLORS`.
        turn: how often all colours were used before. At 0 a line is solid, and the plot chooses its dots.
            From 1 on, a line has dashes with `turn` dots between them. Its marks are polygons of
            `turn + 2` corners, and so are the dots of a scatter. No line looks like an exact limit, which
            has plain dashes.
    """

    color: str
    turn: int

    @property
    def line(self) -> dict[str, Any]:
        """Options of `plot` for a line."""
        if not self.turn:
            return {"color": self.color}
        gap = 1.5
        return {
            "color": self.color,
            "linestyle": (0, (6, gap, *(1, gap) * self.turn)),
            "marker": self.marker(),
            "markersize": 3.5,
            "markevery": 0.1,
        }

    def marker(self, first: Any = ".") -> Any:
        """The marker of dots; `first` is that of the first turn."""
        return (self.turn + 2, 0, 0) if self.turn else first

    @property
    def bar(self) -> dict[str, Any]:
        """Options of `bar`. From turn 1 on a bar is hatched, the more densely the larger `turn` is."""
        if not self.turn:
            return {"color": self.color}
        return {"color": self.color, "hatch": "/" * (2 * self.turn + 1), "edgecolor": "white", "linewidth": 0}


def looks_of(names: Sequence[Any] | np.ndarray) -> dict[Any, Look]:
    """A look for each name, in the order of `COLORS`. No two looks are the same."""
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray) or np.ndim(names) != 1:
        raise ValueError(f"`names` must be a list of names; got {names!r}")
    return {name: Look(COLORS[place % len(COLORS)], place // len(COLORS)) for place, name in enumerate(names)}


def color_of(names: Sequence[Any] | np.ndarray) -> dict[Any, str]:
    """A colour for each name, in the order of `COLORS`. After the last colour the first comes again.

    `looks_of` gives looks that also differ between names of the same colour.
    """
    return {name: look.color for name, look in looks_of(names).items()}
