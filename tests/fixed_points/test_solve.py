"""Minimisers against training, other solvers and closed forms by hand; and what is certified of them."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from scipy.special import expit, lambertw, log_softmax

import didsim
from didsim.objectives.kernels import Logistic, Sigmoid
from didsim.objectives.rewards import LogOdds, LogRatio
from didsim.objectives.terms import Pair, Single
from tests import papers

SIZE, SEEDS, BETA = 6, 3, 0.5
RNG = np.random.default_rng(0)
REFERENCE, CHOSEN = log_softmax(RNG.normal(size=(2, SEEDS, SIZE)), axis=-1)
# No preference is surer than 0.8, as robust DPO with a fifth of all labels flipped asks for.
REJECTED = log_softmax(CHOSEN + RNG.uniform(-0.6, 0.6, size=(SEEDS, SIZE)), axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)
LENGTHS = np.array([1, 2, 2, 3, 1, 4])
UNIFORM = np.full(SIZE, -np.log(SIZE))
OBJECTIVES = papers.make(BETA)


@functools.cache
def solved(name: str) -> didsim.Solution:
    return didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, LENGTHS)


def table_of(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return np.exp(chosen)[..., :, None] * np.exp(rejected)[..., None, :]


TABLES = table_of(CHOSEN, REJECTED)


def loss_of(
    name: str, logits: Any, held: Any, reference: np.ndarray, table: np.ndarray, beta: float = BETA
) -> float:
    """The expectation over a table of pairs of the loss that the paper has."""
    p, held = log_softmax(logits), log_softmax(held)
    rewards = beta * (held - reference)
    baseline = {
        "bco": np.sum(table * (rewards[:, None] + rewards) / 2),
        "kto": max(0.0, np.sum(np.exp(held) * rewards)),
    }.get(name, 0.0)
    pair = papers.Pair(
        *(p[:, None], p[None, :], reference[:, None], reference[None, :]),
        *(LENGTHS[: len(p), None], LENGTHS[None, : len(p)], baseline),
    )
    return float(np.sum(table * papers.PAPERS[name](beta, pair)))


def gradient_of(name: str, log_probs: Any, reference: np.ndarray, table: np.ndarray) -> np.ndarray:
    """In logits, by differences of fourth order: good to some 1e-12 where rewards are a few nats."""
    log_probs, step = np.asarray(log_probs, float), 1e-3

    def along(direction: np.ndarray) -> float:
        at = {
            k: loss_of(name, log_probs + k * step * direction, log_probs, reference, table)
            for k in (-2, -1, 1, 2)
        }
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)

    return np.array([along(direction) for direction in np.eye(len(log_probs))])


STEPS = 6000
ADAM = optax.adam(optax.cosine_decay_schedule(0.1, STEPS), b2=0.99)
LAST = didsim.Record(every=10_000, metrics={"loss": didsim.METRICS["loss"]})


def trained(objective: didsim.Objective, problem: Any = PROBLEM) -> jax.Array:
    policy = didsim.EnergyBased(np.zeros((SEEDS, SIZE)))  # DPO-positive may have its limit at the reference
    run = didsim.train(policy, REFERENCE, problem, objective, ADAM, STEPS, record=LAST, lengths=LENGTHS)
    return run.policy.log_probs()


@pytest.mark.parametrize("name", [name for name in papers.NAMES if name not in papers.NO_LIMIT])
def test_training_ends_at_the_minimiser(name: str) -> None:
    distance = didsim.js(trained(OBJECTIVES[name]), solved(name).log_probs)
    assert float(distance.max()) < 1e-10
    # It is another policy than the one that training starts from.
    assert float(didsim.js(UNIFORM, solved(name).log_probs).min()) > 1e-3


@pytest.mark.parametrize(
    "name", [name for name in papers.NAMES if name not in (*papers.NO_LIMIT, *papers.KINKED, "apo_zero")]
)
def test_the_gradient_vanishes(name: str) -> None:
    solution = solved(name)
    assert float(jnp.max(solution.certificate.gradient_norm)) < 1e-14
    for k in range(SEEDS):
        np.testing.assert_allclose(np.exp(solution.log_probs[k]).sum(), 1, rtol=1e-14)
        assert np.abs(gradient_of(name, solution.log_probs[k], REFERENCE[k], TABLES[k])).max() < 1e-11


@pytest.mark.parametrize("name", ["cdpo", "simpo", "cpo", "orpo", "exo"])
def test_scipy_finds_nothing_lower(name: str) -> None:
    for k in range(SEEDS):

        def loss(logits: Any, k: int = k) -> float:
            return loss_of(name, logits, logits, REFERENCE[k], TABLES[k])

        least = loss(solved(name).log_probs[k])
        found = scipy.optimize.minimize(loss, REFERENCE[k])
        assert least <= found.fun + 1e-14
        # BFGS stops at a gradient of 1e-5: so much above the minimum for a curvature of 1e-3 or more.
        assert found.fun <= least + 1e-10 / (2 * 1e-3)


# What is known of the minimisers: method, starts, whether unique.
CERTIFIED: dict[str, tuple[str, int, bool | None]] = {
    "dpo": ("closed form", 1, True),
    "exponential": ("closed form", 1, True),
    "ipo": ("closed form", 1, True),
    "reference_free": ("closed form", 1, True),
    "sft": ("closed form", 1, True),
    "length_normalised_dpo": ("closed form, one root", 1, True),
    "fdpo_forward_kl": ("closed form, one root", 1, True),
    "fdpo_js": ("closed form, one root", 1, True),
    "fdpo_alpha": ("closed form, one root", 1, True),
    "slic": ("linear program", 1, True),
    "cdpo": ("Newton on rewards", 1, True),
    "robust": ("Newton on rewards", 1, True),
    "simpo": ("Newton on rewards", 1, True),
    "exo": ("Newton on rewards", 8, None),
    "discopop": ("Newton on rewards", 8, None),
    "cpo": ("Newton on logits", 1, True),
    "dpop": ("Newton on logits", 1, True),
    "orpo": ("Newton on logits", 8, None),
    "bco": ("Newton on logits", 8, None),
    "kto": ("Newton on logits", 8, None),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_certificates(name: str) -> None:
    method, starts, unique = CERTIFIED[name]
    known = solved(name).certificate
    assert (known.method, known.starts) == (method, starts)
    if unique is None:
        assert known.unique is None
    else:
        assert known.unique is not None
        assert known.unique.tolist() == [unique] * SEEDS
    assert known.converged.tolist() == known.finite.tolist() == [True] * SEEDS
    if starts == 1:
        assert known.agreed is None
    else:
        assert known.agreed is not None
        assert known.agreed.tolist() == [True] * SEEDS
    assert float(known.last_step.max()) < (1e-12 if method.startswith("Newton") else 1e-300)
    assert known.component.shape == known.identified.shape == (SEEDS, SIZE)
    assert known.identified.all()
    assert not known.component.any()
    assert np.isfinite(known.duality_gap).all() == (method == "linear program")
    assert solved(name).objection() is None
    assert solved(name).policy is None


def test_a_gradient_rule_has_no_minimiser() -> None:
    solution = solved("dpo_pg")
    assert solution.certificate.method == "none"
    assert np.isnan(solution.log_probs).all()
    assert not solution.certificate.converged.any()
    assert not solution.certificate.finite.any()
    with pytest.raises(didsim.NoMinimiserError, match="A gradient rule minimises nothing"):
        didsim.fixed_point(OBJECTIVES["dpo_pg"], REFERENCE, PROBLEM)


def test_apo_down_runs_off() -> None:
    solution = solved("apo_down")
    known = solution.certificate
    # A probability of e^−100 is on its way to zero, however small the gradient is there.
    assert float(solution.log_probs.min(axis=-1).max()) < -100
    assert not known.finite.any()
    assert not known.converged.any()
    objection = solution.objection()
    assert objection is not None
    assert "the policy runs off in 3 of 3 problems" in objection


# Each sequence is chosen ten times as often as the one before, against a uniform one.
SURE = np.log(10) * np.arange(SIZE)


def test_robust_dpo_with_preferences_surer_than_its_noise_allows_runs_off() -> None:
    chosen = np.stack([CHOSEN[0], log_softmax(SURE), log_softmax(-SURE)])
    rejected = np.stack([REJECTED[0], *np.full((2, SIZE), -np.log(SIZE))])
    problem = didsim.Contrastive(chosen, rejected)
    solution = didsim.solve(OBJECTIVES["robust"], REFERENCE, problem, LENGTHS)
    known = solution.certificate
    assert known.converged.tolist() == known.finite.tolist() == [True, False, False]
    assert known.unique is None or known.unique.tolist() == [True, False, False]
    np.testing.assert_allclose(solution.log_probs[0], solved("robust").log_probs[0], rtol=1e-12)
    with pytest.raises(didsim.NoMinimiserError, match="the policy runs off in 2 of 3 problems") as caught:
        didsim.fixed_point(OBJECTIVES["robust"], REFERENCE, problem, LENGTHS)
    assert isinstance(caught.value, ValueError)
    assert caught.value.solution.certificate.converged.tolist() == [True, False, False]


def test_the_gradient_of_where_it_stopped_is_that_in_logits() -> None:
    """Of a policy on its way out, so that it is not zero; the loss's own weight counts."""
    problem = didsim.Contrastive(log_softmax(SURE), np.full(SIZE, -np.log(SIZE)))
    solution = didsim.solve(3 * OBJECTIVES["robust"], REFERENCE[0], problem)
    table = table_of(np.asarray(problem.chosen), np.asarray(problem.rejected))
    h = BETA * (np.asarray(solution.log_probs) - REFERENCE[0])
    flips = papers.FLIPS / (1 - 2 * papers.FLIPS)
    slope = 3 * BETA * table * (-expit(h[None, :] - h[:, None]) - flips)
    gradient = slope.sum(axis=1) - slope.sum(axis=0)
    assert np.abs(gradient).max() > 0.01
    assert float(solution.certificate.gradient_norm) == pytest.approx(np.abs(gradient).max(), rel=1e-6)


