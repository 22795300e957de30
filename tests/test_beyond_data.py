"""Experiments on how pairs are made."""

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.optimize import minimize
from scipy.special import log_softmax

from experiments import beta_mismatch
from experiments.shared.wording import number


def of_minimiser(reference: np.ndarray, joint: np.ndarray, beta: float) -> np.ndarray:
    """DPO's minimiser on a table of pairs by SciPy: `joint[i, j]` is how often `i` is chosen over `j`."""

    def loss(h: np.ndarray) -> tuple[float, np.ndarray]:
        distance = h[:, None] - h[None, :]
        slope = -joint / (1 + np.exp(distance))
        return float((joint * np.logaddexp(0, -distance)).sum()), slope.sum(1) - slope.sum(0)

    start = np.zeros(len(reference))
    best = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x
    return np.asarray(log_softmax(reference + best / beta))


@pytest.fixture(scope="module")
def mismatch() -> xr.Dataset:
    config = beta_mismatch.Config(
        vocab_size=3, max_length=1, seeds=2, steps=400, data_betas=(2.0, 0.5), train_betas=(0.5, 1.0, 2.0)
    )
    return beta_mismatch.run(config)


def test_the_limit_of_two_betas_is_the_minimiser_that_scipy_finds(mismatch: xr.Dataset) -> None:
    keys = jax.random.split(jax.random.key(0), (2, 2))
    reference, target = log_softmax(jax.vmap(jax.vmap(lambda k: jax.random.normal(k, (3,))))(keys), axis=-1)
    for built, trained in ((0.5, 1.0), (2.0, 0.5), (2.0, 2.0)):
        for seed in range(2):
            p, q = reference[seed], target[seed]
            rejected = np.exp(p + built * (p - q))
            joint = np.exp(p)[:, None] * (rejected / rejected.sum())[None, :]
            learned = of_minimiser(p, joint, trained)
            one = mismatch.sel(data_beta=built, train_beta=trained, seed=seed)
            assert float(one["chosen_displacement"]) == pytest.approx(np.exp(p) @ (learned - p), abs=1e-6)
            change = np.exp(p) @ p - np.exp(learned) @ learned
            assert float(one["entropy_change"]) == pytest.approx(change, abs=1e-6)


def test_descent_takes_the_position_to_the_ratio_of_both_betas(mismatch: xr.Dataset) -> None:
    start, end = (mismatch["position"].isel(step=step) for step in (0, -1))
    assert float(abs(start).max()) < 1e-14
    np.testing.assert_allclose(end, np.broadcast_to([[0.25], [0.5], [1], [2]], (4, 2)), atol=1e-5)


def test_the_words_on_two_betas_are_those_of_the_cells(mismatch: xr.Dataset) -> None:
    told = beta_mismatch.finding(mismatch)
    middle = mismatch.median("seed")
    for s, cell in ((0.5, (0.5, 1.0)), (2, (2.0, 1.0))):
        one = middle.sel(data_beta=cell[0], train_beta=cell[1])
        text = f"(`s` = {s}) it is {number(float(one['js_to_target']))} nats from the target"
        assert text in told
        assert f"changes by {number(float(one['chosen_displacement']))} nats" in told
    below = (mismatch["entropy_change"].sel(data_beta=0.5, train_beta=[1.0, 2.0]) > 0).mean()
    assert f"in {100 * float(below):.0f}% of cells and seeds with `s` below 1" in told
