import numpy as np
import pytest
from scipy.special import expit, log_softmax

import didsim
from didsim.fixed_points.certificate import Verdict
from tests.fixed_points.limits import (
    BETA,
    LENGTHS,
    OBJECTIVES,
    PROBLEM,
    REFERENCE,
    REWARD,
    RNG,
    SEEDS,
    SIZE,
    TABLES,
    gradient_of,
    on_the_boundary,
    solved,
    table_of,
    trained,
)

# Other problems of the same shape.
FIRST, SECOND = log_softmax(RNG.normal(size=(2, SEEDS, SIZE)), axis=-1)
DRAWN = table_of(FIRST, SECOND)
LABELLED_TABLES = (DRAWN + np.swapaxes(DRAWN, 1, 2)) * expit(REWARD[:, :, None] - REWARD[:, None, :])
LABELLED = didsim.Labelled(REWARD, FIRST, SECOND)
SHARE = 0.3
KINDS: dict[str, tuple[didsim.preferences.Problem, np.ndarray]] = {
    "labelled": (LABELLED, LABELLED_TABLES),
    "joint": (didsim.preferences.Joint(np.log(LABELLED_TABLES)), LABELLED_TABLES),
    "mixture": (
        didsim.Mixture((PROBLEM, LABELLED), np.log([SHARE, 1 - SHARE])),
        SHARE * TABLES + (1 - SHARE) * LABELLED_TABLES,
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("labelled", name) for name in ("dpo", "ipo", "exponential", "cdpo", "exo", "sft", "cpo")),
        *(("joint", name) for name in ("dpo", "cdpo")),
        *(("mixture", name) for name in ("ipo", "cdpo", "cpo")),
    ],
)
def test_other_kinds_of_problems(kind: str, name: str) -> None:
    problem, tables = KINDS[kind]
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, problem, LENGTHS)
    assert solution.objection() is None
    for k in range(SEEDS):
        assert np.abs(gradient_of(name, solution.log_probs[k], REFERENCE[k], tables[k])).max() < 1e-11


def test_labelled_pairs_put_apo_zero_on_its_boundary() -> None:
    solution = didsim.solve(didsim.apo_zero(BETA), REFERENCE, LABELLED)
    for k in range(SEEDS):
        gains = LABELLED_TABLES[k].sum(axis=1) - LABELLED_TABLES[k].sum(axis=0)
        expected = on_the_boundary(gains, REFERENCE[k], BETA, 0.0)
        np.testing.assert_allclose(np.exp(solution.log_probs[k]), expected, rtol=1e-10, atol=1e-15)


ON_POLICY = didsim.Online(REWARD, didsim.OnPolicy())


@pytest.mark.parametrize("sampler", [didsim.OnPolicy(), didsim.RewardDifference()])
def test_dpo_on_online_pairs_learns_the_reward(sampler: didsim.Sampler) -> None:
    learned = didsim.fixed_point(didsim.dpo(BETA), REFERENCE, didsim.Online(REWARD, sampler))
    np.testing.assert_allclose(learned, log_softmax(REFERENCE + REWARD / BETA, axis=-1), rtol=1e-13)


@pytest.mark.parametrize("name", ["ipo", "simpo"])
def test_online_pairs_end_where_training_does(name: str) -> None:
    """Where the field vanishes that takes samplers for data: it is not the limit of uniform pairs."""
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, ON_POLICY, LENGTHS)
    assert solution.objection() is None
    assert float(didsim.js(trained(OBJECTIVES[name], ON_POLICY), solution.log_probs).max()) < 1e-10
    uniform = didsim.solve(OBJECTIVES[name], REFERENCE, ON_POLICY.uniform(), LENGTHS)
    assert float(didsim.js(uniform.log_probs, solution.log_probs).min()) > 1e-8


def test_a_weight_changes_no_minimiser_and_no_method() -> None:
    known = didsim.solve(3 * didsim.dpo(BETA), REFERENCE, PROBLEM)
    np.testing.assert_allclose(known.log_probs, solved("dpo").log_probs, rtol=1e-13)
    assert known.certificate.method == "closed form"


def test_dpo_and_a_likelihood() -> None:
    factor = 0.3
    solution = didsim.solve(didsim.dpo(BETA) + factor * didsim.sft(), REFERENCE, PROBLEM)
    assert solution.certificate.unique.all()
    assert solution.certificate.starts == 1
    for k in range(SEEDS):
        at = solution.log_probs[k], REFERENCE[k], TABLES[k]
        total = gradient_of("dpo", *at) + factor * gradient_of("sft", *at)
        assert np.abs(total).max() < 1e-11
        assert np.abs(gradient_of("dpo", *at)).max() > 1e-4


def test_sums_of_losses_of_differences_tell_what_pairs_do_not_identify() -> None:
    uniform, pairs = np.full(3, -np.log(3)), didsim.Pairs(np.array([0, 1]), np.array([1, 0]))
    for objective in (didsim.dpo(1.0) + didsim.dpo(0.5), didsim.dpo(1.0) + didsim.ipo(0.5)):
        known = didsim.solve(objective, uniform, pairs).certificate
        assert known.identified.tolist() == [True, True, False]
        assert not known.finite
    # The square rises on both sides, and holds what only ever won.
    one_way = didsim.Pairs(np.array([0, 1]), np.array([1, 2]))
    both = didsim.solve(didsim.dpo(1.0) + didsim.ipo(0.5), uniform, one_way).certificate
    assert both.identified.all()
    assert both.finite
    assert not didsim.solve(didsim.dpo(1.0) + didsim.dpo(0.5), uniform, one_way).certificate.identified.all()


@pytest.mark.parametrize("family", [False, True])
@pytest.mark.parametrize("name", ["cdpo", "ipo", "cpo"])
def test_nothing_proves_that_pairs_that_follow_the_policy_have_one_end(name: str, family: bool) -> None:
    """These losses are convex in the logits, so that fixed pairs have one end, and one start is enough."""
    policy = didsim.EnergyBased(REFERENCE[0]) if family else None
    fixed = didsim.Labelled(REWARD[0], FIRST[0], SECOND[0])
    online = didsim.Online(REWARD[0], didsim.OnPolicy())
    stays, follows = (
        didsim.solve(OBJECTIVES[name], REFERENCE[0], problem, LENGTHS, policy=policy)
        for problem in (fixed, online)
    )
    assert not bool(follows.certificate.unique)
    assert follows.certificate.starts == 8
    assert bool(stays.certificate.unique)
    assert stays.certificate.agreed is None


def test_an_end_of_pairs_that_follow_the_policy_is_found_where_the_reference_leads_to_none() -> None:
    """From the reference the policy ceases to draw a sequence before its reward is learned."""
    wins = np.array([[0.5, 0.323, 0.508], [0.677, 0.5, 0.162], [0.492, 0.838, 0.5]])
    uniform = np.full(3, -np.log(3))
    problem = didsim.Online(didsim.PreferenceTable(wins), didsim.OnPolicy())
    assert didsim.solve(didsim.dpo(0.1), uniform, problem, starts=1).verdict is Verdict.NOT_CONVERGED
    solution = didsim.solve(didsim.dpo(0.1), uniform, problem)
    assert solution.verdict is Verdict.STARTS_DISAGREE
    policy = np.exp(solution.log_probs)
    rewards = 0.1 * np.asarray(solution.log_probs)
    wrong = expit(rewards[None] - rewards[:, None])
    drawn = policy[:, None] * policy
    np.testing.assert_allclose((drawn * (wrong * wins - wrong.T * wins.T)).sum(1), 0, atol=1e-13)
    assert policy.min() > 0.01
