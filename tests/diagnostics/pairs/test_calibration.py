import numpy as np
import pytest
from scipy.special import expit

from didsim._calibration import fit_slopes
from didsim._intervals import interval
from didsim.diagnostics.pairs.calibration import reliability, resampled_slopes
from didsim.diagnostics.resampling import make_bootstrap
from tests.estimation.margins import draw_margins, slope_by_search


def test_resampled_slopes_by_hand() -> None:
    """For few pairs every resample is the slope of its own pairs."""
    random = np.random.default_rng(2)
    margin, prompt = draw_margins(random, 120, 1.0, 1.0), np.arange(120) // 2
    bootstrap = make_bootstrap(60, 40, 0)
    found = resampled_slopes(margin, prompt, bootstrap)
    for draw in range(41):
        weights = bootstrap.counts[prompt, draw]
        assert found[draw] == pytest.approx(slope_by_search(margin, weights), abs=1e-6)


def test_cells_of_pairs_change_nothing_that_matters() -> None:
    random = np.random.default_rng(3)
    margin, prompt = draw_margins(random, 6000, 0.5, 3.0), np.arange(6000) // 3
    bootstrap = make_bootstrap(2000, 200, 0)
    found = resampled_slopes(margin, prompt, bootstrap)
    exact = fit_slopes(margin[:, None], bootstrap.counts[prompt])
    assert found[0] == pytest.approx(slope_by_search(margin), rel=1e-6)
    assert np.abs(found / exact - 1).max() < 2e-3


def test_the_interval_of_the_slope_covers() -> None:
    """Pairs of a prompt agree more than chance: with a slope of each prompt's own, about one that is
    known."""
    random = np.random.default_rng(4)
    # The population: half of the prompts have slope 0.2, half 1.8; the pooled slope by a long simulation.
    long = np.concatenate([draw_margins(random, 400_000, slope, 1.0) for slope in (0.2, 1.8)])
    truth = fit_slopes(long[:, None], np.ones((len(long), 1)))[0]
    prompts, each, covered, runs = 120, 5, 0, 300
    bootstrap = make_bootstrap(prompts, 400, 0)
    prompt = np.repeat(np.arange(prompts), each)
    for _ in range(runs):
        slopes = np.where(random.random(prompts) < 0.5, 0.2, 1.8)
        size_of = np.abs(random.standard_t(4, prompts * each))
        right = random.random(prompts * each) < expit(slopes[prompt] * size_of)
        draws = resampled_slopes(np.where(right, size_of, -size_of), prompt, bootstrap)
        low, high = interval(draws, prompts)
        covered += low <= truth <= high
    assert 0.92 <= covered / runs <= 0.98


def test_the_reliability_curve_by_hand() -> None:
    random = np.random.default_rng(5)
    h = draw_margins(random, 1000, 1.0, 2.0)
    curve = reliability(h, np.arange(1000), make_bootstrap(1000, 20, 0))
    order = np.argsort(np.abs(h))
    for place, rows in enumerate(np.array_split(order, 10)):
        assert curve.predicted[place] == pytest.approx(expit(np.abs(h[rows])).mean(), abs=1e-3)
        assert curve.observed[place, 0] == pytest.approx((h[rows] > 0).mean(), abs=0.011)
    assert curve.pairs.sum() == 1000
    assert np.abs(curve.predicted - curve.observed[:, 0]).max() < 0.15


def test_equal_margins_share_a_bin() -> None:
    h = np.array([0.0] * 30 + [1.0] * 30)
    curve = reliability(h, np.arange(60), make_bootstrap(60, 20, 0))
    assert curve.pairs.tolist() == [30, 30]
    assert curve.observed[:, 0].tolist() == [0.5, 1.0]
