"""Figures: one style, one function for each kind of picture.

Functions draw on a given `Axes` from labelled arrays. Over seeds, a line is the median and a band the
central 95% of the runs. A dashed line is an exact value that theory gives. The colours are those of Okabe
and Ito, which colour-blind readers can tell apart. Every curve also has a label or a place of its own.

looks           size, colours, and the looks of many entries
labels          labels in lines that fit their axis
curves          runs along training, and their ends
study           results of a sweep
distributions   probabilities of sequences, log-margins of pairs
instances       many random instances
labelled        labelled arrays, from plain ones
arguments       checks of what is drawn
"""

from didsim.plotting.curves import log_steps, plot_band, plot_convergence, plot_curves, plot_ends, plot_limit
from didsim.plotting.distributions import plot_distributions, plot_pair_margins
from didsim.plotting.instances import plot_clipped, plot_families, plot_intervals, plot_shares
from didsim.plotting.labelled import labelled
from didsim.plotting.labels import label_axes
from didsim.plotting.looks import (
    COLORS,
    EXACT,
    WIDTH,
    Look,
    color_of,
    describe,
    looks_of,
    new_figure,
    style,
    use_style,
)
from didsim.plotting.study import plot_study

__all__ = [
    "COLORS",
    "EXACT",
    "WIDTH",
    "Look",
    "color_of",
    "describe",
    "label_axes",
    "labelled",
    "log_steps",
    "looks_of",
    "new_figure",
    "plot_band",
    "plot_clipped",
    "plot_convergence",
    "plot_curves",
    "plot_distributions",
    "plot_ends",
    "plot_families",
    "plot_intervals",
    "plot_limit",
    "plot_pair_margins",
    "plot_shares",
    "plot_study",
    "style",
    "use_style",
]
