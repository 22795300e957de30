from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, lambertw, log_softmax

import didsim
from didsim.objectives.kernels import Logistic, Sigmoid
from didsim.objectives.rewards import LogOdds, LogRatio
from didsim.objectives.terms import Pair, Single
from tests import papers
from tests.fixed_points.limits import (
    BETA,
    CHOSEN,
    FEATURES,
    LENGTHS,
    PROBLEM,
    REFERENCE,
    REJECTED,
    REWARD,
    SEEDS,
    SIZE,
    on_the_boundary,
    solved,
)


def test_sppo_by_the_lambert_function() -> None:
    """With `c = 1/(2 beta)`: `(w + l) t − (w − l) c = mu ref e^t`, and one `mu` that normalises it."""
    learned = solved("sppo").log_probs
    for k in range(SEEDS):
        w, el, ref = np.exp(CHOSEN[k]), np.exp(REJECTED[k]), np.exp(REFERENCE[k])
        goal = (w - el) / (w + el) / (2 * BETA)

        def t(mu: float, w: Any = w, el: Any = el, ref: Any = ref, goal: Any = goal) -> np.ndarray:
            values = goal - lambertw(-mu * ref / (w + el) * np.exp(goal))
            assert np.abs(values.imag).max() == 0
            return values.real

        def excess(mu: float, t: Any = t, ref: Any = ref) -> float:
            return float(np.sum(ref * np.exp(t(mu))) - 1)

        # The function is real up to −1/e.
        most = float(np.min((w + el) / ref * np.exp(-goal - 1)))
        low, high = (-100.0, 0.0) if excess(0) > 0 else (0.0, most * (1 - 1e-12))
        mu = scipy.optimize.brentq(excess, low, high, xtol=1e-15)
        np.testing.assert_allclose(learned[k], REFERENCE[k] + t(mu), atol=1e-12)
        # The loss falls as all log-probabilities are lowered together where `mu` is positive.
        assert not solved("sppo").certificate.unique[k] or mu <= 1e-9


SLOPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    # The ratio u with f′(u) = x, and the least upper bound of f′.
    "fdpo_forward_kl": (lambda x: -1 / x, 0.0),
    "fdpo_js": (lambda x: np.exp(x) / (2 - np.exp(x)), float(np.log(2))),
    "fdpo_alpha": (lambda x: (1 - papers.ALPHA * x) ** (-1 / papers.ALPHA), 1 / papers.ALPHA),
}


@pytest.mark.parametrize("name", SLOPES)
def test_f_dpo_by_its_normaliser(name: str) -> None:
    ratio, bound = SLOPES[name]
    for k in range(SEEDS):
        h = (CHOSEN[k] - REJECTED[k]) / BETA

        def probabilities(c: float, h: Any = h, k: int = k) -> np.ndarray:
            return np.exp(REFERENCE[k]) * ratio(h + c)

        def excess(c: float, probabilities: Any = probabilities) -> float:
            return float(probabilities(c).sum() - 1)

        top = bound - h.max()
        c = scipy.optimize.brentq(excess, top - 100, top - 1e-9, xtol=1e-14)
        np.testing.assert_allclose(np.exp(solved(name).log_probs[k]), probabilities(c), rtol=1e-11)


def nca_by_hand(reference: np.ndarray, w: np.ndarray, el: np.ndarray) -> np.ndarray | None:
    """Each log-ratio alone solves `beta [½ (w + l) σ(h) − w σ(−h)] = mu ref e^t`; None if `mu > 0`."""

    def t(mu: float) -> np.ndarray:
        def one(ref: float, w: float, el: float) -> float:
            def slope(t: float) -> float:
                h = BETA * t
                return BETA * ((w + el) / 2 * expit(h) - w * expit(-h)) - mu * ref * np.exp(t)

            return scipy.optimize.brentq(slope, -60, 60, xtol=1e-15)

        return np.array([one(*numbers) for numbers in zip(np.exp(reference), w, el, strict=True)])

    def excess(mu: float) -> float:
        return float(np.sum(np.exp(reference + t(mu))) - 1)

    if excess(0) < 0:
        return None
    return reference + t(scipy.optimize.brentq(excess, -10, 0, xtol=1e-16))


