from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from scipy.special import expit
from scipy.stats import chisquare

from didsim import Contrastive, Labelled, Problem
from tests.preferences.problem_cases import KEY, PREFERENCE, REWARD, SIGNIFICANCE, P
from tests.strategies import tuples


@given(tuples(2, hostile=False))
def test_contrastive_preferences_agree_with_bayes_rule(drawn: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = (np.exp(p) for p in drawn)
    size = len(chosen)
    i, j = np.divmod(np.arange(size * size), size)
    result = PREFERENCE(Contrastive(*drawn), i, j)
    expected = [
        chosen[a] * rejected[b] / (chosen[a] * rejected[b] + chosen[b] * rejected[a])
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@given(tuples(2))
def test_contrastive_preferences_are_bradley_terry_in_the_log_ratio(drawn: tuple[np.ndarray, ...]) -> None:
    chosen, rejected = drawn
    size = len(chosen)
    i, j = np.divmod(np.arange(size * size), size)
    result = np.asarray(PREFERENCE(Contrastive(chosen, rejected), i, j))
    ratio = chosen - rejected
    # The exponent is up to 2800 nats and rounded by a few eps of it: 1e-12.
    np.testing.assert_allclose(result, expit(ratio[i] - ratio[j]), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(result + PREFERENCE(Contrastive(chosen, rejected), j, i), 1, rtol=1e-12)


def test_chosen_and_rejected_are_drawn_independently() -> None:
    sample = Contrastive(np.log([0.5, 0.5]), np.log([0.5, 0.5])).sample(KEY, 5000)
    agree = int((sample.winners == sample.losers).sum())
    assert chisquare([agree, 5000 - agree]).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: Contrastive(a, b), ("chosen", "rejected")),
        (lambda a, b: Labelled(REWARD, a, b), ("first", "second")),
    ],
    ids=["contrastive", "labelled"],
)
def test_distributions_are_checked(make: Callable[..., Problem], names: tuple[str, str]) -> None:
    for expected, bad in {
        "be log-probabilities normalised": P + 1,
        "be log-probabilities; got NaN": P * np.nan,
        "be a floating-point array": np.zeros(3, int),
        "not be empty": np.zeros(0),
    }.items():
        with pytest.raises(ValueError, match=f"`{names[0]}` must {expected}"):
            make(bad, P)
        with pytest.raises(ValueError, match=f"`{names[1]}` must {expected}"):
            make(P, bad)
    with pytest.raises(ValueError, match=f"`{names[0]}`.*`{names[1]}` must agree in their last axis"):
        make(P, np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match=f"`{names[0]}`.*`{names[1]}` must broadcast together"):
        make(np.stack([P] * 2), np.stack([P] * 3))
