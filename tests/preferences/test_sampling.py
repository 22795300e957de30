import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chisquare

from didsim import Contrastive, Labelled
from tests.preferences.problem_cases import KEY, PROBLEMS, SIGNIFICANCE
from tests.tables import table


@pytest.mark.parametrize("name", PROBLEMS)
def test_frequencies_of_samples_agree_with_exact_probabilities(name: str) -> None:
    problem, num = PROBLEMS[name], 20_000
    sample = problem.sample(KEY, num)
    assert sample.winners.shape == sample.losers.shape == (num,)
    counts = np.bincount(3 * np.asarray(sample.winners) + np.asarray(sample.losers), minlength=9)
    expected = num * np.exp(table(problem, 3)).ravel()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], expected[possible] * num / expected.sum()).pvalue > SIGNIFICANCE


def test_samples_of_a_batch_follow_their_own_distribution() -> None:
    chosen = np.log([[0.9, 0.1], [0.2, 0.8]])
    sample = Contrastive(chosen, np.log([0.5, 0.5])).sample(KEY, 5000)
    assert sample.winners.shape == (2, 5000)
    for winners, p in zip(np.asarray(sample.winners), chosen, strict=True):
        assert chisquare(np.bincount(winners), 5000 * np.exp(p)).pvalue > SIGNIFICANCE
    labelled = Labelled(np.array([[2.0, 0.0], [0.0, 3.0]]), np.log([0.5, 0.5]), np.log([0.5, 0.5]))
    sample = labelled.sample(KEY, 5000)
    for row, margin in enumerate((2.0, 3.0)):
        differ = np.asarray(sample.winners[row] != sample.losers[row])
        right = (np.asarray(sample.winners[row])[differ] == row).sum()
        expected = differ.sum() * np.array([expit(margin), expit(-margin)])
        assert chisquare([right, differ.sum() - right], expected).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_key_gives_the_same_sample(name: str) -> None:
    first, again, other = (PROBLEMS[name].sample(jax.random.key(seed), 50) for seed in (3, 3, 4))
    assert np.array_equal(first.winners, again.winners)
    assert np.array_equal(first.losers, again.losers)
    assert not np.array_equal(first.winners * 3 + first.losers, other.winners * 3 + other.losers)


def test_what_has_no_probability_is_never_drawn() -> None:
    sample = Contrastive(np.array([-np.inf, 0.0, -np.inf]), np.array([0.0, -np.inf, -np.inf])).sample(
        KEY, 100
    )
    assert set(np.asarray(sample.winners)) == {1}
    assert set(np.asarray(sample.losers)) == {0}


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_are_alike_under_jit(name: str) -> None:
    eager = PROBLEMS[name].sample(KEY, 20)
    compiled = eqx.filter_jit(lambda problem, key: problem.sample(key, 20))(PROBLEMS[name], KEY)
    assert np.array_equal(eager.winners, compiled.winners)
    assert np.array_equal(eager.losers, compiled.losers)


@pytest.mark.parametrize("name", PROBLEMS)
def test_sampling_checks_its_arguments(name: str) -> None:
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="`num_pairs` must be an integer of at least 1; got"):
            PROBLEMS[name].sample(KEY, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`key` must be a typed random key"):
        PROBLEMS[name].sample(jax.random.PRNGKey(0), 3)


def test_an_array_of_keys_is_refused() -> None:
    p = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match="`key` must be one random key; got an array of shape"):
        Contrastive(p, p).sample(jax.random.split(jax.random.key(0)), 3)
