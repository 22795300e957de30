from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array, ArrayLike
from scipy.special import expit, log_softmax, logsumexp

import didsim
from didsim import Contrastive, Joint, Labelled, Mixture, Objective, Pairs, Problem
from tests import papers
from tests.objectives.catalogue_cases import (
    EPS,
    EPS32,
    EXPONENTIAL,
    P,
    Q,
    baseline,
    losses,
    losses_and_gradients,
    population,
)
from tests.papers import MAKERS, NAMES, magnitude, make, rounding
from tests.strategies import betas, hostile_logits, ordinary_logits
from tests.tables import table

OF_DIFFERENCES = (
    *("dpo", "cdpo", "robust", "ipo", "slic", "rdpo", "exponential", "reference_free", "dpo_pg", "h_dpo"),
)
CONVEX = (*OF_DIFFERENCES, "cpo", "sft", "bdpo", "dpo_shift")


few_sizes = st.sampled_from((1, 5))
LENGTHS = {1: np.array([3]), 2: np.array([1, 2]), 3: np.array([1, 2, 4]), 5: np.array([1, 2, 2, 3, 3])}


def made(strength: float, names: Iterable[str]) -> dict[str, Objective]:
    """Some objectives alone, as all of them take long to compile."""
    return {name: MAKERS[name](strength) for name in names}


def values(
    objectives: dict[str, Objective], logits: np.ndarray, r: ArrayLike, problem: Problem, n: ArrayLike
) -> dict[str, float]:
    found = losses_and_gradients(objectives, logits, r, problem, n)
    return {name: float(loss) for name, (loss, _) in found.items()}


@st.composite
def instances(draw: st.DrawFn, kind: str, *, hostile: bool) -> tuple[np.ndarray, np.ndarray, Problem]:
    """Logits of a policy, a reference, and where pairs come from."""
    size = draw(few_sizes)
    logits = hostile_logits(size) if hostile else ordinary_logits(size)
    one = logits.map(log_softmax)
    return draw(logits), draw(one), draw(problems(kind, size, logits))


@st.composite
def problems(draw: st.DrawFn, kind: str, size: int, logits: st.SearchStrategy[np.ndarray]) -> Problem:
    one = logits.map(log_softmax)
    match kind:
        case "contrastive":
            return Contrastive(draw(one), draw(one))
        case "labelled":
            return Labelled(draw(logits), draw(one), draw(one))
        case "pairs":
            indices = st.lists(st.integers(0, size - 1), min_size=4, max_size=4).map(np.array)
            weights = st.lists(st.sampled_from((0.0, 0.5, 1.0, 3.0)), min_size=4, max_size=4).filter(any)
            return Pairs(draw(indices), draw(indices), np.array(draw(weights)))
        case "joint":
            rows = np.stack([draw(logits) for _ in range(size)])
            return Joint(log_softmax(rows))
    parts = draw(problems("contrastive", size, logits)), draw(problems("labelled", size, logits))
    share = draw(st.sampled_from((1e-9, 0.3, 0.5, 1.0)))
    with np.errstate(divide="ignore"):
        return Mixture(parts, np.log([share, 1 - share]))


KINDS = ("contrastive", "labelled", "pairs", "joint", "mixture")
# A mixture is of contrastive and labelled pairs, so that XLA need not optimise these once more.
_OPTIMISED = [
    pytest.param(kind, marks=() if kind in ("contrastive", "labelled") else pytest.mark.core)
    for kind in KINDS
]


@pytest.mark.parametrize("kind", _OPTIMISED)
@given(st.data(), betas)
def test_population_losses_agree_with_a_double_loop(kind: str, data: st.DataObject, strength: float) -> None:
    """So they do at hostile inputs, and their gradients are finite."""
    logits, r, problem = data.draw(instances(kind, hostile=True))
    p = np.asarray(LOG_SOFTMAX(logits))
    n, log_table = LENGTHS[len(p)], table(problem, len(p))
    for name, (loss, gradient) in losses_and_gradients(make(strength), logits, r, problem, n).items():
        expected, error = population(name, strength, p, r, n, log_table)
        if name in EXPONENTIAL and not error < 1e280:
            continue
        assert abs(float(loss) - expected) <= error, name
        assert np.isfinite(gradient).all(), name


