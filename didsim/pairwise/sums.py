"""Sums over all pairs of sequences: the functions that users call."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from didsim import _checks
from didsim._differences import difference
from didsim.pairwise.exact import map_rows
from didsim.pairwise.forms import Form
from didsim.pairwise.primitive import bind, operands_of


def pair_sum(
    kernel: Form,
    weights_first: Float[ArrayLike, "*#batch n"],
    weights_second: Float[ArrayLike, "*#batch n"],
    x: Float[ArrayLike, "*#batch n"],
    offset: Real[ArrayLike, "*#batch"] = 0.0,
    *,
    tolerance: float | None = None,
) -> Float[Array, "*batch"]:
    """The sum `Σ_ij A_i B_j k(x_i − x_j − offset)` over all ordered pairs, `i = j` included.

    Batch axes broadcast. The sum can be differentiated in all arrays, to any order, forward and backward.

    Error: if no weight is negative and the kernel has one sign over the range of `x`, the error is at most
    `tolerance` times the sum. Otherwise terms can cancel, and the error is at most about `tolerance` times
    the sum of the terms' magnitudes. The error of a gradient in `x` is at most about `tolerance` times the
    largest entry of `|A_i| Σ_j |B_j k'| + |B_i| Σ_j |A_j k'|`. These are errors of the method alone. The
    rounding that any sum of N² terms has is added to them.

    Cost: memory is O(N). Time is

        Analytic           O(N m + m²), with `m` about `H/strip · log(1/tolerance)`, `H` half the range of `x`
        Polynomial         O(N degree)
        PiecewiseLinear    O(N log N)

    with `m` at most 512 (256 in float32). All pairs are summed, in O(N²) time, in three cases: for fewer than
    64 sequences, where it is faster; if `H` is too large for the largest `m` (beyond 15 strips); and if
    nearly everything cancels. The gradient costs as much again.

    Args:
        kernel: `k`, an `Analytic`, `Polynomial` or `PiecewiseLinear`.
        weights_first: `A`.
        weights_second: `B`.
        x: finite scalars.
        offset: number subtracted from every difference.
        tolerance: largest relative error; 1e-12 in float64 and 3e-5 in float32 by default.

    Raises:
        ValueError: `kernel` is of another kind, an array is not floating-point or is empty, shapes do not
            fit, `x` or `offset` is not finite, or `tolerance` is 1 or more, or smaller than the dtype can
            meet.

    Examples:
        >>> from didsim.pairwise import Polynomial
        >>> ones = jnp.ones(3)
        >>> float(pair_sum(Polynomial((0, 0, 1)), ones, ones, jnp.array([0.0, 1.0, 3.0])))
        28.0
    """
    if not isinstance(kernel, Form):
        raise ValueError(
            "`kernel` must be Analytic(function, strip), Polynomial(coefficients) or PiecewiseLinear(knots, "
            f"…); got {kernel!r}. For any other function, use tiled_pair_sum, which takes O(N²) time."
        )
    arrays = {
        "weights_first": _checks.float_array("weights_first", weights_first),
        "weights_second": _checks.float_array("weights_second", weights_second),
        "x": _checks.finite("x", x),
    }
    _checks.same_sequences(**arrays)
    offset = _checks.number("offset", offset)
    _checks.broadcast(**{name: array.shape[:-1] for name, array in arrays.items()}, offset=offset.shape)
    if not _checks.known(x):
        arrays["x"] = eqx.error_if(arrays["x"], ~jnp.isfinite(arrays["x"]), "`x` must be finite everywhere")
    if tolerance is not None:
        _check_tolerance(tolerance, jnp.result_type(*arrays.values()))
    first, second, x = arrays.values()
    return unchecked_pair_sum(kernel, first, second, x, offset, tolerance=tolerance)


def unchecked_pair_sum(
    kernel: Form,
    weights_first: Array,
    weights_second: Array,
    x: Array,
    offset: Array | float = 0.0,
    *,
    tolerance: float | None = None,
) -> Array:
    """`pair_sum` without its checks. An argument that is not finite gives NaN."""
    operands = operands_of(weights_first, weights_second, x, offset)
    (total,) = bind(operands, kernel=kernel, totals=(0,), rows=(), columns=(), tolerance=tolerance)
    return total


def potentials(
    kernel: Form, weights_first: Array, weights_second: Array, x: Array, offset: Array | float = 0.0
) -> tuple[Array, Array]:
    """`Σ_j B_j k(d_ij)` for every `i` and `Σ_i A_i k(d_ij)` for every `j`, with `d_ij = x_i − x_j − offset`.

    The cost is that of `pair_sum`. Arguments are not checked.
    """
    operands = operands_of(weights_first, weights_second, x, offset)
    rows, columns = bind(operands, kernel=kernel, totals=(), rows=(0,), columns=(0,), tolerance=None)
    return rows, columns


def tiled_pair_sum(
    kernel: Callable[..., Array],
    weights_first: Float[Array, "*#batch n"],
    weights_second: Float[Array, "*#batch n"],
    *x: Float[Array, "*#batch n"],
) -> Float[Array, "*batch"]:
    """The sum `Σ_ij A_i B_j k(x_i − x_j)` for any function `k`, pair by pair: O(N²) time, O(N) memory.

    With several arrays the kernel takes one difference from each: `Σ_ij A_i B_j k(x_i − x_j, y_i − y_j)`.
    The sum can be differentiated in all arrays, to any order, forward and backward.

    Args:
        kernel: `k`, an elementwise function with one argument for each array in `x`.
        weights_first: `A`.
        weights_second: `B`.
        x: one or more arrays of scalars.

    Raises:
        ValueError: `kernel` is no function, `x` is missing, an array is not floating-point or is empty, or
            shapes do not fit.

    Examples:
        >>> ones = jnp.ones(3)
        >>> float(tiled_pair_sum(jnp.square, ones, ones, jnp.array([0.0, 1.0, 3.0])))
        28.0
    """
    _checks.function("kernel", kernel, "a function of differences")
    if not x:
        raise ValueError("`x` must be at least one array; got none")
    arrays = {"weights_first": weights_first, "weights_second": weights_second}
    arrays |= {f"x[{k}]": entry for k, entry in enumerate(x)}
    arrays = {name: _checks.float_array(name, array) for name, array in arrays.items()}
    _checks.same_sequences(**arrays)
    return _tiled_pair_sums(kernel, *arrays.values())


@eqx.filter_jit
def _tiled_pair_sums(kernel: Callable[..., Array], *arrays: Array) -> Array:
    def one_sum(first: Array, second: Array, *x: Array) -> Array:
        def row(*entries: Array) -> Array:
            differences = [difference(entry, column) for entry, column in zip(entries, x, strict=True)]
            return jnp.sum(second * kernel(*differences))

        return jnp.sum(first * map_rows(row, *x))

    signature = ",".join(["(n)"] * len(arrays)) + "->()"
    return jnp.vectorize(one_sum, signature=signature)(*arrays)


def _check_tolerance(tolerance: Any, dtype: jnp.dtype) -> None:
    least = 16 * float(jnp.finfo(dtype).eps)
    if not least <= _checks.real("tolerance", tolerance, _checks.number) < 1:
        raise ValueError(
            f"`tolerance` must be at least {least:.1e}, the smallest that {dtype} can meet, and below 1; "
            f"got {tolerance!r}"
        )
