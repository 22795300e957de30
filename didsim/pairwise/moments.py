"""Sums over all pairs of a polynomial kernel, from moments of `x`: O(N degree) time, O(N) memory."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim.pairwise.exact import Estimate, Sums, Wanted

Coefficients = tuple[float, ...]
"""`a_0, a_1, …` of `Σ_n a_n d^n`."""


def moment_sums(
    wanted: Wanted[Coefficients],
    first: Float[Array, " n"],
    second: Float[Array, " n"],
    x: Float[Array, " n"],
    offset: Float[Array, ""],
) -> Estimate:
    """Sums over all pairs of polynomials `p` of `d_ij = x_i − x_j − offset`, with bounds on their errors.

    With `c` the mean of `x` under the weights `|B|`, `v = x − c` and `s_i = x_i − c − offset`, Taylor's
    formula for a polynomial has no remainder:

        Σ_j B_j p(s_i − v_j) = Σ_l p^(l)(s_i)/l! · (−1)^l Σ_j B_j v_j^l.

    The formula for columns is the same, with a mean under `|A|`. Centring at a mean keeps odd moments small,
    so little cancels. The bound on an error is `8 (degree + 1)` rounding units of the sum of the magnitudes
    of all terms, with the largest degree of the polynomials.
    """

    def expanded(polynomial: Coefficients, s: Array, v: Array, weights: Array) -> tuple[Array, Array]:
        """`Σ_j w_j p(s_i + v_j)`, and the sum of the magnitudes of the terms of its expansion."""
        value, size = jnp.zeros_like(s), jnp.zeros_like(s)
        for order in range(len(polynomial)):
            taylor = [math.comb(n, order) * polynomial[n] for n in range(order, len(polynomial))]
            power = v**order
            value += horner(taylor, s) * jnp.sum(weights * power)
            size += horner([abs(a) for a in taylor], jnp.abs(s)) * jnp.sum(jnp.abs(weights * power))
        return value, size

    first_centre, second_centre = _centre(first, x), _centre(second, x)

    def at_rows(polynomial: Coefficients) -> tuple[Array, Array]:
        return expanded(polynomial, x - second_centre - offset, second_centre - x, second)

    def at_columns(polynomial: Coefficients) -> tuple[Array, Array]:
        return expanded(polynomial, first_centre - x - offset, x - first_centre, first)

    row_sums = [at_rows(polynomial) for polynomial in wanted.rows]
    column_sums = [at_columns(polynomial) for polynomial in wanted.columns]
    total_sums = []
    for polynomial in wanted.totals:
        value, size = at_rows(polynomial)
        total_sums.append((jnp.sum(first * value), jnp.sum(jnp.abs(first) * size)))
    rounding = (
        8 * max(map(len, (*wanted.totals, *wanted.rows, *wanted.columns))) * float(jnp.finfo(x.dtype).eps)
    )

    def estimated(pick: int, factor: float = 1, *, largest: bool = False) -> Sums:
        return Sums(
            *(
                [factor * (jnp.max(sums[pick]) if largest else sums[pick]) for sums in group]
                for group in (total_sums, row_sums, column_sums)
            )
        )

    return Estimate(estimated(0), estimated(1, rounding, largest=True), estimated(1))


def _centre(weights: Array, x: Array) -> Array:
    total = jnp.sum(jnp.abs(weights))
    mean = jnp.where(total > 0, jnp.sum(jnp.abs(weights) * x) / jnp.where(total > 0, total, 1), x[0])
    # Rounding can move a mean outside the range of `x`. Equal `x` would then differ from their mean.
    return jnp.clip(mean, jnp.min(x), jnp.max(x))


def horner(coefficients: Sequence[float], x: Array) -> Array:
    """`Σ_n coefficients[n] x^n`."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