def test_the_message_tells_of_the_problem_that_did_not_converge() -> None:
    """That the limit is far out in one problem says nothing of another, which is nearer."""
    uniform = np.full((2, SIZE), -np.log(SIZE))
    problem = didsim.Contrastive(np.stack([log_softmax(SURE), uniform[0]]), uniform)
    solution = didsim.solve(didsim.dpo(0.01), REFERENCE[0], problem)
    assert float(solution.log_probs[0].min()) < -300 < float(solution.log_probs[1].min())
    stopped = jnp.array([True, False])
    objection = eqx.tree_at(lambda one: one.certificate.converged, solution, stopped).objection()
    assert objection is not None
    assert "the solver did not converge in 1 of 2 problems" in objection


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
        verdict = solved("sppo").certificate.unique
        assert verdict is None or mu <= 1e-9


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
    unique = solved("nca").certificate.unique
    proven = [False] * SEEDS if unique is None else unique.tolist()
    assert all(one is not None for one, proof in zip(by_hand, proven, strict=True) if proof)


def on_the_boundary(gains: np.ndarray, reference: np.ndarray, beta: float, z: float) -> np.ndarray:
    """The maximiser of `Σ gains · σ(beta log(π/ref) − z)` over the simplex, by its optimality conditions.

    The gain of a little more mass, `g beta σ′(h − z) / π`, falls in `π` for `beta ≤ 1`, from infinity. So it
    is one multiplier for all whose gain is positive.
    """
    ref = np.exp(reference)

    def mass(log_multiplier: float) -> np.ndarray:
        def one(gain: float, ref: float) -> float:
            if gain <= 0:
                return 0.0

            def log_slope(t: float) -> float:
                h = beta * t - z
                surprises = np.logaddexp(0, h) + np.logaddexp(0, -h)
                return float(np.log(gain * beta / ref) - surprises - t - log_multiplier)

            return ref * np.exp(scipy.optimize.brentq(log_slope, -500, 500, xtol=1e-15))

        return np.array([one(*numbers) for numbers in zip(gains, ref, strict=True)])

    return mass(scipy.optimize.brentq(lambda m: mass(m).sum() - 1, -100, 100, xtol=1e-15))


