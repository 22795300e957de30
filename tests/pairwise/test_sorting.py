from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didsim.pairwise.exact import Sums, Wanted
from didsim.pairwise.forms import PiecewiseLinear
from didsim.pairwise.sorting import Piece, sorted_sums
from didsim.pairwise.sums import pair_sum

SIZE = 70


def compiled(*pieces: Piece) -> Callable[..., Sums]:
    function = jax.jit(partial(sorted_sums, Wanted([pieces], [pieces], [pieces])))
    return lambda *arrays: jax.tree.map(np.asarray, function(*arrays))


HINGE = Piece(1.0, left=1.0)
KERNELS = {
    "hinge": (HINGE,),
    "absolute value": (Piece(0.0, left=1.0, right=1.0),),
    "wins": (Piece(0.0, above=1.0),),
    "sign": (Piece(0.25, below=-1.0, above=1.0),),
    "lines": (Piece(-0.5, 2.0, 0.5, -1.0, 3.0), Piece(0.5, 1.0, -2.0, 0.25, 1.0), Piece(2.0, right=1.0)),
}
SUMS = {name: compiled(*pieces) for name, pieces in KERNELS.items()}


def one(piece: Piece, d: np.longdouble) -> np.longdouble:
    below = piece.below + piece.left * (piece.knot - d)
    above = piece.above + piece.right * (d - piece.knot)
    return (
        below if d < piece.knot else above if d > piece.knot else np.longdouble(piece.below + piece.above) / 2
    )


def table(pieces: tuple[Piece, ...], x: np.ndarray, offset: float, *, signs: bool = True) -> np.ndarray:
    """The kernel, entry by entry; without signs, the sum of the magnitudes of its pieces."""
    fold = (lambda v: v) if signs else abs
    wide = x.astype(np.longdouble)
    return np.array(
        [[sum(fold(one(p, a - b - np.longdouble(offset))) for p in pieces) for b in wide] for a in wide]
    )


# Points on a grid, so that differences are exact and often at a knot.
grids = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.sampled_from((0, 1, 8, 64, 2**13)).map(lambda width: (seed, width))
)


