from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import ArrayLike
from scipy.special import expit, log_expit, log_softmax, logsumexp

import didsim
from didsim import OBJECTIVES, Contrastive, Joint, Labelled, Mixture, Objective, Pairs, Problem
from tests import papers
from tests.papers import BASELINES, NAMES, PAPERS, PER_TOKEN, REFERENCE_FREE, magnitude, make, rounding
from tests.strategies import betas, hostile_logits, ordinary_logits
from tests.tables import expectation, table

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])

OF_DIFFERENCES = ("dpo", "cdpo", "robust", "ipo", "slic", "rdpo", "exponential", "reference_free", "dpo_pg")
CONVEX = (*OF_DIFFERENCES, "cpo", "sft")
# These have exponentials of log-ratios, which overflow.
EXPONENTIAL = ("exponential", "fdpo_forward_kl", "fdpo_alpha")


def baseline(name: str, b: float, p: np.ndarray, r: np.ndarray, log_table: np.ndarray) -> float:
    """What rewards are compared with: `b · KL(π ‖ ref)`, or the mean over both sequences of a pair."""
    h = b * (p - r)
    if name == "kto":
        return max(0.0, float(np.exp(p) @ h))
    if name == "bco":
        weights = np.exp(log_table)
        return float((weights.sum(1) @ h + weights.sum(0) @ h) / 2)
    return 0.0


def population(
    name: str,
    b: float,
    p: np.ndarray,
    r: np.ndarray,
    n: np.ndarray,
    log_table: np.ndarray,
    z: float | None = None,
) -> tuple[float, float]:
    """The loss over all pairs, and a bound on rounding."""
    z = baseline(name, b, p, r, log_table) if z is None else z
    with np.errstate(over="ignore", invalid="ignore"):
        losses = PAPERS[name](b, papers.Pair(p[:, None], p, r[:, None], r, n[:, None], n, z))
        losses = np.broadcast_to(losses, log_table.shape)
        size = float(np.max(magnitude(name, b, p, r, n)))
        error = EPS * float(rounding(name, b, size)) + 1e-12 * expectation(log_table, np.abs(losses))
    return expectation(log_table, losses), error


few_sizes = st.sampled_from((1, 5))
LENGTHS = {1: np.array([3]), 2: np.array([1, 2]), 3: np.array([1, 2, 4]), 5: np.array([1, 2, 2, 3, 3])}


@eqx.filter_jit
def losses_and_gradients(
    objectives: dict[str, Objective], logits: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """At the policy of logits."""

    def one(objective: Objective) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda x: objective.loss(jax.nn.log_softmax(x), r, problem, n))(logits)

    return {name: one(objective) for name, objective in objectives.items()}


@eqx.filter_jit
def losses(
    objectives: dict[str, Objective], p: ArrayLike, r: ArrayLike, problem: Problem, n: ArrayLike | None
) -> dict[str, jax.Array]:
    return {name: objective.loss(p, r, problem, n) for name, objective in objectives.items()}


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


@pytest.mark.parametrize("kind", KINDS)
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
    result = values(make(strength), logits, r, problem, LENGTHS[len(p)])["exponential"]
    expected = logsumexp(table(problem, len(p)) - (h[:, None] - h))
    assert not np.isnan(result)
    # The exponents are rewards and log-probabilities, up to 4200 nats, rounded by a few eps of their sizes.
    if abs(expected) < 650:
        assert np.log(result) == pytest.approx(expected, rel=0, abs=8 * EPS * (2 * np.abs(h).max() + 4200))


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
    result = losses_and_gradients(make(beta), logits, r, problem, LENGTHS[len(h)])
    # Slopes at rewards of size A are off by eps A, relative to themselves.
    error = beta * EPS * 8 * (len(h) + np.abs(h).max())
    for name in ("dpo", "dpo_pg"):
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
    result = losses_and_gradients(make(beta), logits, r, problem, LENGTHS[len(h)])
    for name, slope in slopes.items():
        # Slopes are off by eps of the rewards and of the baseline, which has the rounding of a sum over N.
        error = beta * EPS * 16 * (len(h) + 1) * (1 + np.abs(h).max())
        expected = beta * (slope - slope.sum() * np.exp(p))
        np.testing.assert_allclose(result[name][1], expected, rtol=1e-12, atol=error)


