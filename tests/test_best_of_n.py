import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from didsim import (
    best_of_n,
    dirichlet,
    worst_of_n,
)
from tests.family_cases import EPS32, KEY, SCORES, P, Q, few_sizes
from tests.strategies import ordinary_policies, policies, sizes

# One program for each shape, which compiles sooner than its operations one by one.
BEST, WORST = (jax.jit(lambda p, score, n, f=f: f(p, score, n)) for f in (best_of_n, worst_of_n))


def test_sparse_dirichlet_draws_do_not_underflow() -> None:
    p = np.asarray(dirichlet(jax.random.split(KEY, 2000), 5, 1e-3))
    assert np.isfinite(p).all()
    # A gamma variable of shape a is about u^(1/a): at a = 1/1000, thousands of nats below the largest.
    assert p.min() < -1000


def by_enumeration(p: np.ndarray, score: np.ndarray, n: int, best: Callable[..., float]) -> np.ndarray:
    """Every tuple of `n` draws; those that tie for the best share its probability in proportion to `p`."""
    probability = np.exp(p)
    result = np.zeros_like(probability)
    for draws in itertools.product(range(len(p)), repeat=n):
        winners = score == best(score[list(draws)])
        result += np.prod(probability[list(draws)]) * winners * probability / probability[winners].sum()
    return result


@given(st.sampled_from((1, 2, 3, 4)), st.sampled_from((1, 2, 3, 4)), st.data())
def test_best_and_worst_of_n_agree_with_all_tuples_of_draws(size: int, n: int, data: st.DataObject) -> None:
    p = data.draw(ordinary_policies(size))
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)))
    np.testing.assert_allclose(np.exp(BEST(p, score, float(n))), by_enumeration(p, score, n, max), rtol=1e-11)
    np.testing.assert_allclose(
        np.exp(WORST(p, score, float(n))), by_enumeration(p, score, n, min), rtol=1e-11
    )


@given(few_sizes, st.data())
def test_one_draw_is_the_distribution_itself(size: int, data: st.DataObject) -> None:
    p = data.draw(policies(size))
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)))
    # Sums of the mass up to a score round by a few eps of up to 1400 nats: 1e-12.
    np.testing.assert_allclose(BEST(p, score, 1.0), p, rtol=1e-12, atol=2e-12)
    np.testing.assert_allclose(WORST(p, score, 1.0), p, rtol=1e-12, atol=2e-12)


def exact_best(p: np.ndarray, score: np.ndarray, n: int) -> np.ndarray:
    """The closed form, sequence by sequence, in logarithms."""
    result = np.zeros_like(p)
    for y in range(len(p)):
        up_to = min(logsumexp(p[score <= score[y]]), 0.0)
        mass = logsumexp(p[score == score[y]])
        # log(1 − (1 − u)^n) of the share u that ties hold of the mass up to them.
        u = min(mass - up_to, 0.0)
        if u == 0:
            share = 0.0
        elif u < -30:
            # 1 − (1 − u)^n = n u to a relative n u/2.
            share = math.log(n) + u
        else:
            share = math.log(-math.expm1(n * math.log1p(-math.exp(u))))
        result[y] = n * up_to + share + p[y] - mass
    return result - logsumexp(result)


@given(few_sizes, st.sampled_from((1, 2, 16, 1000)), st.data())
def test_best_of_n_keeps_tiny_probabilities(size: int, n: int, data: st.DataObject) -> None:
    p = data.draw(policies(size))
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)))
    result = np.asarray(BEST(p, score, float(n)))
    assert np.isfinite(result).all()
    assert abs(logsumexp(result)) < 1e-12
    # The mass up to a score is good to a few eps of its logarithm, up to 1400 nats, and taken n times.
    np.testing.assert_allclose(result, exact_best(p, score, n), rtol=1e-11, atol=n * 2e-12)


def test_the_best_of_very_many_is_the_highest_score() -> None:
    score = np.array([0.0, 2.0, 2.0])
    np.testing.assert_allclose(np.exp(BEST(P, score, 1e6)), [0, 0.6, 0.4], atol=1e-15)
    np.testing.assert_allclose(np.exp(WORST(P, score, 1e6)), [1, 0, 0], atol=1e-15)


