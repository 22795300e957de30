from functools import partial

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim import NamedPairs, Pairs, cross_validate, held_out, reward_model
from didsim.estimation.held_out import folds_of, part_of
from tests.estimation.data import games

KEY = jax.random.key(3)
UNIFORM = np.log(np.full(5, 0.2))


def test_every_fold_is_a_fit_of_its_own_judged_on_the_rest() -> None:
    prompts = np.arange(205) // 5
    data = NamedPairs(games(5, 200), tuple("abcde"), prompts, tuple(range(41)))
    smoothings = [0.0, 0.1, 0.3]
    found = cross_validate(
        partial(didsim.cdpo, 1.0),
        UNIFORM,
        data,
        over={"label_smoothing": smoothings},
        key=KEY,
        folds=3,
        by="prompt",
    )
    fold = folds_of(data, "prompt", KEY, 3)
    assert all(len(set(fold[prompts == prompt])) == 1 for prompt in range(41))
    assert sorted(np.bincount(fold).tolist()) == [65, 70, 70]
    for k in range(3):
        train, test = part_of(data.pairs, fold != k), part_of(data.pairs, fold == k)
        # Without smoothing, DPO's minimiser is the reference times the exponential of fitted rewards.
        rewards = reward_model(train).rewards
        np.testing.assert_allclose(found.path.log_probs[0, k], log_softmax(rewards), atol=1e-9)
        for v, smoothing in enumerate(smoothings):
            alone = didsim.solve(didsim.cdpo(1.0, smoothing), UNIFORM, train).log_probs
            for part, side in ((test, found.held_out), (train, found.fitted)):
                expected = held_out(didsim.dpo(1.0), alone, UNIFORM, part)
                np.testing.assert_allclose([one[v, k] for one in side], expected, rtol=1e-6)
    means = found.held_out.log_loss.mean(axis=1)
    assert found.best == smoothings[int(np.argmin(means))]
    table = found.to_dataset()
    assert table["held_out_accuracy"].dims == ("label_smoothing", "fold")
    assert table["held_out_log_loss"].attrs == {"long_name": "Log loss of held-out pairs", "units": "nats"}


def test_a_fold_without_a_minimiser_is_nan_and_with_none_there_is_no_best_value() -> None:
    # Item 4 wins only one pair: the fold without it has no minimiser.
    data = games(4, 60)
    data = Pairs(np.append(data.winners, [4, 0]), np.append(data.losers, [0, 4]))
    found = cross_validate(didsim.dpo, UNIFORM, data, over={"beta": [0.5, 1.0]}, key=KEY, folds=4)
    lost = np.isnan(found.held_out.log_loss)
    np.testing.assert_array_equal(lost[0], lost[1])
    assert lost[0].sum() in (1, 2)
    np.testing.assert_array_equal(found.to_dataset()["found"], ~lost)
    with pytest.raises(ValueError, match="`data` must have a minimiser in every fold"):
        _ = found.best


def test_too_few_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="`folds` must be at most the number of clusters, 3; got 5"):
        cross_validate(didsim.dpo, UNIFORM, Pairs([0, 1, 2], [1, 2, 0]), over={"beta": [1.0]}, key=KEY)
    with pytest.raises(ValueError, match="`folds` must be 2 or more"):
        cross_validate(didsim.dpo, UNIFORM, games(5, 20), over={"beta": [1.0]}, key=KEY, folds=1)