LOG_SOFTMAX = jax.jit(jax.nn.log_softmax)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), betas)
def test_exponential_losses_agree_with_a_double_loop(kind: str, data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances(kind, hostile=True))
    p = log_softmax(logits)
    h = strength * (p - r)
    result = values(made(strength, ["exponential"]), logits, r, problem, LENGTHS[len(p)])["exponential"]
    expected = logsumexp(table(problem, len(p)) - (h[:, None] - h))
    assert not np.isnan(result)
    # The exponents are rewards and log-probabilities, up to 4200 nats, rounded by a few eps of their sizes.
    if abs(expected) < 650:
        assert np.log(result) == pytest.approx(expected, rel=0, abs=8 * EPS * (2 * np.abs(h).max() + 4200))


@pytest.mark.core
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_differences_of_a_double_loop(kind: str) -> None:
    """With baselines held where they are."""
    rng = np.random.default_rng(0)
    logits, r, reward = rng.normal(size=5), log_softmax(rng.normal(size=5)), rng.normal(size=5)
    first, second = (log_softmax(rng.normal(size=5)) for _ in range(2))
    parts = Contrastive(first, second), Labelled(reward, first, second)
    problem: Problem = {
        "contrastive": parts[0],
        "labelled": parts[1],
        "pairs": Pairs(np.array([0, 1, 2, 4]), np.array([1, 3, 0, 0]), np.array([1.0, 2.0, 0.5, 1.0])),
        "joint": Joint(log_softmax(rng.normal(size=25)).reshape(5, 5)),
        "mixture": Mixture(parts, np.log([0.3, 0.7])),
    }[kind]
    n, log_table, p = LENGTHS[5], table(problem, 5), log_softmax(logits)
    step, direction = 1e-5, rng.normal(size=5)
    for name, (_, gradient) in losses_and_gradients(make(0.6), logits, r, problem, n).items():
        z = baseline(name, 0.6, p, r, log_table)
        up, down = (
            population(name, 0.6, log_softmax(logits + sign * step * direction), r, n, log_table, z)[0]
            for sign in (1, -1)
        )
        # Truncation of step² times a third derivative, of the cube of a reward, and rounding of 1e-15/step.
        size = 1 + float(np.max(magnitude(name, 0.6, p, r, n)))
        assert float(gradient @ direction) == pytest.approx(
            (up - down) / (2 * step), rel=1e-7, abs=step**2 * size**3 + 1e-9
        ), name


@given(st.data(), betas)
def test_gradient_of_dpo_agrees_with_its_formula(data: st.DataObject, beta: float) -> None:
    logits, r, problem = data.draw(instances("contrastive", hostile=False))
    h = beta * (log_softmax(logits) - r)
    weights = np.exp(table(problem, len(h))) * expit(h - h[:, None])
    expected = -beta * (weights.sum(1) - weights.sum(0))
    objectives = made(beta, ("dpo", "dpo_pg"))
    result = losses_and_gradients(objectives, logits, r, problem, LENGTHS[len(h)])
    # Slopes at rewards of size A are off by eps A, relative to themselves.
    error = beta * EPS * 8 * (len(h) + np.abs(h).max())
    for name in objectives:
        np.testing.assert_allclose(result[name][1], expected, rtol=1e-12, atol=error)


@given(st.data(), betas)
def test_gradients_with_baselines_agree_with_their_formulas(data: st.DataObject, beta: float) -> None:
    """As `∂h(y)/∂logits = beta · (e_y − π)`: that of a loss which sees a baseline has no term for it."""
    logits, r, problem = data.draw(instances("labelled", hostile=False))
    p, log_table = log_softmax(logits), table(problem, len(logits))
    h, chosen, rejected = beta * (p - r), np.exp(log_table).sum(1), np.exp(log_table).sum(0)
    z, shift = (baseline(name, beta, p, r, log_table) for name in ("kto", "bco"))
    slopes = {
        "kto": -1.25 * chosen * expit(h - z) * expit(z - h) + 0.75 * rejected * expit(h - z) * expit(z - h),
        "bco": -chosen * expit(shift - h) + rejected * expit(h - shift),
    }
    result = losses_and_gradients(made(beta, slopes), logits, r, problem, LENGTHS[len(h)])
    for name, slope in slopes.items():
        # Slopes are off by eps of the rewards and of the baseline, which has the rounding of a sum over N.
        error = beta * EPS * 16 * (len(h) + 1) * (1 + np.abs(h).max())
        expected = beta * (slope - slope.sum() * np.exp(p))
        np.testing.assert_allclose(result[name][1], expected, rtol=1e-12, atol=error)


