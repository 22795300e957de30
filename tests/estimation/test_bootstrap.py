"""The bootstrap against refits one by one, known errors, and clusters that are copies."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

from didsim import NamedPairs, Pairs, Rankings, bootstrap, reward_model
from didsim.estimation.bootstrap import poisson_counts
from tests.estimation.data import games

KEY = jax.random.key(0)


def test_counts_are_poisson() -> None:
    counts = np.asarray(poisson_counts(KEY, (40_000, 5))).ravel()
    expected = stats.poisson.pmf(np.arange(6), 1) * counts.size
    found = np.bincount(counts, minlength=6)[:6]
    np.testing.assert_array_less(np.abs(found - expected), 5 * np.sqrt(expected))
    assert counts.max() > 6


def test_every_resample_is_the_fit_of_its_counts() -> None:
    data = games(4, 60)
    found = reward_model(data)
    draws = bootstrap(found, key=KEY, resamples=8)
    (key,) = jax.random.split(KEY, 1)
    counts = np.asarray(poisson_counts(key, (64, 8)), float)
    for draw in range(8):
        alone = reward_model(Pairs(data.winners, data.losers, counts[:, draw]))
        np.testing.assert_allclose(draws.rewards[draw], alone.rewards, atol=1e-5)
    assert draws.converged.all()
    assert draws.clusters == 64


@pytest.mark.parametrize("kind", ["pairs", "rankings"])
def test_errors_are_those_of_the_information(kind: str) -> None:
    """For independent observations from the model the two agree, as the number of observations grows."""
    data: Any = games(4, 1500)
    if kind == "rankings":
        data = Rankings.from_rankings(
            [[int(i), int(j)] for i, j in zip(data.winners, data.losers, strict=True)]
        )
    found = reward_model(data)
    draws = bootstrap(found, key=KEY, resamples=200)
    known = found.estimates().standard_error
    # The standard deviation of 200 draws is known to 1/20; 4 of these.
    np.testing.assert_allclose(draws.standard_error, known, rtol=4 / 20)
    low, high = draws.interval(0.9)
    np.testing.assert_allclose(high - low, 2 * 1.645 * known, rtol=0.25)


def test_copies_in_a_prompt_count_as_one() -> None:
    """Nine copies of each pair: errors of single pairs are a third of those of whole prompts."""
    one = games(4, 400)
    copies = Pairs(np.repeat(np.asarray(one.winners), 9), np.repeat(np.asarray(one.losers), 9))
    prompt = np.repeat(np.arange(404), 9)
    found = reward_model(NamedPairs(copies, (0, 1, 2, 3), prompt, tuple(range(404))))
    by_pair = bootstrap(found, key=KEY).standard_error
    by_prompt = bootstrap(found, key=KEY, by="prompt").standard_error
    np.testing.assert_allclose(by_prompt / by_pair, 3, rtol=0.25)
    by_array = bootstrap(found, key=KEY, by=prompt + 5).standard_error
    np.testing.assert_allclose(by_array, by_prompt, rtol=1e-12)


def test_copies_of_one_cluster_all_have_its_fit() -> None:
    """Every resample starts at its own fit, where nothing is left of the gradient but rounding."""
    one = games(3, 3)
    copies = Pairs(np.tile(np.asarray(one.winners), 10), np.tile(np.asarray(one.losers), 10))
    found = reward_model(copies)
    draws = bootstrap(found, key=KEY, by=np.repeat(np.arange(10), 6), resamples=48)
    assert draws.converged.all()
    np.testing.assert_allclose(draws.rewards, np.tile(found.rewards, (48, 1)), atol=1e-6)


def test_resamples_without_a_fit_are_said() -> None:
    """One win against ten: in many resamples it is not drawn."""
    found = reward_model(Pairs([0] * 10 + [1], [1] * 10 + [0]))
    draws = bootstrap(found, key=KEY, resamples=64)
    assert 0.2 < 1 - draws.converged.mean() < 0.6  # 1/e is expected
    with pytest.raises(ValueError, match="leave rewards open"):
        draws.interval()
    held = bootstrap(reward_model(Pairs([0] * 10 + [1], [1] * 10 + [0]), ridge=0.1), key=KEY, resamples=64)
    assert held.converged.all()
    assert np.isfinite(held.interval()).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "prompt"}, "`by` must not be 'prompt', as the data were read without"),
        ({"by": "words"}, "`by` must be 'observations' or 'prompt'"),
        ({"by": [1, 2]}, "`by` must have one integer for each of 64"),
        ({"by": np.zeros(64, int)}, "`by` must make at least 8 clusters; got 1"),
        ({"by": np.zeros(64)}, "`by` must be integers"),
        ({"resamples": 1}, "`resamples` must be an integer of at least 2"),
        ({"key": 0}, "`key` must be a typed random key"),
        ({"fit": 3}, "`fit` must be a RewardFit"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"fit": reward_model(games(4, 60)), "key": KEY}
    with pytest.raises(ValueError, match=message):
        bootstrap(**(right | wrong))