def test_nca_by_one_root_for_each_sequence() -> None:
    by_hand = [nca_by_hand(REFERENCE[k], np.exp(CHOSEN[k]), np.exp(REJECTED[k])) for k in range(SEEDS)]
    assert any(one is not None for one in by_hand)
    for k, expected in enumerate(by_hand):
        if expected is not None:
            np.testing.assert_allclose(solved("nca").log_probs[k], expected, atol=1e-11)
    # Uniqueness is proven where lowering all log-probabilities does not help.
    proven = solved("nca").certificate.unique.tolist()
    assert all(one is not None for one, proof in zip(by_hand, proven, strict=True) if proof)


def test_kto_and_apo_zero_end_on_the_boundary() -> None:
    for objective in (didsim.apo_zero(BETA), didsim.kto(BETA)):
        solution = didsim.solve(objective, REFERENCE, PROBLEM, LENGTHS)
        known = solution.certificate
        assert known.converged.all()
        assert known.agreed is not None
        assert known.agreed.all()
        assert not known.finite.any()
        assert "get probability zero" in known.note
        assert known.unique.all() == (not objective.has_baseline)
        for k in range(SEEDS):
            gains = np.exp(CHOSEN[k]) - np.exp(REJECTED[k])
            learned = np.exp(np.asarray(solution.log_probs[k]))
            np.testing.assert_array_equal(learned == 0, gains <= 0)
            z = 0.0
            if objective.has_baseline:
                support = learned > 0
                log_ratio = np.log(learned[support]) - REFERENCE[k][support]
                z = BETA * float(np.sum(learned[support] * log_ratio))
                assert z > 0
            expected = on_the_boundary(gains, REFERENCE[k], BETA, z)
            np.testing.assert_allclose(learned, expected, rtol=1e-10, atol=1e-15)
        with pytest.raises(
            didsim.NoMinimiserError, match="no minimiser gives every sequence a positive prob"
        ):
            didsim.fixed_point(objective, REFERENCE, PROBLEM, LENGTHS)


def test_one_sequence_that_is_chosen_more_often_gets_all() -> None:
    """Nothing can move there: what is left of the Hessian is rounding, and no curvature."""
    chosen, rejected = np.log([0.98, 0.01, 0.01]), np.log([0.02, 0.49, 0.49])
    references = log_softmax(np.random.default_rng(1).normal(size=(20, 3)), axis=-1)
    for objective in (didsim.apo_zero(0.05), didsim.apo_zero(0.5), didsim.kto(0.25)):
        solution = didsim.solve(objective, references, didsim.Contrastive(chosen, rejected), starts=2)
        assert solution.certificate.converged.all()
        np.testing.assert_array_equal(np.exp(solution.log_probs), np.tile([1.0, 0, 0], (20, 1)))


def test_bounded_losses_of_different_betas_are_not_put_on_a_boundary_that_is_none() -> None:
    """Near zero the term of the smaller beta counts most, so that the sum of gains decides nothing."""
    reference, chosen = REFERENCE[0], np.full(SIZE, -np.log(SIZE))
    rejected = log_softmax(np.array([0.3, 0.3, 0.6, -0.9, -0.4, -1.2]))
    slow, fast = LogRatio(jnp.asarray(0.2)), LogRatio(jnp.asarray(0.9))
    objective = didsim.Objective(
        Single(slow, Sigmoid(), jnp.asarray(2.0), sequence="chosen", push="up"),
        Single(fast, Sigmoid(), jnp.asarray(3.0), sequence="rejected", push="down"),
    )

    def loss(logits: Any) -> float:
        t = log_softmax(logits) - reference
        return float(np.sum(2 * np.exp(chosen) * expit(-0.2 * t) + 3 * np.exp(rejected) * expit(0.9 * t)))

    found = scipy.optimize.minimize(loss, reference)
    solution = didsim.solve(objective, reference, didsim.Contrastive(chosen, rejected))
    assert loss(np.maximum(solution.log_probs, -700)) <= found.fun + 1e-9


