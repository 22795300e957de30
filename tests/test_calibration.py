import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from didsim._calibration import fit_slopes
from tests.estimation.margins import draw_margins, slope_by_search


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("slope", [-0.7, 0.0, 0.3, 2.0])
def test_the_slope_is_that_of_maximum_likelihood(slope: float, spread: float) -> None:
    random = np.random.default_rng(1)
    margin = draw_margins(random, 400, slope / spread, spread)
    weights = random.integers(0, 4, (400, 5)).astype(float)
    found = fit_slopes(margin[:, None], weights)
    for k in range(5):
        assert found[k] * spread == pytest.approx(slope_by_search(margin, weights[:, k]) * spread, abs=1e-6)
    assert fit_slopes(margin[:, None], np.ones((400, 1)))[0] * spread == pytest.approx(
        slope_by_search(margin) * spread, abs=1e-6
    )


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20).filter(lambda h: max(h) > 1e-3 and min(h) < -1e-3)
)
def test_the_likelihood_is_flat_at_theslope_by_search(margins: list[float]) -> None:
    h = np.array(margins)
    slope = fit_slopes(h[:, None], np.ones((len(h), 1)))[0]
    assert np.isfinite(slope)
    terms = h * expit(-slope * h)
    assert abs(terms.sum()) <= 1e-6 * np.abs(terms).sum()


@pytest.mark.parametrize(
    ("margins", "slope"),
    [([1.0, 2.0], np.inf), ([1.0, 0.0], np.inf), ([-1.0, -2.0], -np.inf), ([0.0, 0.0], np.nan)],
)
def test_separable_pairs_have_no_finiteslope_by_search(margins: list[float], slope: float) -> None:
    assert fit_slopes(np.array(margins)[:, None], np.ones((2, 1)))[0] == pytest.approx(slope, nan_ok=True)


def test_a_pair_of_weight_zero_does_not_count() -> None:
    margin = np.array([1.0, 2.0, -1.0])
    weights = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    found = fit_slopes(margin[:, None], weights)
    assert found[:2].tolist() == [np.inf, -np.inf]
    assert found[2] == pytest.approx(slope_by_search(margin), abs=1e-6)
    assert np.isnan(fit_slopes(np.empty((0, 1)), np.ones((0, 2)))).all()


def test_one_hair_of_a_wrong_pair_still_ends() -> None:
    found = fit_slopes(np.array([[1e300], [-1e-300]]), np.ones((2, 1)))
    assert found[0] > 0
