"""Section 8 of the theory: the published counterexamples, with numbers derived by hand."""

import numpy as np
import pytest
from scipy.special import expit, xlogy

import didsim
from didsim import LabelledByTable, LogLinear, Pairs, PreferenceTable

UNIFORM = np.log(np.full(3, 1 / 3))
ORDER = np.array([[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]])


def test_mass_on_a_response_that_no_pair_shows() -> None:
    """Of 1 and 2 the first wins three times in four, and nobody has seen 3: arXiv 2404.10719.

    DPO's loss is least, H(3/4), where π(1)/π(2) = 3 at β = 1, whatever π(3) is.
    """
    with np.errstate(divide="ignore"):
        reference = np.log([0.5, 0.5, 0.0])
    pairs = Pairs([0, 1], [1, 0], weights=np.array([0.75, 0.25]))
    least = -(xlogy(0.75, 0.75) + xlogy(0.25, 0.25))
    for unseen in (1e-9, 0.5, 1 - 1e-9):
        policy = np.log([0.75 * (1 - unseen), 0.25 * (1 - unseen), unseen])
        assert float(didsim.dpo(1.0).loss(policy, reference, pairs)) == pytest.approx(least, rel=1e-12)
    # The reward of these pairs is log 3, and anything at 3. The second stage leaves 3 out.
    for anything in (-50.0, 50.0):
        best = np.exp(didsim.kl_optimum(np.array([np.log(3), 0, anything]), reference, 1.0))
        np.testing.assert_allclose(best, [0.75, 0.25, 0], atol=1e-15)


def test_divergence_has_no_bound_at_one_loss() -> None:
    """Reference (1/4, 1/4, 1/2), and π = ((1 − s)/2, (1 − s)/2, s): arXiv 2406.01462.

    No pair shows 3, so that every s has the loss log 2. KL(ref ‖ π) = ½ log(1/s) + ½ log(1/(1−s)) − log 2.
    """
    reference, pairs = np.log([0.25, 0.25, 0.5]), Pairs([0, 1], [1, 0])
    for s in (0.5, 1e-3, 1e-100, 1e-300):
        policy = np.log([(1 - s) / 2, (1 - s) / 2, s])
        assert float(didsim.dpo(0.1).loss(policy, reference, pairs)) == pytest.approx(np.log(2), rel=1e-12)
        expected = -np.log(s) / 2 - np.log1p(-s) / 2 - np.log(2)
        assert float(didsim.kl(reference, policy)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_log_linear_class_reverses_a_preference_and_lowers_the_reward() -> None:
    """Features (1, 0, 1), a uniform reference and β = 1; a beats b 3 times in 4, b beats c 9 times in 10.

    Of the pairs 3 in 4 are (a, b). So σ(θ) = 3/4 · 3/4 + 1/4 · 1/10 = 47/80, e^θ = 47/33: c gains on b. The
    reward is (log 3, 0, −log 9). That of π = (47, 33, 47)/127 is −47/127 log 3 = −0.407, that of the
    reference −1/3 log 3 = −0.366. The best of the class has e^θ = e^(mean of log 3 and −log 9) = 1/√3.
    """
    features, weights = np.array([[1.0], [0.0], [1.0]]), np.zeros(1)
    counts = np.array([0.75 * 0.75, 0.75 * 0.25, 0.25 * 0.1, 0.25 * 0.9])
    pairs = Pairs([0, 1, 2, 1], [1, 0, 1, 2], weights=counts)
    policy = LogLinear(features, weights)
    learned = didsim.solve(didsim.dpo(1.0), UNIFORM, pairs, policy=policy).log_probs
    np.testing.assert_allclose(np.exp(learned), np.array([47, 33, 47]) / 127, rtol=1e-9)
    reward = np.array([np.log(3), 0.0, -np.log(9)])
    assert learned[2] > learned[1]
    assert np.exp(learned) @ reward == pytest.approx(-47 / 127 * np.log(3))
    assert np.exp(learned) @ reward < np.exp(UNIFORM) @ reward
    two_stage = didsim.solve(
        didsim.policy_gradient(1.0), UNIFORM, didsim.Labelled(reward, UNIFORM, UNIFORM), policy=policy
    ).log_probs
    expected = np.array([1 / np.sqrt(3), 1.0, 1 / np.sqrt(3)])
    np.testing.assert_allclose(np.exp(two_stage), expected / expected.sum(), rtol=1e-9)
    assert np.exp(two_stage) @ reward > np.exp(UNIFORM) @ reward


@pytest.mark.parametrize(
    ("tau", "expected", "digits"),
    [(0.1, (0.96437, 0.034403, 0.001227), 5e-6), (10.0, (0.3445, 0.3332, 0.3223), 5e-5)],
)
def test_sure_labels_take_dpo_to_one_and_ipo_to_a_softmax(
    tau: float, expected: tuple[float, ...], digits: float
) -> None:
    """Three responses in order, pairs uniform: win rates 5/6, 1/2, 1/6: arXiv 2310.12036."""
    problem = LabelledByTable(PreferenceTable(ORDER), UNIFORM, UNIFORM)
    limit = np.exp(didsim.fixed_point(didsim.ipo(tau), UNIFORM, problem))
    weights = np.exp(np.array([5, 3, 1]) / 6 / tau)
    np.testing.assert_allclose(limit, weights / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(limit, expected, atol=digits)
    found = didsim.solve(didsim.dpo(tau), UNIFORM, Pairs([0, 0, 1], [1, 2, 2]))
    np.testing.assert_array_equal(np.exp(found.certificate.limit), [1, 0, 0])


def test_two_stages_and_dpo_agree_if_the_class_is_everything_and_part_if_it_is_not() -> None:
    """A table that no reward explains, whose maximum likelihood is a fixed point of its own."""
    numbers = np.random.default_rng(0)
    odds = numbers.normal(size=(4, 4))
    table = PreferenceTable(expit(odds - odds.T))
    reference = np.log([0.1, 0.2, 0.3, 0.4])
    problem = LabelledByTable(table, reference, reference)
    reward = _maximum_likelihood(np.asarray(np.exp(problem.joint(4).log_probs)))
    for beta in (0.1, 3.0):
        best = didsim.kl_optimum(reward, reference, beta)
        np.testing.assert_allclose(
            didsim.fixed_point(didsim.dpo(beta), reference, problem), best, atol=1e-9 / beta
        )
    # The second stage does not look at how often a pair is seen; DPO in a small class does.
    policy = LogLinear(np.array([[1.0], [0.0], [2.0], [0.5]]), np.zeros(1))
    labelled = didsim.Labelled(reward, reference, reference)
    ends = [
        didsim.solve(objective, np.log(np.full(4, 1 / 4)), data, policy=policy).log_probs
        for objective, data in ((didsim.dpo(1.0), problem), (didsim.policy_gradient(1.0), labelled))
    ]
    assert didsim.js(*ends) > 1e-3


def _maximum_likelihood(wins: np.ndarray) -> np.ndarray:
    """The rewards of the Bradley–Terry model by Hunter's minorisation, in NumPy."""
    strength = np.ones(len(wins))
    met = wins + wins.T
    np.fill_diagonal(met, 0)
    won = (wins * (1 - np.eye(len(wins)))).sum(axis=1)
    for _ in range(3000):
        strength = won / (met / (strength[:, None] + strength)).sum(axis=1)
        strength /= strength.mean()
    return np.log(strength)
