"""Fits against choix, statsmodels, SciPy and double loops."""

import warnings
from typing import Any

import choix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from choix.opt import Top1Fcts
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from statsmodels.discrete.conditional_models import ConditionalLogit

import didsim
from didsim import NamedPairs, Pairs, Rankings, reward_model
from tests.compilations import counted_compilations
from tests.estimation.data import games, log_likelihood


def _centred(values: Any) -> np.ndarray:
    return np.asarray(values) - np.mean(values)


def _tuples(data: Pairs) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in zip(data.winners, data.losers, strict=True)]


def test_pairs_equal_choix() -> None:
    data = games(12, 52)
    expected = choix.ilsr_pairwise(12, _tuples(data), tol=1e-14, max_iter=10_000)
    found = reward_model(data)
    np.testing.assert_allclose(found.rewards, expected, atol=1e-8)
    assert found.certificate.gradient < 1e-12
    assert found.certificate.identified.complete


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 3.0])
def test_alpha_is_that_of_choix(alpha: float) -> None:
    data = games(5, 59, seed=1)
    expected = choix.opt_pairwise(5, _tuples(data), alpha=alpha, tol=1e-13)
    np.testing.assert_allclose(reward_model(data, alpha=alpha).rewards, expected, atol=1e-8)
    np.testing.assert_array_equal(
        reward_model(data, ridge=2 * alpha).rewards, reward_model(data, alpha=alpha).rewards
    )


def test_the_alpha_of_spectral_methods_is_a_gamma_prior() -> None:
    data, alpha, size = games(5, 59, seed=2), 0.05, 5
    expected = choix.ilsr_pairwise(size, _tuples(data), alpha=alpha, tol=1e-14, max_iter=10_000)

    def loss(r: np.ndarray) -> float:
        return -log_likelihood(data, r) + alpha * size * np.sum(np.exp(r) - r)

    ours = minimize(loss, np.zeros(size), tol=1e-12).x
    np.testing.assert_allclose(_centred(ours), expected, atol=1e-5)


