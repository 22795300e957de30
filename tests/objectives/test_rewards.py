from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_softmax, logsumexp, wrightomega

import didsim
from didsim.objectives.divergences import (
    Alpha,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    PowerProb,
    decreasing_root,
)
from didsim.objectives.rewards import (
    Guarded,
    LengthRegularised,
    LogOdds,
    LogProb,
    LogRatio,
    MixedWithReference,
    Reward,
    Shrunk,
    WeightedEntropy,
)
from tests.strategies import betas, extreme_logits, hostile_logits, near_deterministic_logits, ordinary_logits

EPS = float(np.finfo(np.float64).eps)
few_sizes = st.sampled_from((1, 2, 5))
LENGTHS = {1: np.array([3]), 2: np.array([1, 2]), 3: np.array([1, 2, 4]), 5: np.array([1, 2, 2, 3, 3])}


SHARP = 0.3
T = np.array([-700.0, -40.0, -1.0, -1e-9, 0.0, 0.5, 40.0, 700.0])


def rewards(beta: Any) -> dict[str, Reward]:
    """Every reward with a closed-form inverse."""
    beta = jnp.asarray(beta)
    return {
        "log_ratio": LogRatio(beta),
        "log_ratio_per_token": LogRatio(beta, per_token=True),
        "log_prob": LogProb(beta, per_token=False),
        "log_prob_per_token": LogProb(beta, per_token=True),
        "length_regularised": LengthRegularised(beta, jnp.asarray(0.4)),
        "forward_kl": ForwardKL(beta),
        "jensen_shannon": JensenShannon(beta),
        "alpha": Alpha(beta, jnp.asarray(SHARP)),
        "alpha_one": Alpha(beta, jnp.asarray(1.0)),
        "weighted_entropy": WeightedEntropy(beta, jnp.asarray(0.8)),
        "chi_squared": ChiSquared(beta),
        "power_prob": PowerProb(beta, jnp.asarray(SHARP)),
    }


NAMES = tuple(rewards(1.0))
DIVERGENCES = ("forward_kl", "jensen_shannon", "alpha", "alpha_one")


def formula(name: str, beta: float, p: np.ndarray, r: np.ndarray, n: np.ndarray) -> np.ndarray:
    t = p - r
    return {
        "log_ratio": lambda: beta * t,
        "log_ratio_per_token": lambda: beta * t / n,
        "log_prob": lambda: beta * p,
        "log_prob_per_token": lambda: beta * p / n,
        "length_regularised": lambda: beta * t + 0.4 * n,
        "forward_kl": lambda: beta * (1 - np.exp(-t)),
        "jensen_shannon": lambda: beta * (np.log(2) - np.logaddexp(0, -t)),
        "alpha": lambda: beta * -np.expm1(-SHARP * t) / SHARP,
        "alpha_one": lambda: beta * -np.expm1(-t),
        "weighted_entropy": lambda: beta * (0.8 * p - r),
        "chi_squared": lambda: beta * (np.exp(t) - 1 + t),
        "power_prob": lambda: beta * -np.expm1(-SHARP * p / n) / SHARP,
    }[name]()


def steepness(name: str, beta: float, p: np.ndarray, r: np.ndarray, n: np.ndarray) -> np.ndarray:
    """By how much a reward moves with `log π`."""
    t = p - r
    return {
        "length_regularised": lambda: beta + 0 * t,
        "log_ratio_per_token": lambda: beta / n,
        "log_prob_per_token": lambda: beta / n,
        "forward_kl": lambda: beta * np.exp(-t),
        "jensen_shannon": lambda: beta * np.exp(-np.logaddexp(0, t)),
        "alpha": lambda: beta * np.exp(-SHARP * t),
        "alpha_one": lambda: beta * np.exp(-t),
        "weighted_entropy": lambda: 0.8 * beta + 0 * t,
        "chi_squared": lambda: beta * (1 + np.exp(t)),
        "power_prob": lambda: beta / n * np.exp(-SHARP * p / n),
    }.get(name, lambda: beta + 0 * t)()