def test_kto_and_apo_zero_end_on_the_boundary() -> None:
    for objective in (didsim.apo_zero(BETA), didsim.kto(BETA)):
        solution = didsim.solve(objective, REFERENCE, PROBLEM, LENGTHS)
        known = solution.certificate
        assert known.converged.all()
        assert known.agreed is not None
        assert known.agreed.all()
        assert not known.finite.any()
        assert "get probability zero" in known.note
        proven = known.unique is not None and bool(known.unique.all())
        assert proven == (not objective.has_baseline)
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


# Other problems of the same shape.
FIRST, SECOND = log_softmax(RNG.normal(size=(2, SEEDS, SIZE)), axis=-1)
REWARD = RNG.normal(size=(SEEDS, SIZE)) / 2
DRAWN = table_of(FIRST, SECOND)
LABELLED_TABLES = (DRAWN + np.swapaxes(DRAWN, 1, 2)) * expit(REWARD[:, :, None] - REWARD[:, None, :])
LABELLED = didsim.Labelled(REWARD, FIRST, SECOND)
SHARE = 0.3
KINDS: dict[str, tuple[didsim.preferences.Problem, np.ndarray]] = {
    "labelled": (LABELLED, LABELLED_TABLES),
    "joint": (didsim.preferences.Joint(np.log(LABELLED_TABLES)), LABELLED_TABLES),
    "mixture": (
        didsim.Mixture((PROBLEM, LABELLED), np.log([SHARE, 1 - SHARE])),
        SHARE * TABLES + (1 - SHARE) * LABELLED_TABLES,
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("labelled", name) for name in ("dpo", "ipo", "exponential", "cdpo", "exo", "sft", "cpo")),
        *(("joint", name) for name in ("dpo", "cdpo")),
        *(("mixture", name) for name in ("ipo", "cdpo", "cpo")),
    ],
)
def test_other_kinds_of_problems(kind: str, name: str) -> None:
    problem, tables = KINDS[kind]
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, problem, LENGTHS)
    assert solution.objection() is None
    for k in range(SEEDS):
        assert np.abs(gradient_of(name, solution.log_probs[k], REFERENCE[k], tables[k])).max() < 1e-11


