"""Pictures of a pairs table's measurements, in the project's style."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from didsim import plotting
from didsim._intervals import interval
from didsim.diagnostics.pairs.measures import QUADRANTS, Measured
from didsim.diagnostics.pairs.table import ARGMAX

_CHOSEN, _REJECTED, _LIKELIEST, _LOSS = plotting.COLORS[:4]


def pair_figures(measured: Measured) -> dict[str, Figure]:
    """All pictures that the measurements allow, by name."""
    makers: dict[str, tuple[bool, Callable[[Measured], Figure]]] = {
        "displacement": (len(measured.steps) > 1, plot_course),
        "pairs": (True, plot_pairs),
        "calibration": (measured.curve is not None, plot_calibration),
        "length": (len(measured.chosen_length) > 0, plot_length),
    }
    return {name: make(measured) for name, (possible, make) in makers.items() if possible}


def plot_course(measured: Measured) -> Figure:
    """Displacement along training, and below it the held-out loss if pairs are held out."""
    series, losses = measured.trained_on, measured.judged if measured.held_out else {}
    with plotting.style():
        figure, axes = plotting.new_figure(
            1 + bool(losses), height=2.4 + 1.4 * bool(losses), sharex=True, squeeze=False
        )
        top = axes[0, 0]
        _band(top, measured, series["chosen"], _CHOSEN, "chosen")
        _band(top, measured, series["rejected"], _REJECTED, "rejected")
        if ARGMAX in series:
            gained = series[ARGMAX] - series[ARGMAX][0]
            _band(top, measured, gained, _LIKELIEST, "most likely tokens, since the first checkpoint")
        top.axhline(0, color="0.5", linewidth=0.8)
        top.set_ylabel("log-probability less\nthe reference's (nats)")
        top.legend(loc="best")
        if losses:
            name = "loss" if "loss" in losses else "best loss"
            _band(axes[1, 0], measured, losses[name], _LOSS, "held out")
            axes[1, 0].axhline(np.log(2), color="0.5", linewidth=0.8)
            axes[1, 0].annotate("log 2", (measured.steps[0], np.log(2)), fontsize=6.5, va="bottom")
            axes[1, 0].set_ylabel(
                "held-out loss (nats)" if name == "loss" else "held-out loss\nat the best beta (nats)"
            )
        axes[-1, 0].set_xlabel("step" if measured.has_steps else "checkpoint")
    return figure


def _band(ax: Axes, measured: Measured, draws: np.ndarray, color: str, label: str) -> None:
    """A line for the estimates, with a band for their intervals."""
    clusters = max(measured.clusters, 2)
    low, high = np.array([interval(one, clusters) for one in draws]).T
    ax.fill_between(measured.steps, low, high, color=color, alpha=0.18, linewidth=0)
    ax.plot(measured.steps, draws[:, 0], color=color, label=label)


def plot_pairs(measured: Measured) -> Figure:
    """How far the two responses of a pair moved, a dot for each of some pairs, with the quadrants' shares."""
    with plotting.style():
        figure, ax = plotting.new_figure(height=3.2)
        ax.plot(measured.chosen, measured.rejected, ".", markersize=4, alpha=0.4, markeredgewidth=0)
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.axvline(0, color="0.5", linewidth=0.8)
        places = {QUADRANTS[0]: (1, 1), QUADRANTS[1]: (1, 0), QUADRANTS[2]: (0, 0), QUADRANTS[3]: (0, 1)}
        for name, (x, y) in places.items():
            share = measured.trained_on[name][-1, 0]
            ax.annotate(
                f"{name}: {share:.1%}",
                (0.02 + 0.96 * x, 0.03 + 0.94 * y),
                xycoords="axes fraction",
                ha=("left", "right")[x],
                va=("bottom", "top")[y],
                fontsize=6.5,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
            )
        ax.set_xlabel("chosen: log-probability less the reference's (nats)")
        ax.set_ylabel("rejected: log-probability less\nthe reference's (nats)")
    return figure


def plot_calibration(measured: Measured) -> Figure:
    """The slope at every checkpoint (left), and the reliability curve of the last one (right)."""
    curve = measured.curve
    if curve is None:
        raise ValueError("`measured` must have a reliability curve; got none, as no slope is finite")
    with plotting.style():
        figure, (left, right) = plotting.new_figure(1, 2, height=2.5)
        slopes = measured.judged["slope"] / (measured.beta or 1.0)
        finite = np.isfinite(slopes[:, 0])
        clusters = max(measured.clusters, 2)
        ends = np.array([interval(one, clusters) for one in slopes[finite]]).reshape(-1, 2)
        steps = measured.steps[finite]
        ends = np.where(np.isfinite(ends), ends, slopes[finite, :1])
        left.fill_between(steps, ends[:, 0], ends[:, 1], alpha=0.18, linewidth=0)
        left.plot(steps, slopes[finite, 0], marker=".", markersize=3)
        if (slopes[finite, 0] > 0).all() and (ends > 0).all():
            left.set_yscale("log")
            left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        left.set_xlabel("step" if measured.has_steps else "checkpoint")
        if measured.beta is None:
            left.set_ylabel("beta that would have been right")
        else:
            left.axhline(1, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
            left.set_ylabel("slope of preferences on rewards")
        observed = curve.observed[:, 0]
        low, high = np.array([interval(one, clusters) for one in curve.observed]).T
        right.plot([0.5, 1], [0.5, 1], color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
        right.errorbar(
            curve.predicted, observed, (observed - low, high - observed), marker=".", linestyle="", capsize=2
        )
        right.set_xlim(0.48, 1.02)
        right.set_xlabel(f"mean σ(|h|), with beta {measured.curve_beta:.3g}")
        right.set_ylabel("share ranked as labelled")
    return figure


def plot_length(measured: Measured) -> Figure:
    """Displacement of the chosen response against its length, a dot for each of some pairs."""
    with plotting.style():
        figure, ax = plotting.new_figure(height=2.5)
        ax.plot(measured.chosen_length, measured.chosen, ".", markersize=4, alpha=0.4, markeredgewidth=0)
        ax.axhline(0, color="0.5", linewidth=0.8)
        ax.set_xlabel("length of the chosen response (tokens)")
        ax.set_ylabel("chosen: log-probability less\nthe reference's (nats)")
    return figure
