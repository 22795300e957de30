"""Weights by which samples of the reference stand for other distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import didsim
from didsim import lm
from tests.lm.spaces import END, LENGTH, exact, responses, tiny

PROMPT, CONTEXT = [3, 1], [4, 0, 3]


def test_weights_on_all_responses_are_the_optimal_rejected_distribution() -> None:
    reference, target = (exact(tiny(), prompt) for prompt in (PROMPT, CONTEXT))
    found = lm.optimal_rejected_weights(reference[None], target[None], 0.7, least_effective=1)
    rejected = reference + found.log_weights[0]
    rejected -= np.logaddexp.reduce(rejected)
    np.testing.assert_allclose(rejected, didsim.optimal_rejected(reference, target, 0.7), rtol=1e-9)


def test_resampled_responses_are_those_of_the_optimal_rejected_distribution() -> None:
    model, beta, count = tiny(), 0.7, 6000
    reference, target = (exact(model, prompt) for prompt in (PROMPT, CONTEXT))
    (drawn,) = lm.draw(model, [PROMPT], count, LENGTH, END, seed=3)
    places = {tuple(one): place for place, one in enumerate(responses())}
    index = np.array([places[tuple(one)] for one in drawn])
    weights = lm.optimal_rejected_weights(reference[index][None], target[index][None], beta)
    chosen, rejected = lm.draw_pairs(weights, 20_000, seed=0)
    optimal = np.exp(np.asarray(didsim.optimal_rejected(reference, target, beta)))
    for picked, probs in ((chosen, np.exp(reference)), (rejected, optimal)):
        frequency = np.bincount(index[picked[0]], minlength=len(probs)) / picked.size
        spread = np.sqrt(probs * (1 - probs) / weights.effective[0])
        assert (abs(frequency - probs) <= 6 * spread + 2e-3).all()


@given(st.integers(0, 2**31), st.floats(0, 30))
def test_effective_number_is_that_of_the_weights(seed: int, spread: float) -> None:
    values = spread * np.random.default_rng(seed).normal(size=(3, 7)) + 500
    found = lm.resampling_weights(values, least_effective=0)
    weights = np.exp(values - values.max(1, keepdims=True))
    expected = weights.sum(1) ** 2 / (weights**2).sum(1)
    np.testing.assert_allclose(found.effective, expected, rtol=1e-10)
    np.testing.assert_allclose(np.exp(found.log_weights).sum(1), 1, rtol=1e-12)


def test_too_few_effective_samples_are_refused() -> None:
    reference, target = np.full((2, 20), -5.0), np.full((2, 20), -5.0)
    target[:, 0] = -50
    with pytest.raises(ValueError, match=r"beta 1: 20 samples of a prompt count for 1\.0 of equal weight"):
        lm.optimal_rejected_weights(reference, target, 1.0)
    assert lm.optimal_rejected_weights(reference, target, 0.01).effective.min() > 15


@pytest.mark.parametrize(
    ("reference", "target", "beta", "said"),
    [
        (np.zeros(3), np.zeros(3), 1.0, r"`reference_logps` must be finite numbers \[prompts, samples\]"),
        (np.zeros((1, 3)), np.zeros((1, 2)), 1.0, "must have one shape"),
        (np.zeros((1, 3)), np.full((1, 3), -np.inf), 1.0, "with values that are not finite"),
        (np.zeros((1, 3)), np.zeros((1, 3)), 0.0, "`beta` must be positive and finite"),
    ],
)
def test_a_wrong_argument_is_told(reference: np.ndarray, target: np.ndarray, beta: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lm.optimal_rejected_weights(reference, target, beta)
