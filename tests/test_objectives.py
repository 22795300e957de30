import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import ArrayLike
from scipy.special import expit, log_softmax, logsumexp

import didsim
from didsim import OBJECTIVES, Contrastive, Labelled, Objective, Pairs, Problem
from didsim.rewards import LogProb
from tests.strategies import betas, hostile_logits, ordinary_logits

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float64).tiny)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])


def make(strength: float) -> dict[str, Objective]:
    """Every objective, with its first argument and others unlike their defaults."""
    return {
        "dpo": didsim.dpo(strength),
        "cdpo": didsim.cdpo(strength, 0.2),
        "ipo": didsim.ipo(strength),
        "simpo": didsim.simpo(strength, 0.7),
        "slic": didsim.slic(strength, 1.5),
        "orpo": didsim.orpo(strength),
        "cpo": didsim.cpo(strength, 0.3),
        "exponential": didsim.exponential(strength),
        "reference_free": didsim.reference_free(strength),
    }


NAMES = tuple(make(1.0))
CONVEX = ("dpo", "cdpo", "ipo", "slic", "exponential", "reference_free")


def softplus(x: Any) -> Any:
    return np.logaddexp(0, x)


def log_odds(log_p: Any) -> Any:
    """`log(P/(1 − P))`, with `1 − P` held above the smallest normal number."""
    return log_p - np.log(np.maximum(-np.expm1(log_p), TINY))


# The formulas of the papers, on log-probabilities of the policy (`w` of the chosen, `y` of the rejected)
# and the reference and on lengths, with `b` for the first argument of an objective.
PAPERS: dict[str, Callable[..., Any]] = {
    # Rafailov et al., equation 7.
    "dpo": lambda b, w, y, rw, rl, nw, nl: softplus(-(b * (w - rw) - b * (y - rl))),
    # Mitchell: the cross-entropy with labels flipped by 0.2.
    "cdpo": lambda b, w, y, rw, rl, nw, nl: (
        0.8 * softplus(-(b * (w - rw) - b * (y - rl))) + 0.2 * softplus(b * (w - rw) - b * (y - rl))
    ),
    # Azar et al., equation 17.
    "ipo": lambda b, w, y, rw, rl, nw, nl: ((w - rw) - (y - rl) - 1 / (2 * b)) ** 2,
    # Meng et al., equation 6.
    "simpo": lambda b, w, y, rw, rl, nw, nl: softplus(-(b / nw * w - b / nl * y - 0.7)),
    # Zhao et al., with the log-ratio for log π.
    "slic": lambda b, w, y, rw, rl, nw, nl: np.maximum(0, 1.5 - (b * (w - rw) - b * (y - rl))),
    # Hong et al., equations 6 and 7.
    "orpo": lambda b, w, y, rw, rl, nw, nl: -w / nw + b * softplus(-(log_odds(w / nw) - log_odds(y / nl))),
    # Xu et al., equation 5, with 0.3 for the weight of the likelihood.
    "cpo": lambda b, w, y, rw, rl, nw, nl: softplus(-(b * w - b * y)) - 0.3 * w,
    # Tang et al., table 1.
    "exponential": lambda b, w, y, rw, rl, nw, nl: np.exp(-(b * (w - rw) - b * (y - rl))),
    "reference_free": lambda b, w, y, rw, rl, nw, nl: softplus(-(b * w - b * y)),
}


