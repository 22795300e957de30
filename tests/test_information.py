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
from tests.strategies import policies, sizes, tuples

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

MEASURES: dict[str, Callable[..., jax.Array]] = {
    "entropy": entropy,
    "kl": kl,
    "js": js,
    "total_variation": total_variation,
    "did_entropy": did_entropy,
}
TWO = ("kl", "js", "total_variation", "did_entropy")
# One program for each shape, which compiles sooner than its operations one by one.
JIT = {name: jax.jit(measure) for name, measure in MEASURES.items()}
JIT |= {"did": jax.jit(did), "bayes_update": jax.jit(bayes_update), "geodesic": jax.jit(geodesic)}

P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
WITH_ZERO = np.log([0.4, 0.6, 1.0]) + np.array([0, 0, -np.inf])


def narrow(p: np.ndarray) -> np.ndarray:
    return p.astype(np.float32)


def wide(p: np.ndarray) -> np.ndarray:
    return p.astype(np.float64)


def weighted(p: np.ndarray, values: np.ndarray) -> float:
    """`Σ p f`, correctly rounded, where probability zero counts for nothing."""
    return math.fsum(math.exp(a) * b for a, b in zip(p, values, strict=True) if a > -np.inf)


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


@given(sizes)
def test_no_update_has_the_entropy_of_the_uniform_distribution(size: int) -> None:
    p = log_softmax(np.linspace(-2, 2, size))
    assert float(did_entropy(p, p)) == pytest.approx(np.log(size), rel=1e-14, abs=1e-15)


BAD = {
    "normalised over the last axis": np.log([0.5, 0.6, 0.2]),
    "log-probabilities; got NaN at index": np.array([np.nan, 0.0, 0.0]),
    "a floating-point array; got dtype int": np.array([0, 0, 0]),
    "have at least 1 axis": np.array(0.0),
    "not be empty; got shape": np.zeros(0),
}


@pytest.mark.parametrize("expected", BAD)
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (kl, ("p", "q")),
        (js, ("p", "q")),
        (total_variation, ("p", "q")),
        (did, ("policy", "reference")),
        (did_entropy, ("policy", "reference")),
    ],
)
def test_functions_of_two_name_the_argument_that_is_no_distribution(
    function: Callable[..., jax.Array], names: tuple[str, str], expected: str
) -> None:
    bad = BAD[expected]
    with pytest.raises(ValueError, match=f"`{names[0]}` must .*{expected}"):
        function(bad, P)
    with pytest.raises(ValueError, match=f"`{names[1]}` must .*{expected}"):
        function(P, bad)


@pytest.mark.parametrize("expected", BAD)
def test_functions_of_one_name_the_argument_that_is_no_distribution(expected: str) -> None:
    bad = BAD[expected]
    for name, call in {
        "p": lambda: entropy(bad),
        "log_probs": lambda: expectation(bad, P),
        "reference": lambda: bayes_update(bad, P),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` must .*{expected}"):
            call()
    with pytest.raises(ValueError, match=f"`reference` must .*{expected}"):
        geodesic(bad, P, 1.0)


@pytest.mark.parametrize("name", TWO)
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    half = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match=r"must agree in their last axis, sequences; got .*\(3,\).*\(2,\)"):
        MEASURES[name](P, half)
    with pytest.raises(ValueError, match=r"must broadcast together; got .*\(2,\).*\(3,\)"):
        MEASURES[name](np.stack([P] * 2), np.stack([P] * 3))


def test_did_asks_for_full_support() -> None:
    for function in (did, did_entropy):
        with pytest.raises(ValueError, match=r"`policy` must give every sequence a positive probability"):
            function(WITH_ZERO, P)
        with pytest.raises(ValueError, match=r"`reference` must .*; got zero at index \(2,\)"):
            function(P, WITH_ZERO)


def test_evidence_must_be_usable() -> None:
    with pytest.raises(ValueError, match="`log_q` must be below infinity and not NaN"):
        bayes_update(P, np.array([0.0, np.inf, 0.0]))
    with pytest.raises(ValueError, match="`log_q` must be below infinity and not NaN"):
        bayes_update(P, np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match="`log_q` must leave a sequence that `reference` allows"):
        bayes_update(P, np.full(3, -np.inf))
    with pytest.raises(ValueError, match="`log_q` must leave a sequence that `reference` allows"):
        bayes_update(WITH_ZERO, np.array([-np.inf, -np.inf, 0.0]))
    with pytest.raises(ValueError, match="`reference`, `log_q` must agree in their last axis"):
        bayes_update(P, np.zeros(2))


def test_the_geodesic_needs_finite_arguments_that_fit() -> None:
    with pytest.raises(ValueError, match="`s` must be finite; got nan"):
        geodesic(P, Q, np.nan)
    with pytest.raises(ValueError, match="`log_q` must be finite everywhere; got -inf"):
        geodesic(P, WITH_ZERO, 1.0)
    with pytest.raises(
        ValueError, match=r"`reference`, `log_q`, `s` must broadcast together; .*s of shape \(3,\)"
    ):
        geodesic(np.stack([P, Q]), Q, jnp.ones(3))
    with pytest.raises(Exception, match="`s` must be finite"):
        jax.jit(lambda s: geodesic(jnp.asarray(P), jnp.asarray(Q), s))(np.inf)


def test_expectation_refuses_values_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="`values` must be a floating-point array; got dtype int64"):
        expectation(P, np.arange(3))
    with pytest.raises(ValueError, match="`log_probs`, `values` must agree in their last axis"):
        expectation(P, np.zeros(2))


def test_public_names_are_these_functions() -> None:
    assert didsim.kl is kl
    assert didsim.did is did


def test_what_float32_computed_is_taken_back_as_a_list_or_in_float64() -> None:
    with jax.enable_x64(False):
        p = jax.nn.log_softmax(jnp.linspace(-3, 3, 50))
        assert p.dtype == jnp.float32
        expected = float(didsim.entropy(p))
        assert float(didsim.entropy([float(value) for value in p])) == expected
        assert float(didsim.entropy(np.asarray(p, np.float64))) == expected


def test_an_expectation_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="`values` must not be NaN; got NaN for at least one sequence"):
        didsim.expectation(np.log([0.5, 0.5]), np.array([1.0, np.nan]))
