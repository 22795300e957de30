import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy as scipy_entropy

import didsim
from didsim import bayes_update, did, did_entropy, entropy, expectation, geodesic, js, kl, total_variation
from tests.information_cases import JIT, MEASURES, TWO, WITH_ZERO, P, Q, weighted
from tests.strategies import policies, sizes, tuples

EPS = float(np.finfo(np.float64).eps)


@given(tuples(1))
def test_entropy_agrees_with_scipy(drawn: tuple[np.ndarray, ...]) -> None:
    (p,) = drawn
    np.testing.assert_allclose(JIT["entropy"](p), scipy_entropy(np.exp(p)), rtol=1e-12, atol=1e-14)


@given(tuples(1))
def test_entropy_lies_between_zero_and_log_n(drawn: tuple[np.ndarray, ...]) -> None:
    (p,) = drawn
    assert -1e-14 <= float(entropy(p)) <= np.log(len(p)) * (1 + 1e-14)


@given(tuples(2))
def test_kl_agrees_with_its_definition(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    np.testing.assert_allclose(JIT["kl"](p, q), weighted(p, p - q), rtol=1e-11, atol=1e-14)


@given(tuples(2, hostile=False))
def test_kl_agrees_with_scipy(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    np.testing.assert_allclose(JIT["kl"](p, q), scipy_entropy(np.exp(p), np.exp(q)), rtol=1e-11, atol=1e-14)


@given(tuples(2))
def test_js_agrees_with_scipy(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    # SciPy gives the root of the divergence, and sums terms of either sign: eps times their size is 1e-15.
    np.testing.assert_allclose(
        JIT["js"](p, q), jensenshannon(np.exp(p), np.exp(q)) ** 2, rtol=1e-11, atol=1e-14
    )


@given(tuples(2))
def test_js_is_symmetric_and_bounded(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    forward, backward = float(JIT["js"](p, q)), float(JIT["js"](q, p))
    assert forward == pytest.approx(backward, rel=1e-12, abs=1e-15)
    assert -1e-15 <= forward <= np.log(2) * (1 + 1e-14)


@given(tuples(2))
def test_total_variation_agrees_with_its_definition(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    expected = math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in zip(p, q, strict=True)) / 2
    np.testing.assert_allclose(JIT["total_variation"](p, q), expected, rtol=1e-12, atol=1e-15)


@given(tuples(2))
def test_pinsker_and_the_bound_of_js_by_total_variation(drawn: tuple[np.ndarray, ...]) -> None:
    p, q = drawn
    distance = float(JIT["total_variation"](p, q))
    assert float(JIT["kl"](p, q)) >= 2 * distance**2 - 1e-14
    assert float(JIT["js"](p, q)) <= np.log(2) * distance + 1e-14


@given(tuples(1))
def test_divergences_of_a_policy_from_itself_are_zero(drawn: tuple[np.ndarray, ...]) -> None:
    (p,) = drawn
    assert float(JIT["kl"](p, p)) == 0
    assert float(JIT["js"](p, p)) == 0
    assert float(JIT["total_variation"](p, p)) == 0


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9, 1e-11])
def test_divergences_below_machine_epsilon_keep_their_leading_digits(step: float) -> None:
    # p = (1 ± s)/2 against 1/2: KL = s²/2 + s⁴/12 + … and JS = s²/8 + O(s⁴), to a relative s².
    uniform = np.log([0.5, 0.5])
    p = np.log([0.5, 0.5]) + np.array([math.log1p(step), math.log1p(-step)])
    # Adding log(1 ± s) to log(1/2) rounds each log-ratio by up to eps/4: eps/s relative to the squares.
    # Beyond that, KL's two terms cancel from sizes s/2, good to 3 eps; JS's four from s/4, good to 4 eps.
    assert float(kl(p, uniform)) == pytest.approx(step**2 / 2, rel=7 * EPS / step + step**2, abs=0)
    assert float(js(p, uniform)) == pytest.approx(step**2 / 8, rel=17 * EPS / step + step**2, abs=0)


@given(tuples(2))
def test_did_is_the_normalised_ratio(drawn: tuple[np.ndarray, ...]) -> None:
    policy, reference = drawn
    q = np.asarray(JIT["did"](policy, reference))
    ratio = policy - reference
    np.testing.assert_allclose(q, ratio - logsumexp(ratio), rtol=1e-12, atol=1e-13)
    assert abs(logsumexp(q)) < 1e-12


@given(tuples(2, hostile=False))
def test_did_agrees_with_ratios_of_probabilities(drawn: tuple[np.ndarray, ...]) -> None:
    policy, reference = drawn
    ratio = np.exp(policy) / np.exp(reference)
    np.testing.assert_allclose(np.exp(JIT["did"](policy, reference)), ratio / ratio.sum(), rtol=1e-12)


@given(tuples(2))
def test_did_entropy_agrees_with_scipy(drawn: tuple[np.ndarray, ...]) -> None:
    policy, reference = drawn
    expected = scipy_entropy(softmax(policy - reference))
    np.testing.assert_allclose(JIT["did_entropy"](policy, reference), expected, rtol=1e-11, atol=1e-14)


@given(tuples(2, hostile=False))
def test_bayes_update_agrees_with_bayes_rule(drawn: tuple[np.ndarray, ...]) -> None:
    prior, likelihood = drawn
    joint = np.exp(prior) * np.exp(likelihood)
    posterior = JIT["bayes_update"](prior, likelihood + 3.0)
    np.testing.assert_allclose(np.exp(posterior), joint / joint.sum(), rtol=1e-12)


@given(tuples(2))
def test_bayes_update_by_the_did_is_the_policy(drawn: tuple[np.ndarray, ...]) -> None:
    policy, reference = drawn
    # Log-ratios are up to 2800 nats, and their rounding a few eps of that: 1e-12.
    np.testing.assert_allclose(
        JIT["bayes_update"](reference, JIT["did"](policy, reference)), policy, rtol=0, atol=4e-12
    )


def test_bayes_update_rules_out_what_the_evidence_does() -> None:
    posterior = np.exp(bayes_update(P, jnp.array([0.0, -jnp.inf, 0.0])))
    np.testing.assert_allclose(posterior, [5 / 7, 0, 2 / 7], rtol=1e-14)


@given(tuples(2), st.sampled_from((-2.0, -0.5, 0.0, 0.5, 1.0, 3.0)))
def test_geodesic_agrees_with_its_formula(drawn: tuple[np.ndarray, ...], s: float) -> None:
    reference, log_q = drawn
    expected = log_softmax(reference + s * log_q)
    np.testing.assert_allclose(JIT["geodesic"](reference, log_q, s), expected, rtol=1e-13, atol=1e-12)


@given(tuples(2))
def test_geodesic_passes_reference_and_update(drawn: tuple[np.ndarray, ...]) -> None:
    reference, log_q = drawn
    np.testing.assert_allclose(JIT["geodesic"](reference, log_q, 0.0), reference, rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(
        JIT["geodesic"](reference, log_q, 1.0), JIT["bayes_update"](reference, log_q), atol=1e-12
    )


def test_positions_add_batch_axes() -> None:
    positions = jnp.array([[-1.0], [0.0], [2.0]])
    batch = geodesic(np.stack([P, Q]), Q, positions)
    assert batch.shape == (3, 2, 3)
    np.testing.assert_allclose(batch[2, 0], log_softmax(P + 2 * Q), rtol=1e-14)


@given(tuples(1), st.data())
def test_expectation_agrees_with_a_sum(drawn: tuple[np.ndarray, ...], data: st.DataObject) -> None:
    (p,) = drawn
    values = data.draw(policies(len(p)))
    np.testing.assert_allclose(expectation(p, values), weighted(p, values), rtol=1e-12, atol=1e-14)


def test_probability_zero_counts_for_nothing() -> None:
    assert float(expectation(WITH_ZERO, np.array([1.0, 1.0, np.inf]))) == pytest.approx(1, rel=1e-15)
    two = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert float(entropy(WITH_ZERO)) == pytest.approx(two, rel=1e-14)


def test_divergences_with_zeros_take_their_limits() -> None:
    p, z = np.exp(P), np.exp(WITH_ZERO)
    assert float(kl(P, WITH_ZERO)) == np.inf
    assert float(kl(WITH_ZERO, P)) == pytest.approx(scipy_entropy(z, p), rel=1e-13)
    assert float(kl(WITH_ZERO, WITH_ZERO)) == 0
    assert float(js(P, WITH_ZERO)) == pytest.approx(jensenshannon(p, z) ** 2, rel=1e-13)
    assert float(total_variation(P, WITH_ZERO)) == pytest.approx(0.3, rel=1e-13)


def test_disjoint_supports_are_as_far_apart_as_can_be() -> None:
    p, q = np.array([0.0, -np.inf]), np.array([-np.inf, 0.0])
    assert float(js(p, q)) == pytest.approx(np.log(2), rel=1e-15)
    assert float(total_variation(p, q)) == 1
    assert float(kl(p, q)) == np.inf


@pytest.mark.parametrize("name", TWO)
def test_batch_axes_broadcast(name: str) -> None:
    rng = np.random.default_rng(0)
    p, q = log_softmax(rng.normal(size=(2, 1, 5)), -1), log_softmax(rng.normal(size=(3, 5)), -1)
    batch = np.asarray(MEASURES[name](p, q))
    assert batch.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert batch[i, j] == pytest.approx(float(MEASURES[name](p[i, 0], q[j])), rel=1e-14)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_agree_under_jit_and_vmap(name: str) -> None:
    rng = np.random.default_rng(1)
    arguments = [
        jnp.asarray(log_softmax(rng.normal(size=(4, 6)), -1)) for _ in range(2 if name in TWO else 1)
    ]
    eager = MEASURES[name](*arguments)
    assert eager.shape == (4,)
    np.testing.assert_allclose(jax.jit(MEASURES[name])(*arguments), eager, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(MEASURES[name])(*arguments), eager, rtol=1e-13)


def test_distributions_agree_under_jit_and_vmap() -> None:
    rng = np.random.default_rng(2)
    p, q = (jnp.asarray(log_softmax(rng.normal(size=(4, 6)), -1)) for _ in range(2))
    for function in (did, bayes_update, lambda p, q: geodesic(p, q, 0.3)):
        eager = function(p, q)
        np.testing.assert_allclose(jax.jit(function)(p, q), eager, rtol=1e-13)
        np.testing.assert_allclose(jax.vmap(function)(p, q), eager, rtol=1e-13)
    positions = jnp.array([0.0, 0.5, 1.0, -1.0])
    np.testing.assert_allclose(jax.vmap(geodesic)(p, q, positions), geodesic(p, q, positions), rtol=1e-13)


def of_logits(name: str) -> Callable[..., jax.Array]:
    return lambda *logits: MEASURES[name](*(jax.nn.log_softmax(x) for x in logits))


@pytest.mark.parametrize("name", MEASURES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    rng = np.random.default_rng(3)
    logits = tuple(jnp.asarray(rng.normal(size=5)) for _ in range(2 if name in TWO else 1))
    check_grads(jax.jit(of_logits(name)), logits, 1, atol=1e-7, rtol=1e-7)


@jax.jit
def gradients(p: jax.Array, q: jax.Array) -> dict[str, tuple[jax.Array, ...]]:
    logits = {name: (p, q) if name in TWO else (p,) for name in MEASURES}
    return {name: jax.grad(of_logits(name), tuple(range(len(x))))(*x) for name, x in logits.items()}


@st.composite
def few(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two policies over one of a few spaces, sometimes equal."""
    one = policies(draw(st.sampled_from((1, 2, 5))))
    p = draw(one)
    return p, draw(st.one_of(one, st.just(p)))


@given(few())
def test_gradients_are_finite_at_hostile_policies(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    for name, result in gradients(*drawn).items():
        assert all(np.isfinite(gradient).all() for gradient in result), name


@given(few())
def test_divergences_are_flat_where_the_policies_agree(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    p, _ = drawn
    result = gradients(p, p)
    for name in ("kl", "js"):
        for gradient in result[name]:
            np.testing.assert_allclose(gradient, 0, atol=1e-14)


@pytest.mark.parametrize("name", ["kl", "js"])
def test_curvature_where_policies_agree_is_the_fisher_information(name: str) -> None:
    p = jnp.array([0.0, np.log(0.5), np.log(0.5)]) - np.log(2)
    own = jax.nn.log_softmax(p)
    hessian = jax.jit(jax.hessian(lambda x: MEASURES[name](jax.nn.log_softmax(x), own)))(p)
    fisher = np.diag([0.5, 0.25, 0.25]) - np.outer([0.5, 0.25, 0.25], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(hessian, fisher if name == "kl" else fisher / 4, atol=1e-12)


def test_gradients_are_finite_beside_a_zero() -> None:
    @jax.jit
    def total(p: jax.Array) -> jax.Array:
        return kl(p, P) + js(p, P) + total_variation(p, P) + entropy(p)

    assert np.isfinite(jax.grad(total)(jnp.asarray(WITH_ZERO))).all()


@given(sizes)
def test_no_update_has_the_entropy_of_the_uniform_distribution(size: int) -> None:
    p = log_softmax(np.linspace(-2, 2, size))
    assert float(did_entropy(p, p)) == pytest.approx(np.log(size), rel=1e-14, abs=1e-15)


def test_public_names_are_these_functions() -> None:
    assert didsim.kl is kl
    assert didsim.did is did