def test_labelled_pairs_put_apo_zero_on_its_boundary() -> None:
    solution = didsim.solve(didsim.apo_zero(BETA), REFERENCE, LABELLED)
    for k in range(SEEDS):
        gains = LABELLED_TABLES[k].sum(axis=1) - LABELLED_TABLES[k].sum(axis=0)
        expected = on_the_boundary(gains, REFERENCE[k], BETA, 0.0)
        np.testing.assert_allclose(np.exp(solution.log_probs[k]), expected, rtol=1e-10, atol=1e-15)


ON_POLICY = didsim.Online(REWARD, didsim.OnPolicy())


@pytest.mark.parametrize("sampler", [didsim.OnPolicy(), didsim.RewardDifference()])
def test_dpo_on_online_pairs_learns_the_reward(sampler: didsim.Sampler) -> None:
    learned = didsim.fixed_point(didsim.dpo(BETA), REFERENCE, didsim.Online(REWARD, sampler))
    np.testing.assert_allclose(learned, log_softmax(REFERENCE + REWARD / BETA, axis=-1), rtol=1e-13)


@pytest.mark.parametrize("name", ["ipo", "simpo"])
def test_online_pairs_end_where_training_does(name: str) -> None:
    """Where the field vanishes that takes samplers for data: it is not the limit of uniform pairs."""
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, ON_POLICY, LENGTHS)
    assert solution.objection() is None
    assert float(didsim.js(trained(OBJECTIVES[name], ON_POLICY), solution.log_probs).max()) < 1e-10
    uniform = didsim.solve(OBJECTIVES[name], REFERENCE, ON_POLICY.uniform(), LENGTHS)
    assert float(didsim.js(uniform.log_probs, solution.log_probs).min()) > 1e-8


def test_a_weight_changes_no_minimiser_and_no_method() -> None:
    known = didsim.solve(3 * didsim.dpo(BETA), REFERENCE, PROBLEM)
    np.testing.assert_allclose(known.log_probs, solved("dpo").log_probs, rtol=1e-13)
    assert known.certificate.method == "closed form"


def test_dpo_and_a_likelihood() -> None:
    factor = 0.3
    solution = didsim.solve(didsim.dpo(BETA) + factor * didsim.sft(), REFERENCE, PROBLEM)
    assert solution.certificate.unique is not None
    assert solution.certificate.unique.all()
    assert solution.certificate.starts == 1
    for k in range(SEEDS):
        at = solution.log_probs[k], REFERENCE[k], TABLES[k]
        total = gradient_of("dpo", *at) + factor * gradient_of("sft", *at)
        assert np.abs(total).max() < 1e-11
        assert np.abs(gradient_of("dpo", *at)).max() > 1e-4


FEATURES = np.random.default_rng(5).normal(size=(SIZE, 2))


def test_a_family_of_few_features() -> None:
    name = "cdpo"
    policy = didsim.LogLinear(FEATURES, np.array([0.3, -2.0]))
    solution = didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, policy=policy)
    known = solution.certificate
    assert (known.method, known.starts) == ("Newton on parameters", 1)
    assert known.converged.all()
    assert known.unique is not None
    assert known.unique.all()
    found: Any = solution.policy
    assert found.weights.shape == (SEEDS, 2)
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_allclose(found.log_probs(), solution.log_probs, rtol=1e-13)
    for k in range(SEEDS):

        def loss(weights: Any, k: int = k) -> float:
            return loss_of(name, FEATURES @ weights, FEATURES @ weights, REFERENCE[k], TABLES[k])

        weights = np.asarray(found.weights[k])
        in_weights = FEATURES.T @ gradient_of(name, solution.log_probs[k], REFERENCE[k], TABLES[k])
        assert np.abs(in_weights).max() < 1e-11
        other = scipy.optimize.minimize(loss, np.zeros(2))
        assert loss(weights) <= other.fun + 1e-14
        np.testing.assert_allclose(weights, other.x, atol=1e-3)
        # The free minimiser is not in the family.
        free = solved(name).log_probs[k]
        assert loss_of(name, free, free, REFERENCE[k], TABLES[k]) < loss(weights) - 1e-6


