import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax

import didsim
from didsim.kernels import Exponential, Hinge, Kernel, Logistic, Squared

POINTS = np.array([-1400.0, -30.0, -1.0, 0.0, 1e-9, 0.5, 30.0, 1400.0])
D = jnp.asarray(POINTS)


def test_the_logistic_kernel_with_and_without_smoothing_and_margin() -> None:
    np.testing.assert_allclose(Logistic()(D), -log_expit(POINTS), rtol=1e-14)
    shifted = Logistic(margin=jnp.array(0.7))(D)
    np.testing.assert_allclose(shifted, -log_expit(POINTS - 0.7), rtol=1e-14)
    both = Logistic(smoothing=jnp.array(0.2), margin=jnp.array(0.7))(D)
    np.testing.assert_allclose(
        both, -0.8 * log_expit(POINTS - 0.7) - 0.2 * log_expit(0.7 - POINTS), rtol=1e-13
    )


def test_the_other_kernels() -> None:
    np.testing.assert_allclose(Squared(jnp.array(2.5))(D), (POINTS - 2.5) ** 2, rtol=1e-15)
    np.testing.assert_allclose(Hinge(jnp.array(2.5))(D), [max(0, 2.5 - d) for d in POINTS], rtol=1e-15)
    np.testing.assert_allclose(Exponential()(D[1:]), np.exp(-POINTS[1:]), rtol=1e-14)


@pytest.mark.parametrize(
    "kernel", [Logistic(), Logistic(smoothing=jnp.array(0.1)), Squared(jnp.array(1.0)), Hinge(jnp.array(1.0))]
)
def test_slopes_are_finite_and_do_not_fall(kernel: Kernel) -> None:
    slopes = jax.vmap(jax.grad(lambda d: kernel(d)))(D)
    assert np.isfinite(slopes).all()
    assert (np.diff(slopes) >= 0).all()


def test_derivatives_of_the_logistic_kernel_of_any_order() -> None:
    kernel = Logistic()
    p = expit(-POINTS[1:])
    first = jax.vmap(jax.grad(lambda d: kernel(d)))(D[1:])
    second = jax.vmap(jax.grad(jax.grad(lambda d: kernel(d))))(D[1:])
    third = jax.vmap(jax.jacfwd(jax.grad(jax.grad(lambda d: kernel(d)))))(D[1:])
    np.testing.assert_allclose(first, -p, rtol=1e-14)
    np.testing.assert_allclose(second, p * (1 - p), rtol=1e-12)
    np.testing.assert_allclose(third, p * (1 - p) * (2 * p - 1), rtol=1e-10, atol=1e-16)


def test_an_expectation_of_the_exponential_survives_what_would_overflow_in_a_product() -> None:
    """Probabilities of e^−1400, which are 0 in float64, meet exponentials of e^+1400, which are infinite."""
    chosen, rejected = (log_softmax(logits) for logits in ([700.0, -700.0, 0.0], [-700.0, 700.0, 0.0]))
    problem = didsim.Contrastive(chosen, rejected)
    h = (chosen - rejected) / 2
    expected = sum(
        np.exp(chosen[i] + rejected[j] - (h[i] - h[j])) for i, j in itertools.product(range(3), repeat=2)
    )
    assert np.isfinite(expected)
    assert float(Exponential().expect(problem, jnp.asarray(h))) == pytest.approx(expected, rel=1e-11)
