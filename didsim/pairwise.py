"""Sums over all pairs of sequences, `Σ_ij A_i B_j k(x_i − x_j)`, in near-linear time.

What a kernel `k` is decides how:

    Analytic          interpolation at Chebyshev nodes    O(N m + m²), m from the range of x and the tolerance
    Polynomial        moments                             O(N degree)
    PiecewiseLinear   a sort and running sums             O(N log N)

Every result is checked against a bound on its error. Where the bound is above the tolerance, the sum is taken
exactly, pair by pair, in O(N²) time and O(N) memory. So are the sums of any other function,
`tiled_pair_sum`.

One JAX primitive stands behind `pair_sum`: sums over all pairs, over the second sequence of each, or over
the first. Its derivatives are sums of the same kinds, so that it can be differentiated to any order, forward
and backward, at the same cost. Under `vmap` it remains one program for the whole batch, exact for all or
for none: a branch taken entry by entry would compute both.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, ArrayLike, Float

from didsim import _checks
from didsim._interpolation import convergence_rate, half_range, interpolated_sums
from didsim._moments import moment_sums
from didsim._sorting import Piece, sorted_sums
from didsim._tiles import Estimate, Sums, Wanted, map_rows, tiled_sums

_DEFAULT_TOLERANCES = {"float32": 3e-5, "float64": 1e-12}
_DEGREES = {"float32": (16, 64, 256), "float64": (32, 128, 512)}
_MARGIN = 1e3  # between the error that a degree promises and the tolerance
_LONG = 2**13  # from here on, passes over x are what a sum costs, not its sums over nodes
_TOGETHER = 2**12  # points of a batch that are worked on at once
# Below this many sequences all pairs are faster.
_FEW = 64


@dataclass(frozen=True)
class Analytic:
    """A smooth kernel, known by how far from the real line it stays analytic.

    Args:
        function: elementwise function of a difference, made of JAX operations. Its parameters are constants:
            to scale or shift the difference by an array, scale `x` or pass an `offset`.
        strip: it is analytic for `|Im d| < strip`: `π` for the sigmoid and the softplus. The larger, the
            fewer nodes are needed. A strip that is too large costs time, as errors are checked
            against the coefficients that are found.
        odd_slope: the `s` for which `k(d) − k(−d) = s·d`, if there is one: 1 for the softplus. It is
            what lets sums over labelled pairs be taken in near-linear time.

    Raises:
        ValueError: `function` is not a function, `strip` is not positive and finite, or `odd_slope` not
            finite.
    """

    function: Callable[[Array], Array]
    strip: float
    odd_slope: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"`function` must be a function of a difference; got {self.function!r}")
        if not (isinstance(self.strip, numbers.Real) and 0 < self.strip < math.inf):
            raise ValueError(f"`strip` must be positive and finite; got {self.strip!r}")
        if not (self.odd_slope is None or math.isfinite(self.odd_slope)):
            raise ValueError(f"`odd_slope` must be finite or None; got {self.odd_slope!r}")

    def __call__(self, d: Array) -> Array:
        """The kernel, elementwise."""
        return self.function(d)

    def derivative(self) -> "Analytic":
        """The first derivative, analytic in the same strip."""
        return Analytic(_Derivative(self.function), self.strip)

    def skew(self, offset: Array | None) -> float | None:
        """The `s` for which `k(d − offset) − k(−d − offset) = s·d`, or None."""
        return self.odd_slope if offset is None else None


@dataclass(frozen=True)
class _Derivative:
    function: Callable[[Array], Array]

    def __call__(self, d: Array) -> Array:
        return jax.jvp(self.function, (d,), (jnp.ones_like(d),))[1]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial kernel, `Σ_n coefficients[n] d^n`.

    Raises:
        ValueError: there is no coefficient, or one is not finite.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _finite_numbers("coefficients", self.coefficients))

    def __call__(self, d: Array) -> Array:
        """The polynomial, elementwise."""
        return jnp.polyval(jnp.asarray(self.coefficients[::-1], d.dtype), d)

    def derivative(self) -> "Polynomial":
        """The first derivative."""
        return Polynomial(tuple(n * a for n, a in enumerate(self.coefficients))[1:] or (0.0,))

    def skew(self, offset: Array | None) -> Array | float | None:
        """The `s` for which `k(d − offset) − k(−d − offset) = s·d`, or None: `2 (a_1 − 2 a_2 offset)`."""
        if len(self.coefficients) > 3:
            return None
        _, linear, quadratic = (*self.coefficients, 0.0, 0.0)[:3]
        return 2 * (linear - 2 * quadratic * (0.0 if offset is None else offset))


@dataclass(frozen=True)
class PiecewiseLinear:
    """A kernel of lines between knots, with or without jumps: a sum of functions of one knot each.

    A function with knot `t` is `below[t] + left[t] · (t − d)` for `d < t`,
    `above[t] + right[t] · (d − t)` for `d > t`, and the mean of `below` and `above` for `d = t`. The hinge
    `max(0, 1 − d)` is `PiecewiseLinear(knots=(1,), left=(1,))`, a share of wins with ties counted half is
    `PiecewiseLinear(knots=(0,), above=(1,))`. Its derivative at a knot is the mean of the slopes; jumps
    have none.

    Args:
        knots: where the kernel bends or jumps.
        below: the value just below each knot; 0 by default.
        left: the growth with the distance from the knot, below it; 0 by default.
        above: the value just above.
        right: the growth with the distance, above.

    Raises:
        ValueError: there is no knot, a number is not finite, or lengths differ.
    """

    knots: tuple[float, ...]
    below: tuple[float, ...] = ()
    left: tuple[float, ...] = ()
    above: tuple[float, ...] = ()
    right: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        knots = _finite_numbers("knots", self.knots)
        object.__setattr__(self, "knots", knots)
        for name in ("below", "left", "above", "right"):
            values = getattr(self, name)
            values = _finite_numbers(name, values) if values != () else (0.0,) * len(knots)
            if len(values) != len(knots):
                raise ValueError(
                    f"`{name}` must have one number for each of {len(knots)} knots; got {len(values)}"
                )
            object.__setattr__(self, name, values)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The functions of one knot that add up to the kernel."""
        return tuple(map(Piece, self.knots, self.below, self.left, self.above, self.right))

    def __call__(self, d: Array) -> Array:
        """The kernel, elementwise."""
        return sum((piece(d) for piece in self.pieces), jnp.zeros_like(d))

    def derivative(self) -> "PiecewiseLinear":
        """The slope, between knots."""
        return PiecewiseLinear(*zip(*(piece.derivative() for piece in self.pieces), strict=True))

    def skew(self, offset: Array | None) -> None:
        """None: it is not looked for."""


