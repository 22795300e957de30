from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import didsim
from didsim import Contrastive, Labelled, Objective, Pairs, Problem
from didsim.objectives.kernels import Squared
from didsim.objectives.objective import KeepsChosen
from didsim.objectives.rewards import LogProb, LogRatio
from didsim.objectives.terms import Pair, Single
from tests.strategies import betas, hostile_logits, ordinary_logits

P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
PROBLEMS: dict[str, Problem] = {
    "contrastive": Contrastive(P, Q),
    "labelled": Labelled(np.array([0.5, 0.0, -1.0]), P, Q),
    "pairs": Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 2.0])),
    "joint": didsim.Joint(log_softmax(np.arange(9.0)).reshape(3, 3)),
    "mixture": didsim.Mixture((Contrastive(P, Q), Contrastive(Q, P)), np.log([0.3, 0.7])),
}
PARTS = (didsim.dpo(0.4), didsim.sft(), didsim.kto(0.3), didsim.orpo(0.2), didsim.bco(0.7))
FACTORS = (1.5, 0.5, 2.0, 0.1, 3.0)
LOGPS = (np.array([-3.0, -4.5]), np.array([-3.5, -2.0]), np.array([-4.0, -4.0]), np.array([-2.0, -6.0]))
LENGTHS = np.array([2, 3]), np.array([4, 1])


def total() -> Objective:
    first, *rest = (factor * part for factor, part in zip(FACTORS, PARTS, strict=True))
    for part in rest:
        first = first + part
    return first


def test_a_sum_of_pairs_is_the_weighted_sum_of_losses() -> None:
    found = total().pair_loss(*LOGPS, *LENGTHS)
    parts = [part.pair_loss(*LOGPS, *LENGTHS) for part in PARTS]
    np.testing.assert_allclose(found, np.dot(FACTORS, parts), rtol=1e-14)
    both = didsim.dpo(0.1) + 0.5 * didsim.sft()
    expected = didsim.dpo(0.1).pair_loss(*LOGPS) - 0.5 * LOGPS[0]
    np.testing.assert_allclose(both.pair_loss(*LOGPS), expected, rtol=1e-14)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_sum_over_a_population_is_the_weighted_sum_of_losses_and_gradients(kind: str) -> None:
    problem, n, logits = PROBLEMS[kind], np.array([1, 2, 3]), jnp.array([0.3, -1.0, 0.6])

    @eqx.filter_jit
    def both(objective: Objective) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda x: objective.loss(jax.nn.log_softmax(x), Q, problem, n))(logits)

    loss, gradient = both(total())
    parts = [both(part) for part in PARTS]
    np.testing.assert_allclose(loss, np.dot(FACTORS, [one for one, _ in parts]), rtol=1e-13)
    expected = np.dot(FACTORS, np.stack([one for _, one in parts]))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_factors_are_numbers_of_any_kind_on_either_side_and_multiply() -> None:
    loss = didsim.cpo(0.4, 0.3)
    once = loss.pair_loss(*LOGPS)
    for factor in (2, 2.0, np.float64(2), np.array(2.0), jnp.array(2.0)):
        for scaled in (factor * loss, loss * factor):
            assert type(scaled) is Objective
            np.testing.assert_allclose(scaled.pair_loss(*LOGPS), 2 * once, rtol=1e-15)
    np.testing.assert_allclose((3 * (0.5 * loss)).pair_loss(*LOGPS), 1.5 * once, rtol=1e-15)
    np.testing.assert_allclose((3 * (loss + loss)).pair_loss(*LOGPS), 6 * once, rtol=1e-14)


def test_factors_are_parameters() -> None:
    def loss(factor: Any) -> jax.Array:
        return (didsim.dpo(0.1) + factor * didsim.sft()).pair_loss(*LOGPS).sum()

    assert float(jax.jit(jax.grad(loss))(0.7)) == pytest.approx(-LOGPS[0].sum(), rel=1e-14)
    batch = jax.vmap(lambda factor: factor * didsim.dpo(0.1))(jnp.array([1.0, 2.0]))
    assert batch.batch_shape == (2,)
    with pytest.raises(Exception, match="`factor` must be positive and finite"):
        jax.jit(loss)(-1.0)


def test_a_sum_needs_what_its_terms_need() -> None:
    assert (didsim.dpo() + didsim.simpo()).needs_lengths
    assert not (didsim.dpo() + didsim.sft()).needs_lengths
    assert (didsim.dpo() + didsim.bco()).has_baseline
    assert isinstance((didsim.simpo() + didsim.dpo()).reward, LogProb)
    with pytest.raises(ValueError, match="`ref_chosen_logps` must be given"):
        (didsim.sft() + didsim.dpo()).pair_loss(-1.0, -2.0)
    with pytest.raises(ValueError, match="`chosen_lengths` must be given"):
        (didsim.dpo() + didsim.orpo()).pair_loss(-1.0, -2.0, -1.0, -1.0)


def test_what_does_not_add_up_is_refused() -> None:
    dpo: Any = didsim.dpo()
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="`factor` must be positive and finite; got"):
            bad * dpo
    for other in (1, 0.5, None, LogRatio(jnp.array(1.0))):
        with pytest.raises(TypeError, match="unsupported operand"):
            dpo + other
        with pytest.raises(TypeError, match="unsupported operand"):
            other + dpo
    factors: tuple[Any, ...] = ("2", None, dpo)
    for factor in factors:
        with pytest.raises(TypeError):
            dpo * factor
    with pytest.raises(ValueError, match="`terms` must be at least one Term; got none"):
        Objective()
    with pytest.raises(ValueError, match="`terms` must be terms, as Pair or Single; got"):
        Objective(dpo)


