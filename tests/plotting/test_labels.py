import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from didsim import METRICS, plotting
from didsim.plotting.labels import fitted
from didsim.training.record import metric_attributes
from tests.clipping import clipped


def drawn_width(text: str) -> float:
    """The width of a text in inches, as matplotlib draws it."""
    figure = Figure(figsize=(20, 2), dpi=100)
    artist = figure.text(0, 0.5, text, fontsize=8)
    return float(artist.get_window_extent().width) / 100


@pytest.mark.parametrize(
    "text",
    [
        "Exponent's interquartile range",
        "Change of the chosen log-likelihood from the reference, over all the sampled pairs (nats)",
        "expected_log_margin_of_the_learned_policy_on_pairs_of_the_day",
        "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
        "log-ratio of the data, $\\log\\,(\\pi_w / \\pi_l)$ (nats)",
        "short",
    ],
)
def test_a_text_is_broken_into_lines_that_fit_and_loses_nothing(text: str) -> None:
    lines = fitted(text, 1.4, 8).split("\n")
    assert all(drawn_width(line) <= 1.45 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert (len(lines) == 1) == (drawn_width(text) <= 1.4)


def test_a_formula_is_not_broken() -> None:
    formula = "$\\log (\\pi_w / \\pi_l)$"
    assert fitted(formula, 0.1, 8) == formula


def test_labels_of_axes_come_from_long_names_and_fit() -> None:
    _, ax = plotting.new_figure(height=2)
    values = xr.DataArray([1.0, 2.0], dims="x", attrs={"long_name": "JS(learned, target)", "units": "nats"})
    plotting.label_axes(ax, y=values)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("", "JS(learned, target)\n(nats)")
    plotting.label_axes(ax, x="words")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("words", "JS(learned, target)\n(nats)")


def results_of(y: str, **about: str) -> xr.Dataset:
    values = np.random.default_rng(0).uniform(size=(2, 3, 4)) - 0.5
    coords = {"rejected": ["optimal", "tempered(exponent=0.5, seed=3, more)"], "step": np.arange(4)}
    array = xr.DataArray(values, dims=("rejected", "seed", "step"), coords=coords, attrs=about)
    return xr.Dataset({y: array})


@pytest.mark.parametrize("y", METRICS)
def test_no_word_of_a_metrics_picture_is_clipped(y: str) -> None:
    figure = plotting.plot_study(results_of(y, **metric_attributes(y, METRICS[y])), y, hue="rejected")
    assert clipped(figure) == []
    label = figure.get_supylabel()
    assert "\n" not in label
    assert label.endswith(" (nats)") == (metric_attributes(y, METRICS[y])["units"] == "nats")


def test_no_word_of_a_picture_with_long_names_is_clipped() -> None:
    y = "a_metric_of_ones_own_without_a_long_name_but_with_a_name_that_is_very_long_indeed"
    assert clipped(plotting.plot_study(results_of(y), y, hue="rejected")) == []
    assert clipped(plotting.plot_study(results_of(y), y, col="rejected")) == []
    long = "Change of the chosen log-likelihood from the reference, over all the pairs that were sampled"
    assert (
        clipped(plotting.plot_study(results_of("js", long_name=long, units="nats"), "js", col="rejected"))
        == []
    )


def test_words_that_do_not_fit_are_found() -> None:
    figure, ax = plotting.new_figure(height=2)
    ax.set_ylabel("a label that is longer than its axis, and longer than the figure")
    label = ax.get_ylabel()
    assert clipped(figure) == [label, f"longer than its axis: {label}"]
    figure, ax = plotting.new_figure(height=2)
    ax.set_ylabel("only longer than its axis")
    ax.set_title("a title")
    ax.set_xlabel("an axis")
    assert clipped(figure) == ["longer than its axis: only longer than its axis"]
