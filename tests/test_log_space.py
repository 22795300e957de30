"""Logarithms of zeros: values as NumPy has them, derivatives without NaN."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.nn import log_softmax

from didsim import _log_space

entries = st.one_of(st.floats(-700, 700), st.just(-np.inf))


@given(st.lists(entries, min_size=1, max_size=5))
def test_logsumexp_agrees_with_numpy_and_its_derivative_is_a_softmax(values: list[float]) -> None:
    x = np.array(values)
    with np.errstate(divide="ignore"):
        expected = np.logaddexp.reduce(x)
    assert float(_log_space.logsumexp(jnp.asarray(x))) == pytest.approx(expected, rel=1e-14, abs=1e-15)
    slope = jax.grad(_log_space.logsumexp)(jnp.asarray(x))
    share = np.zeros_like(x) if np.isneginf(x).all() else np.exp(x - expected)
    np.testing.assert_allclose(slope, share, rtol=1e-12, atol=1e-300)
    curvature = jax.hessian(_log_space.logsumexp)(jnp.asarray(x))
    np.testing.assert_allclose(curvature, np.diag(share) - np.outer(share, share), atol=1e-13)


@given(entries, entries)
def test_logaddexp_agrees_with_numpy(x: float, y: float) -> None:
    assert float(_log_space.logaddexp(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(np.logaddexp(x, y))
    slopes = jax.grad(_log_space.logaddexp, (0, 1))(jnp.asarray(x), jnp.asarray(y))
    total = 0.0 if x == y == -np.inf else 1.0
    assert float(slopes[0] + slopes[1]) == pytest.approx(total)


def test_log_of_zero() -> None:
    x = jnp.array([0.0, 2.0])
    assert np.asarray(_log_space.log(x)).tolist() == [-np.inf, np.log(2.0)]
    assert np.asarray(jax.vmap(jax.grad(_log_space.log))(x)).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1e-30, 0.5, -2.0, 3e9, 5e9, -7e17, 3e37])
def test_tilting_by_any_factor_is_normalised_whether_compiled_or_not(factor: float, dtype: type) -> None:
    p = jnp.asarray(np.random.default_rng(0).normal(size=9), dtype)
    for function in (_log_space.tilted, jax.jit(_log_space.tilted)):
        found = function(jnp.zeros_like(p), p, jnp.asarray(factor, dtype))
        assert found.dtype == dtype
        assert float(jnp.exp(found).sum()) == pytest.approx(1, abs=4 * float(jnp.finfo(dtype).eps))
    if abs(factor) < 10:
        np.testing.assert_allclose(
            found, log_softmax(factor * p), rtol=1e-5 if dtype == np.float32 else 1e-13
        )


@pytest.mark.parametrize("log_u", [-700.0, -41.0, -39.0, -1.0, -1e-3])
def test_logarithms_of_complements_agree_with_mpmath(log_u: float) -> None:
    with mpmath.workdps(400):
        u = mpmath.exp(mpmath.mpf(log_u))
        minus_log = -mpmath.log1p(-u)
        exact = float(mpmath.log(minus_log))
        complement = float(mpmath.log(-mpmath.expm1(-minus_log)))
    found = _log_space.log_minus_log1m(jnp.asarray(log_u))
    assert float(found) == pytest.approx(exact, rel=1e-14, abs=1e-14)
    assert float(_log_space.log1m_exp_minus(jnp.asarray(exact))) == pytest.approx(complement, rel=1e-13)