@pytest.mark.parametrize("name", NAMES)
def test_rewards_agree_with_their_formulas(name: str) -> None:
    r, n = np.full(len(T), -700.0), 1 + np.arange(len(T))
    found = rewards(0.3)[name](jnp.asarray(r + T), jnp.asarray(r), jnp.asarray(n))
    np.testing.assert_allclose(found, formula(name, 0.3, r + T, r, n), rtol=1e-13, atol=1e-15)
    slopes = jax.grad(lambda p: rewards(0.3)[name](p, jnp.asarray(r), jnp.asarray(n)).sum())(
        jnp.asarray(r + T)
    )
    # The derivative of expm1 is 1 + expm1, good to eps.
    np.testing.assert_allclose(slopes, steepness(name, 0.3, r + T, r, n), rtol=1e-12, atol=EPS)
    p32, r32 = jnp.asarray(r + T, jnp.float32), jnp.asarray(r, jnp.float32)
    narrow = rewards(jnp.float32(0.3))[name](p32, r32, jnp.asarray(n))
    assert narrow.dtype == jnp.float32


def test_without_lengths_every_sequence_has_one_token() -> None:
    p, r = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.2, 0.6])
    for name, reward in rewards(0.3).items():
        ones = reward(jnp.asarray(p), jnp.asarray(r), jnp.ones(3, int))
        np.testing.assert_allclose(reward(jnp.asarray(p), jnp.asarray(r), None), ones, rtol=1e-15)
        policy = reward.policy(ones, jnp.asarray(r), None)
        np.testing.assert_allclose(policy, p, rtol=1e-12, err_msg=name)


def test_a_guarded_reward_counts_falls_below_the_reference_more() -> None:
    found = Guarded(jnp.array(0.3), jnp.array(4.0))(jnp.asarray(T), jnp.zeros(len(T)), None)
    np.testing.assert_allclose(found, 0.3 * np.where(T < 0, 5 * T, T), rtol=1e-15)
    unguarded = Guarded(jnp.array(0.3), jnp.array(0.0))(jnp.asarray(T), jnp.zeros(len(T)), None)
    np.testing.assert_allclose(unguarded, 0.3 * T, rtol=1e-15)
    with pytest.raises(ValueError, match="`reward` must have a known inverse; Guarded has none"):
        Guarded(jnp.array(0.3), jnp.array(4.0)).policy(jnp.zeros(2), jnp.zeros(2), None)


def test_the_alpha_divergence_lies_between_the_others() -> None:
    p, r = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.2, 0.6]))
    near_zero = Alpha(jnp.array(0.3), jnp.array(1e-6))(p, r, None)
    np.testing.assert_allclose(near_zero, LogRatio(jnp.array(0.3))(p, r, None), rtol=1e-5)
    one = Alpha(jnp.array(0.3), jnp.array(1.0))(p, r, None)
    np.testing.assert_allclose(one, ForwardKL(jnp.array(0.3))(p, r, None), rtol=1e-14)


@pytest.mark.parametrize("hostile", [False, True])
@given(data=st.data(), beta=betas)
def test_rewards_invert_to_policies(data: st.DataObject, beta: float, hostile: bool) -> None:
    size = data.draw(few_sizes)
    h = data.draw(hostile_logits(size) if hostile else ordinary_logits(size))
    r = log_softmax(data.draw(hostile_logits(size) if hostile else ordinary_logits(size)))
    n = LENGTHS[size]
    for name, p in INVERT_ALL(rewards(beta), h, r, n).items():
        p = np.asarray(p)
        assert abs(logsumexp(p)) < 1e-11, name
        back = formula(name, beta, p, r, n) - h
        # A log-probability is good to some eps of the logarithms that make it up, which include h/beta, and
        # a reward moves with it by its slope; the rewards themselves and h are rounded by eps of their sizes.
        sizes = np.abs(p) + np.abs(r) + 1 + np.abs(p - r)
        has_powers = name in (*DIVERGENCES, "power_prob")
        sizes = sizes + (np.log1p(np.ptp(h) / beta) if has_powers else np.abs(h).max() / beta)
        error = (
            steepness(name, beta, p, r, n) * sizes + np.abs(formula(name, beta, p, r, n)) + np.abs(h).max()
        )
        assert (np.abs(back - np.median(back)) <= 64 * EPS * error.max()).all(), name


INVERT = eqx.filter_jit(lambda reward, h, r, n: reward.policy(h, r, None if n is None else jnp.asarray(n)))
INVERT_ALL = eqx.filter_jit(
    lambda rewards, h, r, n: {name: INVERT(reward, h, r, n) for name, reward in rewards.items()}
)