@pytest.mark.parametrize("lengths", [(2, 2), (2, 9), (9, 9)])
def test_rankings_equal_choix(lengths: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    lists = [
        random.permutation(9)[: random.integers(lengths[0], lengths[1] + 1)].tolist() for _ in range(150)
    ]
    found = reward_model(Rankings.from_rankings(lists))
    np.testing.assert_allclose(
        found.rewards, choix.ilsr_rankings(9, lists, tol=1e-14, max_iter=10_000), atol=1e-8
    )
    found = reward_model(Rankings.from_rankings(lists), alpha=0.5)
    known = choix.opt_rankings(9, lists, alpha=0.5, tol=1e-13)
    np.testing.assert_allclose(found.rewards, known, atol=1e-7)  # where choix's search stops
    slope = Top1Fcts.from_rankings(lists, 0.5).gradient(found.rewards)
    np.testing.assert_allclose(slope, 0, atol=1e-10)


def test_choices_of_the_best_equal_choix() -> None:
    random = np.random.default_rng(4)
    sets = [random.permutation(8)[: random.integers(2, 6)].tolist() for _ in range(200)]
    data = [(one[0], one[1:]) for one in sets]
    found = reward_model(Rankings.from_choices([one for one, _ in data], [rest for _, rest in data]))
    np.testing.assert_allclose(found.rewards, choix.ilsr_top1(8, data, tol=1e-14, max_iter=10_000), atol=1e-8)


def test_rankings_of_two_are_pairs() -> None:
    data = games(5, 59)
    rankings = Rankings.from_rankings(_tuples(data))
    pairs, ranked = reward_model(data), reward_model(rankings)
    np.testing.assert_allclose(pairs.rewards, ranked.rewards, atol=1e-10)
    np.testing.assert_allclose(pairs.covariance, ranked.covariance, atol=1e-9)
    assert pairs.log_likelihood == pytest.approx(ranked.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(reward_model(rankings.pairs()).rewards, pairs.rewards, atol=1e-10)


def test_the_best_few_of_a_set_by_a_double_loop() -> None:
    """Stages of the best two; what stays unordered has no stage."""
    random = np.random.default_rng(5)
    sets = [random.permutation(5).tolist() for _ in range(60)]
    weights = random.integers(1, 4, size=60).astype(float)
    data = Rankings.from_choices([one[:2] for one in sets], sets, weights)

    def loss(r: np.ndarray) -> float:
        total = 0.0
        for one, weight in zip(sets, weights, strict=True):
            for stage in range(2):
                total += weight * (np.log(np.sum(np.exp(r[one[stage:]]))) - r[one[stage]])
        return total

    found = reward_model(data)
    assert -found.log_likelihood == pytest.approx(loss(found.rewards), rel=1e-12)
    for k in range(5):
        along = 1e-5 * np.eye(5)[k]
        slope = (loss(found.rewards + along) - loss(found.rewards - along)) / 2e-5
        assert abs(slope) < 1e-5


def _design(data: Pairs, size: int) -> np.ndarray:
    rows = np.arange(len(data.winners))
    table = np.zeros((len(rows), size))
    table[rows, np.asarray(data.winners)] += 1
    table[rows, np.asarray(data.losers)] -= 1
    return table


def test_coefficients_and_errors_equal_the_logit_of_statsmodels() -> None:
    data = games(20, 300, seed=6)
    features = np.random.default_rng(6).normal(size=(20, 3))
    flip = np.where(np.arange(len(data.winners)) % 2, 1, -1)
    design = flip[:, None] * (_design(data, 20) @ features)
    known = sm.Logit((flip > 0).astype(float), design).fit(disp=0, method="newton", tol=1e-14)
    found = reward_model(data, features=features)
    estimates = found.coefficient_estimates()
    np.testing.assert_allclose(estimates.value, known.params, atol=1e-10)
    np.testing.assert_allclose(estimates.standard_error, known.bse, atol=1e-10)
    assert found.log_likelihood == pytest.approx(known.llf, abs=1e-10)
    low, high = estimates.interval()
    np.testing.assert_allclose(np.stack([low, high], -1), known.conf_int(), atol=1e-9)


def test_contrasts_and_errors_of_rewards_equal_the_logit_of_statsmodels() -> None:
    data = games(9, 300, seed=7)
    flip = np.where(np.arange(len(data.winners)) % 2, 1, -1)
    design = flip[:, None] * _design(data, 9)[:, 1:]
    known = sm.Logit((flip > 0).astype(float), design).fit(disp=0, method="newton", tol=1e-14)
    found = reward_model(data)
    for item in range(1, 9):
        contrast = found.contrast(item, 0)
        assert contrast.value[0] == pytest.approx(known.params[item - 1], abs=1e-10)
        assert contrast.standard_error[0] == pytest.approx(known.bse[item - 1], abs=1e-10)


def test_choices_with_features_equal_the_conditional_logit_of_statsmodels() -> None:
    """Every person chooses from a set of their own, so that only features tie items together."""
    random = np.random.default_rng(8)
    people, width = 80, 4
    features = random.normal(size=(people * width, 2))
    chosen = np.array([k * width + random.integers(width) for k in range(people)])
    sets = [list(range(k * width, (k + 1) * width)) for k in range(people)]
    found = reward_model(Rankings.from_choices(chosen.tolist(), sets), features=features)
    outcome = np.isin(np.arange(people * width), chosen).astype(float)
    model = ConditionalLogit(outcome, features, groups=np.repeat(np.arange(people), width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = model.fit(disp=0, method="newton", tol=1e-13)
    assert found.coefficients is not None
    np.testing.assert_allclose(found.coefficients, known.params, atol=1e-7)
    np.testing.assert_allclose(found.coefficient_estimates().standard_error, known.bse, rtol=1e-5)


@pytest.mark.parametrize("ties", ["half", "davidson", "rao_kupper"])
def test_ties_by_a_double_loop(ties: str) -> None:
    base = games(5, 59, seed=9)
    random = np.random.default_rng(9)
    data = Pairs(base.winners, base.losers, tied=random.random(len(base.winners)) < 0.3)
    found = reward_model(data, ties=ties)
    parameters = [] if found.tie is None else [found.tie]

    def loss(z: np.ndarray) -> float:
        return -log_likelihood(data, z[:5], ties, z[5] if len(z) > 5 else 0.0)

    z = np.concatenate([found.rewards, parameters])
    assert -found.log_likelihood == pytest.approx(loss(z), rel=1e-12)
    hessian = np.zeros((len(z), len(z)))
    step = 1e-4
    for i, one in enumerate(step * np.eye(len(z))):
        assert abs(loss(z + one) - loss(z - one)) / (2 * step) < 1e-6
        for j, other in enumerate(step * np.eye(len(z))):
            around = loss(z + one + other) - loss(z + one - other) - loss(z - one + other)
            hessian[i, j] = (around + loss(z - one - other)) / (4 * step**2)
    # The covariance of rewards of mean zero is the pseudo-inverse: a shift has no curvature.
    expected = np.linalg.pinv(hessian, rcond=1e-5)[:5, :5]
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-4, atol=1e-5)


def test_rao_kupper_is_the_model_of_the_objective() -> None:
    """At the fitted `θ`, the policy of DPO with ties at beta 1 has the fitted rewards."""
    base = games(5, 59, seed=10)
    random = np.random.default_rng(10)
    data = Pairs(base.winners, base.losers, tied=random.random(len(base.winners)) < 0.25)
    found = reward_model(data, ties="rao_kupper")
    assert found.tie is not None
    uniform = np.full(5, -np.log(5))
    limit = didsim.fixed_point(didsim.dpo_rao_kupper(1.0, float(np.exp(found.tie))), uniform, data)
    np.testing.assert_allclose(_centred(limit), found.rewards, atol=1e-7)


def test_dpo_on_the_same_pairs_has_the_same_rewards() -> None:
    data = games(5, 59, seed=11)
    reference = jax.nn.log_softmax(jnp.arange(5.0) / 3)
    limit = didsim.fixed_point(didsim.dpo(0.3), reference, data)
    found = reward_model(data)
    np.testing.assert_allclose(_centred(0.3 * (limit - reference)), found.rewards, atol=1e-8)
    ratios = found.log_ratios(reference, 0.3)
    np.testing.assert_allclose(ratios.value, limit - reference, atol=1e-7)
    # By the covariance of all contrasts, from the textbook's formula for a differentiable function.
    policy = np.exp(np.asarray(limit))
    slope = (np.eye(5) - policy) / 0.3
    expected = np.sqrt(np.diag(slope @ found.covariance @ slope.T))
    np.testing.assert_allclose(ratios.standard_error, expected, rtol=1e-6)


def test_weights_count_comparisons() -> None:
    data = games(5, 59, seed=12)
    twice = Pairs(np.tile(np.asarray(data.winners), 2), np.tile(np.asarray(data.losers), 2))
    weighted = Pairs(data.winners, data.losers, np.full(len(data.winners), 2.0))
    one, other = reward_model(twice), reward_model(weighted)
    np.testing.assert_allclose(one.rewards, other.rewards, atol=1e-12)
    np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-12)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-12)


def test_what_is_not_identified_is_named() -> None:
    winners, losers = ["ann", "ann", "bob", "eve", "fay"], ["bob", "cat", "cat", "fay", "eve"]
    named = Pairs.from_table({"winner": winners, "loser": losers})
    with pytest.raises(
        ValueError, match=r"`data` must identify.*never lose: 'ann'; never win: 'cat'; are 2 groups"
    ):
        reward_model(named)
    found = reward_model(named, ridge=0.5)
    known = found.certificate.identified
    assert known.only_win == ("ann",)
    assert known.only_lose == ("cat",)
    assert known.groups[0] == ("eve", "fay")
    assert not known.complete
    assert found.rewards[named.items.index("eve")] == pytest.approx(0, abs=1e-9)

    def loss(r: np.ndarray) -> float:
        return -log_likelihood(named.pairs, r) + 0.25 * np.sum(r**2)

    expected = minimize(loss, np.zeros(5), tol=1e-12).x
    np.testing.assert_allclose(found.rewards, expected, atol=1e-5)
    # The same errors as the inverse of the Hessian, by differences of the loss.
    step, hessian = 1e-4, np.zeros((5, 5))
    for i, one in enumerate(step * np.eye(5)):
        for j, other in enumerate(step * np.eye(5)):
            around = [loss(expected + a * one + b * other) * a * b for a in (1, -1) for b in (1, -1)]
            hessian[i, j] = sum(around) / (4 * step**2)
    centre = np.eye(5) - 0.2
    np.testing.assert_allclose(found.covariance, centre @ np.linalg.inv(hessian) @ centre, atol=1e-4)


def test_items_without_a_comparison_are_named() -> None:
    with pytest.raises(ValueError, match="are in no comparison: 1"):
        reward_model(Pairs([0, 2], [2, 0]))


def test_features_that_say_nothing_are_named() -> None:
    data = games(6, 40)
    x = np.random.default_rng(0).normal(size=6)
    with pytest.raises(ValueError, match="feature 1 does not"):
        reward_model(data, features=np.stack([x, np.ones(6)], -1))
    with pytest.raises(ValueError, match=r"features \[0, 2\] do"):
        reward_model(data, features=np.stack([x, x**2, 1 - 3 * x], -1))
    reward_model(data, features=np.stack([x, np.ones(6)], -1), ridge=1.0)


def test_separated_features_are_refused_and_held_by_a_prior() -> None:
    data = Pairs([0, 1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="feature 0 grew"):
        reward_model(data, features=np.arange(4.0)[:, None])
    found = reward_model(data, features=np.arange(4.0)[:, None], ridge=1.0)
    (w,) = found.coefficients  # type: ignore[misc]
    # The score: 3 σ(w) = w with the sign of the feature.
    assert w == pytest.approx(-3 / (1 + np.exp(-w)), rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ties": "none"}, "`ties` must be 'half' or"),
        ({"ties": "davidson"}, "`ties` must be 'half' where none"),
        ({"ridge": -1}, "`ridge` must be zero or more"),
        ({"ridge": 1, "alpha": 1}, "`alpha` must be None"),
        ({"features": np.ones((3, 1))}, "`features` must have a row for each of 4"),
        ({"features": np.ones(4)}, r"`features` must be a table"),
        ({"features": np.full((4, 1), np.nan)}, r"`features` must be finite; got nan at \(0, 0\)"),
        ({"data": 3}, "`data` must be Pairs, NamedPairs or Rankings"),
        ({"data": Pairs([[0, 1]], [[1, 0]])}, "`data` must be one dataset"),
        ({"data": Pairs([0, 1], [1, 1])}, "got item 1 against itself in pair 1"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward_model(**({"data": games(4, 30)} | wrong))


def test_float32_data_are_fitted_in_double_precision() -> None:
    data = games(5, 59)
    single = Pairs(data.winners, data.losers, jnp.ones(len(data.winners), jnp.float32))
    with jax.enable_x64(False):
        found = reward_model(single)
    np.testing.assert_allclose(found.rewards, reward_model(data).rewards, atol=1e-12)


@st.composite
def _hostile(draw: st.DrawFn) -> Pairs:
    """Few or many comparisons of two to five items, with weights of any size, and repeated."""
    item = st.integers(0, draw(st.integers(1, 4)))
    pairs = draw(
        st.lists(st.tuples(item, item).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=8)
    )
    exponents = draw(st.lists(st.integers(-12, 12), min_size=len(pairs), max_size=len(pairs)))
    # Always the same shapes, so that the program is compiled once: the rest repeats with weight zero.
    pairs += [pairs[0]] * (8 - len(pairs))
    weights = [10.0**exponent for exponent in exponents] + [0.0] * (8 - len(exponents))
    return Pairs([i for i, _ in pairs], [j for _, j in pairs], weights)


@given(_hostile(), st.sampled_from([1e-3, 1.0, 1e6]))
def test_hostile_data_have_a_certified_answer_or_a_reason(data: Pairs, ridge: float) -> None:
    names = tuple(f"item {k}" for k in range(5))
    held = NamedPairs(data, names)
    weights = np.asarray(data.weights)
    if not reward_model(held, ridge=1.0).certificate.identified.complete:
        with pytest.raises(ValueError, match="`data` must identify all rewards"):
            reward_model(held)
    found, reason = None, ""
    try:
        found = reward_model(held, ridge=ridge)
    except ValueError as error:
        reason = str(error)
    if found is None:
        assert "double precision can tell apart" in reason
        assert weights.max() / ridge > 1e8
        return
    # A gradient of sums of this size is known to their rounding, which the prior turns into rewards.
    off = 1e-11 + found.certificate.distance + 16 * np.finfo(float).eps * weights.sum() / ridge
    # Rewards that are off by so much have a gradient of at most twice this beside its terms.
    gradient, terms = ridge * found.rewards, np.full(5, ridge)
    for i, j, weight in zip(data.winners, data.losers, weights, strict=True):
        pull = weight / (1 + np.exp(found.rewards[i] - found.rewards[j]))
        gradient[i] -= pull
        gradient[j] += pull
        terms[i] += pull
        terms[j] += pull
    assert np.all(np.abs(gradient) <= 2 * off * terms)


def test_new_values_compile_nothing() -> None:
    def fit(seed: int, ridge: float) -> None:
        data = games(6, 40, seed=seed)
        reward_model(data, ridge=ridge)
        reward_model(data, features=np.random.default_rng(seed).normal(size=(6, 2)))

    fit(0, 0.1)
    with counted_compilations() as compiled:
        fit(1, 0.2)
    assert compiled == []
