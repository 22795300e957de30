"""The picture of the benchmarks: time of a gradient over N, and throughput over the number of runs."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.pair_sums import Evaluations
from benchmarks.tables import LABELS
from benchmarks.throughput import Cell
from didsim.plotting import COLORS, looks_of, new_figure, style

_LINES = {
    "dense": (COLORS[1], "s", "-"),
    "exact": (COLORS[3], "^", "-"),
    "engine": (COLORS[0], "o", "-"),
    "engine_float32": (COLORS[5], "o", "--"),
    "floor": (COLORS[6], "D", ":"),
}
_MUTED = "0.6"


def plot(evaluations: Sequence[Evaluations], cells: Sequence[Cell]) -> Figure:
    """Both panels."""
    with style():
        figure, (left, right) = new_figure(1, 2, height=3.1)
        _plot_times(left, evaluations)
        left.set_title("(a) loss and gradient")
        _plot_throughput(right, cells)
        right.set_title("(b) training")
    return figure


def _plot_times(ax: Axes, results: Sequence[Evaluations]) -> None:
    for method, (color, marker, line) in _LINES.items():
        points = [(one.size, one.seconds[method]) for one in results if method in one.seconds]
        ax.plot(
            *zip(*points, strict=True),
            color=color,
            marker=marker,
            linestyle=line,
            markersize=3,
            label=LABELS[method],
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    last = results[-1]
    _guide(ax, last.size, 4 * last.seconds["engine"], 1, results[0].size * 30)
    quadratic = [one for one in results if "dense" in one.seconds]
    _guide(ax, quadratic[-1].size, 5 * quadratic[-1].seconds["dense"], 2, results[0].size)
    ax.set_xlabel("Sequences N")
    ax.set_ylabel("Time per evaluation (s)")
    _legend_below(ax, 2)


def _guide(ax: Axes, size: int, seconds: float, slope: int, smallest: float) -> None:
    """A line of a slope through a point, from a smallest size on and named at its upper end."""
    sizes = np.array([smallest, size], float)
    ax.plot(sizes, seconds * (sizes / size) ** slope, color=_MUTED, linewidth=0.7, zorder=0)
    ax.annotate(
        "∝ N" if slope == 1 else f"∝ N$^{slope}$",
        (size, seconds),
        xytext=(-1, 1),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=6.5,
        color="0.45",
    )


def _plot_throughput(ax: Axes, cells: Sequence[Cell]) -> None:
    sizes = sorted({cell.size for cell in cells})
    looks = looks_of(sizes)
    markers = itertools.cycle(("o", "s", "^", "D", "v", "P", "X", "*", "h"))
    for size, marker in zip(sizes, markers, strict=False):
        of_size = [cell for cell in cells if cell.size == size]
        timed = [(cell.runs, cell.rate) for cell in of_size if cell.rate is not None]
        line = {"markersize": 3, **looks[size].line, "marker": looks[size].marker(marker), "markevery": 1}
        ax.plot(*zip(*timed, strict=True), label=f"N = {size}", **line)
        stepped = [(cell.runs, cell.stepped_rate) for cell in of_size if cell.stepped_rate is not None]
        ax.plot(*zip(*stepped, strict=True), color=looks[size].color, linestyle=(0, (4, 2)), linewidth=0.9)
    ax.set_xscale("log")
    ax.set_yscale("log")
    runs = sorted({cell.runs for cell in cells})
    ax.set_xticks(runs, [str(number) for number in runs])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("Runs trained together")
    ax.set_ylabel("Throughput (steps × runs / s)")
    ax.plot([], [], color="black", label="didsim.train")
    ax.plot([], [], color="black", linestyle=(0, (4, 2)), linewidth=0.9, label="stepped, N × N")
    _legend_below(ax, 2)


def _legend_below(ax: Axes, columns: int) -> None:
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.2),
        ncols=columns,
        columnspacing=1,
        handlelength=2.4,
        labelspacing=0.3,
    )
