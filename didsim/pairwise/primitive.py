"""The JAX primitive behind `pair_sum`: it chooses the method, and knows its own derivatives and batches.

The primitive computes the three kinds of sum in `Sums`: totals over all pairs, rows and columns. The
derivatives of each kind are sums of these kinds again. So `pair_sum` can be differentiated to any order,
forward and backward, at the same cost.

Under `vmap` one method is chosen for the whole batch: if one entry must be summed pair by pair, all are. A
choice for each entry would make JAX compute every method for every entry.

All imports of JAX's internals are in this file.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, ArrayLike

from didsim.pairwise.exact import Estimate, Sums, Wanted, tiled_sums
from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear, Polynomial
from didsim.pairwise.interpolation import convergence_rate, half_range, interpolated_sums
from didsim.pairwise.moments import moment_sums
from didsim.pairwise.sorting import sorted_sums

T = TypeVar("T")

_DEFAULT_TOLERANCES = {"float32": 3e-5, "float64": 1e-12}
_DEGREES = {"float32": (16, 64, 256), "float64": (32, 128, 512)}
_MARGIN = 1e3  # between the error that a degree promises and the tolerance
_LONG = 2**13  # from this many sequences on, passes over x cost more than sums over nodes
_TOGETHER = 2**12  # points of a batch that are worked on at once
_FEW = 64  # with fewer sequences than this, summing all pairs is faster
_FIRST_NODES = 128  # by `at_few_nodes`

# The number of nodes that a program in the making may interpolate at, and nothing else; None for any method.
_only_nodes = jax.make_user_context(None)


def at_few_nodes(compute: Callable[[], T]) -> T:
    """`compute()`, by programs that hold one way of taking sums over pairs, and so compile quickly.

    A program that may need any number of nodes, or the exact sum, holds them all: it takes three to five
    times as long to compile. So the sums of smooth kernels are first taken at 128 nodes, which is enough for
    rewards over a range of about 20 nats. Where that is not good enough, a sum is NaN, and then all is
    computed again by programs that hold every way.

    Args:
        compute: a function that calls compiled programs. A result is NaN if any sum was: a search that takes
            NaN for a wall, and stops in front of it, must not be called.
    """
    with _only_nodes(_FIRST_NODES), jax.debug_nans(False):
        found = compute()
        if not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found)):
            return found
    return compute()


def is_at_few_nodes() -> bool:
    """Whether the program in the making is one of these, in which NaN can stand for a sum not good enough."""
    return _only_nodes.value is not None


# The primitive. Operands: weights of the first sequence, weights of the second, x and the offset. All have
# the same batch axes and one dtype. Parameters: the kernel; three tuples of orders of derivatives of the
# kernel, whose totals, rows and columns are returned (see Sums); the tolerance, or None for the default of
# the dtype; whether rows and columns are apart: not those of one gradient, so that each kind is held to its
# own error; and the only number of nodes to interpolate at, or None.

_pair_sums_p = Primitive("pair_sums")
_pair_sums_p.multiple_results = True

_PARAMETERS = ("kernel", "totals", "rows", "columns", "tolerance", "apart", "nodes")
Orders = tuple[int, ...]


def operands_of(*arrays: Array | float) -> tuple[Array, ...]:
    *distributions, offset = arrays
    dtype = jnp.result_type(*distributions)
    batch = jnp.broadcast_shapes(*(jnp.shape(one)[:-1] for one in distributions), jnp.shape(offset))
    full = (*batch, jnp.shape(distributions[0])[-1])
    return (
        *(jnp.broadcast_to(jnp.asarray(one, dtype), full) for one in distributions),
        jnp.broadcast_to(jnp.asarray(offset, dtype), batch),
    )


def bind(
    operands: Sequence[Any],
    *,
    kernel: Form,
    totals: Orders = (),
    rows: Orders = (),
    columns: Orders = (),
    tolerance: float | None,
    apart: bool = False,
    nodes: int | None = None,
) -> list[Array]:
    parameters = {
        "totals": totals,
        "rows": rows,
        "columns": columns,
        "tolerance": tolerance,
        "apart": apart,
        "nodes": _only_nodes.value if nodes is None else nodes,
    }
    return _pair_sums_p.bind(*operands, kernel=kernel, **parameters)


@functools.partial(jax.jit, static_argnames=_PARAMETERS)
def _compute(
    *operands: Array,
    kernel: Form,
    totals: Orders,
    rows: Orders,
    columns: Orders,
    tolerance: float | None,
    apart: bool,
    nodes: int | None,
) -> list[Array]:
    """The sums, by the fastest method that keeps the tolerance. Batch axes are first flattened to one."""
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
    else:
        estimates, choice = _estimates(kernel, wanted, flat[2], tolerance, nodes)
        if nodes is None:
            sums = _first_good(estimates, choice, tolerance, apart, wanted(), *flat)
        else:
            sums, is_good = _attempt(estimates[0], tolerance, apart, *flat)
            sums = jax.tree.map(lambda one: jnp.where(is_good, one, jnp.nan), sums)
    shapes = [batch] * len(totals) + [[*batch, size]] * (len(rows) + len(columns))
    return [one.reshape(shape) for one, shape in zip(jax.tree.leaves(sums), shapes, strict=True)]


def _estimates(
    kernel: Analytic | Polynomial,
    wanted: Callable[..., Wanted[Any]],
    x: Array,
    tolerance: float,
    nodes: int | None,
) -> tuple[list[Callable[..., Estimate]], Array]:
    """The methods that may keep the tolerance, from the fastest on, and the number of the first to try.

    For smooth kernels they differ in the number of nodes. If a number is given, there is no other.
    """
    if isinstance(kernel, Polynomial):
        return [functools.partial(moment_sums, wanted(lambda one: one.coefficients))], jnp.zeros((), int)
    size = x.shape[-1]
    usual = [degree for degree in _DEGREES[x.dtype.name] if 5 * degree <= 3 * size]
    degrees = usual if nodes is None else [nodes]
    rate = convergence_rate(jnp.max(half_range(x)), kernel.strip)
    choice = jnp.sum(jnp.asarray(degrees) * jnp.log(rate) < math.log(_MARGIN / tolerance))
    return [functools.partial(interpolated_sums, wanted(), m, kernel.strip) for m in degrees], choice


def _first_good(
    estimates: Sequence[Callable[..., Estimate]],
    choice: Array,
    tolerance: float,
    apart: bool,
    wanted: Wanted[Any],
    *operands: Array,
) -> Sums:
    """The first of `estimates[choice:]` that keeps the tolerance; the exact sums if none does."""

    def exact() -> tuple[Sums, Array]:
        return tiled_sums(wanted, *operands), jnp.ones((), bool)

    branches: list[Callable[[], tuple[Sums, Array]]]
    branches = [functools.partial(_attempt, one, tolerance, apart, *operands) for one in estimates]
    branches.append(exact)

    def next_branch(state: tuple[Array, Sums, Array]) -> tuple[Array, Sums, Array]:
        choice, _, _ = state
        return choice + 1, *jax.lax.switch(choice, branches)

    shapes, _ = jax.eval_shape(branches[-1])
    nothing = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
    start = (choice, nothing, jnp.zeros((), bool))
    return jax.lax.while_loop(lambda state: ~state[2], next_branch, start)[1]


def _attempt(
    estimate: Callable[..., Estimate], tolerance: float, apart: bool, *operands: Array
) -> tuple[Sums, Array]:
    """The estimated sums of a batch, and whether all keep the tolerance."""
    batch, size = operands[2].shape
    together = max(1, _TOGETHER // size)
    if batch <= together:
        found = jax.vmap(estimate)(*operands)
    else:
        found = jax.lax.map(lambda entry: estimate(*entry), operands, batch_size=together)
    return found.sums, _good_enough(found, tolerance, apart, *operands[:2])


def _good_enough(estimate: Estimate, tolerance: float, apart: bool, first: Array, second: Array) -> Array:
    """Whether every error is within the tolerance. NaN passes: an exact sum would be NaN too."""

    def within(error: Array, size: Array) -> Array:
        return jnp.all(~(error > tolerance * size))

    checks = [
        within(error, size) for error, size in zip(estimate.errors.totals, estimate.sizes.totals, strict=True)
    ]
    row_errors, column_errors = ([error.reshape(-1, 1) for error in errors] for errors in estimate.errors[1:])
    if len(row_errors) == len(column_errors) and not apart:
        # These are for a gradient in x. Its entries are A_i rows_i − B_i columns_i.
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
    *operands: Any,
    kernel: Form,
    totals: Orders,
    rows: Orders,
    columns: Orders,
    tolerance: Any,
    apart: bool,
    nodes: int | None,
) -> list[Any]:
    *_, x, offset = operands
    return [offset] * len(totals) + [x] * (len(rows) + len(columns))


def _batch(operands: Sequence[Any], axes: Sequence[Any], **parameters: Any) -> tuple[list[Array], list[int]]:
    mapped = zip(operands, axes, strict=True)
    (size,) = {operand.shape[axis] for operand, axis in mapped if axis is not None}

    def in_front(operand: ArrayLike, axis: Any) -> Array:
        if axis is None:
            return jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        return jnp.moveaxis(jnp.asarray(operand), axis, 0)

    results = _pair_sums_p.bind(*map(in_front, operands, axes), **parameters)
    return results, [0] * len(results)


batching.primitive_batchers[_pair_sums_p] = _batch


def _differentiate(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    kernel: Form,
    totals: Orders,
    rows: Orders,
    columns: Orders,
    tolerance: float | None,
    apart: bool,
    nodes: int | None,
) -> tuple[list[Array], list[Any]]:
    """The differentials of totals, rows and columns.

    `R_n[w]` and `C_n[w]` are the rows and the columns of the n-th derivative of the kernel, with weights `w`.
    `D = dx − doffset`.

        d total_n   = Σ dA R_n[B] + Σ dB C_n[A] + Σ A D R_{n+1}[B] − Σ B dx C_{n+1}[A]
        d R_n[B]    = R_n[dB] + D R_{n+1}[B] − R_{n+1}[B dx]
        d C_n[A]    = C_n[dA] + C_{n+1}[A D] − dx C_{n+1}[A]

    Rows and columns of one order come from one call, if both are needed.
    """
    first, second, x, offset = primals
    in_first, in_second, in_x, in_offset = (not isinstance(t, ad.Zero) for t in tangents)
    d_first, d_second, d_x, d_offset = map(ad.instantiate_zeros, tangents)
    moves = in_x or in_offset
    step = d_x - d_offset[..., None]

    above = lambda orders: tuple(order + 1 for order in orders) if moves else ()  # noqa: E731
    all_rows = sorted({*rows, *above(rows), *above(totals), *(totals if in_first else ())})
    all_columns = sorted({*columns, *above(columns), *above(totals), *(totals if in_second else ())})
    common: dict[str, Any] = {"kernel": kernel, "tolerance": tolerance, "nodes": nodes}
    orders: dict[str, Any] = {
        "totals": totals,
        "rows": tuple(all_rows),
        "columns": tuple(all_columns),
        "apart": apart,
    }
    if x.shape[-1] < _LONG and nodes is None:
        # Totals have a call of their own. A gradient seldom uses them, and an unused call costs nothing.
        sums = bind(primals, totals=totals, **common) if totals else []
        results = [*sums, *bind(primals, **(orders | {"totals": ()}), **common)]
    else:
        results = bind(primals, **orders, **common)
        sums = results[: len(totals)]
    row_of = dict(zip(all_rows, results[len(totals) :], strict=False))
    column_of = dict(zip(all_columns, results[len(totals) + len(all_rows) :], strict=True))

    def mapped(
        of_rows: Orders, of_columns: Orders, seconds: Array, firsts: Array
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """`R_n[seconds]` and `C_n[firsts]` of some orders."""
        by_row, by_column, zeros = {}, {}, jnp.zeros_like(x)
        for order in sorted({*of_rows, *of_columns}):
            has_row, has_column = order in of_rows, order in of_columns
            weights = firsts if has_column else zeros, seconds if has_row else zeros
            one: dict[str, Any] = common | {"apart": True}
            one |= {"rows": (order,) * has_row, "columns": (order,) * has_column}
            results = iter(bind((*weights, x, offset), **one))
            if has_row:
                by_row[order] = next(results)
            if has_column:
                by_column[order] = next(results)
        return by_row, by_column

    def changed(of: Array, terms: list[Array]) -> Any:
        return sum(terms[1:], terms[0]) if terms else ad.Zero(jax.typeof(of).to_tangent_aval())

    row_by_weights, column_by_weights = mapped(
        rows if in_second else (), columns if in_first else (), d_second, d_first
    )
    row_by_moves, column_by_moves = mapped(above(rows), above(columns), second * d_x, first * step)
    changes = []
    for order, total in zip(totals, sums, strict=True):
        terms = [jnp.sum(d_first * row_of[order], axis=-1)] if in_first else []
        terms += [jnp.sum(d_second * column_of[order], axis=-1)] if in_second else []
        if moves:
            flow = first * step * row_of[order + 1] - second * d_x * column_of[order + 1]
            terms.append(jnp.sum(flow, axis=-1))
        changes.append(changed(total, terms))
    for order in rows:
        terms = [row_by_weights[order]] if in_second else []
        if moves:
            terms += [step * row_of[order + 1], -row_by_moves[order + 1]]
        changes.append(changed(row_of[order], terms))
    for order in columns:
        terms = [column_by_weights[order]] if in_first else []
        if moves:
            terms += [-d_x * column_of[order + 1], column_by_moves[order + 1]]
        changes.append(changed(column_of[order], terms))
    outputs = [*sums, *(row_of[order] for order in rows), *(column_of[order] for order in columns)]
    return outputs, changes


ad.primitive_jvps[_pair_sums_p] = _differentiate


def _transpose(
    cotangents: Sequence[Any], first: Any, second: Any, x: Array, offset: Array, **parameters: Any
) -> tuple[Any, ...]:
    """Rows are linear in the second weights, and columns in the first. Each map is the other's transpose.

    There is at most one order of either, as `_differentiate` binds them.
    """
    rows, columns = parameters["rows"], parameters["columns"]
    of_rows, of_columns = cotangents[: len(rows)], cotangents[len(rows) :]

    def known(of: Sequence[Any], is_linear: bool) -> Any:
        return is_linear and len(of) > 0 and not isinstance(of[0], ad.Zero)

    to_second = known(of_rows, ad.is_undefined_primal(second))
    to_first = known(of_columns, ad.is_undefined_primal(first))
    if not (to_first or to_second):
        return None, None, None, None
    zeros = jnp.zeros_like(x)
    weights = of_rows[0] if to_second else zeros, of_columns[0] if to_first else zeros
    turned = parameters | {"rows": columns if to_first else (), "columns": rows if to_second else ()}
    found = bind((*weights, x, offset), **turned)
    return found[0] if to_first else None, found[-1] if to_second else None, None, None


ad.primitive_transposes[_pair_sums_p] = _transpose
