import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import beta as beta_distribution
from scipy.stats import kstest, norm

from didsim import (
    SequenceSpace,
    best_of_n,
    dirichlet,
    markov,
    mixture,
    normal_logits,
    temper,
    worst_of_n,
    zipf,
)
from tests.family_cases import EPS32, KEY, SCORES, P, Q, few_sizes
from tests.strategies import policies, sizes, tuples

MIXTURE, TEMPER = jax.jit(mixture), jax.jit(temper)
MARKOV = jax.jit(markov, static_argnums=1)

MAKERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "normal_logits": jax.jit(lambda key: normal_logits(key, 7, 2.0)),
    "dirichlet": jax.jit(lambda key: dirichlet(key, 7, 0.5)),
    "zipf": jax.jit(lambda key: zipf(7, 1.2, key)),
    "markov": jax.jit(lambda key: markov(key, SequenceSpace(2, 3, eos=True), 1.5)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_makers_return_normalised_distributions(name: str) -> None:
    p = np.asarray(MAKERS[name](KEY))
    assert p.ndim == 1
    assert np.isfinite(p).all()
    assert abs(logsumexp(p)) < 1e-14


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_key_gives_the_same_bits_and_another_key_others(name: str) -> None:
    assert np.array_equal(MAKERS[name](KEY), MAKERS[name](jax.random.key(0)))
    assert not np.array_equal(MAKERS[name](KEY), MAKERS[name](jax.random.key(1)))


@pytest.mark.parametrize("name", MAKERS)
def test_an_array_of_keys_gives_one_distribution_each(name: str) -> None:
    keys = jax.random.split(KEY, (2, 3))
    batch = MAKERS[name](keys)
    assert batch.shape[:2] == (2, 3)
    np.testing.assert_allclose(batch[1, 2], MAKERS[name](keys[1, 2]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", MAKERS)
def test_makers_ask_for_a_typed_key(name: str) -> None:
    with pytest.raises(ValueError, match=r"`key` must be a typed random key, as jax\.random\.key\(0\) makes"):
        MAKERS[name](jax.random.PRNGKey(0))


def test_normal_logits_have_normal_differences() -> None:
    # log p(0) − log p(1) is a difference of independent normals: N(0, 2 scale²).
    p = np.asarray(normal_logits(jax.random.split(KEY, 2000), 2, 1.5))
    test = kstest(p[:, 0] - p[:, 1], norm(scale=1.5 * math.sqrt(2)).cdf)
    assert test.pvalue > 1e-6


def test_normal_logits_of_scale_zero_are_uniform() -> None:
    np.testing.assert_allclose(normal_logits(KEY, 5, 0), -np.log(5), rtol=1e-15)


@pytest.mark.parametrize("concentration", [0.05, 1.0, 20.0])
def test_dirichlet_has_beta_marginals(concentration: float) -> None:
    size = 5
    p = np.exp(dirichlet(jax.random.split(KEY, 2000), size, concentration))
    expected = beta_distribution(concentration, (size - 1) * concentration)
    for place in (0, 4):
        assert kstest(p[:, place], expected.cdf).pvalue > 1e-6


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 2.5])
def test_zipf_agrees_with_powers_of_the_rank(exponent: float) -> None:
    weights = np.arange(1, 11) ** -exponent
    np.testing.assert_allclose(np.exp(zipf(10, exponent)), weights / weights.sum(), rtol=1e-13)


def test_a_key_shuffles_zipf() -> None:
    ranked, shuffled = np.asarray(zipf(20, 1.0)), np.asarray(zipf(20, 1.0, KEY))
    assert not np.array_equal(ranked, shuffled)
    assert np.array_equal(np.sort(shuffled)[::-1], ranked)


@pytest.mark.parametrize("shape", [(3, 3, False), (3, 3, True), (2, 1, False), (1, 3, True)])
def test_markov_sequences_depend_on_the_last_token_alone(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    table = np.asarray(space.next_token_log_probs(MARKOV(KEY, space)))
    rows: dict[object, list[np.ndarray]] = {}
    for row, prefix in zip(table, space.prefixes.tolist(), strict=True):
        tokens = [token for token in prefix if token >= 0]
        rows.setdefault(tokens[-1] if tokens else "first", []).append(row)
    for same in rows.values():
        np.testing.assert_allclose(same, np.broadcast_to(same[0], np.shape(same)), rtol=1e-11, atol=1e-12)
    several = [same[0] for same in rows.values()]
    if space.vocab_size > 1:
        assert all(not np.allclose(a, b) for a, b in itertools.combinations(several, 2))


def test_markov_tokens_have_normal_logits_of_the_scale() -> None:
    space = SequenceSpace(2, 2)
    p = markov(jax.random.split(KEY, 1000), space, 0.7)
    table = np.asarray(space.next_token_log_probs(p))
    for row in range(space.num_prefixes):
        difference = table[:, row, 0] - table[:, row, 1]
        assert kstest(difference, norm(scale=0.7 * math.sqrt(2)).cdf).pvalue > 1e-6


@given(tuples(1), st.sampled_from((-2.0, 0.0, 0.3, 1.0, 5.0)))
def test_temper_agrees_with_powers(drawn: tuple[np.ndarray, ...], exponent: float) -> None:
    (p,) = drawn
    expected = exponent * p - logsumexp(exponent * p)
    np.testing.assert_allclose(TEMPER(p, exponent), expected, rtol=1e-13, atol=1e-13)


@given(tuples(2), st.sampled_from((0.0, 1e-12, 0.25, 0.5, 1.0)))
def test_mixture_agrees_with_a_weighted_sum(drawn: tuple[np.ndarray, ...], weight: float) -> None:
    p, q = drawn
    mixed = np.asarray(MIXTURE(p, q, weight))
    np.testing.assert_allclose(np.exp(mixed), weight * np.exp(p) + (1 - weight) * np.exp(q), rtol=1e-12)
    assert np.isfinite(mixed).all()
    if weight in (0, 1):
        # One of the two, up to the rounding of their difference.
        bound = 4 * np.finfo(float).eps * (1 + np.abs(p) + np.abs(q))
        assert (np.abs(mixed - (p if weight else q)) <= bound).all()


def test_mixture_covers_a_zero_of_one_side() -> None:
    mixed = np.exp(mixture(np.array([0.0, -np.inf]), np.log([0.5, 0.5]), 0.5))
    np.testing.assert_allclose(mixed, [0.75, 0.25], rtol=1e-14)


def test_temper_and_mixture_broadcast() -> None:
    both = np.stack([P, Q])
    tempered = temper(both, jnp.array([[0.5], [2.0], [-1.0]]))
    assert tempered.shape == (3, 2, 3)
    np.testing.assert_allclose(tempered[1, 1], log_softmax(2 * Q), rtol=1e-14)
    mixed = mixture(both, P, jnp.array([[0.5], [0.1], [0.9]]))
    assert mixed.shape == (3, 2, 3)
    np.testing.assert_allclose(np.exp(mixed[1, 1]), 0.1 * np.exp(Q) + 0.9 * np.exp(P), rtol=1e-13)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: temper(jax.nn.log_softmax(x), 1.7),
        lambda x: mixture(jax.nn.log_softmax(x), jnp.asarray(np.log(np.full(5, 0.2))), 0.3),
        lambda x: best_of_n(jax.nn.log_softmax(x), jnp.array([1.0, 0.0, 2.0, 2.0, -1.0]), 3),
        lambda x: worst_of_n(jax.nn.log_softmax(x), jnp.array([1.0, 0.0, 2.0, 2.0, -1.0]), 3),
    ],
    ids=["temper", "mixture", "best_of_n", "worst_of_n"],
)
def test_gradients_agree_with_finite_differences(function: Callable[[jax.Array], jax.Array]) -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=5))
    check_grads(jax.jit(function), (logits,), 1, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    "function", [lambda s: zipf(4, s), lambda s: mixture(P, Q, s), lambda s: temper(P, s)]
)
def test_gradients_in_scalars_agree_with_finite_differences(
    function: Callable[[jax.Array], jax.Array],
) -> None:
    check_grads(jax.jit(function), (0.4,), 1, atol=1e-7, rtol=1e-7)


