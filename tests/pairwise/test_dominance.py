import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import kendalltau

from didsim.pairwise.dominance import count_from, exact_sum, violations

VIOLATIONS = jax.jit(violations)


def by_pairs(x: np.ndarray, y: np.ndarray, tolerance: float, unexplained: float) -> tuple[int, float]:
    """The count over all ordered pairs and the worst violation, pair by pair, in the arrays' own dtype."""
    count, worst = 0, 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            a, b = x[i] - x[j], y[i] - y[j]
            small, large = min(abs(a), abs(b)), max(abs(a), abs(b))
            if np.isnan(a) or np.isnan(b):
                count, worst = count + 1, np.nan
            elif small > tolerance and (a > 0) != (b > 0):
                count, worst = count + 1, max(worst, small)
            elif small <= tolerance and large > unexplained:
                count += 1
    return count, worst


TIED = st.sampled_from((0.0, 0.1, 0.2, 0.3, 1.0, -1.0))
EXTREME = st.sampled_from((-700.0, 700.0, 0.0, 1e-3))
ANY = st.floats(-700, 700, width=32)
TOLERANCES = st.sampled_from((0.0, 1e-16, 0.1, 0.2, 1.0, 1400.0, 1e9))


@given(st.data(), st.sampled_from((np.float32, np.float64)), st.sampled_from((1, 2, 3, 8)))
def test_violations_agree_with_a_double_loop(data: st.DataObject, dtype: type, size: int) -> None:
    values = hnp.arrays(dtype, size, elements=data.draw(st.sampled_from((TIED, EXTREME, ANY))))
    x, y = data.draw(values), data.draw(values)
    if data.draw(st.integers(0, 4)) == 0:
        x[data.draw(st.integers(0, size - 1))] = np.nan
    tolerance = dtype(data.draw(TOLERANCES))
    unexplained = dtype(tolerance * data.draw(st.sampled_from((1, 3, 100))))
    found = VIOLATIONS(x, y, tolerance, unexplained)
    count, worst = by_pairs(x, y, tolerance, unexplained)
    assert float(found.pairs) == count
    assert bool(found.any) == (count > 0)
    np.testing.assert_array_equal(found.worst, worst)  # the same float, or NaN
    assert found.worst.dtype == dtype


def test_bounds_are_tested_on_rounded_differences() -> None:
    # 0.3 − 0.2 is below 0.1 and 0.1 − 0.0 is not: x > y + t would say otherwise for one of them.
    x, y = np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1, 0.0])
    for tolerance in (x[3] - x[2], x[1] - x[0], np.nextafter(x[1], 0), y[0] - y[1]):
        found = VIOLATIONS(x, y, tolerance, tolerance)
        assert (float(found.pairs), float(found.worst)) == by_pairs(x, y, tolerance, tolerance)


def test_equal_numbers_have_no_violations_and_reversed_ones_nothing_else() -> None:
    x = np.random.default_rng(0).normal(size=50)
    assert not bool(VIOLATIONS(x, x, 0.0, 0.0).any)
    assert float(VIOLATIONS(x, -x, 0.0, 0.0).pairs) == 50 * 49
    assert float(VIOLATIONS(x, -x, 0.0, 0.0).worst) == np.ptp(x)


def test_batches_map() -> None:
    x, y = np.random.default_rng(1).integers(0, 4, size=(2, 3, 9)).astype(float)
    tolerances = np.array([0.0, 1.0, 2.0])
    found = jax.jit(jax.vmap(violations))(x, y, tolerances, 2 * tolerances)
    for k, tolerance in enumerate(tolerances):
        expected = by_pairs(x[k], y[k], tolerance, 2 * tolerance)
        assert (float(found.pairs[k]), float(found.worst[k])) == expected


def test_the_worst_violation_has_the_gradient_of_its_smaller_step() -> None:
    x, y = jnp.array([0.1, 0.7, 0.2, 0.3]), jnp.array([0.5, 0.1, 0.9, 0.3])
    gradient = jax.grad(lambda x: violations(x, y, jnp.zeros(()), jnp.zeros(())).worst)(x)
    assert gradient.tolist() == [0, 1, -1, 0]  # of 0.7 − 0.2, which is below 0.9 − 0.1


@given(st.data(), st.sampled_from((1, 2, 7, 8, 33)))
def test_ranks_in_runs_are_counted(data: st.DataObject, size: int) -> None:
    ranks = np.array(data.draw(st.permutations(range(size))))
    ends = hnp.arrays(np.int32, (3, size), elements=st.integers(0, size))
    start, least = data.draw(ends), data.draw(ends)
    stop = np.maximum(start, data.draw(ends))
    counts = jax.jit(count_from)(ranks.astype(np.int32), start, stop, least)
    for place in np.ndindex(counts.shape):
        assert counts[place] == np.sum(ranks[start[place] : stop[place]] >= least[place])


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)])
def test_sums_beyond_32_bits_keep_their_digits(dtype: np.dtype) -> None:
    counts = np.random.default_rng(2).integers(0, 2**31 - 1, size=100_003)
    total = exact_sum(jnp.asarray(counts, jnp.int32), dtype)
    assert total.dtype == dtype
    assert float(total) == pytest.approx(int(counts.sum()), rel=float(jnp.finfo(dtype).eps), abs=0)


def test_half_precision_counts_in_float32() -> None:
    assert float(exact_sum(jnp.full(1000, 1000, jnp.int32), np.dtype(np.float16))) == 1e6


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (10**5, np.dtype(np.float32)),
        (10**5, np.dtype(np.float64)),
        pytest.param(10**6, np.dtype(np.float32), marks=pytest.mark.slow),
    ],
)
def test_large_counts_are_those_of_kendall(size: int, dtype: np.dtype) -> None:
    """More than 2^31 pairs. Without ties, tau = 1 − 4 discordant/(N(N − 1))."""
    rng = np.random.default_rng(3)
    x = rng.permutation(size).astype(dtype)
    y = rng.permutation(size).astype(dtype)
    zero = np.zeros((), dtype)
    found = VIOLATIONS(x, y, zero, zero)
    discordant = (1 - kendalltau(x, y).statistic) * size * (size - 1) / 4
    rounding = float(np.finfo(dtype).eps) + 1e-14
    assert float(found.pairs) == pytest.approx(2 * discordant, rel=rounding, abs=0)
    # Every pair of a reversed order is discordant, and the farthest is the worst.
    reverse = VIOLATIONS(x, -x, zero, zero)
    assert float(reverse.pairs) == pytest.approx(size * (size - 1), rel=rounding, abs=0)
    assert float(reverse.worst) == size - 1