@given(st.data(), st.sampled_from(KINDS), st.sampled_from((0.1, 1.0, 5.0)))
def test_losses_are_convex_in_the_logits(data: st.DataObject, kind: str, strength: float) -> None:
    a, r, problem = data.draw(instances(kind, hostile=False))
    b = data.draw(ordinary_logits(len(a)))
    at = [values(make(strength), x, r, problem, LENGTHS[len(a)]) for x in (a, (a + b) / 2, b)]
    for name in CONVEX:
        start, middle, end = (value[name] for value in at)
        assert middle <= (start + end) / 2 + 1e-12 * (1 + abs(start) + abs(end)), name


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_differences_do_not_see_the_normaliser(kind: str) -> None:
    problem = INSTANCES[kind]
    for name in (*OF_DIFFERENCES, "exo", "discopop"):
        objective, p, r = make(0.5)[name], jnp.asarray(P), jnp.asarray(Q)
        at, elsewhere = (objective.population_loss(x, r, problem, None) for x in (p, p + 3.7))
        assert float(elsewhere) == pytest.approx(float(at), rel=1e-13), name


INSTANCES: dict[str, Problem] = {
    "contrastive": Contrastive(P, Q),
    "labelled": Labelled(np.array([0.5, 0.0, -1.0]), P, Q),
    "pairs": Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 2.0])),
    "joint": Joint(log_softmax(np.arange(9.0)).reshape(3, 3)),
    "mixture": Mixture((Contrastive(P, Q), Contrastive(Q, P)), np.log([0.3, 0.7])),
}


LOGPS = st.one_of(st.floats(-60, -0.01), st.sampled_from((-1400.0, -700.0, -1e-9)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), strength=betas)
def test_pair_losses_agree_with_the_formula_of_their_paper(
    name: str, data: st.DataObject, strength: float
) -> None:
    w, y, rw, rl = (np.array(data.draw(st.lists(LOGPS, min_size=3, max_size=3))) for _ in range(4))
    nw, nl = (np.array(data.draw(st.lists(st.integers(1, 40), min_size=3, max_size=3))) for _ in range(2))
    z = data.draw(st.sampled_from((0.0, 0.7, 30.0))) if name in BASELINES else 0.0
    result = make(strength)[name].pair_loss(w, y, rw, rl, nw, nl, baseline=z)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = PAPERS[name](strength, papers.Pair(w, y, rw, rl, nw, nl, z))
        sizes = magnitude(name, strength, w, rw, nw), magnitude(name, strength, y, rl, nl)
        error = EPS * rounding(name, strength, np.maximum(*sizes) + z) + 1e-12 * np.abs(expected)
    # Exponentials that overflow have nothing to compare.
    compared = np.isfinite(error)
    assert compared.all() or name in EXPONENTIAL
    assert (np.abs(result - expected) <= error)[compared].all()


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_take_python_numbers(name: str) -> None:
    result = make(0.1)[name].pair_loss(-10.0, -12.5, -11.0, -11.5, 4, 5, baseline=0.05)
    w, y, rw, rl = (np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5))
    given = papers.Pair(w, y, rw, rl, 4, 5, 0.05)
    assert float(result) == pytest.approx(float(PAPERS[name](0.1, given)), rel=1e-13)


def test_the_baseline_of_a_batch_of_pairs_is_that_of_its_sequences() -> None:
    w, y = np.array([-3.0, -4.0, -2.0]), np.array([-3.5, -9.0, -1.0])
    rw, rl = np.array([-3.5, -4.5, -4.0]), np.array([-3.0, -5.0, -6.0])
    lower = np.array([-6.0, -7.0, -7.0])
    for chosen in (w, lower):
        mean = 0.6 * (np.mean(chosen - rw) + np.mean(y - rl)) / 2
        for name, z in {"kto": max(0.0, mean), "bco": mean}.items():
            expected = PAPERS[name](0.6, papers.Pair(chosen, y, rw, rl, 1, 1, z))
            np.testing.assert_allclose(make(0.6)[name].pair_loss(chosen, y, rw, rl), expected, rtol=1e-13)
    assert mean < 0  # so that it was held at zero


