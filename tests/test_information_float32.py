import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from scipy.special import log_softmax
from scipy.stats import entropy as scipy_entropy

import didsim
from tests.information_cases import JIT, weighted
from tests.strategies import tuples

EPS32 = float(np.finfo(np.float32).eps)


def narrow(p: np.ndarray) -> np.ndarray:
    return p.astype(np.float32)


def wide(p: np.ndarray) -> np.ndarray:
    return p.astype(np.float64)


# In float32, against float64 on the very same inputs: what is bounded is the rounding of the function, with
# `exp`, `expm1` and `log1p` good to 4 eps, and a sum of N terms to N eps of the sum of their magnitudes.
# An `exp` that underflows is off by less than the smallest normal number, 1.2e-38, times at most 1400 nats.
UNDERFLOW = 17 * 1400 * 1.2e-38


@given(tuples(1))
def test_entropy_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p = narrow(drawn[0])
    result = JIT["entropy"](p)
    assert result.dtype == jnp.float32
    bound = (len(p) + 5) * EPS32 * weighted(wide(p), np.abs(wide(p))) + UNDERFLOW
    assert abs(float(result) + weighted(wide(p), wide(p))) <= bound


@given(tuples(2))
def test_kl_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = narrow(drawn[0]), narrow(drawn[1])
    result = JIT["kl"](p, q)
    assert result.dtype == jnp.float32
    a, b = wide(p), wide(q)
    ratio = a - b
    near = ratio > -1
    exact = np.where(
        near,
        np.exp(a) * (np.expm1(-np.where(near, ratio, 0)) + ratio),
        np.exp(b) - np.exp(a) + np.exp(a) * ratio,
    )
    # A near term is rounded by a few eps of p(|δ| + |e^−δ − 1|), both below 2 p|δ|; a far one by those
    # of its parts.
    size = np.where(near, 4 * np.exp(a) * np.abs(ratio), np.exp(b) + np.exp(a) + np.exp(a) * np.abs(ratio))
    assert abs(float(result) - exact.sum()) <= (len(p) + 8) * EPS32 * size.sum() + UNDERFLOW


@given(tuples(2))
def test_js_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = narrow(drawn[0]), narrow(drawn[1])
    result = JIT["js"](p, q)
    assert result.dtype == jnp.float32
    a, b = wide(p), wide(q)
    mean = np.logaddexp(a, b) - np.log(2)
    terms = np.exp(a) * (a - mean) + np.exp(b) * (b - mean)
    # Each half of a term is rounded by 4 eps of itself from `exp` and 6 from the logarithm.
    size = np.exp(a) * np.abs(a - mean) + np.exp(b) * np.abs(b - mean)
    assert abs(float(result) - terms.sum() / 2) <= (len(p) + 10) * EPS32 * size.sum() / 2 + UNDERFLOW + 1e-15


@given(tuples(2))
def test_total_variation_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = narrow(drawn[0]), narrow(drawn[1])
    result = JIT["total_variation"](p, q)
    assert result.dtype == jnp.float32
    exact = np.abs(np.exp(wide(p)) - np.exp(wide(q))).sum() / 2
    # The two sum to 2, halved to 1.
    assert abs(float(result) - exact) <= (len(p) + 5) * EPS32 * (1 + 1e-3)


def did_bound(p: np.ndarray, q: np.ndarray) -> float:
    """Rounding of `log_softmax(p − q)`: of the difference, its shift by the largest, and the sum of exps."""
    largest = np.abs(wide(p) - wide(q)).max()
    return EPS32 * (4 * largest + np.log(len(p)) + len(p) + 8)


@given(tuples(2))
def test_did_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = narrow(drawn[0]), narrow(drawn[1])
    for result in (
        JIT["did"](p, q),
        JIT["geodesic"](q, jnp.asarray(p - q), -1.0),
        JIT["bayes_update"](p, -q),
    ):
        assert result.dtype == jnp.float32
    exact = log_softmax(wide(p) - wide(q))
    assert np.abs(wide(np.asarray(JIT["did"](p, q))) - exact).max() <= did_bound(p, q)


@given(tuples(2))
def test_did_entropy_in_float32(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = narrow(drawn[0]), narrow(drawn[1])
    result = JIT["did_entropy"](p, q)
    assert result.dtype == jnp.float32
    exact = log_softmax(wide(p) - wide(q))
    # d(Σ q log q) = Σ q (1 + log q) d(log q), to first order in the error of the DID; doubled for the rest.
    carried = 2 * did_bound(p, q) * weighted(exact, 1 + np.abs(exact))
    rounding = (len(p) + 5) * EPS32 * weighted(exact, np.abs(exact))
    assert abs(float(result) - scipy_entropy(np.exp(exact))) <= carried + rounding + UNDERFLOW


def test_what_float32_computed_is_taken_back_as_a_list_or_in_float64() -> None:
    with jax.enable_x64(False):
        p = jax.nn.log_softmax(jnp.linspace(-3, 3, 50))
        assert p.dtype == jnp.float32
        expected = float(didsim.entropy(p))
        assert float(didsim.entropy([float(value) for value in p])) == expected
        assert float(didsim.entropy(np.asarray(p, np.float64))) == expected
