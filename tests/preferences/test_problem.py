import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import log_softmax, logsumexp

from didsim import Contrastive, Labelled, Mixture, Pairs, Problem
from didsim.objectives.kernels import SURPRISE
from tests.preferences.problem_cases import (
    ACROSS,
    EXPECT,
    EXPECT_EXP,
    MARGINALS,
    PROBLEMS,
    REWARD,
    P,
    Q,
    problems,
)
from tests.strategies import hostile_logits, ordinary_logits
from tests.tables import expectation, table

EPS = float(np.finfo(np.float64).eps)


def test_pairs_that_never_occur_have_no_preference() -> None:
    problem = Contrastive(np.array([0.0, -np.inf, -np.inf]), np.array([0.0, -np.inf, -np.inf]))
    assert np.isnan(problem.preference(1, 2))
    assert float(Contrastive(np.array([0.0, -np.inf]), np.log([0.5, 0.5])).preference(0, 1)) == 1


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("i", "j"),
    [
        (np.array([[0], [1]]), np.array([0, 1, 2])),
        (np.array([[0]]), np.array([0, 1])),
        (np.array(2), np.array([0, 1])),
        (np.array([0, 1]), np.array([1, 2])),
    ],
)
def test_indices_of_any_shapes_broadcast_apart_from_the_batch(
    name: str, i: np.ndarray, j: np.ndarray
) -> None:
    problem = PROBLEMS[name]
    batch = jax.tree.map(lambda x: jnp.stack([x, jnp.roll(x, 1)]), problem)
    shifted = jax.tree.map(lambda x: jnp.roll(x, 1), problem)
    result = batch.preference(i, j)
    shape = np.broadcast_shapes(i.shape, j.shape)
    assert result.shape == (2, *shape)
    whole_i, whole_j = np.broadcast_to(i, shape), np.broadcast_to(j, shape)
    for place in np.ndindex(shape):
        a, b = int(whole_i[place]), int(whole_j[place])
        for row, one in enumerate((problem, shifted)):
            np.testing.assert_allclose(result[(row, *place)], one.preference(a, b), rtol=1e-13)


@given(problems(), st.data())
def test_expectations_agree_with_a_double_loop(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = drawn
    x = data.draw(hostile_logits(size))
    probability = np.exp(table(problem, size))
    terms = [
        probability[i, j] * np.logaddexp(0, x[i] - x[j]) for i, j in itertools.product(range(size), repeat=2)
    ]
    # A kernel up to the spread of x, whose differences are rounded by a few eps of that.
    error = 8 * EPS * (1 + np.ptp(x))
    assert float(EXPECT(problem, x)) == pytest.approx(sum(terms), rel=1e-12, abs=error)


@given(problems(), st.data())
def test_expectations_across_two_values_agree_with_a_double_loop(
    drawn: tuple[Problem, int], data: st.DataObject
) -> None:
    problem, size = drawn
    x, y = data.draw(hostile_logits(size)), data.draw(hostile_logits(size))
    log_table, values = table(problem, size), np.logaddexp(0, x[:, None] - y)
    error = 8 * EPS * (1 + np.abs(x).max() + np.abs(y).max())
    found = float(ACROSS(problem, x, y))
    assert found == pytest.approx(expectation(log_table, values), rel=1e-12, abs=error)
    assert float(ACROSS(problem, x, x)) == pytest.approx(float(EXPECT(problem, x)), rel=1e-12, abs=error)


@given(problems(), st.data())
def test_expectations_of_exponentials_agree_with_a_double_loop(
    drawn: tuple[Problem, int], data: st.DataObject
) -> None:
    problem, size = drawn
    x = data.draw(hostile_logits(size))
    expected = logsumexp(table(problem, size) + x[:, None] - x)
    result = float(EXPECT_EXP(problem, x))
    assert not np.isnan(result)
    assert result >= 0
    # Exponents of up to 5000 nats are rounded by a few eps of that: 1e-11 of the sum's logarithm.
    if abs(expected) < 700:
        assert np.log(result) == pytest.approx(expected, rel=0, abs=2e-11)
    elif expected > 710:
        assert result > np.exp(699)
    else:
        assert result < np.exp(-690) or expected >= 700


@given(problems())
def test_marginals_agree_with_a_double_loop(drawn: tuple[Problem, int]) -> None:
    problem, size = drawn
    log_table = table(problem, size)
    for result, axis in zip(MARGINALS(problem, size), (1, 0), strict=True):
        with np.errstate(divide="ignore"):
            expected = logsumexp(log_table, axis=axis)
        assert abs(logsumexp(result)) < 1e-12
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-11)


