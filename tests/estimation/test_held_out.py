import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import didsim
from didsim import NamedPairs, Pairs, held_out, split
from tests.estimation.data import games, log_likelihood
from tests.estimation.margins import slope_by_search
from tests.strategies import hostile_logits

KEY = jax.random.key(0)
UNIFORM = np.log(np.full(4, 0.25))


@given(
    hostile_logits(4),
    hostile_logits(4),
    st.sampled_from((1e-3, 0.1, 5.0)),
    st.sampled_from(("float32", "float64")),
)
def test_losses_and_accuracies_are_those_of_a_loop(
    logits: np.ndarray, of_reference: np.ndarray, beta: float, dtype: str
) -> None:
    policy, reference = log_softmax(logits).astype(dtype), log_softmax(of_reference).astype(dtype)
    pairs = Pairs(
        [0, 1, 2, 3, 0], [1, 2, 0, 1, 3], [1.0, 0.5, 2.0, 0.0, 1.0], win_probs=[1.0, 0.3, 1.0, 1.0, 0.0]
    )
    found = held_out(didsim.dpo(beta), policy, reference, pairs)
    r = beta * (policy.astype(float) - reference.astype(float))
    loss = right = 0.0
    for winner, loser, weight, label in ((0, 1, 1, 1), (1, 2, 0.5, 0.3), (2, 0, 2, 1), (0, 3, 1, 0)):
        for h, share in ((r[winner] - r[loser], label), (r[loser] - r[winner], 1 - label)):
            loss += weight * share * np.logaddexp(0, -h) / 4.5
            right += weight * share * (0.5 if h == 0 else float(h > 0)) / 4.5
    assert float(found.log_loss) == pytest.approx(loss, rel=1e-6 if dtype == "float32" else 1e-12)
    assert float(found.accuracy) == pytest.approx(right, rel=1e-12)


def test_the_slope_is_that_of_a_search_and_policies_are_judged_one_by_one() -> None:
    pairs = games(4, 60)
    policies = log_softmax(np.random.default_rng(1).normal(size=(2, 3, 4)), axis=-1)
    policies[1, 2] = np.nan
    found = held_out(didsim.simpo(2.0), policies, UNIFORM, pairs, np.array([1, 2, 3, 4]))
    assert found.slope.shape == found.log_loss.shape == (2, 3)
    r = 2.0 * policies / np.array([1, 2, 3, 4])
    h = r[..., np.asarray(pairs.winners)] - r[..., np.asarray(pairs.losers)]
    for place in np.ndindex(2, 3):
        if place == (1, 2):
            assert np.isnan([one[place] for one in found]).all()
            continue
        assert found.slope[place] == pytest.approx(slope_by_search(h[place]), rel=1e-5)
        assert found.log_loss[place] == pytest.approx(-log_likelihood(pairs, r[place]) / 64, rel=1e-12)


def test_a_tie_counts_for_either_side_and_a_policy_that_knows_nothing_has_log_2() -> None:
    pairs = Pairs([0, 1], [1, 2], tied=[True, False])
    found = held_out(didsim.dpo(1.0), UNIFORM, UNIFORM, pairs)
    assert float(found.log_loss) == pytest.approx(np.log(2))
    assert float(found.accuracy) == 0.5
    assert np.isnan(found.slope)


def test_what_is_split_by_prompt_stays_together_and_nothing_is_lost() -> None:
    prompt = np.repeat(np.arange(10), 3)
    pairs = Pairs(
        np.arange(30) % 7, np.arange(30) % 7 + 1, np.arange(1.0, 31.0), win_probs=np.linspace(0, 1, 30)
    )
    named = NamedPairs(pairs, tuple("abcdefgh"), prompt, tuple(range(10)))
    fitted, kept = split(named, key=KEY, share=0.3, by="prompt")
    assert set(fitted.prompt) | set(kept.prompt) == set(range(10))
    assert not set(fitted.prompt) & set(kept.prompt)
    assert len(kept.prompt) == 9
    assert fitted.items == named.items
    together = np.concatenate([fitted.pairs.weights, kept.pairs.weights])
    np.testing.assert_array_equal(np.sort(together), np.arange(1.0, 31.0))
    np.testing.assert_allclose(kept.pairs.win_probs, (kept.pairs.weights - 1) / 29, rtol=1e-6)
    for one, other in zip(split(pairs, key=KEY, share=0.3, by=prompt), (fitted, kept), strict=True):
        np.testing.assert_array_equal(one.weights, other.pairs.weights)


@given(st.integers(2, 40), st.floats(1e-6, 1 - 1e-6), st.integers(0, 5))
def test_no_part_is_empty(count: int, share: float, seed: int) -> None:
    pairs = Pairs(np.arange(count), np.arange(count) + 1)
    fitted, kept = split(pairs, key=jax.random.key(seed), share=share)
    sizes = len(fitted.winners), len(kept.winners)
    assert min(sizes) >= 1
    assert sum(sizes) == count
    assert abs(sizes[1] - share * count) <= 1
    assert not set(np.asarray(fitted.winners)) & set(np.asarray(kept.winners))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 0.0}, "`share` must be positive"),
        ({"share": 1.0}, "`share` must be between 0 and 1"),
        ({"by": "prompts"}, "`by` must be 'pair' or 'prompt'; got 'prompts'"),
        ({"by": "prompt"}, '`by` must be "pair" for data that name no prompts'),
        ({"by": [0, 1]}, "`by` must have one entry for each of 3 pairs"),
        ({"by": [4, 4, 4]}, "`data` must have two clusters or more"),
    ],
)
def test_wrong_splits_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(Pairs([0, 1, 2], [1, 2, 0]), **{"key": KEY, **change})


def test_wrong_data_are_refused() -> None:
    batch = Pairs(jnp.zeros((2, 3), int), jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match="`data` must be one dataset"):
        split(batch, key=KEY)
    with pytest.raises(ValueError, match="winners"):
        held_out(didsim.dpo(1.0), UNIFORM, UNIFORM, Pairs([4], [0]))
    with pytest.raises(ValueError, match="`data` must have pairs of positive weight in both parts"):
        split(Pairs([0, 1], [1, 0], [1.0, 0.0]), key=KEY, share=0.5)