@given(data=st.data(), beta=betas)
def test_policies_of_the_chi_squared_reward_agree_with_scipy(data: st.DataObject, beta: float) -> None:
    """`u + log u = x` has the solution `ω(x)`, Wright's omega function."""
    h = data.draw(st.one_of(ordinary_logits(5), extreme_logits(5)))
    r = log_softmax(data.draw(st.one_of(ordinary_logits(5), near_deterministic_logits(5))))
    x = h / beta

    def log_ratios(c: float) -> np.ndarray:
        u = np.asarray(wrightomega(x + c), float)
        # Where `u` underflows, it is e^x.
        return np.where(u > 1e-300, np.log(np.maximum(u, 1e-300)), x + c)

    c = brentq(lambda c: logsumexp(r + log_ratios(c)), -x.max(), 2 - x.min(), xtol=1e-15, rtol=8.9e-16)
    found = np.asarray(INVERT_ALL(rewards(beta), h, r, LENGTHS[5])["chi_squared"])
    # `log u` moves with `x` at most as fast, and `x` has the rounding of its size.
    size = 1 + np.abs(x).max() + np.abs(r).max() + abs(c)
    np.testing.assert_allclose(found, r + log_ratios(c), rtol=0, atol=64 * EPS * size)


def ratio(name: str, gap: np.ndarray) -> np.ndarray:
    """`log u` for `f′(u)` at a gap below its least upper bound."""
    if name == "forward_kl":
        return -np.log(gap)
    if name == "jensen_shannon":
        return -np.where(gap > 700, gap, np.log(np.expm1(np.minimum(gap, 700))))
    alpha = SHARP if name == "alpha" else 1.0
    return -np.log(alpha * gap) / alpha


