"""Several prompts in one space."""

import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim import Contrastive, LogLinear, Mixture, in_own_prompt
from didsim.fixed_points.on_parameters import is_convex

NUMBERS = np.random.default_rng(0)
CHOSEN, REJECTED, REFERENCE = log_softmax(NUMBERS.normal(size=(3, 2, 3)), axis=-1)
FEATURES = NUMBERS.normal(size=(2, 3, 2))
WEIGHTS = np.array([0.4, -0.9])
REFERENCE_OF_ALL = REFERENCE.ravel() - np.log(2)


def test_each_row_stands_in_its_own_place() -> None:
    placed = np.exp(in_own_prompt(REFERENCE))
    for k in range(2):
        expected = np.zeros(6)
        expected[3 * k : 3 * k + 3] = np.exp(REFERENCE[k])
        np.testing.assert_array_equal(placed[k], expected)
    assert in_own_prompt(np.stack([REFERENCE] * 4)).shape == (4, 2, 6)
    with pytest.raises(ValueError, match="`log_probs` must be"):
        in_own_prompt(REFERENCE[0])


def test_a_policy_of_several_prompts_is_normalised_for_each() -> None:
    expected = log_softmax(FEATURES @ WEIGHTS, axis=-1).ravel() - np.log(2)
    found = LogLinear(FEATURES, WEIGHTS).log_probs()
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    batch = LogLinear(FEATURES, np.stack([WEIGHTS, 2 * WEIGHTS])).log_probs()
    np.testing.assert_allclose(batch[0], expected, rtol=1e-13)


@pytest.mark.parametrize("objective", [didsim.dpo(0.5), didsim.simpo(1.0), didsim.kto(0.3), didsim.sft()])
def test_the_loss_of_all_prompts_is_the_mean_of_their_losses(objective: didsim.Objective) -> None:
    """SFT and KTO see log-probabilities, to which the choice among prompts adds a constant."""
    policy = LogLinear(FEATURES, WEIGHTS).log_probs()
    pairs = zip(in_own_prompt(CHOSEN), in_own_prompt(REJECTED), strict=True)
    problem = Mixture(tuple(Contrastive(*one) for one in pairs), np.log([0.5, 0.5]))
    found = float(objective.loss(policy, REFERENCE_OF_ALL, problem))
    each = log_softmax(FEATURES @ WEIGHTS, axis=-1)
    if objective.has_baseline:  # KTO's baseline is over all prompts
        z0 = 0.3 * np.mean([np.sum(np.exp(p) * (p - q)) for p, q in zip(each, REFERENCE, strict=True)])
        gain = 0.3 * (each - REFERENCE) - z0
        parts = [
            np.exp(CHOSEN[k]) @ (1 / (1 + np.exp(gain[k])))
            + np.exp(REJECTED[k]) @ (1 / (1 + np.exp(-gain[k])))
            for k in range(2)
        ]
    else:
        parts = [
            float(objective.loss(each[k], REFERENCE[k], Contrastive(CHOSEN[k], REJECTED[k])))
            for k in range(2)
        ]
    shift = np.log(2) if objective.terms[0].is_likelihood else 0
    assert found == pytest.approx(np.mean(parts) + shift, rel=1e-12)


def test_a_loss_is_proven_convex_only_if_no_pair_crosses_prompts() -> None:
    pairs = zip(in_own_prompt(CHOSEN), in_own_prompt(REJECTED), strict=True)
    within = Mixture(tuple(Contrastive(*one) for one in pairs), np.log([0.5, 0.5]))
    across = Contrastive(CHOSEN.ravel() - np.log(2), REJECTED.ravel() - np.log(2))
    policy = LogLinear(FEATURES, np.zeros(2))
    assert is_convex(policy, didsim.dpo(1.0), within)
    assert not is_convex(policy, didsim.dpo(1.0), across)
    assert is_convex(LogLinear(FEATURES.reshape(6, 2), np.zeros(2)), didsim.dpo(1.0), across)