PairKernel = Analytic | Polynomial | PiecewiseLinear


def pair_sum(
    kernel: PairKernel,
    weights_first: Float[ArrayLike, "*batch n"],
    weights_second: Float[ArrayLike, "*batch n"],
    x: Float[ArrayLike, "*batch n"],
    offset: Float[ArrayLike, "*batch"] = 0.0,
    *,
    tolerance: float | None = None,
) -> Float[Array, "*batch"]:
    """The sum `Σ_ij A_i B_j k(x_i − x_j − offset)` over all ordered pairs, `i = j` included.

    Batch axes broadcast. Differentiable in all arrays, to any order, forward and backward.

    An error is at most `tolerance` times the sum itself, if weights are not negative and the kernel keeps
    one sign over the range of `x`; otherwise times, about, the same sum with all signs dropped. That of a
    gradient in `x` is relative, in the same way, to the largest of `A_i Σ_j B_j |k'| + B_i Σ_j A_j |k'|`.
    This counts what the method adds to the rounding that any sum of N² terms has.

    Args:
        kernel: `Analytic`, `Polynomial` or `PiecewiseLinear`.
        weights_first: `A`.
        weights_second: `B`.
        x: finite scalars.
        offset: what is subtracted from every difference.
        tolerance: largest relative error; 1e-12 in float64 and 3e-5 in float32 by default.

    Returns:
        The sum. O(N) memory. With `A` the half-range of `x`, time is O(N m + m²) with `m` about
        `A/strip · log(1/tolerance)` for an analytic kernel, at most 512 (256 in float32); O(N) for a
        polynomial; O(N log N) for a piecewise linear one. O(N²) where that is faster, below 64 sequences,
        or needed: where `A` is too large for the largest `m` (beyond 15 strips), or nearly everything
        cancels. The gradient costs as much again.

    Raises:
        ValueError: the kernel is none of these, an array is not floating-point or is empty, shapes do not
            fit, `x` or `offset` is not finite, or the dtype cannot meet the tolerance.

    >>> ones = jnp.ones(3)
    >>> float(pair_sum(Polynomial((0, 0, 1)), ones, ones, jnp.array([0.0, 1.0, 3.0])))
    28.0
    """
    if not isinstance(kernel, PairKernel):
        raise ValueError(
            "`kernel` must be Analytic(function, strip), Polynomial(coefficients) or PiecewiseLinear(knots, "
            f"…); got {kernel!r}. tiled_pair_sum takes any function, in O(N²) time."
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
    kernel: PairKernel,
    weights_first: Array,
    weights_second: Array,
    x: Array,
    offset: Array | float = 0.0,
    *,
    tolerance: float | None = None,
) -> Array:
    """`pair_sum` for a caller that knows its arguments to fit. What is not finite gives NaN."""
    operands = _operands(weights_first, weights_second, x, offset)
    (total,) = _bind(operands, kernel=kernel, totals=(0,), rows=(), columns=(), tolerance=tolerance)
    return total


