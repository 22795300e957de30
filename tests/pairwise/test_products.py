import math
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from didsim import Labelled
from didsim.pairwise.forms import Analytic, PiecewiseLinear
from didsim.pairwise.products import nodes_for

SIGMOID = Analytic(jax.nn.sigmoid, strip=math.pi)
STEP = PiecewiseLinear(knots=(0.0,), above=(1.0,))
HINGE = PiecewiseLinear(knots=(1.0,), left=(1.0,))
FUNCTIONS: dict[PiecewiseLinear, Callable[[np.ndarray], np.ndarray]] = {
    STEP: lambda d: np.heaviside(d, 0.5),
    HINGE: lambda d: np.maximum(0, 1 - d),
}


def share_above(offset: float, d: np.ndarray) -> np.ndarray:
    return np.heaviside(d - offset, 0.5)


def drawn(size: int, spread: float) -> tuple[np.ndarray, ...]:
    """A reward, two distributions, and values of which many are equal."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, size))
    reward = spread * rng.uniform(-1, 1, size)
    return reward, *log_softmax(logits, axis=-1), rng.normal(size=size).round(1)


def by_double_loop(
    function: Callable[[np.ndarray], np.ndarray],
    reward: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    x: np.ndarray,
) -> float:
    total = 0.0
    for i in range(len(x)):
        win = expit(reward[i] - reward)
        either = win * function(x[i] - x) + (1 - win) * function(x - x[i])
        total += float(np.exp(first[i]) * np.sum(np.exp(second) * either))
    return total


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("kernel", [STEP, HINGE])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_labelled_pairs_are_summed_as_by_a_double_loop(
    kernel: PiecewiseLinear, spread: float, dtype: str
) -> None:
    reward, first, second, x = (one.astype(dtype) for one in drawn(2100 if spread > 1 else 600, spread))
    problem = Labelled(reward, first, second)
    assert problem.nodes is not None
    expected = by_double_loop(FUNCTIONS[kernel], *(one.astype(float) for one in (reward, first, second, x)))
    tolerance = 1e-13 if dtype == "float64" else 2e-5
    assert float(problem.expect(kernel, jnp.asarray(x))) == pytest.approx(expected, rel=tolerance)
    assert float(problem.expect_across(kernel, jnp.asarray(x), jnp.asarray(x))) == pytest.approx(
        expected, rel=tolerance
    )


def test_a_hinge_on_labelled_pairs_has_the_slope_of_a_double_loop() -> None:
    reward, first, second, x = drawn(600, 1.0)
    x = x + 1e-3 * np.arange(len(x)) / len(x)  # no pair sits in the corner
    problem = Labelled(reward, first, second)
    assert problem.nodes == 32
    slope = jax.grad(lambda x: problem.expect(HINGE, x))(jnp.asarray(x))
    first, second = np.exp(first), np.exp(second)
    win, apart = expit(reward[:, None] - reward), x[:, None] - x
    falls = np.outer(first, second) * (win * (apart < 1) - (1 - win) * (-apart < 1))
    np.testing.assert_allclose(slope, falls.sum(0) - falls.sum(1), atol=1e-14)


def test_offsets_and_batches_of_labelled_pairs_are_summed_entry_by_entry() -> None:
    reward, first, second, x = drawn(600, 1.0)
    offsets = np.array([0.0, 0.35])  # between the differences of values
    batch = Labelled(np.stack([reward, reward[::-1]]), first, second)
    assert batch.nodes == 32
    found = batch.expect(STEP, jnp.asarray(x), jnp.asarray(offsets))
    for value, offset, labels in zip(found, offsets, [reward, reward[::-1]], strict=True):
        expected = by_double_loop(partial(share_above, offset), labels, first, second, x)
        assert float(value) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("spread", [60.0, 700.0])
def test_wide_rewards_are_summed_pair_by_pair(spread: float) -> None:
    reward, first, second, x = drawn(600, spread)
    problem = Labelled(reward, first, second)
    assert problem.nodes is None
    expected = by_double_loop(FUNCTIONS[STEP], reward, first, second, x)
    assert float(problem.expect(STEP, jnp.asarray(x))) == pytest.approx(expected, rel=1e-13)


def test_as_few_nodes_are_used_as_the_range_of_rewards_needs() -> None:
    for radius, nodes in [(0.0, 32), (1.0, 32), (8.0, 128), (30.0, 512), (80.0, None)]:
        assert nodes_for(SIGMOID, jnp.linspace(-radius, radius, 10_000)) == nodes
    assert nodes_for(SIGMOID, jnp.linspace(-1, 1, 511)) is None


def test_rewards_replaced_by_ones_too_wide_for_the_nodes_give_no_number() -> None:
    reward, first, second, x = drawn(600, 1.0)
    problem = Labelled(reward, first, second)
    assert problem.nodes == 32
    for factor, known in [(1.0, True), (-1.0, True), (1.05, True), (8.0, False), (700.0, False)]:
        wider = eqx.tree_at(lambda one: one.reward, problem, factor * problem.reward)
        found = float(wider.expect(STEP, jnp.asarray(x)))
        if known:
            expected = by_double_loop(FUNCTIONS[STEP], factor * reward, first, second, x)
            assert found == pytest.approx(expected, rel=1e-13)
        else:
            assert np.isnan(found)


def test_the_accuracy_of_a_hundred_thousand_labelled_sequences_needs_no_table() -> None:
    """Rewards and values are few, so that a double loop over the classes of equal ones gives the sum."""
    rng = np.random.default_rng(1)
    classes = rng.uniform(-1, 1, size=(2, 1000)).round(2)
    member = rng.integers(1000, size=10**5)
    first, second = log_softmax(rng.normal(size=(2, 10**5)), axis=-1)
    reward, x = classes[:, member]
    problem = Labelled(reward, first, second)
    compiled = jax.jit(lambda x: problem.expect(STEP, x)).lower(x).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2**27
    with np.errstate(divide="ignore"):
        shares = [np.log(np.bincount(member, np.exp(one), 1000)) for one in (first, second)]
    expected = by_double_loop(FUNCTIONS[STEP], classes[0], shares[0], shares[1], classes[1])
    assert float(compiled(jnp.asarray(x))) == pytest.approx(expected, rel=1e-12)