def test_a_gradient_rule_is_no_addend_but_has_a_factor() -> None:
    rule = didsim.dpo_pg(0.4)
    for one, other in ((rule, didsim.sft()), (didsim.sft(), rule), (rule, rule)):
        with pytest.raises(ValueError, match="a gradient rule is not a loss"):
            one + other
    scaled = 2 * rule
    assert isinstance(scaled, KeepsChosen)
    np.testing.assert_allclose(scaled.pair_loss(*LOGPS), 2 * rule.pair_loss(*LOGPS), rtol=1e-15)


def test_an_objective_of_ones_own_combines_parts() -> None:
    reward = LogProb(jnp.array(0.5), per_token=False)
    kernel = Squared(jnp.array(0.5))
    objective = Objective(
        Pair(reward, kernel, jnp.array(2.0)),
        Single(reward, kernel, jnp.array(0.25), sequence="rejected", push="down"),
    )
    expected = 2 * (0.5 - 0.5) ** 2 + 0.25 * (2 - 0.5) ** 2
    assert float(objective.pair_loss(-3.0, -4.0)) == pytest.approx(expected, rel=1e-14)
    assert float(objective.pair_loss(-1.0, -4.0)) == pytest.approx(2 + 0.25 * 2.25, rel=1e-14)


TREES = st.integers(0, 2**32 - 1).map(
    lambda seed: [
        {"a": jnp.asarray(one[:2]), "b": (jnp.asarray(one[2:]).reshape(2, 2),)}
        for one in np.random.default_rng(seed).normal(size=(2, 6))
    ]
)


def inner(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return float(sum(np.sum(np.asarray(a) * np.asarray(b)) for a, b in pairs))


@given(TREES, st.booleans())
def test_directions_that_would_lower_the_chosen_likelihood_are_projected(trees: Any, agree: bool) -> None:
    gradient, pull = trees
    # The loss falls against its gradient, so the chosen likelihood falls where the two agree.
    if (inner(gradient, pull) > 0) != agree:
        gradient = jax.tree.map(jnp.negative, gradient)
    rule = didsim.dpo_pg()
    found = rule.direction(gradient, lambda: pull)
    if not agree:
        assert inner(found, found) == inner(gradient, gradient)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, gradient)))
        return
    scale = np.sqrt(inner(gradient, gradient) * inner(pull, pull))
    # Six products and their sum, twice, are rounded by eps each.
    assert abs(inner(found, pull)) <= 16 * np.finfo(float).eps * scale
    share = inner(gradient, pull) / inner(pull, pull)
    expected = jax.tree.map(lambda g, p: g - share * p, gradient, pull)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    compiled = jax.jit(lambda g, p: rule.direction(g, lambda: p))(gradient, pull)
    np.testing.assert_allclose(compiled["a"], found["a"], rtol=1e-12, atol=1e-14)


def test_without_a_pull_directions_are_left_alone() -> None:
    gradient, nothing = jnp.array([1.0, -2.0]), jnp.zeros(2)
    assert np.array_equal(didsim.dpo_pg().direction(gradient, lambda: nothing), gradient)
    assert np.array_equal(didsim.dpo().direction(gradient, lambda: gradient), gradient)


@eqx.filter_jit
def gradient_and_pull(
    objective: Objective, logits: jax.Array, r: jax.Array, data: Pairs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def of(objective: Objective) -> jax.Array:
        return jax.grad(lambda x: objective.loss(jax.nn.log_softmax(x), r, data))(logits)

    gradient, pull = of(objective), -of(didsim.sft())
    return gradient, pull, objective.direction(gradient, lambda: pull)


@given(st.data(), betas)
def test_a_single_pair_on_free_logits_is_never_projected(data: st.DataObject, beta: float) -> None:
    logits, r = data.draw(hostile_logits(5)), log_softmax(data.draw(ordinary_logits(5)))
    winner, loser = data.draw(st.permutations(range(5)))[:2]
    pair = Pairs(np.array([winner]), np.array([loser]))
    gradient, pull, found = gradient_and_pull(didsim.dpo_pg(beta), jnp.asarray(logits), jnp.asarray(r), pair)
    assert np.array_equal(found, gradient)
    # ⟨e_w − e_l, e_w − π⟩ = 1 − π_w + π_l.
    p = np.asarray(jax.nn.softmax(logits))
    unit = (np.arange(5) == winner).astype(float) - (np.arange(5) == loser)
    assert unit @ np.asarray(pull) == pytest.approx(1 - p[winner] + p[loser], rel=1e-12, abs=1e-15)


def test_pairs_together_are_projected() -> None:
    """Two pairs whose pulls are opposed: the first loses to the chosen likelihood of the second."""
    data = Pairs(np.array([0, 1, 1]), np.array([2, 0, 0]), np.array([1.0, 0.2, 0.2]))
    logits, r = jnp.array([1.0, -3.0, 0.5]), jnp.asarray(P)
    projected = 0
    for k in range(40):
        x = logits + 3 * jax.random.normal(jax.random.key(k), (3,))
        gradient, pull, found = gradient_and_pull(didsim.dpo_pg(0.5), x, r, data)
        overlap = float(gradient @ pull)
        projected += overlap > 0
        assert abs(float(found @ pull)) <= 1e-14 if overlap > 0 else np.array_equal(found, gradient)
    assert 0 < projected < 40