def _sum_of_best(logits: jax.Array, score: jax.Array) -> jax.Array:
    weights = jnp.arange(1.0, logits.shape[0] + 1)
    p = jax.nn.log_softmax(logits)
    best = weights @ best_of_n(p, score, 4)
    return best + weights @ mixture(p, score - jax.nn.logsumexp(score), 0.5) + weights @ temper(p, 2.0)


SUM_OF_BEST = jax.jit(jax.grad(_sum_of_best))


@given(few_sizes, st.data())
def test_gradients_are_finite_at_hostile_policies(size: int, data: st.DataObject) -> None:
    p = data.draw(policies(size))
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)))
    assert np.isfinite(SUM_OF_BEST(p, score)).all()


def test_float32_stays_float32() -> None:
    p, q = P.astype(np.float32), Q.astype(np.float32)
    score = np.array([0.0, 1.0, 1.0], np.float32)
    for result in (temper(p, 2.0), mixture(p, q, 0.3), best_of_n(p, score, 3), worst_of_n(p, score, 3)):
        assert result.dtype == jnp.float32


@given(few_sizes, st.data())
def test_mixture_in_float32(size: int, data: st.DataObject) -> None:
    p, q = (data.draw(policies(size)).astype(np.float32) for _ in range(2))
    exact = np.logaddexp(np.log(0.3) + p.astype(float), np.log(0.7) + q.astype(float))
    # Each side is rounded by an eps of its log weight and one of itself, the sum by a few more of the result.
    bound = EPS32 * (
        4 + 2 * np.maximum(np.abs(exact), np.maximum(np.abs(p), np.abs(q)) * (np.abs(p - q) < 40))
    )
    assert (np.abs(np.asarray(MIXTURE(p, q, 0.3), float) - exact) <= bound).all()


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_sizes_must_be_positive_integers(bad: int) -> None:
    for make in (lambda: normal_logits(KEY, bad), lambda: dirichlet(KEY, bad, 1.0), lambda: zipf(bad, 1.0)):
        with pytest.raises(ValueError, match="`size` must be an integer of at least 1; got"):
            make()