def test_a_full_table_of_next_tokens_holds_the_free_minimiser() -> None:
    space = didsim.SequenceSpace(2, 2)
    reference, chosen, rejected = log_softmax(np.random.default_rng(6).normal(size=(3, space.size)), axis=-1)
    policy = didsim.Autoregressive.from_log_probs(reference, space)
    solution = didsim.solve(
        didsim.dpo(BETA), reference, didsim.Contrastive(chosen, rejected), policy=policy, starts=4
    )
    known = solution.certificate
    assert (known.starts, known.unique) == (4, None)
    assert known.agreed is not None
    assert bool(known.agreed)
    assert bool(known.converged)
    expected = log_softmax(reference + (chosen - rejected) / BETA)
    np.testing.assert_allclose(solution.log_probs, expected, atol=1e-12)
    assert isinstance(solution.policy, didsim.Autoregressive)
    np.testing.assert_allclose(solution.policy.log_probs(), solution.log_probs, rtol=1e-13)


def test_policies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`policy` must be one policy over 6 sequences; .* shape \(5,\)"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(np.zeros(5)))
    with pytest.raises(ValueError, match=r"`policy` must be one policy over 6 sequences; .* shape \(3, 6\)"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=didsim.EnergyBased(REFERENCE))
    with pytest.raises(ValueError, match="`policy` must be a Policy, as LogLinear"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, policy=REFERENCE)


BETAS = np.array([1e-3, 0.1, 1e3])


@pytest.mark.parametrize("name", ["cdpo", "exo"])
def test_rewards_do_not_depend_on_beta(name: str) -> None:
    make: Callable[..., didsim.Objective] = getattr(didsim, name)
    argument = papers.FLIPS if name == "cdpo" else papers.EXO
    objective = jax.vmap(lambda beta: make(beta, argument))(BETAS)
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    solution = didsim.solve(objective, REFERENCE[0], problem, LENGTHS)
    assert solution.certificate.converged.all()
    assert solution.certificate.finite.all()
    h = BETA * (np.asarray(solved(name).log_probs[0]) - REFERENCE[0])
    for beta, learned in zip(BETAS, solution.log_probs, strict=True):
        expected = log_softmax(REFERENCE[0] + h / beta)
        # A rounding of a reward of a nat is one of 1/beta.
        np.testing.assert_allclose(learned, expected, rtol=1e-12, atol=1e-12 * (1 + 1 / beta))


def test_betas_of_a_loss_that_is_no_function_of_rewards() -> None:
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    objective = jax.vmap(lambda beta: didsim.cpo(beta, 0.3))(BETAS)
    solution = didsim.solve(objective, REFERENCE[0], problem, LENGTHS)
    assert solution.certificate.converged.all()
    for beta, learned in zip(BETAS, np.asarray(solution.log_probs), strict=True):
        pull = beta * TABLES[0] * expit(-beta * (learned[:, None] - learned))
        gradient = pull.sum(axis=0) - pull.sum(axis=1) - 0.3 * (np.exp(CHOSEN[0]) - np.exp(learned))
        assert np.abs(gradient).max() < 1e-13 * (1 + beta)


def test_policies_that_are_nearly_sure() -> None:
    spiked = np.stack([np.array([50.0, 0, 1, 2, -1, 0]), [0, 200, 1, 2, 3, 0], [0, 1, 2, 3, -700, 0]])
    chosen = log_softmax(spiked, axis=-1)
    problem = didsim.Contrastive(chosen, REJECTED)
    learned = didsim.fixed_point(OBJECTIVES["dpo"], REFERENCE, problem, LENGTHS)
    np.testing.assert_allclose(
        learned, log_softmax(REFERENCE + (chosen - REJECTED) / BETA, axis=-1), rtol=1e-13
    )
    for name in ("cdpo", "exo"):
        solution = didsim.solve(OBJECTIVES[name], REFERENCE, problem, LENGTHS)
        assert solution.objection() is None
        for k in range(SEEDS):
            table = table_of(chosen[k], REJECTED[k])
            h = BETA * (np.asarray(solution.log_probs[k]) - REFERENCE[k])
            d = h[:, None] - h
            slope = expit(d) - (1 - papers.FLIPS)
            if name == "exo":
                slope = expit(d) * expit(-d) * (d - np.log(1 / papers.EXO - 1))
            pull = table * slope
            # Relative to what the pairs of each sequence could pull.
            mass = table.sum(axis=0) + table.sum(axis=1)
            assert np.abs((pull.sum(axis=1) - pull.sum(axis=0)) / mass).max() < 1e-12
    # A margin beside preferences of e^−700 is too much for it: then it says so.
    hard = didsim.solve(OBJECTIVES["simpo"], REFERENCE, problem, LENGTHS)
    known = hard.certificate
    assert known.converged.all() or hard.objection() is not None
    np.testing.assert_array_equal(known.finite & ~known.converged, np.zeros(SEEDS, bool))