def test_a_margin_of_zero_is_none() -> None:
    objective = didsim.simpo(BETA, gamma=np.zeros(SEEDS))
    by_newton = didsim.fixed_point(objective, REFERENCE, PROBLEM, LENGTHS)
    closed = didsim.fixed_point(didsim.simpo(BETA, gamma=0), REFERENCE, PROBLEM, LENGTHS)
    np.testing.assert_allclose(by_newton, closed, atol=1e-12)


def test_simpo_with_long_and_unequal_lengths_is_normalised() -> None:
    size = 200
    reference, chosen, rejected = (
        np.asarray(didsim.normal_logits(jax.random.key(k), size, 3.0)) for k in range(3)
    )
    lengths = np.random.default_rng(0).integers(1, 1000, size)
    learned = didsim.fixed_point(
        didsim.simpo(0.01, gamma=0), reference, didsim.Contrastive(chosen, rejected), lengths
    )
    h = 0.01 * np.asarray(learned) / lengths
    np.testing.assert_allclose(h - h[0], (chosen - rejected) - (chosen - rejected)[0], atol=1e-12)
    assert float(jax.nn.logsumexp(learned)) == pytest.approx(0, abs=1e-12)


def test_bare_odds_are_solved_from_several_starts() -> None:
    solution = didsim.solve(
        didsim.Objective(Pair(LogOdds(), Logistic())), REFERENCE, PROBLEM, LENGTHS, starts=3
    )
    known = solution.certificate
    # The odds of a Bradley–Terry model fit it exactly, if they can be normalised.
    for k in np.flatnonzero(np.asarray(known.converged & known.finite)):
        p = np.exp(np.asarray(solution.log_probs[k]) / LENGTHS)
        odds = np.log(p / (1 - p)) - (CHOSEN[k] - REJECTED[k])
        np.testing.assert_allclose(odds, odds[0], atol=1e-9)
    assert known.converged.any()


# Under jit.


def test_closed_forms_under_jit_and_vmap() -> None:
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    by_jit = jax.jit(lambda beta: didsim.fixed_point(didsim.dpo(beta), REFERENCE[0], problem))(BETA)
    np.testing.assert_allclose(by_jit, solved("dpo").log_probs[0], rtol=1e-13)
    over = jax.vmap(
        lambda reference, chosen, rejected: didsim.fixed_point(
            didsim.fdpo_js(BETA), reference, didsim.Contrastive(chosen, rejected)
        )
    )(*map(jnp.asarray, (REFERENCE, CHOSEN, REJECTED)))
    np.testing.assert_allclose(over, solved("fdpo_js").log_probs, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [didsim.dpo, didsim.ipo, lambda beta: didsim.simpo(beta, gamma=0), didsim.fdpo_js],
    ids=["dpo", "ipo", "simpo", "fdpo_js"],
)
def test_derivatives_of_closed_forms(make: Callable[..., didsim.Objective]) -> None:
    def entropy(beta: Any, shift: Any) -> jax.Array:
        reference = jax.nn.log_softmax(REFERENCE[0] + shift)
        problem = didsim.Contrastive(CHOSEN[0], jax.nn.log_softmax(REJECTED[0] - 0.3 * shift))
        learned = didsim.fixed_point(make(beta), reference, problem, LENGTHS)
        return -jnp.sum(jnp.exp(learned) * learned)

    shift = jnp.linspace(-1, 1, SIZE)
    value = jax.jit(entropy)
    by_beta, by_shift = jax.jit(jax.grad(entropy, (0, 1)))(BETA, shift)
    step = 1e-5
    along = (value(BETA + step, shift) - value(BETA - step, shift)) / (2 * step)
    # Differences of second order: step² of a third derivative, and 1e-16 over the step.
    assert float(by_beta) == pytest.approx(float(along), rel=1e-6, abs=1e-8)
    direction = jnp.cos(jnp.arange(SIZE))
    along = (value(BETA, shift + step * direction) - value(BETA, shift - step * direction)) / (2 * step)
    assert float(by_shift @ direction) == pytest.approx(float(along), rel=1e-6, abs=1e-8)
    assert abs(float(along)) > 1e-4


