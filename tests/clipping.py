"""Which words of a picture do not fit into it."""

from matplotlib.figure import Figure
from matplotlib.text import Text


def clipped(figure: Figure) -> list[str]:
    """The texts that reach beyond the edge of a figure, and labels that are longer than their axis."""
    figure.canvas.draw()
    width, height = figure.bbox.size
    found = []
    for text in figure.findobj(Text):
        if not (isinstance(text, Text) and text.get_visible() and text.get_text()):
            continue
        if text.axes is not None and not (text.axes.get_visible() and text.axes.axison):
            continue
        box = text.get_window_extent()
        # A tick that lies outside of the limits of its axis has a label that is not drawn.
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(text.get_text())
    for ax in figure.axes:
        place = ax.get_window_extent()
        for label, length in ((ax.xaxis.label, place.width), (ax.yaxis.label, place.height)):
            box = label.get_window_extent()
            if label.get_text() and (box.width if label is ax.xaxis.label else box.height) > 1.05 * length:
                found.append(f"longer than its axis: {label.get_text()}")
    return found
