import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit

from didsim._intervals import interval
from didsim.diagnostics.pairs.calibration import fit_slopes, reliability, resampled_slopes
from didsim.diagnostics.resampling import make_bootstrap


def _slope(margin: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The slope of maximum likelihood by SciPy's search for a minimum."""
    scale = np.abs(margin).max()
    w = np.ones(len(margin)) if weights is None else weights

    def loss(c: float) -> float:
        return float(np.sum(w * np.logaddexp(0, -c * margin / scale)))

    found = minimize_scalar(loss, bracket=(-1, 1), tol=1e-12)
    return float(found.x) / scale


def _draw(random: np.random.Generator, size: int, slope: float, spread: float) -> np.ndarray:
    """Margins whose sign is right with the probability that a slope gives."""
    size_of = spread * np.abs(random.standard_t(4, size))
    return np.where(random.random(size) < expit(slope * size_of), size_of, -size_of)


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("slope", [-0.7, 0.0, 0.3, 2.0])
def test_the_slope_is_that_of_maximum_likelihood(slope: float, spread: float) -> None:
    random = np.random.default_rng(1)
    margin = _draw(random, 400, slope / spread, spread)
    weights = random.integers(0, 4, (400, 5)).astype(float)
    found = fit_slopes(margin[:, None], weights)
    for k in range(5):
        assert found[k] * spread == pytest.approx(_slope(margin, weights[:, k]) * spread, abs=1e-6)
    assert fit_slopes(margin[:, None], np.ones((400, 1)))[0] * spread == pytest.approx(
        _slope(margin) * spread, abs=1e-6
    )


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20).filter(lambda h: max(h) > 1e-3 and min(h) < -1e-3)
)
def test_the_likelihood_is_flat_at_the_slope(margins: list[float]) -> None:
    h = np.array(margins)
    slope = fit_slopes(h[:, None], np.ones((len(h), 1)))[0]
    assert np.isfinite(slope)
    terms = h * expit(-slope * h)
    assert abs(terms.sum()) <= 1e-6 * np.abs(terms).sum()


@pytest.mark.parametrize(
    ("margins", "slope"),
    [([1.0, 2.0], np.inf), ([1.0, 0.0], np.inf), ([-1.0, -2.0], -np.inf), ([0.0, 0.0], np.nan)],
)
def test_separable_pairs_have_no_finite_slope(margins: list[float], slope: float) -> None:
    assert fit_slopes(np.array(margins)[:, None], np.ones((2, 1)))[0] == pytest.approx(slope, nan_ok=True)


def test_a_pair_of_weight_zero_does_not_count() -> None:
    margin = np.array([1.0, 2.0, -1.0])
    weights = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    found = fit_slopes(margin[:, None], weights)
    assert found[:2].tolist() == [np.inf, -np.inf]
    assert found[2] == pytest.approx(_slope(margin), abs=1e-6)
    assert np.isnan(fit_slopes(np.empty((0, 1)), np.ones((0, 2)))).all()


def test_one_hair_of_a_wrong_pair_still_ends() -> None:
    found = fit_slopes(np.array([[1e300], [-1e-300]]), np.ones((2, 1)))
    assert found[0] > 0


def test_resampled_slopes_by_hand() -> None:
    """For few pairs every resample is the slope of its own pairs."""
    random = np.random.default_rng(2)
    margin, prompt = _draw(random, 120, 1.0, 1.0), np.arange(120) // 2
    bootstrap = make_bootstrap(60, 40, 0)
    found = resampled_slopes(margin, prompt, bootstrap)
    for draw in range(41):
        weights = bootstrap.counts[prompt, draw]
        assert found[draw] == pytest.approx(_slope(margin, weights), abs=1e-6)


def test_cells_of_pairs_change_nothing_that_matters() -> None:
    random = np.random.default_rng(3)
    margin, prompt = _draw(random, 6000, 0.5, 3.0), np.arange(6000) // 3
    bootstrap = make_bootstrap(2000, 200, 0)
    found = resampled_slopes(margin, prompt, bootstrap)
    exact = fit_slopes(margin[:, None], bootstrap.counts[prompt])
    assert found[0] == pytest.approx(_slope(margin), rel=1e-6)
    assert np.abs(found / exact - 1).max() < 2e-3


def test_the_interval_of_the_slope_covers() -> None:
    """Pairs of a prompt agree more than chance: with a slope of each prompt's own, about one that is
    known."""
    random = np.random.default_rng(4)
    # The population: half of the prompts have slope 0.2, half 1.8; the pooled slope by a long simulation.
    long = np.concatenate([_draw(random, 400_000, slope, 1.0) for slope in (0.2, 1.8)])
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
    h = _draw(random, 1000, 1.0, 2.0)
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