@pytest.mark.parametrize("name", ["dpo", "cdpo", "slic", "cpo"])
def test_one_sequence(name: str) -> None:
    nothing = np.zeros(1)
    learned = didsim.fixed_point(OBJECTIVES[name], nothing, didsim.Contrastive(nothing, nothing))
    assert learned.tolist() == [0.0]


@pytest.mark.parametrize("name", ["cdpo", "nca"])
def test_two_sequences_by_a_search_along_a_line(name: str) -> None:
    reference, chosen, rejected = log_softmax(np.array([[0.3, 0.0], [0.0, 1.0], [0.4, 0.0]]), axis=-1)
    learned = didsim.fixed_point(OBJECTIVES[name], reference, didsim.Contrastive(chosen, rejected))
    table = table_of(chosen, rejected)
    found = scipy.optimize.minimize_scalar(
        lambda x: loss_of(name, np.array([x, 0]), np.array([x, 0]), reference, table),
        bracket=(-3, 3),
        options={"xtol": 1e-12},
    )
    # A loss is flat to rounding within its square root of the minimum.
    assert float(learned[0] - learned[1]) == pytest.approx(found.x, abs=1e-6)


@pytest.mark.parametrize("name", ["dpo", "ipo", "exponential", "cdpo", "robust", "exo"])
def test_equal_distributions_teach_nothing(name: str) -> None:
    learned = didsim.solve(OBJECTIVES[name], REFERENCE, didsim.Contrastive(CHOSEN, CHOSEN), LENGTHS)
    np.testing.assert_allclose(learned.log_probs, REFERENCE, atol=1e-13)


def test_bounded_losses_of_equal_distributions_have_no_one_minimiser() -> None:
    """All gains are zero, and the loss is the same for every policy."""
    with pytest.raises(didsim.NoMinimiserError):
        didsim.fixed_point(didsim.apo_zero(BETA), REFERENCE, didsim.Contrastive(CHOSEN, CHOSEN), LENGTHS)


def test_a_batch_of_betas_of_references_and_of_problems() -> None:
    betas = jnp.array([0.25, 2.0])[:, None, None]
    problem = didsim.Contrastive(CHOSEN[:2], REJECTED[:2])
    for make in (didsim.dpo, didsim.cdpo):
        learned = didsim.solve(jax.vmap(jax.vmap(jax.vmap(make)))(betas), REFERENCE[:, None], problem)
        assert learned.log_probs.shape == (2, SEEDS, 2, SIZE)
        known = learned.certificate
        assert known.converged.shape == known.gradient_norm.shape == known.last_step.shape == (2, SEEDS, 2)
        assert known.component.shape == known.identified.shape == (2, SEEDS, 2, SIZE)
        # Rewards are those of the problem, whatever beta and the reference.
        shape = (2, SEEDS, 2, SIZE)
        rewards = np.asarray(betas)[..., None] * (np.asarray(learned.log_probs) - REFERENCE[:, None])
        rewards -= rewards.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(rewards, np.broadcast_to(rewards[:1, :1], shape), atol=1e-13)
        if make is didsim.dpo:
            expected = CHOSEN[:2] - REJECTED[:2]
            expected = expected - expected.mean(axis=-1, keepdims=True)
            np.testing.assert_allclose(rewards, np.broadcast_to(expected, shape), atol=1e-13)
        assert np.abs(rewards[0, 0, 0] - rewards[0, 0, 1]).max() > 0.1


@pytest.mark.parametrize("make", [didsim.ipo, didsim.simpo, didsim.exponential])
def test_a_batch_of_objectives_is_each_of_them(make: object) -> None:
    def build(value: jax.Array) -> didsim.Objective:
        return didsim.simpo(value, gamma=0) if make is didsim.simpo else make(value)  # type: ignore[operator]

    one = REFERENCE[0], didsim.Contrastive(CHOSEN[0], REJECTED[0]), LENGTHS
    values = jnp.array([0.3, 1.0])
    both = didsim.fixed_point(jax.vmap(build)(values), *one)
    for k, value in enumerate(values):
        np.testing.assert_allclose(both[k], didsim.fixed_point(build(value), *one), rtol=1e-12)