def test_batches_agree_with_their_members() -> None:
    chosen, rejected = np.stack([P, Q])[:, None], np.stack([Q, P, Q])
    problem = Contrastive(chosen, rejected)
    assert problem.batch_shape == (2, 3)
    x = np.array([0.5, -1.0, 2.0])
    batch, batch_exp = EXPECT(problem, x), EXPECT_EXP(problem, x)
    labelled = Labelled(np.stack([REWARD, -REWARD])[:, None], P, rejected)
    assert labelled.batch_shape == (2, 3)
    batch_labelled, chosen_share = EXPECT(labelled, x), MARGINALS(labelled, 3)[0]
    assert batch.shape == batch_exp.shape == batch_labelled.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        one = Contrastive(chosen[i, 0], rejected[j])
        np.testing.assert_allclose(batch[i, j], EXPECT(one, x), rtol=1e-13)
        np.testing.assert_allclose(batch_exp[i, j], EXPECT_EXP(one, x), rtol=1e-13)
        single = Labelled(labelled.reward[i, 0], P, rejected[j])
        np.testing.assert_allclose(batch_labelled[i, j], EXPECT(single, x), rtol=1e-13)
        np.testing.assert_allclose(chosen_share[i, j], MARGINALS(single, 3)[0], rtol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
def test_expectations_agree_under_vmap(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    mapped = jax.vmap(lambda x: PROBLEMS[name].expect(jax.nn.softplus, x))(jnp.asarray(x))
    np.testing.assert_allclose(mapped, [float(EXPECT(PROBLEMS[name], row)) for row in x], rtol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ["expect", "expect_exp"])
def test_gradients_agree_with_finite_differences(name: str, method: str) -> None:
    problem = PROBLEMS[name]

    def function(x: jax.Array) -> jax.Array:
        return problem.expect(jax.nn.softplus, x) if method == "expect" else problem.expect_exp(x)

    check_grads(jax.jit(function), (jnp.array([0.3, -0.7, 1.1]),), 1, atol=1e-7, rtol=1e-7)


def _total(problem: Problem, x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    shares = problem.chosen_marginal(size) if not isinstance(problem, Pairs) else jnp.zeros(size)
    return problem.expect(jax.nn.softplus, x) + shares @ jnp.arange(1.0, size + 1)


GRADIENT = eqx.filter_jit(eqx.filter_grad(lambda both: _total(*both)))


@given(problems(), st.data())
def test_gradients_are_finite_at_hostile_inputs(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = drawn
    gradient = GRADIENT((problem, jnp.asarray(data.draw(hostile_logits(size)))))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def narrowed(problem: Problem) -> Problem:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, problem)


@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_stays_float32(name: str) -> None:
    problem, x = narrowed(PROBLEMS[name]), jnp.array([0.3, -0.7, 1.1], jnp.float32)
    assert problem.expect(jax.nn.softplus, x).dtype == jnp.float32
    assert problem.expect_exp(x).dtype == jnp.float32
    assert problem.preference(0, 1).dtype == jnp.float32
    assert problem.chosen_marginal(3).dtype == jnp.float32
    assert problem.rejected_marginal(3).dtype == jnp.float32


@given(problems(), st.data())
def test_expectations_in_float32(drawn: tuple[Problem, int], data: st.DataObject) -> None:
    problem, size = narrowed(drawn[0]), drawn[1]
    x = data.draw(ordinary_logits(size)).astype(np.float32)
    wide = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, problem
    )
    probability = np.exp(table(wide, size))
    values = np.logaddexp(0, x[:, None].astype(float) - x.astype(float))
    eps = float(np.finfo(np.float32).eps)
    # Kernels are taken at differences of at most 6, and are good to a few eps of their value and of 6. The
    # probability of a label is σ(Δ), whose error of eps |Δ| σ(−Δ) relative to itself is below eps. Weights
    # are good to 8 eps; the sums over N and N (or over 4 pairs) to N eps each, and weights sum to 1 to N + 4.
    bound = (3 * size + 40) * eps * (probability * (values + 6)).sum()
    assert abs(float(EXPECT(problem, x)) - (probability * values).sum()) <= bound


@pytest.mark.parametrize("name", PROBLEMS)
def test_indices_and_sizes_out_of_range_are_named(name: str) -> None:
    problem = PROBLEMS[name]
    with pytest.raises(ValueError, match=r"`i` must index one of .* got -1"):
        problem.preference(-1, 0)
    with pytest.raises(ValueError, match="`j` must be integers that index sequences; got dtype float64"):
        problem.preference(0, 1.0)
    for marginal in (problem.chosen_marginal, problem.rejected_marginal):
        with pytest.raises(ValueError, match=r"`(problem|winners|losers)` .*2"):
            marginal(2)
    with pytest.raises(ValueError, match=r"`(problem|winners|losers)` .*2"):
        problem.check_size(2)
    problem.check_size(3)


@pytest.mark.parametrize("name", ["contrastive", "labelled", "joint"])
def test_populations_know_their_size(name: str) -> None:
    with pytest.raises(ValueError, match=r"`j` must index one of 3 sequences \(0 to 2\); got 3"):
        PROBLEMS[name].preference(0, 3)
    with pytest.raises(ValueError, match="`problem` must be over 4 sequences; got one over 3"):
        PROBLEMS[name].check_size(4)


def test_a_problem_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Problem()  # type: ignore[abstract]


def test_indices_of_another_kind_are_named() -> None:
    p = np.log([0.5, 0.5])
    for value in ("a", None, [[0], [0, 1]]):
        with pytest.raises(ValueError, match="`i` must be integers that index sequences; got"):
            Contrastive(p, p).preference(value, 0)


@pytest.mark.parametrize("size", [5, 100])
@pytest.mark.parametrize("kernel", [SURPRISE, jax.nn.softplus])
def test_offsets_broadcast_with_the_batch(size: int, kernel: Any) -> None:
    rng = np.random.default_rng(2)
    x, offsets = jnp.asarray(rng.normal(size=(5, size))), jnp.asarray(rng.normal(size=5))
    one, two = log_softmax(rng.normal(size=(2, size)), axis=-1)
    for problem in (Contrastive(one, two), Labelled(rng.normal(size=size), one, two)):
        together = problem.expect(kernel, x, offsets)
        for k in range(5):
            alone = problem.expect(kernel, x[k], offsets[k])
            assert float(together[k]) == pytest.approx(float(alone), rel=1e-12)


@pytest.mark.parametrize(
    "problem",
    [
        *PROBLEMS.values(),
        Labelled(REWARD, P, Q, separable=True),
        Labelled(REWARD, P, Q, separable=False),
        Mixture((Contrastive(P, Q), PROBLEMS["pairs"]), np.log([0.25, 0.75])),
    ],
)
@pytest.mark.parametrize("offset", [None, 0.7])
def test_own_curvature_is_a_sum_of_second_derivatives(problem: Problem, offset: float | None) -> None:
    x = np.array([0.3, -1.2, 2.0])
    weights = np.exp(problem.joint(3).log_probs)
    expected = np.zeros(3)
    for i, j in itertools.product(range(3), range(3)):
        d = x[i] - x[j] - (offset or 0)
        curved = weights[i, j] / (2 + np.exp(d) + np.exp(-d))  # the second derivative of the softplus
        expected[i] += curved
        expected[j] += curved
    for kernel in (SURPRISE, jax.nn.softplus):
        found = problem.own_curvature(kernel, jnp.asarray(x), None if offset is None else jnp.asarray(offset))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
