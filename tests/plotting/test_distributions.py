from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from didsim import plotting


def test_pairs_out_of_order_have_another_colour() -> None:
    _, ax = plotting.new_figure(height=2)
    margins = xr.DataArray(
        [[-1.0, -1.0], [0.0, 0.0], [1.0, -2.0]],
        dims=("policy", "pair"),
        coords={"policy": ["rejected", "reference", "target"]},
        name="margin",
    )
    plotting.plot_pair_margins(ax, margins)
    ordered, unordered, mean = ax.lines
    assert ordered.get_ydata().tolist() == [-1, 0, 1]
    assert unordered.get_ydata().tolist() == [-1, 0, -2]
    assert ordered.get_color() != unordered.get_color()
    assert mean.get_ydata().tolist() == [-1, 0, -0.5]
    plotting.plot_pair_margins(ax, margins.isel(pair=[0] * 300))
    assert (ordered.get_alpha(), ax.lines[-2].get_alpha()) == (0.6, 0.25)


def test_distributions_are_bars_side_by_side() -> None:
    _, ax = plotting.new_figure(height=2)
    policies = {"reference": np.log([0.5, 0.3, 0.2]), "target": np.log([0.2, 0.3, 0.5])}
    plotting.plot_distributions(ax, policies, ["aa", "ab", "b"], colors={"target": "black"})
    bars = sorted(ax.patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == pytest.approx([0.5, 0.2, 0.3, 0.3, 0.2, 0.5])
    assert [container.get_label() for container in ax.containers] == ["reference", "target"]
    assert [bar.get_facecolor() for bar in bars[:2]] == [
        mpl.colors.to_rgba(c) for c in (plotting.COLORS[0], "black")
    ]
    # Side by side, none over another, around the tick of their sequence.
    assert all(left.get_x() + left.get_width() <= right.get_x() + 1e-9 for left, right in pairwise(bars))
    assert bars[2].get_x() + bars[2].get_width() == pytest.approx(1)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["aa", "ab", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Sequence", "Probability")


@pytest.mark.parametrize(
    ("distributions", "sequences"),
    [
        ({"a": np.zeros(1), "b": np.zeros(2)}, None),
        ({"a": np.zeros(2)}, ["a"]),
        ({"a": np.zeros((2, 2))}, None),
        ({}, None),
    ],
)
def test_distributions_over_other_sequences_are_refused(
    distributions: dict[str, np.ndarray], sequences: list[str] | None
) -> None:
    _, ax = plotting.new_figure(height=2)
    with pytest.raises(ValueError, match="`distributions` must all be over the same sequences; got shapes"):
        plotting.plot_distributions(ax, distributions, sequences)


def test_bars_of_the_same_colour_are_hatched() -> None:
    _, ax = plotting.new_figure(height=2)
    count = len(plotting.COLORS) + 1
    plotting.plot_distributions(ax, {str(number): np.log([0.5, 0.5]) for number in range(count)})
    first, *_, last = ax.containers
    assert first[0].get_facecolor() == last[0].get_facecolor()
    assert (first[0].get_hatch(), bool(last[0].get_hatch())) == (None, True)