def test_a_margin_of_zero_is_none() -> None:
    objective = didsim.simpo(BETA, gamma=np.zeros(SEEDS))
    by_newton = didsim.fixed_point(objective, REFERENCE, PROBLEM, LENGTHS)
    closed = didsim.fixed_point(didsim.simpo(BETA, gamma=0), REFERENCE, PROBLEM, LENGTHS)
    np.testing.assert_allclose(by_newton, closed, atol=1e-12)


def test_float32_stays_float32_within_its_rounding() -> None:
    single = REFERENCE.astype(np.float32), CHOSEN.astype(np.float32), REJECTED.astype(np.float32)
    learned = didsim.fixed_point(didsim.dpo(BETA), single[0], didsim.Contrastive(*single[1:]))
    assert learned.dtype == jnp.float32
    # Four roundings of log-probabilities of at most 5 nats, one of them divided by beta.
    bound = np.finfo(np.float32).eps * 5 * (4 + 4 / BETA)
    assert np.abs(np.asarray(learned, np.float64) - solved("dpo").log_probs).max() < bound


def test_float32_is_as_good_as_its_certificate_says() -> None:
    single = REFERENCE.astype(np.float32), CHOSEN.astype(np.float32), REJECTED.astype(np.float32)
    objective = jax.tree.map(lambda leaf: leaf.astype(np.float32), OBJECTIVES["cdpo"])
    solution = didsim.solve(objective, single[0], didsim.Contrastive(*single[1:]), LENGTHS)
    assert solution.log_probs.dtype == jnp.float32
    # A loss of about 1 is flat to rounding within the square root of it, for a curvature of 1e-2 or more.
    far = 10 * np.sqrt(np.finfo(np.float32).eps)
    np.testing.assert_allclose(solution.log_probs, solved("cdpo").log_probs, atol=far)
    assert solution.certificate.converged.all() or solution.objection() is not None


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


def test_what_has_no_closed_form_is_refused_under_jit() -> None:
    message = "`fixed_point` has no closed form for this objective and problem, and must be called outside"
    for make in (didsim.cdpo, didsim.cpo, didsim.kto, didsim.slic, didsim.dpop, didsim.dpo_pg):
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda beta, make=make: didsim.fixed_point(make(beta), REFERENCE, PROBLEM))(BETA)
    with pytest.raises(ValueError, match=message):
        jax.grad(lambda beta: didsim.fixed_point(didsim.simpo(beta, 1.0), REFERENCE, PROBLEM).sum())(BETA)
    with pytest.raises(ValueError, match="`solve` must be called outside jit, vmap and grad"):
        jax.jit(lambda beta: didsim.solve(didsim.dpo(beta), REFERENCE, PROBLEM).log_probs)(BETA)


@pytest.mark.parametrize("make", [didsim.dpo, didsim.exponential, didsim.ipo])
def test_what_has_no_minimiser_is_an_error_under_jit(make: Callable[..., didsim.Objective]) -> None:
    with np.errstate(divide="ignore"):
        holed = np.log(np.array([0.5, 0.5, 0, 0, 0, 0]))
    uniform = np.full(SIZE, -np.log(SIZE))
    problems = [didsim.Contrastive(holed, holed), didsim.Labelled(REWARD[0], holed, holed)]
    if make is not didsim.ipo:
        problems += [didsim.Contrastive(holed, uniform), didsim.Contrastive(uniform, holed)]
    for problem in problems:
        with pytest.raises(eqx.EquinoxRuntimeError, match="`objective` has no minimiser to return here"):
            eqx.filter_jit(lambda beta, p=problem: didsim.fixed_point(make(beta), REFERENCE[0], p))(BETA)
    whole = didsim.Labelled(REWARD[0], uniform, holed)
    found = eqx.filter_jit(lambda beta: didsim.fixed_point(make(beta), REFERENCE[0], whole))(BETA)
    np.testing.assert_allclose(found, didsim.fixed_point(make(BETA), REFERENCE[0], whole), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0, 50.0, 2e6, 1e8])
def test_no_family_has_a_minimiser_where_nobody_beats_the_winner(beta: float, dtype: Any) -> None:
    uniform = np.full(3, -np.log(3), dtype)
    chain = didsim.Pairs(np.array([0, 1]), np.array([1, 2]))
    free = didsim.EnergyBased(uniform)
    with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify 2 of 3 sequences"):
        didsim.fixed_point(didsim.dpo(beta), uniform, chain, policy=free)
    for scale in (1, 1e3, 1e5):
        features = didsim.LogLinear((scale * np.eye(3)[:, :2]).astype(dtype), np.zeros(2, dtype))
        with pytest.raises(didsim.NoMinimiserError, match=r"runs off|did not converge"):
            didsim.fixed_point(didsim.dpo(beta), uniform, chain, policy=features)