def potentials(
    kernel: PairKernel, weights_first: Array, weights_second: Array, x: Array, offset: Array | float = 0.0
) -> tuple[Array, Array]:
    """`Σ_j B_j k(d_ij)` for every `i` and `Σ_i A_i k(d_ij)` for every `j`, with `d_ij = x_i − x_j − offset`.

    Costs as `pair_sum` does, and unchecked as `unchecked_pair_sum`.
    """
    operands = _operands(weights_first, weights_second, x, offset)
    rows, columns = _bind(operands, kernel=kernel, totals=(), rows=(0,), columns=(0,), tolerance=None)
    return rows, columns


def tiled_pair_sum(
    kernel: Callable[..., Array],
    weights_first: Float[Array, "*batch n"],
    weights_second: Float[Array, "*batch n"],
    *x: Float[Array, "*batch n"],
) -> Float[Array, "*batch"]:
    """The sum `Σ_ij A_i B_j k(x_i − x_j)` of any function, exact: O(N²) time, O(N) memory.

    With several `x` the kernel takes several differences: `Σ_ij A_i B_j k(x_i − x_j, y_i − y_j)`.
    Differentiable in everything, to any order, forward and backward.

    Args:
        kernel: elementwise function of one difference for each `x`.
        weights_first: `A`.
        weights_second: `B`.
        x: one or more arrays of scalars.

    Raises:
        ValueError: an argument is not floating-point or is empty, or shapes do not fit.

    >>> ones = jnp.ones(3)
    >>> float(tiled_pair_sum(jnp.square, ones, ones, jnp.array([0.0, 1.0, 3.0])))
    28.0
    """
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
            differences = [entry - column for entry, column in zip(entries, x, strict=True)]
            return jnp.sum(second * kernel(*differences))

        return jnp.sum(first * map_rows(row, *x))

    signature = ",".join(["(n)"] * len(arrays)) + "->()"
    return jnp.vectorize(one_sum, signature=signature)(*arrays)


def _finite_numbers(name: str, values: Any) -> tuple[float, ...]:
    expected = f"`{name}` must be a sequence of at least one finite number; got {values!r}"
    try:
        numbers_given = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if not numbers_given or not all(map(math.isfinite, numbers_given)):
        raise ValueError(expected)
    return numbers_given