@pytest.mark.parametrize("name", DIVERGENCES)
@given(data=st.data(), beta=betas)
def test_policies_of_divergences_agree_with_another_solver(
    name: str, data: st.DataObject, beta: float
) -> None:
    """The one unknown of `Σ reference · u = 1` by Brent's method, in the logarithm of its gap."""
    h = data.draw(st.one_of(ordinary_logits(5), extreme_logits(5)))
    r = log_softmax(data.draw(st.one_of(ordinary_logits(5), near_deterministic_logits(5))))
    gaps = (h.max() - h) / beta

    def excess(log_v: float) -> float:
        return float(logsumexp(r + ratio(name, np.exp(log_v) + gaps)))

    log_v = brentq(excess, -600.0, 10.0, xtol=1e-15, rtol=8.9e-16)
    expected = r + ratio(name, np.exp(log_v) + gaps)
    found = np.asarray(INVERT_ALL(rewards(beta), h, r, LENGTHS[5])[name])
    # A root is as good as the sum, over its slope in log v.
    step = 1e-6 * max(1.0, abs(log_v))
    slope = (excess(log_v - step) - excess(log_v + step)) / (2 * step)
    assert slope > 0
    logs = 1 + np.abs(expected).max() + np.abs(r).max() + abs(log_v)
    tolerance = 64 * EPS * logs * (1 + 1 / slope) / (SHARP if name == "alpha" else 1)
    # Entries move with log v by 1/alpha at most.
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance / (SHARP if name == "alpha" else 1))


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_policies_agree_with_differences(name: str) -> None:
    rng = np.random.default_rng(0)
    h, logits, n, weights = (
        rng.normal(size=5),
        rng.normal(size=5),
        np.array([1, 2, 2, 3, 5]),
        rng.normal(size=5),
    )

    def value(h: jax.Array, logits: jax.Array, beta: jax.Array) -> jax.Array:
        p = INVERT(rewards(beta)[name], h, jax.nn.log_softmax(logits), n)
        return jnp.asarray(weights) @ p

    at = (jnp.asarray(h), jnp.asarray(logits), jnp.asarray(0.7))
    found = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*at)
    forward = jax.jit(jax.jacfwd(value, argnums=(0, 1, 2)))(*at)
    step = 1e-5
    for k in range(3):
        direction = jnp.asarray(rng.normal(size=at[k].shape))
        ahead, behind = (
            value(*(one + sign * step * direction if j == k else one for j, one in enumerate(at)))
            for sign in (1, -1)
        )
        # Step squared times a third derivative of order 10, and rounding of 1e-14 over the step.
        difference = float(ahead - behind) / (2 * step)
        for slopes in (found, forward):
            assert float(jnp.sum(slopes[k] * direction)) == pytest.approx(difference, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_parameters_rewards_and_references(name: str) -> None:
    rng = np.random.default_rng(0)
    h, r = rng.normal(size=(3, 4)), log_softmax(rng.normal(size=(3, 4)), axis=-1)
    n, betas = np.array([1, 2, 2, 5]), np.array([0.1, 1.0, 30.0])
    batch = jax.vmap(lambda beta: rewards(beta)[name])(jnp.asarray(betas))
    together = INVERT(batch, h, r, n)
    mapped = jax.vmap(lambda reward, h, r: INVERT(reward, h, r, n))(batch, jnp.asarray(h), jnp.asarray(r))
    for k in range(3):
        alone = INVERT(rewards(betas[k])[name], h[k], r[k], n)
        np.testing.assert_allclose(together[k], alone, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(mapped[k], alone, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_policies_in_float32(name: str) -> None:
    rng = np.random.default_rng(0)
    n = np.array([1, 2, 2, 5])
    eps = float(np.finfo(np.float32).eps)
    for beta in (0.1, 1.0, 30.0):
        h, r = rng.normal(size=4).astype(np.float32), log_softmax(rng.normal(size=4)).astype(np.float32)
        found = INVERT(rewards(np.float32(beta))[name], h, r, n)
        assert found.dtype == jnp.float32
        exact = INVERT(rewards(float(np.float32(beta)))[name], h.astype(float), r.astype(float), n)
        # Logarithms of h/beta, times up to 5 tokens or 1/SHARP, and of the reference.
        logs = 1 + 5 * np.abs(h).max() / beta + np.abs(r).max() + np.abs(exact).max()
        np.testing.assert_allclose(found, exact, rtol=0, atol=32 * eps * logs)


def test_roots_of_decreasing_functions_with_derivatives() -> None:
    at = jnp.array([0.5, 2.0, 1e3])
    low, high = jnp.full(3, -1.0), jnp.full(3, 2e3)

    def root(at: jax.Array) -> jax.Array:
        return decreasing_root(lambda x: at**2 - x * jnp.abs(x), low, high)

    np.testing.assert_allclose(root(at), at, rtol=1e-15)
    np.testing.assert_allclose(jax.grad(lambda at: root(at).sum())(at), np.ones(3), rtol=1e-12)


def test_the_inverse_with_lengths_is_found_from_afar() -> None:
    h = np.array([0.0, 700.0, -700.0, 3.0, 2.0])
    n = np.array([1, 500, 2, 30, 7])
    for beta in (1e-3, 1.0, 1e3):
        reward = didsim.simpo(beta).reward
        p = np.asarray(INVERT(reward, h, np.full(5, -np.log(5)), n))
        assert abs(logsumexp(p)) < 1e-9
        back = beta * p / n
        assert np.ptp(back - h) <= 1e-9 * 700 * max(beta, 1)


def test_log_odds_have_no_closed_inverse() -> None:
    with pytest.raises(ValueError, match="`reward` must have a known inverse; LogOdds has none"):
        LogOdds().policy(jnp.zeros(2), jnp.zeros(2), None)


def test_log_odds_agree_with_probabilities() -> None:
    p = np.array([0.999, 0.5, 1e-6])
    result = LogOdds()(jnp.log(p), None, jnp.ones(3, int))
    np.testing.assert_allclose(result, np.log(p / (1 - p)), rtol=1e-12, atol=1e-15)


def test_rewards_say_what_they_need() -> None:
    for name, reward in rewards(1.0).items():
        assert reward.needs_reference == (not name.startswith(("log_prob", "power_prob"))), name
        needs_lengths = name.endswith("per_token") or name in ("length_regularised", "power_prob")
        assert reward.needs_lengths == needs_lengths, name
    assert Guarded.needs_reference
    assert not LogOdds.needs_reference
    assert LogOdds().needs_lengths


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "alpha"])
def test_batches_of_parameters_meet_one_reward(name: str) -> None:
    h, r = jnp.arange(3.0), jnp.log(jnp.array([0.5, 0.3, 0.2]))
    batch = jax.vmap(lambda beta: rewards(beta)[name])(jnp.array([0.1, 1.0]))
    together = batch.policy(h, r, None)
    for k, beta in enumerate((0.1, 1.0)):
        np.testing.assert_allclose(
            together[k], rewards(beta)[name].policy(h, r, None), rtol=1e-11, atol=1e-13
        )


ALL = {
    **rewards(0.7),
    "guarded": Guarded(jnp.array(0.7), jnp.array(4.0)),
    "rounded_guarded": Guarded(jnp.array(0.7), jnp.array(4.0)).rounded(jnp.array(0.3)),
    "log_odds": LogOdds(),
    "shrunk": Shrunk(jnp.array(0.7), jnp.array(0.6)),
    "mixed": MixedWithReference(jnp.array(0.7), jnp.array(0.3)),
}


@pytest.mark.parametrize("name", ALL)
def test_stated_facts_are_true(name: str) -> None:
    reward = ALL[name]
    t = np.linspace(-8.0, -0.1, 2001)
    tokens = jnp.asarray(np.where(np.arange(2001) % 2, 1, 3))
    ref = jnp.full(2001, -2.0)

    def of(lengths: int) -> np.ndarray:
        return np.asarray(reward(jnp.asarray(t), ref, jnp.broadcast_to(jnp.asarray(lengths), t.shape)))

    slopes = [np.diff(of(n)) / np.diff(t) for n in (1, 3)]
    assert reward.affine == all(np.allclose(slope, slope[0], rtol=1e-9) for slope in slopes)
    assert reward.has_one_slope == (reward.affine and np.allclose(slopes[0], slopes[1], rtol=1e-9))
    assert reward.needs_lengths == (not np.allclose(of(1), of(3)))
    moved = np.asarray(reward(jnp.asarray(t), ref - 1, tokens)) - np.asarray(
        reward(jnp.asarray(t), ref, tokens)
    )
    assert reward.needs_reference == bool(np.abs(moved).max() > 1e-9)
    assert reward.is_log_ratio == np.allclose(
        np.asarray(reward(jnp.asarray(t), ref, tokens)), 0.7 * (t + 2.0)
    )
    fine = np.asarray(reward(jnp.linspace(-4, -0.5, 35_001), jnp.full(35_001, -2.0), None))
    assert reward.kinked == bool(np.abs(np.diff(fine, 2)).max() > 1e-5)
    if reward.penalises_falls:
        penalty = 0.7 * (t + 2.0) - of(1)
        assert np.diff(penalty).max() <= 1e-12
        assert np.diff(penalty, 2).min() >= -1e-12
    if reward.rises_slower:
        elsewhere = np.asarray(reward(jnp.asarray(t - 1), ref - 1, tokens))
        np.testing.assert_allclose(elsewhere, reward(jnp.asarray(t), ref, tokens), rtol=1e-12, atol=1e-15)
        assert slopes[0].min() >= 0
        assert slopes[0].max() <= 0.7
        assert np.diff(of(1), 2).min() >= -1e-12
    if not reward.has_inverse:
        with pytest.raises(ValueError, match="`reward` must have a known inverse"):
            reward.policy(jnp.zeros(2), jnp.zeros(2), None)


@pytest.mark.parametrize("beta", [0.3, 1.0, 1.7])
def test_the_sigmoid_of_a_log_ratio_is_concave_for_small_beta(beta: float) -> None:
    p = jnp.linspace(1e-4, 0.9, 5000)
    concave = all(
        float(
            jnp.diff(jax.nn.sigmoid(LogRatio(jnp.array(beta))(jnp.log(p), jnp.log(0.3), None) - z), 2).max()
        )
        <= 1e-12
        for z in (-3.0, 0.0, 2.0)
    )
    assert bool(LogRatio(jnp.array(beta)).has_concave_sigmoid) == concave
    assert not bool(LogRatio(jnp.array(0.3), per_token=True).has_concave_sigmoid)


def test_a_reward_that_uses_the_reference_asks_for_it() -> None:
    with pytest.raises(ValueError, match="`ref_logps` must be given"):
        LogRatio(jnp.array(0.1))(jnp.zeros(2), None, None)