def test_scales_must_not_be_negative() -> None:
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`scale` must be zero or more and finite; got {bad}"):
            normal_logits(KEY, 3, bad)
        with pytest.raises(ValueError, match=f"`scale` must be zero or more and finite; got {bad}"):
            markov(KEY, SequenceSpace(2, 2), bad)


def test_concentration_must_be_positive() -> None:
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`concentration` must be positive and finite; got {bad}"):
            dirichlet(KEY, 3, bad)


def test_exponents_must_be_finite() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`exponent` must be finite; got {bad}"):
            zipf(3, bad)
        with pytest.raises(ValueError, match=f"`exponent` must be finite; got {bad}"):
            temper(P, bad)


def test_the_weight_of_a_mixture_is_a_probability() -> None:
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=f"`weight` must be between 0 and 1; got {bad}"):
            mixture(P, Q, bad)


def test_scalars_are_checked_under_jit() -> None:
    score = jnp.arange(3.0)
    calls: dict[str, Callable[[jax.Array], jax.Array]] = {
        "`exponent` must be finite": lambda x: temper(jnp.asarray(P), x),
        "`weight` must be between 0 and 1": lambda x: mixture(jnp.asarray(P), jnp.asarray(Q), x),
        "`n` must be at least 1": lambda x: best_of_n(jnp.asarray(P), score, x),
        "`concentration` must be positive": lambda x: dirichlet(KEY, 3, x),
        "`scale` must be zero or more": lambda x: normal_logits(KEY, 3, x),
    }
    for message, call in calls.items():
        with pytest.raises(Exception, match=message):
            jax.jit(call)(jnp.array(np.nan))


