"""AOT against sorting by hand: a batch as its trainer has it, a population by quantiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import log_expit, log_softmax

import didsim
from tests.strategies import hostile_logits
from tests.tables import table

EPS = float(np.finfo(np.float64).eps)
BETA, FLIPS = 0.7, 0.2
RNG = np.random.default_rng(0)


def loss_of(d: np.ndarray) -> np.ndarray:
    return -(1 - FLIPS) * log_expit(d) - FLIPS * log_expit(-d)


def by_trainer(name: str, w: np.ndarray, y: np.ndarray, rw: np.ndarray, ry: np.ndarray) -> np.ndarray:
    """As TRL has it: margins of the policy and of the reference sorted, or log-ratios of both sides."""
    if name == "aot":
        return loss_of(BETA * (np.sort(w - y) - np.sort(rw - ry)))
    return loss_of(BETA * (np.sort(w - rw) - np.sort(y - ry)))


def quantile(values: np.ndarray, weights: np.ndarray, u: float) -> float:
    """The smallest value that at least a share `u` does not exceed."""
    total = 0.0
    for k in np.argsort(values):
        total += weights[k]
        if total >= u:
            return float(values[k])
    return float(values.max())


def by_quantiles(name: str, p: np.ndarray, r: np.ndarray, log_table: np.ndarray) -> float:
    """`∫ φ(Q(u) − Q′(u)) du`, between all the places where a quantile function jumps."""
    weights = np.exp(log_table)
    if name == "aot":
        sides = [(BETA * (x[:, None] - x).ravel(), weights.ravel()) for x in (p, r)]
    else:
        sides = [(BETA * (p - r), weights.sum(1)), (BETA * (p - r), weights.sum(0))]
    jumps = np.unique(np.concatenate([[0.0], *(np.cumsum(w[np.argsort(x)]) for x, w in sides)]))
    middles, widths = (jumps[1:] + jumps[:-1]) / 2, np.diff(jumps)
    gaps = [quantile(*sides[0], u) - quantile(*sides[1], u) for u in middles]
    return float(np.sum(widths * loss_of(np.array(gaps))))


MAKE = {"aot": didsim.aot(BETA, FLIPS), "aot_unpaired": didsim.aot_unpaired(BETA, FLIPS)}


@pytest.mark.parametrize("name", MAKE)
@given(st.data())
def test_a_batch_is_sorted_as_its_trainer_sorts_it(name: str, data: st.DataObject) -> None:
    logps = st.lists(
        st.one_of(st.floats(-60, -0.01), st.sampled_from((-700.0, -3.0))), min_size=5, max_size=5
    )
    w, y, rw, ry = (np.array(data.draw(logps)) for _ in range(4))
    found = MAKE[name].pair_loss(w, y, rw, ry)
    expected = by_trainer(name, w, y, rw, ry)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=EPS * 16 * 1400 * BETA)
    # Pairs that list the batch have its mean for their loss.
    policy = jax.nn.log_softmax(jnp.asarray(np.concatenate([w, y])))
    reference = jax.nn.log_softmax(jnp.asarray(np.concatenate([rw, ry])))
    listed = didsim.Pairs(np.arange(5), np.arange(5, 10))
    mean = by_trainer(name, *(np.asarray(x) for x in (policy[:5], policy[5:], reference[:5], reference[5:])))
    loss = MAKE[name].loss(policy, reference, listed)
    assert float(loss) == pytest.approx(mean.mean(), rel=1e-12, abs=EPS * 16 * 1400 * BETA)


PROBLEMS = {
    "contrastive": lambda a, b, c: didsim.Contrastive(log_softmax(a), log_softmax(b)),
    "labelled": lambda a, b, c: didsim.Labelled(c, log_softmax(a), log_softmax(b)),
    "pairs": lambda a, b, c: didsim.Pairs([0, 1, 2, 1], [1, 2, 0, 1], np.array([1.0, 0.0, 3.0, 0.5])),
    "joint": lambda a, b, c: didsim.Joint(log_softmax(np.concatenate([a, b, c])).reshape(3, 3)),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("kind", PROBLEMS)
@given(st.data())
def test_population_losses_agree_with_quantiles_by_hand(name: str, kind: str, data: st.DataObject) -> None:
    one = hostile_logits(3)
    problem = PROBLEMS[kind](*(np.asarray(data.draw(one)) for _ in range(3)))
    p, r = (np.asarray(log_softmax(data.draw(one))) for _ in range(2))
    expected = by_quantiles(name, p, r, table(problem, 3))
    found, gradient = jax.value_and_grad(lambda x: MAKE[name].loss(x, r, problem))(jnp.asarray(p))
    size = BETA * (np.abs(p).max() + np.abs(r).max())
    # Shares are sums of 9 weights, and each is as good as these.
    assert float(found) == pytest.approx(expected, rel=1e-12, abs=EPS * 64 * (1 + size))
    assert np.isfinite(gradient).all()


def test_shares_that_are_fractions_are_matched_exactly() -> None:
    """Three chosen and two rejected sequences: thirds meet halves."""
    p = np.log([1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])
    r = np.log([1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 4])
    problem = didsim.Pairs([0, 1, 2, 0, 1, 2], [3, 3, 3, 4, 4, 4])
    h = BETA * (p - r)  # (−log 2, 0, log 2) · BETA against 0 and 0
    expected = loss_of(np.sort(h[:3])).mean()
    assert float(MAKE["aot_unpaired"].loss(p, r, problem)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", MAKE)
def test_sorting_is_the_best_way_to_match(name: str) -> None:
    """Of all ways to match two sides of equal shares; found by another algorithm."""
    w, y, rw, ry = -10 * RNG.random((4, 7))
    x, z = (w - y, rw - ry) if name == "aot" else (w - rw, y - ry)
    costs = loss_of(BETA * (x[:, None] - z))
    least = costs[linear_sum_assignment(costs)].mean()
    assert float(MAKE[name].pair_loss(w, y, rw, ry).mean()) == pytest.approx(least, rel=1e-13)


@pytest.mark.parametrize("name", MAKE)
def test_batches_map_and_gradients_agree_with_differences(name: str) -> None:
    p, r, a, b = log_softmax(RNG.normal(size=(4, 2, 5)), axis=-1)
    problem = didsim.Contrastive(a, b)
    together = MAKE[name].loss(p, r, problem)
    for k in range(2):
        alone = MAKE[name].loss(p[k], r[k], didsim.Contrastive(a[k], b[k]))
        assert float(together[k]) == pytest.approx(float(alone), rel=1e-13)
    one = didsim.Contrastive(a[0], b[0])
    z, step, direction = p[0], 1e-6, RNG.normal(size=5)
    gradient = jax.grad(lambda z: MAKE[name].loss(jax.nn.log_softmax(z), r[0], one))(jnp.asarray(z))
    ahead, behind = (
        by_quantiles(name, log_softmax(z + s * step * direction), r[0], table(one, 5)) for s in (1, -1)
    )
    assert float(gradient @ direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", MAKE)
def test_float32_stays_float32(name: str) -> None:
    p, r, a, b = log_softmax(RNG.normal(size=(4, 5)), axis=-1).astype(np.float32)
    narrow = jax.tree.map(jnp.float32, MAKE[name]).loss(p, r, didsim.Contrastive(a, b))
    assert narrow.dtype == jnp.float32
    wide = by_quantiles(name, p.astype(float), r.astype(float), np.add.outer(a, b).astype(float))
    assert float(narrow) == pytest.approx(wide, rel=1e-5)


CHOSEN, REJECTED, REFERENCE = log_softmax(RNG.normal(size=(3, 4)) / 2, axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)


@pytest.mark.parametrize("name", MAKE)
def test_a_solution_is_stationary_and_nothing_near_it_is_lower(name: str) -> None:
    solution = didsim.solve(MAKE[name], REFERENCE, PROBLEM, starts=8)
    known = solution.certificate
    assert known.starts == 8
    assert not known.unique  # not known to be convex
    assert bool(known.converged)
    assert float(known.gradient_norm) < 1e-12
    at, log_table = np.asarray(solution.log_probs), table(PROBLEM, 4)
    least = by_quantiles(name, at, REFERENCE, log_table)
    for size in (1e-4, 1e-2, 0.3):
        for _ in range(20):
            near = log_softmax(at + size * RNG.normal(size=4))
            assert by_quantiles(name, near, REFERENCE, log_table) >= least - 1e-14


def test_without_smoothing_unpaired_rewards_run_off() -> None:
    """No point is stationary unless both sides have one distribution."""
    solution = didsim.solve(didsim.aot_unpaired(BETA), REFERENCE, PROBLEM, starts=2)
    assert not bool(solution.certificate.converged)
    assert solution.objection() is not None
    slope = jax.vmap(
        jax.grad(lambda z: didsim.aot_unpaired(BETA).loss(jax.nn.log_softmax(z), REFERENCE, PROBLEM))
    )
    assert float(jnp.abs(slope(jnp.asarray(RNG.normal(size=(50, 4))))).max(axis=1).min()) > 1e-3
