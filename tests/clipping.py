"""Which words of a picture do not fit into it."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def clipped(figure: Figure) -> list[str]:
    """The texts that reach beyond the edge of a figure, and labels that are longer than their axis."""
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    found = []
    outside = {text for ax in figure.axes for text in _beyond_limits(ax)}
    for text in figure.findobj(Text):
        if not (isinstance(text, Text) and text.get_visible() and text.get_text()) or text in outside:
            continue
        if text.axes is not None and not (text.axes.get_visible() and text.axes.axison):
            continue
        box = text.get_window_extent()
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(text.get_text())
    for ax in figure.axes:
        place = ax.get_window_extent()
        for label, length in ((ax.xaxis.label, place.width), (ax.yaxis.label, place.height)):
            box = label.get_window_extent()
            if label.get_text() and (box.width if label is ax.xaxis.label else box.height) > 1.02 * length:
                found.append(f"longer than its axis: {label.get_text()}")
    return found


def _beyond_limits(ax: Axes) -> list[Text]:
    """The labels of ticks that lie outside of the limits of their axis, and are not drawn."""
    found = []
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        found += [
            one for tick in ticks if not low <= tick.get_loc() <= high for one in (tick.label1, tick.label2)
        ]
    return found