def test_the_baseline_must_be_one_number() -> None:
    for name in BASELINES:
        with pytest.raises(ValueError, match=r"`baseline` must be one number; got shape \(2,\)"):
            make(0.5)[name].pair_loss(-1.0, -2.0, -1.0, -1.0, baseline=np.zeros(2))
        with pytest.raises(ValueError, match="`baseline` must be finite; got nan"):
            make(0.5)[name].pair_loss(-1.0, -2.0, -1.0, -1.0, baseline=np.nan)
    assert [name for name, objective in make(0.5).items() if objective.has_baseline] == list(BASELINES)


def test_defaults_are_those_documented() -> None:
    w, y, rw, rl = (np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5))
    t, u = w - rw, y - rl
    d = 0.1 * (t - u)
    expected = {
        "dpo": -log_expit(d),
        "cdpo": -0.9 * log_expit(d) - 0.1 * log_expit(-d),
        "robust": (-0.9 * log_expit(d / 10) + 0.1 * log_expit(-d / 10)) / 0.8,
        "ipo": (t - u - 5) ** 2,
        "slic": 1 - d,
        "simpo": -log_expit(2 * w / 4 - 2 * y / 5 - 1),
        "orpo": -w / 4 - 0.1 * log_expit(papers.log_odds(w / 4) - papers.log_odds(y / 5)),
        "cpo": -log_expit(0.1 * (w - y)) - w,
        "exo": expit(d) * np.log(expit(d) / 0.999) + expit(-d) * np.log(expit(-d) / 0.001),
        "nca": -log_expit(0.01 * t) - 0.5 * log_expit(-0.01 * t) - 0.5 * log_expit(-0.01 * u),
        "bco": -log_expit(0.01 * t) - log_expit(-0.01 * u),
        "sppo": (t - 500) ** 2 + (u + 500) ** 2,
        "apo_zero": 1 - expit(0.1 * t) + expit(0.1 * u),
        "apo_down": expit(0.1 * t) + 1 - expit(d),
        "discopop": -log_expit(0.5 * d) * expit(-10 * d) + np.exp(-0.5 * d) * expit(10 * d),
        "kto": expit(-0.1 * t) + expit(0.1 * u),
        # Above and below the reference.
        "dpop": -log_expit(0.3 * (t - u)),
        "rdpo": -log_expit(d + 0.01 * 4 - 0.01 * 5),
        "length_normalised_dpo": -log_expit(5 * t / 4 - 5 * u / 5),
        "fdpo_forward_kl": -log_expit(0.1 * (np.exp(-u) - np.exp(-t))),
        "fdpo_js": -log_expit(0.1 * (np.log(2 / (1 + np.exp(-t))) - np.log(2 / (1 + np.exp(-u))))),
        "fdpo_alpha": -log_expit(0.2 * (np.exp(-u / 2) - np.exp(-t / 2))),
        "sft": -w,
        "exponential": np.exp(-d),
        "reference_free": -log_expit(0.1 * (w - y)),
        "dpo_pg": -log_expit(d),
    }
    assert set(expected) == set(OBJECTIVES)
    for name, value in expected.items():
        loss = OBJECTIVES[name]().pair_loss(w, y, rw, rl, 4, 5, baseline=0.0)
        assert float(loss) == pytest.approx(float(value), rel=1e-12), name
    below = didsim.dpop().pair_loss(rw, rl, w, y)
    assert float(below) == pytest.approx(float(-log_expit(0.3 * (u - t - 50 * t))), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_broadcast_and_map(name: str) -> None:
    rng = np.random.default_rng(0)
    w, y = -30 * rng.random((4, 1)), -30 * rng.random(3)
    objective = make(0.3)[name]

    def pair_loss(w: ArrayLike, y: ArrayLike) -> jax.Array:
        return objective.pair_loss(w, y, -10.0, -12.0, np.array([2, 3, 4]), 5, baseline=0.2)

    batch = pair_loss(w, y)
    assert batch.shape == (4, 3)
    one = PAPERS[name](0.3, papers.Pair(w[1, 0], y[2], -10.0, -12.0, 4, 5, 0.2))
    assert float(batch[1, 2]) == pytest.approx(float(one), rel=1e-11)
    np.testing.assert_allclose(jax.jit(pair_loss)(w, y), batch, rtol=1e-12)
    mapped = jax.vmap(lambda w: pair_loss(w, y))(jnp.asarray(w))
    np.testing.assert_allclose(mapped, batch, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_are_finite_where_the_policy_is_sure(name: str) -> None:
    w = np.array([0.0, -1e-300, -1e-17, -700.0, -1400.0])
    objective = make(0.5)[name]
    arguments = (w[:, None], w, np.full(5, -1.0), np.full(5, -1.0), np.ones(5, int), np.ones(5, int))
    if name in EXPONENTIAL:
        arguments = (w[:, None] / 2, w / 2, *arguments[2:])
    assert np.isfinite(objective.pair_loss(*arguments)).all()
    gradient = jax.grad(lambda w: objective.pair_loss(w, *arguments[1:]).sum())(jnp.asarray(arguments[0]))
    # The odds of a policy that is sure move by up to the inverse of the smallest normal number.
    assert not np.isnan(gradient).any()


@given(st.data(), st.sampled_from((0.05, 0.5, 2.0)))
def test_pair_losses_in_float32(data: st.DataObject, strength: float) -> None:
    logps = st.lists(st.floats(-30, -0.125, width=32), min_size=3, max_size=3)
    w, y, rw, rl = (np.array(data.draw(logps), np.float32) for _ in range(4))
    n = np.array([1, 3, 30])
    wide = papers.Pair(w.astype(float), y.astype(float), rw.astype(float), rl.astype(float), n, n[::-1], 0.5)
    for name, objective in make(strength).items():
        result = objective.pair_loss(w, y, rw, rl, n, n[::-1], baseline=0.5)
        assert result.dtype == jnp.float32
        expected = PAPERS[name](strength, wide)
        size = np.maximum(
            magnitude(name, strength, wide.w, wide.ref_w, n),
            magnitude(name, strength, wide.l, wide.ref_l, n[::-1]),
        )
        with np.errstate(over="ignore"):
            # A loss is good to 8 eps of itself on top.
            error = EPS32 * (rounding(name, strength, size + 0.5) + 8 * np.abs(expected)) + 1e-37
        assert (np.abs(result - expected) <= error)[error < 1e30].all(), name


def test_one_token_each_is_no_length_normalisation() -> None:
    ones = np.ones(3, int)
    for name in PER_TOKEN:
        objective = make(0.5)[name]
        without = objective.loss(P, Q, Contrastive(P, Q))
        assert float(objective.loss(P, Q, Contrastive(P, Q), ones)) == pytest.approx(
            float(without), rel=1e-14
        )
        other = float(objective.loss(P, Q, Contrastive(P, Q), np.array([1, 2, 3])))
        assert abs(other - float(without)) > 1e-3


def test_lengths_do_not_matter_to_the_rest() -> None:
    problem, n = Contrastive(P, Q), np.array([1, 2, 3])
    without, given = (losses(make(0.5), P, Q, problem, lengths) for lengths in (None, n))
    for name, objective in make(0.5).items():
        assert objective.needs_lengths == (name in PER_TOKEN)
        assert objective.needs_lengths or float(given[name]) == float(without[name])
    assert not didsim.simpo(length_normalised=False).needs_lengths
    assert didsim.sft(length_normalised=True).needs_lengths


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
    program = jax.make_jaxpr(lambda p: didsim.dpo(0.5).loss(p, Q, Contrastive(P, Q)))(jnp.asarray(P))
    assert "callback" not in str(program)


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
    return make(strength)[name]  # type: ignore[arg-type]


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
    found = losses_and_gradients(make(0.5), p, r, narrowed(INSTANCES[kind]), LENGTHS[3])
    for name, (loss, gradient) in found.items():
        assert loss.dtype == jnp.float32, name
        assert gradient.dtype == jnp.float32, name


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
        # Odds of a policy that is sure are large, but as the dtype has it.
        if (name in EXPONENTIAL and not bound < 1e30) or (name == "orpo" and (wide_p / n > -1e-30).any()):
            continue
        expected, _ = population(name, strength, wide_p, wide_r, n, log_table)
        assert abs(float(result) - expected) <= bound, name


@pytest.mark.parametrize("name", NAMES)
def test_registry_holds_every_objective(name: str) -> None:
    assert OBJECTIVES[name] is getattr(didsim, name)
    assert set(OBJECTIVES) == set(NAMES)


def test_an_unknown_objective_is_answered_with_the_known_ones() -> None:
    known = ", ".join(sorted(NAMES))
    with pytest.raises(ValueError, match=f"^unknown objective 'ppo'; there are {known}$"):
        OBJECTIVES["ppo"]


FIRST = {name: "beta" for name in NAMES if name != "sft"} | {"ipo": "tau", "orpo": "weight"}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_argument_must_be_positive(name: str) -> None:
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`{FIRST[name]}` must be positive and finite; got {bad}"):
            OBJECTIVES[name](bad)
    problem = Contrastive(jnp.asarray(P), jnp.asarray(Q))
    with pytest.raises(Exception, match=f"`{FIRST[name]}` must be positive and finite"):
        jax.jit(lambda b: OBJECTIVES[name](b).loss(jnp.asarray(P), jnp.asarray(Q), problem))(-1.0)


OTHERS: list[tuple[Callable[..., Objective], str, str, tuple[float, ...]]] = [
    (didsim.cdpo, "label_smoothing", "be between 0 and 0.5", (-0.1, 0.6)),
    (didsim.robust, "label_smoothing", "be between 0 and 0.499999", (-0.1, 0.5)),
    (didsim.exo, "label_smoothing", "be between 1e-30 and 0.499999", (0.0, 0.5)),
    (didsim.simpo, "gamma", "be zero or more and finite", (-1.0,)),
    (didsim.slic, "delta", "be positive and finite", (0.0,)),
    (didsim.cpo, "weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.discopop, "temperature", "be positive and finite", (-2.0, 0.0)),
    (didsim.kto, "desirable_weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.kto, "undesirable_weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.dpop, "weight", "be zero or more and finite", (-1.0,)),
    (didsim.rdpo, "alpha", "be zero or more and finite", (-1.0,)),
    (didsim.fdpo_alpha, "alpha", "be between 1e-06 and 1", (0.0, 1.5)),
]


@pytest.mark.parametrize(("objective", "argument", "expected", "wrong"), OTHERS)
def test_the_other_arguments_are_checked(
    objective: Callable[..., Objective], argument: str, expected: str, wrong: tuple[float, ...]
) -> None:
    for bad in (*wrong, np.nan):
        with pytest.raises(ValueError, match=f"`{argument}` must {expected}; got {bad}"):
            objective(0.1, **{argument: bad})

    def traced(value: jax.Array) -> jax.Array:
        return objective(0.1, **{argument: value}).pair_loss(-1.0, -2.0, -1.0, -1.0, 1, 1)

    with pytest.raises(Exception, match=f"`{argument}` must {expected}"):
        jax.jit(traced)(wrong[0])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFERENCE_FREE])
def test_a_missing_reference_is_named(name: str) -> None:
    objective = make(0.5)[name]
    with pytest.raises(
        ValueError, match=r"`ref_chosen_logps` must be given .* uses the reference .* got None"
    ):
        objective.pair_loss(-1.0, -2.0)
    with pytest.raises(ValueError, match="`ref_rejected_logps` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, -1.0)


@pytest.mark.parametrize("name", PER_TOKEN)
def test_missing_lengths_are_named(name: str) -> None:
    objective = make(0.5)[name]
    with pytest.raises(ValueError, match=r"`chosen_lengths` must be given .* number of tokens; got None"):
        objective.pair_loss(-1.0, -2.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`rejected_lengths` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, -1.0, -1.0, chosen_lengths=3)


@pytest.mark.parametrize("name", [name for name in REFERENCE_FREE if name not in PER_TOKEN])
def test_what_is_not_needed_need_not_be_given(name: str) -> None:
    result = make(0.5)[name].pair_loss(-1.0, -2.0)
    expected = PAPERS[name](0.5, papers.Pair(np.float64(-1), np.float64(-2), 0, 0, 1, 1))
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
    with pytest.raises(ValueError, match="`problem` must be over 2 sequences; got one over 3"):
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


MANY = 90
"""Enough sequences for sums over pairs to be taken in near-linear time."""
KINDS_OF_SUMS = (
    *("dpo", "robust", "ipo", "slic", "simpo", "orpo", "exo"),
    *("bco", "kto", "apo_down", "discopop", "dpop", "exponential"),
)
"""One objective for each kind of sum; others differ by their rewards."""
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


@settings(max_examples=20)
@given(large_instances(), st.sampled_from((0.05, 0.5, 2.0)))
def test_losses_and_slopes_of_many_sequences_agree_with_all_pairs(
    instance: tuple[str, np.ndarray, np.ndarray, Problem], strength: float
) -> None:
    kind, logits, r, problem = instance
    p, n, log_table = log_softmax(logits), LENGTHS_OF_MANY, table(problem, MANY)
    weights = np.exp(log_table)
    direction = np.random.default_rng(0).normal(size=MANY)
    objectives = {name: make(strength)[name] for name in KINDS_OF_SUMS}
    for name, (loss, gradient) in losses_and_gradients(objectives, logits, r, problem, n).items():
        size = float(magnitude(name, strength, p, r, n).max())
        if name in EXPONENTIAL and not size < 1e100 * (name != "exponential") + 300:
            continue
        z = baseline(name, strength, p, r, log_table)
        expected, error = population(name, strength, p, r, n, log_table, z)
        # Labelled pairs are summed in two parts that nearly cancel if labels are nearly sure.
        parts = 100 if kind == "labelled" else 1
        assert abs(float(loss) - expected) <= parts * error, name
        if name in ("slic", "dpop"):
            continue  # a difference that straddles a kink is no derivative
        step = 1e-5
        ahead, behind = (
            population(name, strength, log_softmax(logits + s * direction), r, n, log_table, z)[0]
            for s in (step, -step)
        )
        with np.errstate(over="ignore"):
            pair = papers.Pair(p[:, None], p, r[:, None], r, n[:, None], n, z)
            gross = float(np.sum(weights * np.abs(PAPERS[name](strength, pair))))
        slope = float(gradient @ direction)
        # A central difference errs by its step squared, and by the loss's rounding over the step.
        bound = 1e-5 * (gross * max(1, strength) ** 3 + 1) + 4 * EPS * gross / step
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=bound), name


@pytest.mark.slow
def test_marginals_and_exponentials_of_thousands_of_labelled_sequences() -> None:
    rng = np.random.default_rng(0)
    reward, first, second, x = rng.normal(size=(4, 4200))
    problem = Labelled(reward, log_softmax(first), log_softmax(second))
    weights = np.exp(table(problem, 4200))
    np.testing.assert_allclose(np.exp(problem.chosen_marginal(4200)), weights.sum(1), rtol=1e-11)
    np.testing.assert_allclose(np.exp(problem.rejected_marginal(4200)), weights.sum(0), rtol=1e-11)
    expected = np.sum(weights * np.exp(x[:, None] - x))
    assert float(problem.expect_exp(jnp.asarray(x))) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_batches_as_large_as_the_space_keep_their_own_baselines(name: str) -> None:
    p = log_softmax(np.random.default_rng(0).normal(size=(3, 3)), -1)
    objective = make(0.5)[name]
    batch = objective.loss(p, Q, Contrastive(P, Q))
    for k in range(3):
        assert float(batch[k]) == pytest.approx(float(objective.loss(p[k], Q, Contrastive(P, Q))), rel=1e-13)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_no_gradient_passes_through_the_baseline_of_a_batch_of_pairs(name: str) -> None:
    w, y, ref = jnp.array([-0.5, -1.0]), jnp.array([-2.0, -1.0]), -2.5
    objective = make(1.0)[name]
    held = float((jnp.mean(w - ref) + jnp.mean(y - ref)) / 2)
    free = jax.grad(lambda w: objective.pair_loss(w, y, ref, ref).sum())(w)
    fixed = jax.grad(lambda w: objective.pair_loss(w, y, ref, ref, baseline=held).sum())(w)
    np.testing.assert_allclose(free, fixed, rtol=1e-13)
