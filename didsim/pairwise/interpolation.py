"""Sums over all pairs of an analytic kernel, by interpolation at Chebyshev nodes.

Let `u` be `x` scaled to [−1, 1], `z_1 … z_m` the Chebyshev nodes, and `ℓ_p` the Lagrange polynomial that is
one at `z_p` and zero at the other nodes. The kernel is interpolated in both variables:

    k(x_i − x_j) ≈ Σ_pq ℓ_p(u_i) k(d_pq) ℓ_q(u_j),    d_pq = half_range · (z_p − z_q).

The sum over pairs of sequences becomes a sum over pairs of nodes, `Σ_pq a_p k(d_pq) b_q`. Its weights are the
charges of the nodes, `a_p = Σ_i A_i ℓ_p(u_i)` and `b_q = Σ_j B_j ℓ_q(u_j)`. For a kernel that is analytic in
the strip `|Im d| < s`, the error falls like `ρ^−m` with `ρ = s/half_range + √(1 + (s/half_range)²)`.

The polynomials `ℓ_p` are never evaluated at the points. Charges, and values at points, are computed from
products of Chebyshev polynomials,

    T_Rq(u) T_r(u) = (T_{Rq+r} + T_{|Rq−r|})/2,    q < Q,  r < R,  QR = m.

A point then needs Q + R polynomials and small matrix products, in place of m polynomials. Points are taken
in blocks that stay in a processor's cache. Blocks run along the middle axis of an array, so that its leading
axis can be spread over devices.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier
from jaxtyping import Array, Float

from didsim.pairwise.exact import Elementwise, Estimate, Sums, Wanted

_UNITS = 24  # of rounding, in a sum without signs
_LAST = 3  # coefficients that an error is judged by; every other one of an even or odd function is zero
_LANES = 16
_BLOCK = 128  # points of a lane in a block


def convergence_rate(half_range: Array, strip: float) -> Array:
    """`ρ`: one more node divides the error by this factor."""
    ratio = strip / half_range
    return ratio + jnp.sqrt(1 + ratio**2)


def half_range(x: Float[Array, "*#batch n"]) -> Float[Array, "*batch"]:
    """`(max x − min x)/2` over the last axis."""
    return (jnp.max(x, axis=-1) - jnp.min(x, axis=-1)) / 2


def interpolated_sums(
    wanted: Wanted[Elementwise],
    degree: int,
    strip: float,
    first: Float[Array, " n"],
    second: Float[Array, " n"],
    x: Float[Array, " n"],
    offset: Float[Array, ""],
) -> Estimate:
    """Sums over all pairs, with bounds on their errors. O(N degree + degree²) time, O(N) memory.

    `degree` is the number of nodes. A row sum at node `p` is `v_p = Σ_q k(d_pq) b_q`. The bound on its error
    is the sum of three terms:

        truncation in the first variable     the tail of the Chebyshev series of `v`
        truncation in the second variable    the largest tail of a series of `k(d_p·)`, times `Σ_j |B_j|`
        rounding                             24 rounding units of `Σ_q |k(d_pq) b_q|`.

    A tail is estimated by a geometric series with ratio `1/ρ`. Let `c` be the largest of the last three
    Chebyshev coefficients, less one rounding unit of the largest value, since that much can be rounding. The
    first term of the series is `4c`. For columns the two variables change places.
    """
    grid = _grid(degree, x.dtype)
    # Differences from the middle are exact however far from zero x is.
    centred = x - (jnp.min(x) + half_range(x))
    radius = jnp.max(jnp.abs(centred))
    scale = jnp.where(radius == 0, 1, radius)
    u = centred / scale
    blocks = _Blocks(x.shape[0])
    a, b = _matmul("sk,pk->sp", _moments(grid, blocks, u, (first, second)), grid.to_nodes)
    nodes = radius * (grid.nodes[:, None] - grid.nodes) - offset

    # Each sum has a table of its kernel at pairs of nodes, turned for columns, and charges to multiply it by.
    of_rows = [*wanted.totals, *wanted.rows]
    tables = jnp.stack([kernel(nodes) for kernel in of_rows] + [kernel(nodes).T for kernel in wanted.columns])
    is_row = np.arange(len(tables)) < len(of_rows)
    charges = jnp.where(is_row[:, None], b, a)
    values = _matmul("kpq,kq->kp", tables, charges)
    sizes = _matmul("kpq,kq->kp", jnp.abs(tables), jnp.abs(charges))

    lowest, highest = jnp.min(tables, axis=(1, 2)), jnp.max(tables, axis=(1, 2))
    has_one_sign = (jnp.min(first) >= 0) & (jnp.min(second) >= 0) & ((lowest >= 0) | (highest <= 0))
    eps, rate = jnp.finfo(x.dtype).eps, convergence_rate(scale, strip)

    def tails(functions: Float[Array, "sums functions nodes"]) -> Float[Array, " sums"]:
        """A bound on the interpolation errors of all functions of a sum, from their values at the nodes."""
        last = jnp.abs(_matmul("tp,kfp->kft", grid.last_coefficients, functions))
        unit = eps * jnp.max(jnp.abs(functions), axis=(1, 2))
        return 4 * jnp.maximum(jnp.max(last, axis=(1, 2)) - unit, 0) / (1 - 1 / rate)

    weight = jnp.where(is_row, jnp.sum(jnp.abs(second)), jnp.sum(jnp.abs(first)))
    truncation = tails(values[:, None]) + weight * tails(tables)
    errors = truncation[:, None] + _UNITS * eps * sizes

    n_totals = len(wanted.totals)
    totals = jnp.sum(a * values[:n_totals], axis=1)
    total_errors = jnp.sum(jnp.abs(a) * errors[:n_totals], axis=1)
    total_sizes = jnp.sum(jnp.abs(a) * sizes[:n_totals], axis=1)
    total_sizes = jnp.where(has_one_sign[:n_totals], jnp.abs(totals), total_sizes)

    evaluated = _evaluate(grid, blocks, u, values[n_totals:])
    largest_errors, largest_sizes = jnp.max(errors, axis=1), jnp.max(sizes, axis=1)
    evaluated_sizes = [
        jnp.where(one_sign, jnp.abs(value), size)
        for value, size, one_sign in zip(
            evaluated, largest_sizes[n_totals:], has_one_sign[n_totals:], strict=True
        )
    ]
    split = len(wanted.rows)

    def by_kind(of_totals: Array, others: list[Array]) -> Sums:
        return Sums(list(of_totals), others[:split], others[split:])

    return Estimate(
        by_kind(totals, evaluated),
        by_kind(total_errors, list(largest_errors[n_totals:])),
        by_kind(total_sizes, evaluated_sizes),
    )


class _Grid(NamedTuple):
    """Constants of a degree `m = Q R`.

    Attributes:
        wide: `R`, the number of polynomials `T_r`.
        narrow: `Q`, the number of polynomials `T_Rq`.
        nodes: the Chebyshev nodes.
        to_nodes: matrix from the moments `Σ_i w_i T_Rq(u_i) T_r(u_i)` to the charges of the nodes. Its
            transpose leads from values at the nodes to coefficients of the products `T_Rq T_r`.
        last_coefficients: matrix from values at the nodes to the last three Chebyshev coefficients.
    """

    wide: int
    narrow: int
    nodes: Array
    to_nodes: Array
    last_coefficients: Array


def _grid(degree: int, dtype: jnp.dtype) -> _Grid:
    wide, nodes, to_nodes, last = _grid_arrays(degree)
    return _Grid(wide, degree // wide, *(jnp.asarray(array, dtype) for array in (nodes, to_nodes, last)))


@functools.cache
def _grid_arrays(degree: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    wide = 2 ** math.ceil(math.log2(degree) / 2)
    k, odd = np.arange(degree), 2 * np.arange(degree) + 1

    def cosine(numerator: np.ndarray) -> np.ndarray:
        """`cos(π numerator / (2 degree))`. The integer numerator lets whole turns be removed exactly."""
        turn = np.arccos(np.longdouble(-1)) / (2 * degree)
        return np.cos(turn * (numerator % (4 * degree)))

    coefficients = cosine(np.outer(k, odd)) * 2 / degree
    coefficients[0] /= 2
    # From the polynomials to their products, T_{Rq+r} = 2 T_Rq T_r − T_{Rq−r}, from the last one down.
    products = coefficients.copy()
    for middle in range(degree - wide, 0, -wide):
        products[middle - wide + 1 : middle] -= products[middle + 1 : middle + wide][::-1]
        products[middle + 1 : middle + wide] *= 2
    return wide, cosine(odd), products.T, coefficients[-_LAST:]


class _Blocks:
    """An array of points in the shape `[lanes, blocks, points]`, padded with zeros at the end."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.points = min(_BLOCK, -(-size // _LANES))
        self.number = -(-size // (_LANES * self.points))

    def split(self, array: Array) -> Array:
        padding = _LANES * self.number * self.points - self.size
        return jnp.pad(array, (0, padding)).reshape(_LANES, self.number, self.points)

    def at(self, split: Array, k: Array) -> Array:
        """The points of block `k`, as one axis."""
        return jax.lax.dynamic_slice_in_dim(split, k, 1, axis=1).reshape(-1)

    def put(self, split: Array, k: Array, values: Array) -> Array:
        values = values.reshape(_LANES, 1, self.points)
        return jax.lax.dynamic_update_slice_in_dim(split, values, k, axis=1)

    def join(self, split: Array) -> Array:
        return split.reshape(-1)[: self.size]


def _moments(
    grid: _Grid, blocks: _Blocks, u: Array, weights: tuple[Array, ...]
) -> Float[Array, "weights degree"]:
    """`Σ_i w_i T_Rq(u_i) T_r(u_i)`."""
    u, split = blocks.split(u), [blocks.split(w) for w in weights]

    def add(k: Array, moments: Array) -> Array:
        coarse, fine = _polynomials(grid, blocks.at(u, k))
        weighted = jnp.concatenate([coarse * blocks.at(w, k) for w in split])
        return moments + _matmul("si,ri->sr", optimization_barrier(weighted), fine)

    zeros = jnp.zeros((len(weights) * grid.narrow, grid.wide), u.dtype)
    return jax.lax.fori_loop(0, blocks.number, add, zeros).reshape(len(weights), -1)


def _evaluate(
    grid: _Grid, blocks: _Blocks, u: Array, at_nodes: Float[Array, "functions nodes"]
) -> list[Float[Array, " n"]]:
    """At every point, the polynomials that interpolate the given values at nodes."""
    number = len(at_nodes)
    if not number:
        return []
    coefficients = _matmul("sp,pk->sk", at_nodes, grid.to_nodes)
    coefficients = coefficients.reshape(number * grid.narrow, grid.wide)
    u = blocks.split(u)

    def put(k: Array, out: list[Array]) -> list[Array]:
        coarse, fine = _polynomials(grid, blocks.at(u, k))
        series = _matmul("sr,ri->si", coefficients, fine).reshape(number, grid.narrow, -1)
        # A sum over the middle axis, written out: XLA's own reduction of it is six times as slow.
        values = series[:, 0] * coarse[0]
        for q in range(1, grid.narrow):
            values += series[:, q] * coarse[q]
        return [blocks.put(one, k, value) for one, value in zip(out, values, strict=True)]

    out = jax.lax.fori_loop(0, blocks.number, put, [jnp.zeros_like(u)] * number)
    return [blocks.join(one) for one in out]


def _polynomials(grid: _Grid, u: Float[Array, " i"]) -> tuple[Array, Array]:
    """`T_Rq(u)` for `q < Q`, and `T_r(u)` for `r < R`."""
    fine = _chebyshev(u, grid.wide)
    coarse = _chebyshev(fine[grid.wide], grid.narrow - 1)
    return coarse[: grid.narrow], fine[: grid.wide]


def _chebyshev(u: Float[Array, " i"], degree: int) -> Float[Array, "degrees i"]:
    """`T_0(u), T_1(u), …` up to `degree` or beyond, from `T_{k+r} = 2 T_k T_r − T_{k−r}`."""
    second = 2 * u * u - 1
    table = jnp.stack([jnp.ones_like(u), u, second, u * (2 * second - 1), 2 * second * second - 1])
    # Barriers keep XLA from computing each row anew from the first.
    table = optimization_barrier(table)
    while (last := table.shape[0] - 1) < degree:
        table = jnp.concatenate([table, 2 * table[last] * table[1:] - table[last - 1 :: -1]])
        table = optimization_barrier(table)
    return table


def _matmul(form: str, *operands: Array) -> Array:
    """An `einsum` in the full precision of its operands, on every kind of device."""
    return jnp.einsum(form, *operands, precision=jax.lax.Precision.HIGHEST)
