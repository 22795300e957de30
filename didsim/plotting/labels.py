"""Labels that fit: in lines that are no longer than the axis, or the figure, that they belong to."""

import re
from collections.abc import Callable

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from didsim import _checks
from didsim.plotting.arguments import check_axes
from didsim.plotting.looks import describe


def label_axes(ax: Axes, *, x: xr.DataArray | str | None = None, y: xr.DataArray | str | None = None) -> None:
    """Label the axes, each in lines that are no longer than the axis.

    Args:
        ax: where to draw. Its place in the figure must be known, as `new_figure` gives it.
        x: what is on the horizontal axis: words, or labelled values, whose long name and units are taken. By
            default its label stays as it is.
        y: what is on the vertical axis.
    """
    check_axes(ax)
    place = ax.get_position()
    figure = ax.get_figure(root=True)
    width, height = (0.0, 0.0) if figure is None else figure.get_size_inches()
    for name, values, label, inches in (
        ("x", x, ax.xaxis.label, place.width * width),
        ("y", y, ax.yaxis.label, place.height * height),
    ):
        if values is None:
            continue
        if not isinstance(values, str):
            _checks.instance(name, values, xr.DataArray, "an xarray.DataArray, or words")
            values = describe(values)
        label.set_text(fitted(values, inches, float(label.get_fontsize())))


def fitted(text: str, inches: float, points: float) -> str:
    """The text in lines of at most so many inches.

    A line ends at a space. A longer word is broken at an underscore, or at any letter if it has none. A
    formula (`$…$`) stays whole.

    Args:
        text: the text.
        inches: the longest line.
        points: size of the letters.
    """
    font = FontProperties(size=points)

    def fits(line: str) -> bool:
        width, _, _ = text_to_path.get_text_width_height_descent(line, font, "$" in line)
        return bool(width <= 72 * inches)

    lines: list[str] = []
    for word in re.findall(r"(?:\$[^$]*\$|\S)+", text):
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for piece in [word] if fits(word) or "$" in word else _pieces(word, fits):
            if lines[-1] and not fits(lines[-1] + piece):
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def _pieces(word: str, fits: Callable[[str], bool]) -> list[str]:
    """The parts of a word that may stand on lines of their own."""
    parts = re.findall(r"[^_]*_|[^_]+", word)
    return [one for part in parts for one in ([part] if fits(part) else part)]