@given(st.sampled_from(sorted(KERNELS)), grids, st.sampled_from((0.0, 0.25, -1.5)), st.booleans())
def test_sums_are_those_of_a_double_loop(
    name: str, grid: tuple[int, int], offset: float, signed: bool
) -> None:
    seed, width = grid
    rng = np.random.default_rng(seed)
    x = rng.integers(-width, width + 1, SIZE) / 8
    first, second = rng.normal(size=(2, SIZE)) if signed else rng.random((2, SIZE))
    values = table(KERNELS[name], x, offset)
    sizes = table(KERNELS[name], x, offset, signs=False)
    sums = SUMS[name](first, second, x, np.asarray(offset))
    rows, columns = values @ second, first @ values
    # Running sums of up to SIZE terms: SIZE eps of the magnitude of all terms.
    near = SIZE * np.finfo(float).eps
    assert abs(sums.totals[0] - first @ rows) <= near * (np.abs(first) @ sizes @ np.abs(second))
    assert np.max(np.abs(sums.rows[0] - rows)) <= near * np.max(sizes @ np.abs(second))
    assert np.max(np.abs(sums.columns[0] - columns)) <= near * np.max(np.abs(first) @ sizes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_a_hinge_of_tiny_terms_keeps_its_digits(seed: int, scale: int) -> None:
    # Everything is a small multiple of 2^−30, so that each difference is exact. Terms are
    # 2^−30 … 2^−22, points up to 2^10 apart.
    rng = np.random.default_rng(seed)
    unit = 2.0**-30
    low = np.concatenate([[-(2.0**10)], -rng.integers(0, scale, SIZE // 2 - 1) * unit])
    high = np.concatenate([[2.0**10], 1 - unit * rng.integers(1, scale + 1, SIZE // 2 - 1)])
    high[1:] -= unit * scale
    x = np.concatenate([low, high])
    first = np.concatenate([np.zeros(SIZE // 2), rng.random(SIZE // 2)])
    second = np.concatenate([1e6 * rng.random(1), rng.random(SIZE // 2 - 1), np.zeros(SIZE // 2)])
    expected = first @ table((HINGE,), x, 0.0) @ second
    total = SUMS["hinge"](first, second, x, np.zeros(())).totals[0]
    assert abs(total - expected) <= SIZE * np.finfo(float).eps * expected


@given(st.integers(0, 2**32 - 1))
def test_a_hinge_without_an_active_term_is_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-3, -1, SIZE // 2), rng.uniform(1, 3, SIZE // 2)])
    first, second = np.where(x > 0, rng.random(SIZE), 0), np.where(x < 0, rng.random(SIZE), 0)
    sums = SUMS["hinge"](first, second, x, np.zeros(()))
    assert sums.totals[0] == 0
    assert not sums.rows[0][x > 0].any()
    assert not sums.columns[0][x < 0].any()


def test_ties_at_a_knot_count_half() -> None:
    x = np.repeat([0.0, 1.0, 4.0], (30, 20, 20))
    ones = np.ones(SIZE)
    sums = SUMS["wins"](ones, ones, x, np.zeros(()))
    assert sums.totals[0] == SIZE**2 / 2
    assert np.array_equal(sums.rows[0], np.repeat([15.0, 40.0, 60.0], (30, 20, 20)))
    assert np.array_equal(sums.columns[0], np.repeat([55.0, 30.0, 10.0], (30, 20, 20)))


def test_all_points_equal_are_at_the_knot_of_zero() -> None:
    x, ones = np.full(SIZE, 700.0), np.ones(SIZE)
    assert SUMS["wins"](ones, ones, x, np.zeros(())).totals[0] == SIZE**2 / 2
    assert SUMS["absolute value"](ones, ones, x, np.zeros(())).totals[0] == 0
    assert SUMS["hinge"](ones, ones, x, np.zeros(())).totals[0] == SIZE**2


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_reflected_piece_is_the_piece_of_minus_the_difference(name: str) -> None:
    d = jnp.arange(-24, 25) / 8.0
    for piece in KERNELS[name]:
        np.testing.assert_array_equal(piece.reflected()(d), piece(-d))


def test_a_derivative_is_the_slope_on_either_side() -> None:
    slope = Piece(1.0, below=5.0, left=2.0, above=-1.0, right=3.0).derivative()
    assert [float(slope(jnp.asarray(d))) for d in (0.0, 1.0, 2.0)] == [-2.0, 0.0, 3.0]


def test_a_small_tied_weight_is_not_lost_beside_a_large_one() -> None:
    x = np.arange(64.0)
    first, second = np.zeros(64), np.zeros(64)
    first[-1], second[0], second[-1] = 1, 1, 1e-20
    step = PiecewiseLinear(knots=(0,), below=(1,))
    assert float(pair_sum(step, first, second, x)) == pytest.approx(5e-21, rel=1e-12)


@pytest.mark.parametrize(
    ("left", "right", "slope"),
    [(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 1.0, 1.0), (2.0, -1.0, -1.0), (0.0, -3.0, 0.0)],
)
def test_the_derivative_at_a_corner_is_the_slope_nearest_to_zero(
    left: float, right: float, slope: float
) -> None:
    kernel = PiecewiseLinear(knots=(0.5,), left=(left,), right=(right,))
    knot = jnp.asarray(0.5)
    assert float(jax.grad(kernel)(knot)) == slope
    assert float(kernel.derivative()(knot)) == slope
    # As a sum over pairs, whose differences are all at the knot, by the sort and by double loops.
    for size in (2, 200):
        ones, x = jnp.ones(size) / size, jnp.zeros(size)
        in_offset = jax.grad(lambda o, a=ones, x=x: pair_sum(kernel, a, a, x, o))(-knot)
        assert float(in_offset) == pytest.approx(-slope, abs=1e-12)