@given(st.data(), st.sampled_from(KINDS), st.sampled_from((0.1, 1.0, 5.0)))
def test_losses_are_convex_in_the_logits(data: st.DataObject, kind: str, strength: float) -> None:
    a, r, problem = data.draw(instances(kind, hostile=False))
    b = data.draw(ordinary_logits(len(a)))
    objectives = made(strength, CONVEX)
    at = [values(objectives, x, r, problem, LENGTHS[len(a)]) for x in (a, (a + b) / 2, b)]
    for name in CONVEX:
        start, middle, end = (value[name] for value in at)
        assert middle <= (start + end) / 2 + 1e-12 * (1 + abs(start) + abs(end)), name


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_differences_do_not_see_the_normaliser(kind: str) -> None:
    problem = INSTANCES[kind]
    for name in (*OF_DIFFERENCES, "exo", "discopop"):
        objective, p, r = MAKERS[name](0.5), jnp.asarray(P), jnp.asarray(Q)
        at, elsewhere = (objective.population_loss(x, r, problem, None) for x in (p, p + 3.7))
        assert float(elsewhere) == pytest.approx(float(at), rel=1e-13), name


INSTANCES: dict[str, Problem] = {
    "contrastive": Contrastive(P, Q),
    "labelled": Labelled(np.array([0.5, 0.0, -1.0]), P, Q),
    "pairs": Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 2.0])),
    "joint": Joint(log_softmax(np.arange(9.0)).reshape(3, 3)),
    "mixture": Mixture((Contrastive(P, Q), Contrastive(Q, P)), np.log([0.3, 0.7])),
}


def test_batches_broadcast() -> None:
    rng = np.random.default_rng(1)
    p, r = log_softmax(rng.normal(size=(2, 1, 3)), -1), log_softmax(rng.normal(size=(4, 3)), -1)
    problem = Contrastive(P, np.stack([Q, P, Q, P]))
    objectives, n = make(0.5), LENGTHS[3]
    batch = losses(objectives, p, r, problem, n)
    one = losses(objectives, p[1, 0], r[2], Contrastive(P, Q), n)
    mapped = jax.vmap(lambda p: losses(objectives, p, r, problem, n))(jnp.asarray(p))
    for name in objectives:
        assert batch[name].shape == (2, 4), name
        np.testing.assert_allclose(batch[name][1, 2], one[name], rtol=1e-13)
        np.testing.assert_allclose(mapped[name], batch[name], rtol=1e-13)