def test_what_has_no_closed_form_is_refused_under_jit_and_vmap() -> None:
    message = "`fixed_point` has no closed form for this objective and problem, and must be called outside"
    for make in (didsim.cdpo, didsim.cpo, didsim.kto, didsim.slic, didsim.dpop, didsim.dpo_pg):
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda beta, make=make: didsim.fixed_point(make(beta), REFERENCE, PROBLEM))(BETA)
    with pytest.raises(ValueError, match=message):
        jax.vmap(lambda beta: didsim.fixed_point(didsim.simpo(beta, 1.0), REFERENCE, PROBLEM))(
            jnp.full(2, BETA)
        )
    with pytest.raises(ValueError, match="`solve` must be called outside jit, vmap and grad"):
        jax.jit(lambda beta: didsim.solve(didsim.dpo(beta), REFERENCE, PROBLEM).log_probs)(BETA)


@pytest.mark.parametrize("make", [didsim.dpo, didsim.exponential, didsim.ipo])
def test_what_has_no_minimiser_is_an_error_under_jit(make: Callable[..., didsim.Objective]) -> None:
    with np.errstate(divide="ignore"):
        holed = np.log(np.array([0.5, 0.5, 0, 0, 0, 0]))
    beta, uniform = jnp.asarray(BETA), np.full(SIZE, -np.log(SIZE))
    problems = [didsim.Contrastive(holed, holed), didsim.Labelled(REWARD[0], holed, holed)]
    if make is not didsim.ipo:
        problems += [didsim.Contrastive(holed, uniform), didsim.Contrastive(uniform, holed)]
    for problem in problems:
        with pytest.raises(eqx.EquinoxRuntimeError, match="`objective` has no minimiser to return here"):
            eqx.filter_jit(lambda beta, p=problem: didsim.fixed_point(make(beta), REFERENCE[0], p))(beta)
    whole = didsim.Labelled(REWARD[0], uniform, holed)
    found = eqx.filter_jit(lambda beta: didsim.fixed_point(make(beta), REFERENCE[0], whole))(beta)
    np.testing.assert_allclose(found, didsim.fixed_point(make(BETA), REFERENCE[0], whole), rtol=1e-12)


def test_what_is_known_is_solved_under_jit() -> None:
    """Even where there is no closed form."""
    for objective in (didsim.dpo(BETA), didsim.simpo(BETA), didsim.orpo()):
        found = jax.jit(lambda one=objective: didsim.fixed_point(one, REFERENCE[0], PROBLEM))()
        np.testing.assert_allclose(found, didsim.fixed_point(objective, REFERENCE[0], PROBLEM), rtol=1e-9)


def test_a_family_is_refused_under_jit() -> None:
    policy = didsim.LogLinear(FEATURES, np.zeros(2))
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda beta: didsim.fixed_point(didsim.dpo(beta), REFERENCE, PROBLEM, policy=policy))(BETA)


def test_the_likelihood_of_what_is_never_chosen() -> None:
    solution = didsim.solve(
        didsim.sft(), REFERENCE[0], didsim.Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]))
    )
    np.testing.assert_allclose(np.exp(solution.log_probs), [2 / 3, 1 / 3, 0, 0, 0, 0], atol=1e-15)
    assert not bool(solution.certificate.finite)
    assert not np.isnan(solution.certificate.gradient_norm)
    with pytest.raises(didsim.NoMinimiserError, match="no minimiser gives every sequence a positive prob"):
        didsim.fixed_point(didsim.sft(), REFERENCE[0], didsim.Pairs(np.array([0, 0, 1]), np.array([1, 2, 2])))