def implicit_reward(name: str, b: float, p: np.ndarray, r: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The reward whose size decides how rounding enters."""
    if name == "ipo":
        return p - r
    if name == "simpo":
        return b * p / n
    if name == "orpo":
        return log_odds(p / n)
    return b * p if name in ("cpo", "reference_free") else b * (p - r)


def joint(problem: Problem, size: int) -> np.ndarray:
    """The log-probability that `i` is chosen and `j` rejected."""
    table = np.full((size, size), -np.inf)
    if isinstance(problem, Pairs):
        weights = np.ones(problem.winners.shape) if problem.weights is None else np.asarray(problem.weights)
        for w, y, weight in zip(problem.winners, problem.losers, weights / weights.sum(), strict=True):
            with np.errstate(divide="ignore"):
                table[int(w), int(y)] = np.logaddexp(table[int(w), int(y)], np.log(weight))
        return table
    for i, j in itertools.product(range(size), repeat=2):
        if isinstance(problem, Contrastive):
            table[i, j] = problem.chosen[i] + problem.rejected[j]
        elif isinstance(problem, Labelled):
            shown = np.logaddexp(problem.first[i] + problem.second[j], problem.first[j] + problem.second[i])
            table[i, j] = shown - softplus(np.asarray(problem.reward[j] - problem.reward[i]))
    return table


def population(
    name: str, b: float, p: np.ndarray, r: np.ndarray, n: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """The loss pair by pair, and a bound on rounding.

    A reward of size A is rounded by a few eps of A, and the loss by that times the slope of the kernel: at
    most 1 for those that end in a logistic or a hinge, and at most 2 (2A + centre) for a square.
    """
    losses = np.array(
        [[PAPERS[name](b, p[i], p[j], r[i], r[j], n[i], n[j]) for j in range(len(p))] for i in range(len(p))]
    )
    size = float(np.abs(implicit_reward(name, b, p, r, n)).max()) + 1
    slope = 2 * (2 * size + 1 / (2 * b)) if name == "ipo" else (b if name == "orpo" else 1.0)
    centre = 1 / (2 * b) if name == "ipo" else 0.0
    return float((np.exp(weights) * losses).sum()), 8 * EPS * slope * (size + centre)


few_sizes = st.sampled_from((1, 2, 5))
LENGTHS = {1: np.array([3]), 2: np.array([1, 2]), 3: np.array([1, 2, 4]), 5: np.array([1, 2, 2, 3, 3])}


@eqx.filter_jit
def losses(
    objectives: dict[str, Objective], p: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike
) -> dict[str, jax.Array]:
    return {name: objective.loss(p, r, problem, n) for name, objective in objectives.items()}


@eqx.filter_jit
def gradients(
    objectives: dict[str, Objective], logits: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike
) -> dict[str, jax.Array]:
    def one(objective: Objective) -> jax.Array:
        return jax.grad(lambda x: objective.loss(jax.nn.log_softmax(x), r, problem, n))(logits)

    return {name: one(objective) for name, objective in objectives.items()}


@st.composite
def instances(draw: st.DrawFn, kind: str, *, hostile: bool) -> tuple[np.ndarray, np.ndarray, Problem]:
    """Logits of a policy, a reference and a problem."""
    size = draw(few_sizes)
    logits = hostile_logits(size) if hostile else ordinary_logits(size)
    one = logits.map(log_softmax)
    problem: Problem
    if kind == "contrastive":
        problem = Contrastive(draw(one), draw(one))
    elif kind == "labelled":
        problem = Labelled(draw(logits), draw(one), draw(one))
    else:
        indices = st.lists(st.integers(0, size - 1), min_size=4, max_size=4).map(np.array)
        weights = st.lists(st.sampled_from((0.0, 0.5, 1.0, 3.0)), min_size=4, max_size=4).filter(any)
        problem = Pairs(draw(indices), draw(indices), np.array(draw(weights)))
    return draw(logits), draw(one), problem


KINDS = ("contrastive", "labelled", "pairs")


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), betas)
def test_population_losses_agree_with_a_double_loop(kind: str, data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances(kind, hostile=True))
    p, n = log_softmax(logits), LENGTHS[len(logits)]
    weights = joint(problem, len(p))
    for name, result in losses(make(strength), p, r, problem, n).items():
        if name == "exponential":
            continue
        expected, error = population(name, strength, p, r, n, weights)
        assert np.isfinite(result)
        assert float(result) == pytest.approx(expected, rel=1e-12, abs=error), name


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), betas)
def test_exponential_losses_agree_with_a_double_loop(kind: str, data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances(kind, hostile=True))
    p = log_softmax(logits)
    h = strength * (p - r)
    result = float(losses(make(strength), p, r, problem, LENGTHS[len(p)])["exponential"])
    expected = logsumexp(joint(problem, len(p)) - (h[:, None] - h))
    assert not np.isnan(result)
    # The exponents are rewards and log-probabilities, up to 4200 nats, rounded by a few eps of their sizes.
    if abs(expected) < 650:
        assert np.log(result) == pytest.approx(expected, rel=0, abs=8 * EPS * (2 * np.abs(h).max() + 4200))


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), betas)
def test_gradients_are_finite_at_hostile_inputs(kind: str, data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances(kind, hostile=True))
    for name, gradient in gradients(make(strength), logits, r, problem, LENGTHS[len(logits)]).items():
        # The exponential loss overflows, as it says.
        assert name == "exponential" or np.isfinite(gradient).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_differences_of_a_double_loop(kind: str) -> None:
    rng = np.random.default_rng(0)
    logits, r, reward = rng.normal(size=5), log_softmax(rng.normal(size=5)), rng.normal(size=5)
    first, second = (log_softmax(rng.normal(size=5)) for _ in range(2))
    problem: Problem = {
        "contrastive": Contrastive(first, second),
        "labelled": Labelled(reward, first, second),
        "pairs": Pairs(np.array([0, 1, 2, 4]), np.array([1, 3, 0, 0]), np.array([1.0, 2.0, 0.5, 1.0])),
    }[kind]
    n, weights = LENGTHS[5], joint(problem, 5)
    step, direction = 1e-5, rng.normal(size=5)
    for name, gradient in gradients(make(0.6), logits, r, problem, n).items():
        up, down = (
            population(name, 0.6, log_softmax(logits + sign * step * direction), r, n, weights)[0]
            for sign in (1, -1)
        )
        # Truncation of step² times a third derivative of order 1 to 100, and rounding of 1e-15/step.
        assert float(gradient @ direction) == pytest.approx((up - down) / (2 * step), rel=1e-7, abs=1e-8), (
            name
        )


@given(st.data(), betas)
def test_gradient_of_dpo_agrees_with_its_formula(data: st.DataObject, beta: float) -> None:
    logits, r, problem = data.draw(instances("contrastive", hostile=False))
    h = beta * (log_softmax(logits) - r)
    weights = np.exp(joint(problem, len(h))) * expit(h - h[:, None])
    expected = -beta * (weights.sum(1) - weights.sum(0))
    result = gradients(make(beta), logits, r, problem, LENGTHS[len(h)])["dpo"]
    # Slopes at rewards of size A are off by eps A, relative to themselves.
    error = beta * EPS * 8 * (len(h) + np.abs(h).max())
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=error)


@given(st.data(), st.sampled_from(KINDS), st.sampled_from((0.1, 1.0, 5.0)))
def test_losses_are_convex_in_the_logits(data: st.DataObject, kind: str, strength: float) -> None:
    a, r, problem = data.draw(instances(kind, hostile=False))
    b = data.draw(ordinary_logits(len(a)))
    at = [losses(make(strength), log_softmax(x), r, problem, LENGTHS[len(a)]) for x in (a, (a + b) / 2, b)]
    for name in CONVEX:
        start, middle, end = (float(value[name]) for value in at)
        assert middle <= (start + end) / 2 * (1 + 1e-12) + 1e-12, name


@given(st.data(), st.sampled_from(KINDS))
def test_dpo_type_losses_do_not_see_the_normaliser(data: st.DataObject, kind: str) -> None:
    logits, r, problem = data.draw(instances(kind, hostile=False))
    n = LENGTHS[len(logits)]
    result = gradients(make(0.5), logits, r, problem, n)
    for name in CONVEX:
        gradient = result[name]
        # Entries sum to zero, up to rounding of the sum of N of them.
        assert abs(float(gradient.sum())) <= 16 * EPS * (1 + float(np.abs(gradient).sum())), name


LOGPS = st.floats(-60, -0.01)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), strength=st.sampled_from((0.01, 0.1, 0.5, 2.0)))
def test_pair_losses_agree_with_the_formula_of_their_paper(
    name: str, data: st.DataObject, strength: float
) -> None:
    w, y, rw, rl = (np.array(data.draw(st.lists(LOGPS, min_size=3, max_size=3))) for _ in range(4))
    nw, nl = (np.array(data.draw(st.lists(st.integers(1, 40), min_size=3, max_size=3))) for _ in range(2))
    result = make(strength)[name].pair_loss(w, y, rw, rl, nw, nl)
    expected = PAPERS[name](strength, w, y, rw, rl, nw, nl)
    # Differences of rewards up to 240 are rounded by a few eps of that, and a square has twice their slope.
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12 * (1 if name != "ipo" else 50))


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_take_python_numbers(name: str) -> None:
    result = make(0.1)[name].pair_loss(-10.0, -12.5, -11.0, -11.5, 4, 5)
    expected = PAPERS[name](0.1, *(np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5)), 4, 5)
    assert float(result) == pytest.approx(float(expected), rel=1e-13)


def test_defaults_are_those_documented() -> None:
    w, y, rw, rl = (np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5))
    difference = 0.1 * (w - rw) - 0.1 * (y - rl)
    expected = {
        "dpo": softplus(-difference),
        "cdpo": 0.9 * softplus(-difference) + 0.1 * softplus(difference),
        "ipo": ((w - rw) - (y - rl) - 5) ** 2,
        "simpo": softplus(-(2 * w / 4 - 2 * y / 5 - 1)),
        "slic": 1 - difference,
        "orpo": -w / 4 + 0.1 * softplus(log_odds(y / 5) - log_odds(w / 4)),
        "cpo": softplus(-0.1 * (w - y)) - w,
        "exponential": np.exp(-difference),
        "reference_free": softplus(-0.1 * (w - y)),
    }
    assert set(expected) == set(OBJECTIVES)
    for name, value in expected.items():
        loss = OBJECTIVES[name]().pair_loss(w, y, rw, rl, 4, 5)
        assert float(loss) == pytest.approx(float(value), rel=1e-13), name


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_broadcast_and_map(name: str) -> None:
    rng = np.random.default_rng(0)
    w, y = -30 * rng.random((4, 1)), -30 * rng.random(3)
    objective = make(0.3)[name]
    batch = objective.pair_loss(w, y, -10.0, -12.0, np.array([2, 3, 4]), 5)
    assert batch.shape == (4, 3)
    one = PAPERS[name](0.3, w[1, 0], y[2], -10.0, -12.0, 4, 5)
    assert float(batch[1, 2]) == pytest.approx(float(one), rel=1e-12)
    compiled = jax.jit(lambda w, y: objective.pair_loss(w, y, -10.0, -12.0, np.array([2, 3, 4]), 5))(w, y)
    np.testing.assert_allclose(compiled, batch, rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_are_finite_where_the_policy_is_sure(name: str) -> None:
    w = np.array([0.0, -1e-300, -1e-17, -700.0, -1400.0])
    objective = make(0.5)[name]
    arguments = (w[:, None], w, np.full(5, -1.0), np.full(5, -1.0), np.ones(5, int), np.ones(5, int))
    if name == "exponential":
        arguments = (w[:, None] / 2, w / 2, *arguments[2:])
    assert np.isfinite(objective.pair_loss(*arguments)).all()
    gradient = jax.grad(lambda w: objective.pair_loss(w, *arguments[1:]).sum())(jnp.asarray(arguments[0]))
    # The odds of a policy that is sure move by up to the inverse of the smallest normal number.
    assert not np.isnan(gradient).any()


def test_one_token_each_is_no_length_normalisation() -> None:
    ones = np.ones(3, int)
    for name in ("simpo", "orpo"):
        objective = make(0.5)[name]
        without = objective.loss(P, Q, Contrastive(P, Q))
        assert float(objective.loss(P, Q, Contrastive(P, Q), ones)) == pytest.approx(
            float(without), rel=1e-14
        )
        other = float(objective.loss(P, Q, Contrastive(P, Q), np.array([1, 2, 3])))
        assert abs(other - float(without)) > 1e-3


def test_lengths_do_not_matter_to_the_rest() -> None:
    problem, n = Contrastive(P, Q), np.array([1, 2, 3])
    for name in set(NAMES) - {"simpo", "orpo"}:
        objective = make(0.5)[name]
        assert not objective.needs_lengths
        assert float(objective.loss(P, Q, problem, n)) == float(objective.loss(P, Q, problem))
    assert make(0.5)["simpo"].needs_lengths
    assert make(0.5)["orpo"].needs_lengths
    assert not didsim.simpo(length_normalised=False).needs_lengths


def test_relations_between_objectives() -> None:
    problem = Labelled(np.array([0.3, 1.0, -1.0]), P, Q)

    def value(objective: Objective) -> float:
        return float(objective.loss(Q, P, problem))

    assert value(didsim.cdpo(0.3, 0.0)) == pytest.approx(value(didsim.dpo(0.3)), rel=1e-14)
    plain = didsim.simpo(0.3, 0, length_normalised=False)
    assert value(plain) == pytest.approx(value(didsim.reference_free(0.3)), rel=1e-14)
    uniform = np.full(3, -np.log(3))
    against_uniform = float(didsim.dpo(0.3).loss(Q, uniform, problem))
    assert value(didsim.reference_free(0.3)) == pytest.approx(against_uniform, rel=1e-13)
    likelihood = value(didsim.cpo(0.3, 1.0)) - value(didsim.reference_free(0.3))
    assert value(didsim.cpo(0.3, 3.0)) - value(didsim.reference_free(0.3)) == pytest.approx(3 * likelihood)


def test_batches_broadcast() -> None:
    rng = np.random.default_rng(1)
    p, r = log_softmax(rng.normal(size=(2, 1, 3)), -1), log_softmax(rng.normal(size=(4, 3)), -1)
    problem = Contrastive(P, np.stack([Q, P, Q, P]))
    objectives, n = make(0.5), LENGTHS[3]
    batch = losses(objectives, p, r, problem, n)
    one = losses(objectives, p[1, 0], r[2], Contrastive(P, Q), n)
    mapped = jax.vmap(lambda p: losses(objectives, p, r, problem, n))(jnp.asarray(p))
    for name in NAMES:
        assert batch[name].shape == (2, 4)
        np.testing.assert_allclose(batch[name][1, 2], one[name], rtol=1e-13)
        np.testing.assert_allclose(mapped[name], batch[name], rtol=1e-13)


def test_eager_losses_agree_with_compiled_ones() -> None:
    problem, n = Contrastive(P, Q), LENGTHS[3]
    compiled = losses(make(0.5), P, Q, problem, n)
    for name, objective in make(0.5).items():
        np.testing.assert_allclose(objective.loss(P, Q, problem, n), compiled[name], rtol=1e-13)


def test_losses_of_constants_compile() -> None:
    problems: list[Problem] = [
        Contrastive(P, Q),
        Labelled(P, P, Q),
        Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 2.0])),
    ]
    for problem in problems:
        for objective in (didsim.dpo(0.5), didsim.simpo(0.5), didsim.orpo(0.5)):
            eager = objective.loss(Q, P, problem, LENGTHS[3])
            compiled = jax.jit(lambda p, o=objective, c=problem: o.loss(p, P, c, LENGTHS[3]))(Q)
            assert float(compiled) == pytest.approx(float(eager), rel=1e-13)


def test_a_wrong_constant_inside_jit_raises_when_traced() -> None:
    with pytest.raises(ValueError, match=r"`beta` must be positive and finite; got -1\.0"):
        jax.jit(lambda p: didsim.dpo(-1.0).loss(p, Q, Contrastive(P, Q)))(P)


def test_a_right_constant_inside_jit_needs_no_check_at_run_time() -> None:
    program = jax.make_jaxpr(lambda p: didsim.dpo(0.5).loss(p, Q, Contrastive(P, Q)))(jnp.asarray(P))
    assert "callback" not in str(program)


def test_objectives_map_over_their_parameters() -> None:
    strengths = jnp.array([0.1, 0.5, 2.0])
    batch = jax.vmap(didsim.dpo)(strengths)
    assert batch.batch_shape == (3,)
    mapped = jax.vmap(lambda objective: objective.loss(P, Q, Contrastive(P, Q)))(batch)
    single = [float(didsim.dpo(float(b)).loss(P, Q, Contrastive(P, Q))) for b in strengths]
    np.testing.assert_allclose(mapped, single, rtol=1e-13)
    with pytest.raises(ValueError, match=r"`self` must be one objective; this is a batch of shape \(3,\)"):
        batch.loss(P, Q, Contrastive(P, Q))
    with pytest.raises(ValueError, match="`self` must be one objective"):
        batch.pair_loss(-1.0, -2.0, -1.0, -1.0)


def test_gradient_in_the_parameter_agrees_with_a_difference() -> None:
    def loss(b: float) -> jax.Array:
        return didsim.dpo(b).loss(jnp.asarray(P), jnp.asarray(Q), Contrastive(P, Q))

    gradient = jax.jit(jax.grad(loss))(0.7)
    difference = (float(loss(0.7 + 1e-5)) - float(loss(0.7 - 1e-5))) / 2e-5
    assert float(gradient) == pytest.approx(difference, rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind: str) -> None:
    p, r, reward = (x.astype(np.float32) for x in (P, Q, np.array([0.5, 0.0, -1.0])))
    problem: Problem = {
        "contrastive": Contrastive(p, r),
        "labelled": Labelled(reward, p, r),
        "pairs": Pairs(np.array([0, 1]), np.array([1, 2]), np.ones(2, np.float32)),
    }[kind]
    for name, result in losses(make(0.5), p, r, problem, LENGTHS[3]).items():
        assert result.dtype == jnp.float32, name
    for name, gradient in gradients(make(0.5), p, r, problem, LENGTHS[3]).items():
        assert gradient.dtype == jnp.float32, name


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_of_float32_stay_float32(name: str) -> None:
    w, y = np.array([-3.0], np.float32), np.array([-4.0], np.float32)
    assert make(0.5)[name].pair_loss(w, y, y, w, np.array([2]), np.array([3])).dtype == jnp.float32


@given(st.data(), st.sampled_from((0.05, 0.1, 0.5, 1.0, 2.0, 10.0)))
def test_losses_in_float32(data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances("contrastive", hostile=True))
    p, r = (x.astype(np.float32) for x in (log_softmax(logits), r))
    assert isinstance(problem, Contrastive)
    narrow = Contrastive(*(np.asarray(x, np.float32) for x in (problem.chosen, problem.rejected)))
    names = ("dpo", "cdpo", "simpo", "slic", "cpo", "reference_free")
    n = LENGTHS[len(p)]
    objectives = {name: make(strength)[name] for name in names}
    weights = joint(jax.tree.map(lambda x: x.astype(float), narrow), len(p))
    wide_p, wide_r = p.astype(float), r.astype(float)
    for name, result in losses(objectives, p, r, narrow, n).items():
        expected, _ = population(name, strength, wide_p, wide_r, n, weights)
        h = implicit_reward(name, strength, wide_p, wide_r, n)
        # A reward is rounded by 2 eps (strength, difference or quotient, product), a difference of two of
        # size A by another of 2A, and the slope is at most 1: 6 eps A. Margins and targets below 2 add 2 eps.
        # Weights are good to 8 eps, the kernel to 8, sums over N and N to N each: 2N + 16, of a loss whose
        # terms are positive but for the smoothing, worth 0.2 · 2A more. An `exp` that underflows costs 1e-37
        # of a kernel of 2A + 2.
        size = float(np.abs(h).max())
        bound = EPS32 * (6 * size + 2 + (2 * len(p) + 16) * (expected + 0.4 * size)) + 1e-36 * (size + 1)
        assert abs(float(result) - expected) <= bound, name


@pytest.mark.parametrize("name", NAMES)
def test_registry_holds_every_objective(name: str) -> None:
    assert OBJECTIVES[name] is getattr(didsim, name)
    assert set(OBJECTIVES) == set(NAMES)


def test_an_unknown_objective_is_answered_with_the_known_ones() -> None:
    known = "cdpo, cpo, dpo, exponential, ipo, orpo, reference_free, simpo, slic"
    with pytest.raises(ValueError, match=f"^unknown objective 'ppo'; there are {known}$"):
        OBJECTIVES["ppo"]


FIRST = {
    "dpo": "beta",
    "cdpo": "beta",
    "ipo": "tau",
    "simpo": "beta",
    "slic": "beta",
    "orpo": "weight",
    "cpo": "beta",
    "exponential": "beta",
    "reference_free": "beta",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_argument_must_be_positive(name: str) -> None:
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`{FIRST[name]}` must be positive and finite; got {bad}"):
            OBJECTIVES[name](bad)
    problem = Contrastive(jnp.asarray(P), jnp.asarray(Q))
    with pytest.raises(Exception, match=f"`{FIRST[name]}` must be positive and finite"):
        jax.jit(lambda b: OBJECTIVES[name](b).loss(jnp.asarray(P), jnp.asarray(Q), problem))(-1.0)


def test_the_other_arguments_are_checked() -> None:
    for bad in (-0.1, 0.6, np.nan):
        with pytest.raises(ValueError, match=f"`label_smoothing` must be between 0 and 0.5; got {bad}"):
            didsim.cdpo(0.1, bad)
    with pytest.raises(ValueError, match=r"`gamma` must be zero or more and finite; got -1\.0"):
        didsim.simpo(0.1, -1.0)
    with pytest.raises(ValueError, match=r"`delta` must be positive and finite; got 0\.0"):
        didsim.slic(0.1, 0.0)
    with pytest.raises(ValueError, match=r"`weight` must be positive and finite; got -2\.0"):
        didsim.cpo(0.1, -2)
    with pytest.raises(Exception, match="`gamma` must be zero or more and finite"):
        jax.jit(lambda g: didsim.simpo(0.1, g).kernel(jnp.zeros(())))(-1.0)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "ipo", "slic", "exponential"])
def test_a_missing_reference_is_named(name: str) -> None:
    objective = make(0.5)[name]
    with pytest.raises(
        ValueError, match=r"`ref_chosen_logps` must be given .* uses the reference .* got None"
    ):
        objective.pair_loss(-1.0, -2.0)
    with pytest.raises(ValueError, match="`ref_rejected_logps` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, -1.0)


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_missing_lengths_are_named(name: str) -> None:
    objective = make(0.5)[name]
    with pytest.raises(ValueError, match=r"`chosen_lengths` must be given .* number of tokens; got None"):
        objective.pair_loss(-1.0, -2.0)
    with pytest.raises(ValueError, match="`rejected_lengths` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, chosen_lengths=3)


@pytest.mark.parametrize("name", ["cpo", "reference_free"])
def test_what_is_not_needed_need_not_be_given(name: str) -> None:
    result = make(0.5)[name].pair_loss(-1.0, -2.0)
    expected = PAPERS[name](0.5, np.float64(-1), np.float64(-2), 0, 0, 1, 1)
    assert float(result) == pytest.approx(float(expected), rel=1e-14)


def test_log_probabilities_of_pairs_are_checked() -> None:
    dpo = didsim.dpo()
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    for place, name in enumerate(names):
        for bad, expected in {
            np.nan: "be finite everywhere; got nan",
            -np.inf: "be finite everywhere; got -inf",
            0.5: "be log-probabilities, at most 0; got 0.5",
        }.items():
            arguments = [np.array([-1.0, -2.0]) for _ in names]
            arguments[place][1] = bad
            with pytest.raises(ValueError, match=f"`{name}` must {expected}"):
                dpo.pair_loss(*arguments)
    with pytest.raises(ValueError, match="`chosen_logps` must be a floating-point array; got dtype int"):
        dpo.pair_loss(np.array([-1]), -1.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`rejected_logps` must not be empty"):
        dpo.pair_loss(-1.0, np.zeros(0), -1.0, -1.0)
    with pytest.raises(ValueError, match=r"must broadcast together; got chosen_logps of shape \(2,\)"):
        dpo.pair_loss(-np.ones(2), -np.ones(3), -1.0, -1.0)


def test_lengths_of_pairs_are_checked() -> None:
    for bad in (0, -1, np.array([1, 0])):
        with pytest.raises(
            ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths=bad, rejected_lengths=1)
        with pytest.raises(
            ValueError, match="`rejected_lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            didsim.orpo().pair_loss(-1.0, -2.0, chosen_lengths=1, rejected_lengths=bad)
    with pytest.raises(ValueError, match=r"must broadcast together; .*rejected_lengths of shape \(2,\)"):
        didsim.simpo().pair_loss(
            -np.ones(3), -1.0, chosen_lengths=np.array(1), rejected_lengths=np.array([1, 2])
        )


def test_population_losses_name_wrong_arguments() -> None:
    problem, dpo = Contrastive(P, Q), didsim.dpo()
    zero = np.array([0.0, -np.inf, -np.inf])
    for expected, bad in {
        "be log-probabilities normalised": P + 1,
        "be log-probabilities; got NaN": P * np.nan,
        r"give every sequence a positive probability; got zero at index \(1,\)": zero,
    }.items():
        with pytest.raises(ValueError, match=f"`policy_logps` must {expected}"):
            dpo.loss(bad, Q, problem)
        with pytest.raises(ValueError, match=f"`reference` must {expected}"):
            dpo.loss(P, bad, problem)
    half = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match="`policy_logps`, `reference` must agree in their last axis"):
        dpo.loss(half, Q, problem)
    with pytest.raises(ValueError, match="`problem` is over 3 sequences; it was asked about 2"):
        dpo.loss(half, half, problem)
    with pytest.raises(ValueError, match=r"`losers` must index one of 3 sequences \(0 to 2\); got 3"):
        dpo.loss(P, Q, Pairs(np.array([0]), np.array([3])))


def test_lengths_of_a_space_are_checked() -> None:
    for objective in (didsim.dpo(), didsim.simpo(), didsim.orpo()):
        with pytest.raises(ValueError, match=r"`lengths` must have one entry for each of 3 .* shape \(2,\)"):
            objective.loss(P, Q, Contrastive(P, Q), np.array([1, 2]))
        with pytest.raises(
            ValueError, match="`lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            objective.loss(P, Q, Contrastive(P, Q), np.array([1, 0, 2]))


def test_an_objective_of_ones_own_combines_parts() -> None:
    objective = Objective(
        LogProb(jnp.array(0.5), per_token=False),
        didsim.ipo(1.0).kernel,
        pair_weight=jnp.array(2.0),
        chosen_weight=jnp.array(0.25),
    )
    result = objective.pair_loss(-3.0, -4.0)
    assert float(result) == pytest.approx(2 * (0.5 - 0.5) ** 2 + 0.25 * 3, rel=1e-14)


def test_a_problem_whose_batch_does_not_fit_is_named() -> None:
    p = np.log(np.full((3, 2), 0.5))
    for objective in (didsim.dpo(), didsim.exponential()):
        with pytest.raises(ValueError, match="`policy_logps`, `problem` must broadcast together"):
            objective.loss(p, p, didsim.Contrastive(p[:2], p[:2]))
        with pytest.raises(ValueError, match="`problem` must be a Problem"):
            objective.loss(p, p, p)


def test_what_is_no_number_is_named() -> None:
    for value in ("0.1", None, [[0.1], [0.2, 0.3]], 1j, True, np.zeros(0)):
        with pytest.raises(ValueError, match="`beta` must be a real number; got"):
            didsim.dpo(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`length_normalised` must be True or False; got 'no'"):
        didsim.simpo(length_normalised="no")  # type: ignore[arg-type]


def test_lengths_must_be_whole() -> None:
    with pytest.raises(
        ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1"
    ):
        didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths=1.5, rejected_lengths=2)
    with pytest.raises(
        ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1"
    ):
        didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths="abc", rejected_lengths=2)  # type: ignore[arg-type]


@given(st.data(), st.sampled_from((0.3, 1.0)))
def test_float32_losses_of_squares_exponentials_and_odds_are_within_their_rounding(
    data: st.DataObject, strength: float
) -> None:
    size = data.draw(st.sampled_from((2, 5)))
    p, r, w, y = (log_softmax(data.draw(ordinary_logits(size))).astype(np.float32) for _ in range(4))
    problem = Contrastive(w, y)
    exact = Contrastive(*(log_softmax(q.astype(np.float64)) for q in (w, y)))
    weights = np.exp(exact.chosen)[:, None] * np.exp(exact.rejected)[None, :]
    # Relative rounding of a sum of N² weighted terms, whose weights are exponentials of w and y.
    relative = EPS32 * (2 * (np.abs(w).max() + np.abs(y).max()) + 2 * size + 16)
    apart = EPS32 * 4 * (np.abs(p).max() + np.abs(r).max())

    def both(objective: Objective) -> tuple[float, float]:
        single = objective.loss(p, r, problem)
        assert single.dtype == jnp.float32
        policy, reference = (log_softmax(q.astype(np.float64)) for q in (p, r))
        double = objective.loss(policy, reference, exact)
        return float(single), float(double)

    single, double = both(didsim.ipo(strength))
    d = p - r
    offsets = np.abs((d[:, None] - d[None, :]) - 1 / (2 * strength))
    # A square moves by twice its root times what its root moves.
    assert abs(single - double) <= 2 * np.sum(weights * (offsets + apart)) * apart + 2 * relative * double

    single, double = both(didsim.exponential(strength))
    # An exponential moves by its own size times what its exponent moves.
    assert abs(single - double) <= 2 * (relative + strength * apart) * double

    single, double = both(didsim.orpo(strength))
    # log(1 − P) moves by P/(1 − P) times what log P moves; the loss of a difference, by no more than that.
    steep = 1 + np.exp(p).max() / (1 - np.exp(p).max())
    assert abs(single - double) <= 2 * steep * (1 + strength) * apart + 2 * relative * double


MANY = 90
"""Enough sequences for sums over pairs to be taken in near-linear time."""
LENGTHS_OF_MANY = 1 + np.arange(MANY) % 4


@st.composite
def large_instances(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray, Problem]:
    """A kind of problem over many sequences, with logits of a policy and a reference."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = draw(st.lists(st.sampled_from((0.0, 0.3, 1.0, 4.0, 30.0)), min_size=5, max_size=5))
    logits, r, *rest = (scale * rng.normal(size=MANY) for scale in scales)
    kind = draw(st.sampled_from(("contrastive", "labelled")))
    one, two = log_softmax(rest[0]), log_softmax(rest[1])
    problem: Problem = Contrastive(one, two) if kind == "contrastive" else Labelled(rest[2], one, two)
    return kind, logits, log_softmax(r), problem


def joint_of_many(problem: Problem) -> np.ndarray:
    if isinstance(problem, Contrastive):
        return np.exp(np.asarray(problem.chosen)[:, None] + np.asarray(problem.rejected))
    assert isinstance(problem, Labelled)
    first, second, reward = map(np.asarray, (problem.first, problem.second, problem.reward))
    shown = np.exp(first[:, None] + second) + np.exp(second[:, None] + first)
    return shown * expit(reward[:, None] - reward)


def population_of_many(
    name: str, b: float, p: np.ndarray, r: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """The loss over all pairs, and over all pairs without signs."""
    n = LENGTHS_OF_MANY
    with np.errstate(over="ignore"):
        table = PAPERS[name](b, p[:, None], p, r[:, None], r, n[:, None], n)
    return float(np.sum(weights * table)), float(np.sum(weights * np.abs(table)))


@given(large_instances(), st.sampled_from((0.05, 0.5, 2.0)))
def test_losses_and_slopes_of_many_sequences_agree_with_all_pairs(
    instance: tuple[str, np.ndarray, np.ndarray, Problem], strength: float
) -> None:
    kind, logits, r, problem = instance
    p, weights = log_softmax(logits), joint_of_many(problem)
    objectives = make(strength)
    if np.abs(strength * (p - r)).max() > 300:
        del objectives["exponential"]
    found = losses(objectives, p, r, problem, LENGTHS_OF_MANY)
    slopes = gradients(objectives, logits, r, problem, LENGTHS_OF_MANY)
    direction = np.random.default_rng(0).normal(size=MANY)
    for name, result in found.items():
        expected, gross = population_of_many(name, strength, p, r, weights)
        # Labelled pairs are summed in two parts that nearly cancel if labels are nearly sure.
        parts = 100 if kind == "labelled" else 1
        _, error = population_bound(name, strength, p, r)
        assert float(result) == pytest.approx(expected, rel=parts * 1e-12, abs=parts * error), name
        if name == "slic":
            continue  # a difference that straddles the hinge's knot is no derivative
        step = 1e-5
        ahead, behind = (
            population_of_many(name, strength, log_softmax(logits + s * direction), r, weights)[0]
            for s in (step, -step)
        )
        slope = float(slopes[name] @ direction)
        # A central difference errs by its step squared, and by the loss's rounding over the step.
        bound = 1e-5 * (gross * max(1, strength) ** 3 + 1) + 4 * EPS * gross / step
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=bound), name


def population_bound(name: str, b: float, p: np.ndarray, r: np.ndarray) -> tuple[float, float]:
    """The size of rewards, and the rounding that it brings to a loss; see `population`."""
    size = float(np.abs(implicit_reward(name, b, p, r, LENGTHS_OF_MANY)).max()) + 1
    centre = 1 / (2 * b) if name == "ipo" else 0.0
    slope = 2 * (2 * size + centre) if name == "ipo" else (b if name == "orpo" else 1.0)
    return size, 8 * EPS * slope * (size + centre)


@pytest.mark.slow
def test_marginals_and_exponentials_of_thousands_of_labelled_sequences() -> None:
    rng = np.random.default_rng(0)
    reward, first, second, x = rng.normal(size=(4, 4200))
    problem = Labelled(reward, log_softmax(first), log_softmax(second))
    weights = joint_of_many(problem)
    np.testing.assert_allclose(np.exp(problem.chosen_marginal(4200)), weights.sum(1), rtol=1e-11)
    np.testing.assert_allclose(np.exp(problem.rejected_marginal(4200)), weights.sum(0), rtol=1e-11)
    expected = np.sum(weights * np.exp(x[:, None] - x))
    assert float(problem.expect_exp(jnp.asarray(x))) == pytest.approx(expected, rel=1e-11)