def _check_tolerance(tolerance: Any, dtype: jnp.dtype) -> None:
    least = 16 * float(jnp.finfo(dtype).eps)
    if not (isinstance(tolerance, numbers.Real) and least <= float(tolerance) < 1):
        raise ValueError(
            f"`tolerance` must be at least {least:.1e}, which is what {dtype} can meet, and below 1; "
            f"got {tolerance!r}"
        )


# The primitive. Operands: weights of the first sequence and of the second, x, the offset, all with the same
# batch axes and of one dtype. Parameters: the kernel; of which derivatives of it totals, rows and columns
# are wanted (see Sums), by their order; and the tolerance, or None for the dtype's.

_pair_sums_p = Primitive("pair_sums")
_pair_sums_p.multiple_results = True

Orders = tuple[int, ...]


def _operands(*arrays: Array | float) -> tuple[Array, ...]:
    *distributions, offset = arrays
    dtype = jnp.result_type(*distributions)
    batch = jnp.broadcast_shapes(*(jnp.shape(one)[:-1] for one in distributions), jnp.shape(offset))
    full = (*batch, jnp.shape(distributions[0])[-1])
    return (
        *(jnp.broadcast_to(jnp.asarray(one, dtype), full) for one in distributions),
        jnp.broadcast_to(jnp.asarray(offset, dtype), batch),
    )


def _bind(
    operands: Sequence[Array],
    *,
    kernel: PairKernel,
    totals: Orders = (),
    rows: Orders = (),
    columns: Orders = (),
    tolerance: float | None,
) -> list[Array]:
    parameters = {"totals": totals, "rows": rows, "columns": columns, "tolerance": tolerance}
    return _pair_sums_p.bind(*operands, kernel=kernel, **parameters)


@functools.partial(jax.jit, static_argnames=("kernel", "totals", "rows", "columns", "tolerance"))
def _compute(
    *operands: Array,
    kernel: PairKernel,
    totals: Orders,
    rows: Orders,
    columns: Orders,
    tolerance: float | None,
) -> list[Array]:
    """The fastest way that is good enough, or the exact one, over one batch axis."""
    *batch, size = operands[0].shape
    flat = [operand.reshape(-1, size) for operand in operands[:3]]
    flat.append(operands[3].reshape(-1))
    derivatives = [kernel]
    for _ in range(max((*totals, *rows, *columns))):
        derivatives.append(derivatives[-1].derivative())

    def wanted(of: Callable[[Any], Any] = lambda derivative: derivative) -> Wanted[Any]:
        kinds = (totals, rows, columns)
        return Wanted(*([of(derivatives[order]) for order in orders] for orders in kinds))

    dtype = flat[0].dtype.name
    tolerance = _DEFAULT_TOLERANCES.get(dtype, 0.0) if tolerance is None else tolerance
    if size < _FEW or dtype not in _DEFAULT_TOLERANCES:
        sums = tiled_sums(wanted(), *flat)
    elif isinstance(kernel, PiecewiseLinear):
        sums = jax.vmap(functools.partial(sorted_sums, wanted(lambda one: one.pieces)))(*flat)
    elif isinstance(kernel, Polynomial):
        estimate = functools.partial(moment_sums, wanted(lambda one: one.coefficients))
        sums = _first_good([estimate], jnp.zeros((), int), tolerance, wanted(), *flat)
    else:
        degrees = [degree for degree in _DEGREES[dtype] if 5 * degree <= 3 * size]
        estimates = [functools.partial(interpolated_sums, wanted(), m, kernel.strip) for m in degrees]
        rate = convergence_rate(jnp.max(half_range(flat[2])), kernel.strip)
        choice = jnp.sum(jnp.asarray(degrees) * jnp.log(rate) < math.log(_MARGIN / tolerance))
        sums = _first_good(estimates, choice, tolerance, wanted(), *flat)
    shapes = [batch] * len(totals) + [[*batch, size]] * (len(rows) + len(columns))
    return [one.reshape(shape) for one, shape in zip(jax.tree.leaves(sums), shapes, strict=True)]