@pytest.mark.parametrize("n", [3, 3.0, np.int64(3), np.array(3), jnp.array(3), jnp.array(3.0)])
def test_the_number_of_draws_may_be_any_kind_of_scalar(n: int) -> None:
    score = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(np.exp(best_of_n(P, score, n)), [0.125, 0.512 - 0.125, 1 - 0.512], rtol=1e-12)


def test_the_number_of_draws_is_one_number() -> None:
    with pytest.raises(ValueError, match="`n`"):
        best_of_n(P, np.array([0.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 3.0]))


def test_best_of_n_broadcasts() -> None:
    score = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 1.0]])
    batch = BEST(np.stack([P, Q])[:, None], score, 3.0)
    assert batch.shape == (2, 2, 3)
    np.testing.assert_allclose(np.exp(batch[1, 1]), by_enumeration(Q, score[1], 3, max), rtol=1e-12)
    np.testing.assert_allclose(np.exp(batch[0, 1]), by_enumeration(P, score[1], 3, max), rtol=1e-12)
    mapped = jax.vmap(BEST, in_axes=(None, 0, None))(jnp.asarray(P), jnp.asarray(score), 3.0)
    np.testing.assert_allclose(mapped, batch[0], rtol=1e-12)


@given(few_sizes, st.data())
def test_best_of_n_in_float32(size: int, data: st.DataObject) -> None:
    n = 4
    p = data.draw(ordinary_policies(size)).astype(np.float32)
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)), np.float32)
    exact = exact_best(p.astype(float), score.astype(float), n)
    # Masses are sums of N exps, good to (N + 4) eps each in logarithm, with log p rounded by eps |log p|.
    # n of them enter, and the share log(1 − (1 − u)^n) has a slope in log u of at most 1; then a softmax.
    bound = EPS32 * (n + 4) * (size + 4 + np.abs(exact).max())
    assert np.abs(np.asarray(BEST(p, score, float(n)), float) - exact).max() <= bound


@pytest.mark.parametrize("function", [best_of_n, worst_of_n])
def test_best_and_worst_of_n_name_wrong_arguments(function: Callable[..., jax.Array]) -> None:
    score = np.arange(3.0)
    with pytest.raises(ValueError, match="`p` must be log-probabilities normalised"):
        function(P + 1, score, 2)
    with pytest.raises(ValueError, match="`p` must give every sequence a positive probability"):
        function(np.array([0.0, -np.inf, -np.inf]), score, 2)
    with pytest.raises(ValueError, match="`score` must be finite everywhere; got nan"):
        function(P, np.array([0.0, np.nan, 1.0]), 2)
    with pytest.raises(ValueError, match="`score` must be a floating-point array; got dtype int"):
        function(P, np.arange(3), 2)
    with pytest.raises(ValueError, match="`p`, `score` must agree in their last axis"):
        function(P, np.arange(2.0), 2)
    for bad in (0, -1, 0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match="`n` must be at least 1 and finite; got"):
            function(P, score, bad)


@given(st.data(), st.sampled_from((1, 2, 7)))
def test_float32_worst_of_n_is_within_its_rounding(data: st.DataObject, n: int) -> None:
    size = data.draw(sizes)
    p = data.draw(ordinary_policies(size)).astype(np.float32)
    score = np.round(data.draw(ordinary_policies(size))).astype(np.float32)
    result = worst_of_n(p, score, n)
    assert result.dtype == jnp.float32
    # In float64 it agrees with all tuples of draws, as another test shows.
    exact = worst_of_n(log_softmax(p.astype(np.float64)), score.astype(np.float64), n)
    # log F and log G are rounded as sums of N exponentials. log F counts n times, and log(1 − (1 − G/F)^n)
    # has a slope in log(G/F) of at most n.
    bound = EPS32 * (3 * n + 3) * (2 * np.abs(p).max() + size + 8)
    assert np.abs(np.asarray(result, np.float64) - exact).max() <= bound
