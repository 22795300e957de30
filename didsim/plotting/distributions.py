"""Distributions of sequences: their probabilities, and the log-margins of pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes

from didsim import _checks
from didsim.plotting.arguments import check_axes, check_dim, check_labelled
from didsim.plotting.labels import label_axes
from didsim.plotting.looks import COLORS, looks_of


def plot_pair_margins(ax: Axes, margins: xr.DataArray, *, policy: str = "policy") -> None:
    """Log-margins of pairs across policies: a thin line for each pair, from one policy to the next.

    The first step of each line should rise, so turn the pairs accordingly. If the policies are log-margin
    ordered, no line falls. A line that falls by more than a thousandth of the largest margin has another
    colour. The mean is in black. Lines are stronger if there are fewer than 200 pairs.

    Args:
        ax: where to draw.
        margins: with dimensions `pair` and `policy`.
        policy: the dimension of the policies, from left to right.
    """
    check_axes(ax)
    check_labelled("margins", margins, "pair")
    check_dim("policy", policy, margins)
    names = [str(name) for name in margins[policy].values]
    values = margins.transpose(policy, "pair").values
    falls = np.any(np.diff(values, axis=0) < -1e-3 * np.abs(values).max(), axis=0)
    places = np.arange(len(names))
    alpha = float(np.clip(50 / max(values.shape[1], 1), 0.25, 0.6))
    for chosen, color in ((~falls, COLORS[0]), (falls, COLORS[1])):
        if chosen.any():
            ax.plot(places, values[:, chosen], color=color, alpha=alpha, linewidth=0.6)
    ax.plot(places, values.mean(axis=1), color="black", marker="o", markersize=3, linewidth=1.2)
    ax.set_xticks(places, names)
    ax.set_xlim(-0.2, len(names) - 0.8)
    label_axes(ax, y=margins)


def plot_distributions(
    ax: Axes,
    distributions: Mapping[str, Float[ArrayLike, " sequences"]],
    sequences: Sequence[str] | None = None,
    *,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Probabilities of every sequence under several distributions, as bars side by side.

    Args:
        ax: where to draw.
        distributions: log-probabilities by name, in the order of the bars.
        sequences: names of the sequences; by default their numbers.
        colors: colours by name of a distribution. `looks_of` chooses all others.

    Raises:
        ValueError: the distributions are not all over the same number of sequences, or there is not one name
            for each sequence.
    """
    check_axes(ax)
    _checks.instance("distributions", distributions, Mapping, "a table of log-probabilities by name")
    if colors is not None:
        _checks.instance("colors", colors, Mapping, "a table of colours by name")
    sequences = None if sequences is None else _checks.words("sequences", sequences)
    looks = looks_of(list(distributions))
    shapes = {name: _checks.numbers_given("distributions", one).shape for name, one in distributions.items()}
    expected: tuple[int, ...] = next(iter(shapes.values()), ())
    if sequences is not None:
        expected = (len(sequences),)
    if set(shapes.values()) != {expected} or len(expected) != 1:
        raise ValueError(
            f"`distributions` must all be over the same sequences; got shapes {shapes}"
            + ("" if sequences is None else f", and {len(sequences)} names in `sequences`")
        )
    probabilities = {
        name: np.exp(np.asarray(_checks.distribution("distributions", one)))
        for name, one in distributions.items()
    }
    places = np.arange(expected[0])
    width = 0.8 / len(probabilities)
    for number, (name, heights) in enumerate(probabilities.items()):
        shift = width * (number - (len(probabilities) - 1) / 2)
        look = {**looks[name].bar, **({"color": colors[name]} if colors and name in colors else {})}
        ax.bar(places + shift, heights, width, label=name, **look)
    ax.set_xticks(places, places if sequences is None else sequences)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("Sequence")
    ax.set_ylabel("Probability")