def test_sums_of_losses_of_differences_tell_what_pairs_do_not_identify() -> None:
    uniform, pairs = np.full(3, -np.log(3)), didsim.Pairs(np.array([0, 1]), np.array([1, 0]))
    for objective in (didsim.dpo(1.0) + didsim.dpo(0.5), didsim.dpo(1.0) + didsim.ipo(0.5)):
        known = didsim.solve(objective, uniform, pairs).certificate
        assert known.identified.tolist() == [True, True, False]
        assert not known.finite
    # The square rises on both sides, and holds what only ever won.
    one_way = didsim.Pairs(np.array([0, 1]), np.array([1, 2]))
    both = didsim.solve(didsim.dpo(1.0) + didsim.ipo(0.5), uniform, one_way).certificate
    assert both.identified.all()
    assert both.finite
    assert not didsim.solve(didsim.dpo(1.0) + didsim.dpo(0.5), uniform, one_way).certificate.identified.all()


def test_a_family_is_refused_under_jit() -> None:
    policy = didsim.LogLinear(FEATURES, np.zeros(2))
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda beta: didsim.fixed_point(didsim.dpo(beta), REFERENCE, PROBLEM, policy=policy))(BETA)


# Wrong arguments.


def test_what_has_no_full_support_is_refused() -> None:
    with np.errstate(divide="ignore"):
        holed = np.log(np.array([0.5, 0.5, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="`reference` must give every sequence a positive probability"):
        didsim.fixed_point(didsim.dpo(), holed, PROBLEM)
    uniform = np.full(SIZE, -np.log(SIZE))
    for problem in (
        didsim.Contrastive(holed, uniform),
        didsim.Contrastive(uniform, holed),
        didsim.Labelled(REWARD[0], holed, holed),
    ):
        with pytest.raises(didsim.NoMinimiserError, match="the pairs do not identify"):
            didsim.fixed_point(didsim.dpo(), REFERENCE, problem)
    # One sampler of full support compares everything with what the other draws.
    learned = didsim.fixed_point(didsim.dpo(BETA), REFERENCE, didsim.Labelled(REWARD, uniform, holed))
    np.testing.assert_allclose(learned, log_softmax(REFERENCE + REWARD / BETA, axis=-1), atol=1e-12)


def test_the_likelihood_of_what_is_never_chosen() -> None:
    solution = didsim.solve(
        didsim.sft(), REFERENCE[0], didsim.Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]))
    )
    np.testing.assert_allclose(np.exp(solution.log_probs), [2 / 3, 1 / 3, 0, 0, 0, 0], atol=1e-15)
    assert not bool(solution.certificate.finite)
    assert not np.isnan(solution.certificate.gradient_norm)
    with pytest.raises(didsim.NoMinimiserError, match="no minimiser gives every sequence a positive prob"):
        didsim.fixed_point(didsim.sft(), REFERENCE[0], didsim.Pairs(np.array([0, 0, 1]), np.array([1, 2, 2])))


def test_shapes_that_do_not_fit_are_refused() -> None:
    for call in (didsim.fixed_point, didsim.solve):
        with pytest.raises(ValueError, match="`problem` must be over 3 sequences; got one over 6"):
            call(didsim.dpo(), log_softmax(np.zeros(3)), PROBLEM)
        with pytest.raises(ValueError, match=r"`lengths` must have one entry for each of 6 sequences"):
            call(didsim.dpo(), REFERENCE, PROBLEM, lengths=np.array([1, 2]))
        with pytest.raises(ValueError, match="`losers` must index one of 6 sequences"):
            call(didsim.dpo(), REFERENCE, didsim.Pairs(np.array([0]), np.array([6])))
        with pytest.raises(ValueError, match="must broadcast together"):
            call(didsim.dpo(), REFERENCE[:2], PROBLEM)
        with pytest.raises(ValueError, match="must broadcast together"):
            call(jax.vmap(didsim.dpo)(jnp.ones(2)), REFERENCE, PROBLEM)


@pytest.mark.parametrize("starts", [0, -1, 2.5])
def test_there_must_be_a_start(starts: Any) -> None:
    with pytest.raises(ValueError, match="`starts` must be an integer of at least 1"):
        didsim.solve(didsim.dpo(), REFERENCE, PROBLEM, starts=starts)


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`objective` must be an Objective, as .* makes; got 'dpo'"):
        didsim.fixed_point("dpo", REFERENCE, PROBLEM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`problem` must be a Problem, as Contrastive, Labelled or Pairs"):
        didsim.fixed_point(didsim.dpo(), REFERENCE, REFERENCE)
    with pytest.raises(ValueError, match="`reference` must be log-probabilities normalised"):
        didsim.fixed_point(didsim.dpo(), REFERENCE + 1, PROBLEM)