def test_eager_losses_agree_with_compiled_ones() -> None:
    problem, n = Contrastive(P, Q), LENGTHS[3]
    compiled = losses(make(0.5), P, Q, problem, n)
    for name, objective in make(0.5).items():
        np.testing.assert_allclose(objective.loss(P, Q, problem, n), compiled[name], rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_constants_compile(kind: str) -> None:
    problem, n = INSTANCES[kind], LENGTHS[3]
    eager = losses(make(0.5), Q, P, problem, n)
    compiled = jax.jit(lambda p: {name: one.loss(p, P, problem, n) for name, one in make(0.5).items()})(Q)
    for name in NAMES:
        assert float(compiled[name]) == pytest.approx(float(eager[name]), rel=1e-13), name


def test_a_wrong_constant_inside_jit_raises_when_traced() -> None:
    with pytest.raises(ValueError, match=r"`beta` must be positive and finite; got -1\.0"):
        jax.jit(lambda p: didsim.dpo(-1.0).loss(p, Q, Contrastive(P, Q)))(P)


def test_a_right_constant_inside_jit_needs_no_check_at_run_time() -> None:
    def loss(p: Array) -> Array:
        objective = didsim.dpo(0.5) + didsim.cdpo(0.5, 0.1) + didsim.dpop(0.5, 2)
        return objective.loss(p, Q, Contrastive(P, Q))

    assert "callback" not in str(jax.make_jaxpr(loss)(jnp.asarray(P)))


def test_objectives_map_over_their_parameters() -> None:
    strengths = jnp.array([0.1, 0.5, 2.0])
    batch = jax.vmap(didsim.dpo)(strengths)
    assert batch.batch_shape == (3,)
    mapped = jax.vmap(lambda objective: objective.loss(P, Q, Contrastive(P, Q)))(batch)
    single = [float(didsim.dpo(float(b)).loss(P, Q, Contrastive(P, Q))) for b in strengths]
    np.testing.assert_allclose(mapped, single, rtol=1e-13)
    several = jax.vmap(didsim.kto)(strengths, strengths + 1, strengths + 2)
    assert several.batch_shape == (3,)
    assert several.has_baseline
    with pytest.raises(ValueError, match=r"`self` must be one objective; got a batch of shape \(3,\)"):
        batch.loss(P, Q, Contrastive(P, Q))
    with pytest.raises(ValueError, match="`self` must be one objective"):
        batch.pair_loss(-1.0, -2.0, -1.0, -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_parameters_agree_with_their_members(kind: str) -> None:
    strengths = jnp.array([0.2, 0.9])
    batch = jax.vmap(lambda strength: {name: make_traced(name, strength) for name in NAMES})(strengths)
    problem, n = INSTANCES[kind], LENGTHS[3]
    together = jax.vmap(lambda objectives: losses(objectives, P, Q, problem, n))(batch)
    for k, strength in enumerate(strengths):
        alone = losses(make(float(strength)), P, Q, problem, n)
        for name in NAMES:
            assert float(together[name][k]) == pytest.approx(float(alone[name]), rel=1e-13), name


def make_traced(name: str, strength: jax.Array) -> Objective:
    return MAKERS[name](strength)  # type: ignore[arg-type]


def test_gradient_in_the_parameter_agrees_with_a_difference() -> None:
    def loss(b: float) -> jax.Array:
        return didsim.dpo(b).loss(jnp.asarray(P), jnp.asarray(Q), Contrastive(P, Q))

    gradient = jax.jit(jax.grad(loss))(0.7)
    difference = (float(loss(0.7 + 1e-5)) - float(loss(0.7 - 1e-5))) / 2e-5
    assert float(gradient) == pytest.approx(difference, rel=1e-8)


def narrowed(problem: Problem) -> Problem:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, problem)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind: str) -> None:
    p, r = P.astype(np.float32), Q.astype(np.float32)
    found = eqx.filter_eval_shape(
        losses_and_gradients, make(0.5), p, r, narrowed(INSTANCES[kind]), LENGTHS[3]
    )
    for name, (loss, gradient) in found.items():
        assert loss.dtype == jnp.float32, name
        assert gradient.dtype == jnp.float32, name


@pytest.mark.core
@given(st.data(), st.sampled_from((0.05, 0.1, 0.5, 1.0, 2.0, 10.0)))
def test_losses_in_float32(data: st.DataObject, strength: float) -> None:
    logits, r, problem = data.draw(instances("contrastive", hostile=True))
    p, r = (x.astype(np.float32) for x in (log_softmax(logits), r))
    problem = narrowed(problem)
    n = LENGTHS[len(p)]
    log_table = table(jax.tree.map(lambda x: x.astype(float), problem), len(p))
    wide_p, wide_r = p.astype(float), r.astype(float)
    for name, result in losses(make(strength), p, r, problem, n).items():
        with np.errstate(over="ignore"):
            size = float(magnitude(name, strength, wide_p, wide_r, n).max())
            # Weights are good to 8 eps, a kernel to 8, and sums over N and N to N each: 2N + 16, of the
            # loss's terms without their signs. These are at most the slope times the reward, and constants.
            # An `exp` that underflows costs 1e-37 of that.
            slope = papers.slope(name, strength, size)
            constant = 1 / (2 * strength) if name in ("ipo", "sppo") else 4.0
            gross = slope * (2 * size + constant) + float(np.abs(wide_p).max())
            bound = EPS32 * (rounding(name, strength, size) + (2 * len(p) + 16) * gross) + 1e-36 * gross
        if name in EXPONENTIAL and not bound < 1e30:
            continue
        expected, _ = population(name, strength, wide_p, wide_r, n, log_table)
        assert abs(float(result) - expected) <= bound, name