def _first_good(
    estimates: Sequence[Callable[..., Estimate]],
    choice: Array,
    tolerance: float,
    wanted: Wanted[Any],
    *operands: Array,
) -> Sums:
    """The first of several estimates, from a choice on, that keeps the tolerance, or the exact sums."""
    batch, size = operands[2].shape
    together = max(1, _TOGETHER // size)

    def attempt(estimate: Callable[..., Estimate]) -> tuple[Sums, Array]:
        if batch <= together:
            found = jax.vmap(estimate)(*operands)
        else:
            found = jax.lax.map(lambda entry: estimate(*entry), operands, batch_size=together)
        return found.sums, _good_enough(found, tolerance, *operands[:2])

    def exact() -> tuple[Sums, Array]:
        return tiled_sums(wanted, *operands), jnp.ones((), bool)

    branches: list[Callable[[], tuple[Sums, Array]]]
    branches = [*(functools.partial(attempt, estimate) for estimate in estimates), exact]

    def next_branch(state: tuple[Array, Sums, Array]) -> tuple[Array, Sums, Array]:
        choice, _, _ = state
        return choice + 1, *jax.lax.switch(choice, branches)

    shapes, _ = jax.eval_shape(branches[-1])
    nothing = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
    start = (choice, nothing, jnp.zeros((), bool))
    return jax.lax.while_loop(lambda state: ~state[2], next_branch, start)[1]


def _good_enough(estimate: Estimate, tolerance: float, first: Array, second: Array) -> Array:
    """Whether every error is within the tolerance; NaN passes, as no exact sum would be better."""

    def within(error: Array, size: Array) -> Array:
        return jnp.all(~(error > tolerance * size))

    checks = [
        within(error, size) for error, size in zip(estimate.errors.totals, estimate.sizes.totals, strict=True)
    ]
    row_errors, column_errors = ([error.reshape(-1, 1) for error in errors] for errors in estimate.errors[1:])
    if len(row_errors) == len(column_errors):
        # A gradient in x: its entries are A_i rows_i − B_i columns_i.
        first_size, second_size = jnp.abs(first), jnp.abs(second)
        largest = [jnp.max(one, axis=-1) for one in (first_size, second_size)]
        for row_error, column_error, row_size, column_size in zip(
            row_errors, column_errors, *estimate.sizes[1:], strict=True
        ):
            error = largest[0] * row_error[:, 0] + largest[1] * column_error[:, 0]
            size = first_size * row_size + second_size * column_size
            checks.append(within(error, jnp.max(size, axis=-1)))
    else:
        for error, size in zip(
            [*row_errors, *column_errors], [*estimate.sizes[1], *estimate.sizes[2]], strict=True
        ):
            checks.append(within(error[:, 0], jnp.max(size, axis=-1)))
    return jnp.stack(checks).all()


_pair_sums_p.def_impl(_compute)
mlir.register_lowering(_pair_sums_p, mlir.lower_fun(_compute, multiple_results=True))


@_pair_sums_p.def_abstract_eval
def _shapes(
    *operands: Any, kernel: PairKernel, totals: Orders, rows: Orders, columns: Orders, tolerance: Any
) -> list[Any]:
    *_, x, offset = operands
    return [offset] * len(totals) + [x] * (len(rows) + len(columns))


def _batch(
    operands: Sequence[Array], axes: Sequence[Any], **parameters: Any
) -> tuple[list[Array], list[int]]:
    mapped = zip(operands, axes, strict=True)
    (size,) = {operand.shape[axis] for operand, axis in mapped if axis is not None}

    def in_front(operand: Array, axis: Any) -> Array:
        if axis is None:
            return jnp.broadcast_to(operand, (size, *operand.shape))
        return jnp.moveaxis(operand, axis, 0)

    results = _pair_sums_p.bind(*map(in_front, operands, axes), **parameters)
    return results, [0] * len(results)


batching.primitive_batchers[_pair_sums_p] = _batch


def _differentiate(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    kernel: PairKernel,
    totals: Orders,
    rows: Orders,
    columns: Orders,
    tolerance: float | None,
) -> tuple[list[Array], list[Any]]:
    """With `R_n[w]` the rows and `C_n[w]` the columns of the n-th derivative, and `D = dx − doffset`.

    d total_n   = Σ dA R_n[B] + Σ dB C_n[A] + Σ A D R_{n+1}[B] − Σ B dx C_{n+1}[A]
    d R_n[B]    = R_n[dB] + D R_{n+1}[B] − R_{n+1}[B dx]
    d C_n[A]    = C_n[dA] + C_{n+1}[A D] − dx C_{n+1}[A].
    """
    first, second, x, offset = primals
    in_first, in_second, in_x, in_offset = (not isinstance(t, ad.Zero) for t in tangents)
    d_first, d_second, d_x, d_offset = map(ad.instantiate_zeros, tangents)
    moves = in_x or in_offset
    step = d_x - d_offset[..., None]

    above = lambda orders: tuple(order + 1 for order in orders) if moves else ()  # noqa: E731
    all_rows = sorted({*rows, *above(rows), *above(totals), *(totals if in_first else ())})
    all_columns = sorted({*columns, *above(columns), *above(totals), *(totals if in_second else ())})
    common: dict[str, Any] = {"kernel": kernel, "tolerance": tolerance}
    orders: dict[str, Any] = {"totals": totals, "rows": tuple(all_rows), "columns": tuple(all_columns)}
    if x.shape[-1] < _LONG:
        # Apart, totals cost nothing where they are not used; a gradient seldom uses them.
        sums = _bind(primals, totals=totals, **common) if totals else []
        results = [*sums, *_bind(primals, **(orders | {"totals": ()}), **common)]
    else:
        results = _bind(primals, **orders, **common)
        sums = results[: len(totals)]
    row_of = dict(zip(all_rows, results[len(totals) :], strict=False))
    column_of = dict(zip(all_columns, results[len(totals) + len(all_rows) :], strict=True))

    def rows_of(order: int, weights: Array) -> Array:
        return _bind((jnp.zeros_like(x), weights, x, offset), rows=(order,), **common)[0]

    def columns_of(order: int, weights: Array) -> Array:
        return _bind((weights, jnp.zeros_like(x), x, offset), columns=(order,), **common)[0]

    def changed(of: Array, terms: list[Array]) -> Any:
        return sum(terms[1:], terms[0]) if terms else ad.Zero(jax.typeof(of).to_tangent_aval())

    changes = []
    for order, total in zip(totals, sums, strict=True):
        terms = [jnp.sum(d_first * row_of[order], axis=-1)] if in_first else []
        terms += [jnp.sum(d_second * column_of[order], axis=-1)] if in_second else []
        if moves:
            flow = first * step * row_of[order + 1] - second * d_x * column_of[order + 1]
            terms.append(jnp.sum(flow, axis=-1))
        changes.append(changed(total, terms))
    for order in rows:
        terms = [rows_of(order, d_second)] if in_second else []
        if moves:
            terms += [step * row_of[order + 1], -rows_of(order + 1, second * d_x)]
        changes.append(changed(row_of[order], terms))
    for order in columns:
        terms = [columns_of(order, d_first)] if in_first else []
        if moves:
            terms += [-d_x * column_of[order + 1], columns_of(order + 1, first * step)]
        changes.append(changed(column_of[order], terms))
    outputs = [*sums, *(row_of[order] for order in rows), *(column_of[order] for order in columns)]
    return outputs, changes


ad.primitive_jvps[_pair_sums_p] = _differentiate


def _transpose(
    cotangents: Sequence[Any], first: Any, second: Any, x: Array, offset: Array, **parameters: Any
) -> tuple[Any, ...]:
    """Rows are linear in the second weights, columns in the first, and each is the other's transpose."""
    (cotangent,) = cotangents
    swapped = parameters | {"rows": parameters["columns"], "columns": parameters["rows"]}
    zeros = jnp.zeros_like(x)
    if isinstance(cotangent, ad.Zero):
        return None, None, None, None
    if ad.is_undefined_primal(second):
        return None, _bind((cotangent, zeros, x, offset), **swapped)[0], None, None
    return _bind((zeros, cotangent, x, offset), **swapped)[0], None, None, None


ad.primitive_transposes[_pair_sums_p] = _transpose
