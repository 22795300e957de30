"""Derivatives through `fixed_point` without closed forms, against differences of re-solved problems."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_softmax

import didsim
from tests.compilations import counted_compilations

RNG = np.random.default_rng(3)
SIZE = 4
REFERENCE, CHOSEN = RNG.normal(size=(2, SIZE))
REJECTED = CHOSEN + RNG.uniform(-0.5, 0.5, size=SIZE)
SHIFT = RNG.normal(size=(3, SIZE))
LENGTHS = np.array([1, 2, 2, 3])
DATA = {"winners": [0, 1, 1, 2, 2, 3, 3, 0, 0], "losers": [1, 0, 2, 1, 3, 2, 0, 3, 2]}
WEIGHTS = RNG.uniform(0.5, 2, size=9)


def contrastive(x: Any) -> didsim.Problem:
    return didsim.Contrastive(log_softmax(CHOSEN + x * SHIFT[0]), log_softmax(REJECTED + x * SHIFT[1]))


def labelled(x: Any) -> didsim.Problem:
    first, second = log_softmax(x * SHIFT[0]), log_softmax(x * SHIFT[1])
    return didsim.Labelled(CHOSEN + x * SHIFT[2], first, second)


def weighted(x: Any) -> didsim.Problem:
    return didsim.Pairs(**DATA, weights=WEIGHTS + x * np.cos(np.arange(9)))


def mixed(x: Any) -> didsim.Problem:
    return didsim.Mixture((contrastive(0.0), weighted(0.0)), log_softmax(jnp.array([0.3, 0.0]) * (1 + x)))


def online(x: Any) -> didsim.Problem:
    table = didsim.PreferenceTable(WINS)
    return didsim.Online(table, didsim.OnPolicy(0.5 + x))


WINS = np.array([[0.5, 0.7, 0.6, 0.55], [0.3, 0.5, 0.65, 0.6], [0.4, 0.35, 0.5, 0.7], [0.45, 0.4, 0.3, 0.5]])

CASES: dict[str, tuple[Callable[[Any], didsim.Objective], Callable[[Any], didsim.Problem]]] = {
    "cdpo": (lambda x: didsim.cdpo(0.5 + x, 0.1 + 0.1 * x), contrastive),
    "cdpo, online": (lambda x: didsim.cdpo(0.5 + x, 0.1), online),
    "simpo": (lambda x: didsim.simpo(1.0 + x, 0.5 + x), labelled),
    "dpo": (lambda x: didsim.dpo(0.5 + x), weighted),
    "cpo": (lambda x: didsim.cpo(0.5 + x, 0.8 + x), mixed),
    "kto": (lambda x: didsim.kto(0.5 + x, 1.5 + x, 0.75), contrastive),
    "bco": (lambda x: didsim.bco(0.5 + x), weighted),
}


def limit(case: str, x: Any, start: Any = None) -> jax.Array:
    objective, problem = CASES[case]
    reference = log_softmax(REFERENCE + x * SHIFT[2])
    return didsim.fixed_point(objective(x), reference, problem(x), LENGTHS, starts=2, start=start)


def difference(function: Callable[[float], Any], step: float = 1e-3) -> np.ndarray:
    """The derivative at 0, by differences of fourth order: good to some 1e-10 where numbers are of size 1."""
    at = {k: np.asarray(function(k * step)) for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_the_resolved_problem(case: str) -> None:
    """In the numbers of the objective, the reference and the problem at once."""
    expected = difference(lambda x: limit(case, x))
    assert np.abs(expected).max() > 1e-3
    value, forward = jax.jvp(lambda x: limit(case, x), (0.0,), (1.0,))
    np.testing.assert_allclose(value, limit(case, 0.0), atol=1e-13)
    np.testing.assert_allclose(forward, expected, rtol=1e-7, atol=1e-8)
    # The total probability stays one.
    assert float(jnp.exp(value) @ forward) == pytest.approx(0, abs=1e-12)
    pull = jnp.array([1.0, -2.0, 0.5, 3.0])
    backward = jax.grad(lambda x: limit(case, x) @ pull)(0.0)
    assert float(backward) == pytest.approx(float(pull @ forward), rel=1e-10, abs=1e-12)


def test_jacobians_forward_and_backward() -> None:
    def of_reference(logits: jax.Array) -> jax.Array:
        objective, problem = CASES["cdpo"]
        return didsim.fixed_point(objective(0.0), log_softmax(logits), problem(0.0), LENGTHS)

    forward, backward = jax.jacfwd(of_reference)(REFERENCE), jax.jacrev(of_reference)(REFERENCE)
    np.testing.assert_allclose(forward, backward, atol=1e-11)
    # A minimiser for differences of `β log(π/ref)` is `ref · exp(h/β)`, with an `h` that has no reference.
    p = np.exp(np.asarray(of_reference(REFERENCE)))
    np.testing.assert_allclose(forward, np.eye(SIZE) - p, atol=1e-11)


def test_second_derivatives() -> None:
    def slope(x: Any) -> jax.Array:
        return jax.jacfwd(lambda x: limit("cdpo", x))(x)

    np.testing.assert_allclose(jax.jacfwd(slope)(0.0), difference(slope), rtol=1e-6, atol=1e-7)


def test_a_change_of_the_reference_keeps_it_normalised() -> None:
    """A constant added to the reference is taken out again, as `log_softmax` does."""
    reference, objective = log_softmax(REFERENCE), didsim.kto(0.5, 1.5, 0.75)
    _, moved = jax.jvp(
        lambda reference: didsim.fixed_point(objective, reference, contrastive(0.0), LENGTHS, starts=2),
        (reference,),
        (jnp.ones(SIZE),),
    )
    np.testing.assert_allclose(moved, 0, atol=1e-12)


def test_a_batch_has_the_derivatives_of_its_problems() -> None:
    betas, shifts = jnp.array([0.4, 0.9]), jnp.array([0.0, 0.2])

    def limits(betas: Any, shifts: Any) -> jax.Array:
        chosen, rejected = CHOSEN + shifts[..., None] * SHIFT[0], REJECTED + shifts[..., None] * SHIFT[1]
        problem = didsim.Contrastive(log_softmax(chosen), log_softmax(rejected))
        objective = didsim.cdpo(betas, jnp.full(jnp.shape(betas), 0.1))
        return didsim.fixed_point(objective, log_softmax(REFERENCE), problem, LENGTHS)

    jacobian = jax.jacrev(limits)(betas, shifts)
    assert jacobian.shape == (2, SIZE, 2)
    for k in range(2):
        alone = jax.jacfwd(limits)(betas[k], shifts[k])
        np.testing.assert_allclose(jacobian[k, :, k], alone, rtol=1e-10)
        np.testing.assert_array_equal(jacobian[k, :, 1 - k], 0)


def test_a_pair_that_does_not_count_yet_has_an_influence() -> None:
    """From one side, since a weight is not negative. Losses of single sequences, whose shares it changes."""

    def of_weight(w: Any) -> jax.Array:
        data = didsim.Pairs(**DATA, weights=jnp.asarray(WEIGHTS).at[8].set(w))
        return didsim.fixed_point(didsim.bco(0.5), log_softmax(REFERENCE), data, LENGTHS, starts=2)

    slope = jax.jacfwd(of_weight)(0.0)
    at = [np.asarray(of_weight(k * 1e-3)) for k in range(4)]
    expected = (-11 * at[0] + 18 * at[1] - 9 * at[2] + 2 * at[3]) / 6e-3
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(slope).max() > 1e-2


def test_a_label_that_is_certain_can_be_doubted() -> None:
    """From one side, since a label is at most 1. Sequence 0 is never chosen without doubt."""

    def of_label(p: Any) -> jax.Array:
        labels = jnp.full(4, 1.0).at[0].set(p)
        data = didsim.Pairs([1, 2, 3, 1], [0, 1, 2, 3], win_probs=labels)
        return didsim.fixed_point(
            didsim.cpo(0.5, 1.0) + 0.5 * didsim.cdpo(0.5, 0.1), log_softmax(REFERENCE), data
        )

    slope = jax.jacfwd(of_label)(1.0)
    at = [np.asarray(of_label(1 - k * 1e-4)) for k in range(4)]
    expected = -(-11 * at[0] + 18 * at[1] - 9 * at[2] + 2 * at[3]) / 6e-4
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_near_deterministic_policies(scale: float) -> None:
    """Two sequences: `β log(π_0/π_1) = h` with an `h` that is known by hand."""
    beta, smoothing = 1.0 / scale, 0.1
    won = 0.75
    problem = didsim.Pairs([0, 1], [1, 0], weights=[won, 1 - won])

    def of(beta: Any, smoothing: Any) -> jax.Array:
        return didsim.fixed_point(didsim.cdpo(beta, smoothing), np.log([0.5, 0.5]), problem)

    by_beta, by_smoothing = jax.jacfwd(of, (0, 1))(beta, smoothing)
    # σ(h) = (1 − ε) P + ε (1 − P)
    q = (1 - smoothing) * won + smoothing * (1 - won)
    h, h_slope = np.log(q / (1 - q)), (1 - 2 * won) / (q * (1 - q))
    p = np.exp(log_softmax(jnp.array([h / beta, 0.0])))
    # log π_0 = d − softplus(d) and log π_1 = −softplus(d), with d = h / β.
    along = np.array([p[1], -p[0]])
    np.testing.assert_allclose(by_beta, along * -h / beta**2, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(by_smoothing, along * h_slope / beta, rtol=1e-9, atol=1e-300)


def test_one_sequence_does_not_move() -> None:
    slope = jax.jacfwd(
        lambda b: didsim.fixed_point(didsim.cdpo(b), np.zeros(1), didsim.Contrastive(*np.zeros((2, 1))))
    )
    np.testing.assert_array_equal(slope(0.5), [0])


@pytest.mark.parametrize("is_wide", [True, False])
def test_float32(is_wide: bool) -> None:
    """Also where JAX has no float64, and without a warning that it has none."""
    with jax.enable_x64(is_wide), warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = didsim.Contrastive(log_softmax(np.float32(CHOSEN)), log_softmax(np.float32(REJECTED)))

        def of(x: Any) -> jax.Array:
            reference = log_softmax(np.float32(REFERENCE))
            return didsim.fixed_point(didsim.cdpo(np.float32(0.5) + x, 0.1), reference, problem)

        forward = jax.jacfwd(of)(np.float32(0))
        backward = jax.jacrev(of)(np.float32(0))
        assert forward.dtype == backward.dtype == np.float32
    exact = np.asarray(
        jax.jacfwd(
            lambda b: didsim.fixed_point(didsim.cdpo(b, 0.1), log_softmax(REFERENCE), contrastive(0.0))
        )(0.5)
    )
    np.testing.assert_allclose(forward, exact, rtol=2e-5)
    np.testing.assert_allclose(backward, exact, rtol=2e-5)


def test_new_numbers_compile_nothing() -> None:
    slope = jax.value_and_grad(lambda x: limit("cdpo", x)[0])
    slope(0.0)
    slope(0.1)
    with counted_compilations() as compiled:
        slope(0.2)
    assert compiled == []


def test_where_there_is_no_derivative_it_is_refused() -> None:
    uniform = np.full(2, -np.log(2))
    sure = didsim.Pairs([0, 0], [1, 1])
    with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify"):
        jax.grad(lambda b: didsim.fixed_point(didsim.dpo(b), uniform, sure)[0])(0.5)
    with pytest.raises(didsim.NoMinimiserError, match="A gradient rule minimises nothing"):
        jax.grad(lambda b: didsim.fixed_point(didsim.dpo_pg(b), uniform, sure)[0])(0.5)
    for make in (didsim.slic, didsim.dpop):
        with pytest.raises(ValueError, match="the loss has corners, and its minimiser may sit in one"):
            jax.grad(
                lambda b, make=make: didsim.fixed_point(make(b), log_softmax(REFERENCE), contrastive(0.0))[0]
            )(0.5)
    with pytest.raises(ValueError, match=r"`fixed_point` has no closed form .* outside jit and vmap"):
        jax.jit(jax.grad(lambda x: limit("cdpo", x)[0]))(0.0)
    policy = didsim.LogLinear(np.eye(SIZE), np.zeros(SIZE))
    with pytest.raises(ValueError, match="`policy` has no closed form"):
        jax.grad(
            lambda b: didsim.fixed_point(
                didsim.cdpo(b), log_softmax(REFERENCE), contrastive(0.0), policy=policy
            )[0]
        )(0.5)


def test_a_start_does_not_change_derivatives() -> None:
    start = limit("cdpo", 0.05)
    plain, started = (jax.jacfwd(lambda x, s=s: limit("cdpo", x, s))(0.0) for s in (None, start))
    np.testing.assert_allclose(started, plain, rtol=1e-10)