def test_temper_and_mixture_name_wrong_arguments() -> None:
    zero = np.array([0.0, -np.inf, -np.inf])
    with pytest.raises(ValueError, match="`p` must be log-probabilities normalised"):
        temper(P + 1, 2.0)
    with pytest.raises(ValueError, match="`p` must give every sequence a positive probability"):
        temper(zero, 2.0)
    with pytest.raises(ValueError, match=r"`p`, `exponent` must broadcast together; .*\(2,\).*\(3,\)"):
        temper(np.stack([P, Q]), jnp.ones(3))
    with pytest.raises(ValueError, match="`q` must be log-probabilities normalised"):
        mixture(P, Q + 1, 0.5)
    with pytest.raises(ValueError, match="`p`, `q` must agree in their last axis"):
        mixture(P, np.log([0.5, 0.5]), 0.5)
    with pytest.raises(ValueError, match=r"`p`, `q`, `weight` must broadcast together"):
        mixture(np.stack([P, Q]), Q, jnp.full(3, 0.5))


def test_softmax_of_a_spread_policy_is_what_scipy_says() -> None:
    logits = np.array([0.0, 700.0, -700.0])
    np.testing.assert_allclose(np.exp(temper(log_softmax(logits), 1e-2)), softmax(logits / 100), rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_gradients_of_a_mixture_are_right_at_the_ends_and_without_full_support(weight: float) -> None:
    p, q = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.2, 0.6])
    slope = jax.jacobian(lambda w: mixture(p, q, w))(weight)
    mixed = weight * np.exp(p) + (1 - weight) * np.exp(q)
    np.testing.assert_allclose(slope, (np.exp(p) - np.exp(q)) / mixed, rtol=1e-12)

    def of_logits(logits: jax.Array) -> jax.Array:
        part = jax.nn.log_softmax(jnp.concatenate([logits, jnp.array([-jnp.inf])]))
        return mixture(part, jnp.array([0.0, -jnp.inf, -jnp.inf]), weight)[0]

    assert np.isfinite(jax.grad(of_logits)(jnp.array([0.1, 0.2]))).all()


def test_a_mixture_of_weight_0_or_1_is_one_of_the_two_however_far_apart() -> None:
    p, q = log_softmax([0.0, 1400.0]), log_softmax([1400.0, 0.0])
    np.testing.assert_array_equal(mixture(p, q, 0.0), q)
    np.testing.assert_array_equal(mixture(p, q, 1.0), p)


def test_markov_asks_for_a_space() -> None:
    with pytest.raises(ValueError, match="`space` must be a SequenceSpace; got 3"):
        markov(jax.random.key(0), 3)  # type: ignore[arg-type]


@given(st.data(), st.sampled_from((-2.0, 0.5, 3.0)))
def test_float32_tempering_is_within_its_rounding(data: st.DataObject, exponent: float) -> None:
    p = data.draw(sizes.flatmap(policies)).astype(np.float32)
    result = temper(p, exponent)
    assert result.dtype == jnp.float32
    # The product is rounded at its size; subtracting the maximum and the normaliser, at twice that; the sum
    # of N exponentials and its logarithm add a unit for each term and a few for the functions.
    exact = log_softmax(exponent * p.astype(np.float64))
    bound = EPS32 * (4 * np.abs(exponent * p).max() + len(p) + 8)
    assert np.abs(np.asarray(result, np.float64) - exact).max() <= bound


def test_float32_markov_is_normalised_within_its_rounding() -> None:
    space = SequenceSpace(4, 5)
    with jax.enable_x64(False):
        p = np.asarray(markov(jax.random.key(0), space, 3.0))
    assert p.dtype == np.float32
    # Each of the 5 factors is rounded at its size and by its own sum of 4 terms.
    bound = EPS32 * (2 * np.abs(p).max() + 5 * (4 + 8))
    assert abs(logsumexp(p.astype(np.float64))) <= bound
