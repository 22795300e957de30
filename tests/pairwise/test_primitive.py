import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from didsim.pairwise import primitive as pairwise
from didsim.pairwise.exact import Sums
from didsim.pairwise.forms import Analytic
from didsim.pairwise.sums import pair_sum
from tests.pairwise.pair_sum_cases import (
    ALL,
    GRADIENTS,
    HALF_RANGES,
    PAIR_SUM,
    TILED,
    TILED_HESSIAN_PRODUCT,
    Pairs,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", "quartic"])
def test_third_derivatives_agree_with_finite_differences(name: str) -> None:
    rng = np.random.default_rng(6)
    a, b, x, v = (jnp.asarray(row) for row in rng.random((4, 65)))

    @jax.jit
    def product(x: Any) -> Any:
        return jax.jvp(lambda x: jax.grad(PAIR_SUM[name], 2)(a, b, x, 0.25), (x,), (v,))[1]

    check_grads(product, (x,), 1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softplus", "cube", "knots"])
def test_forward_derivatives_in_everything_agree_with_the_gradient(name: str) -> None:
    rng = np.random.default_rng(7)
    primals = (*rng.random((3, 65)), np.asarray(0.3))
    tangents = (*rng.normal(size=(3, 65)), np.asarray(-0.7))
    _, change = jax.jit(lambda p, t: jax.jvp(PAIR_SUM[name], p, t))(primals, tangents)
    expected = sum(np.sum(g * t) for g, t in zip(GRADIENTS[name](*primals), tangents, strict=True))
    size = sum(np.sum(np.abs(g * t)) for g, t in zip(GRADIENTS[name](*primals), tangents, strict=True))
    assert abs(float(change) - expected) <= 1e-12 * size


@pytest.mark.parametrize("name", ["softplus", "square", "hinge"])
def test_a_hessian_product_backwards_is_the_one_forwards(name: str) -> None:
    """In all arguments at once: rows and columns that come from one call are transposed by one."""
    rng = np.random.default_rng(8)
    primals = (*map(jnp.asarray, rng.random((3, 65))), jnp.asarray(0.3))
    tangents = (*map(jnp.asarray, rng.normal(size=(3, 65))), jnp.asarray(-0.7))
    gradient = jax.grad(PAIR_SUM[name], (0, 1, 2, 3))
    _, forwards = jax.jit(lambda p, t: jax.jvp(gradient, p, t))(primals, tangents)
    backwards = jax.jit(lambda p, t: jax.vjp(gradient, *p)[1](t))(primals, tangents)
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * (1 + np.abs(one).max()))


def test_a_hessian_product_takes_one_call() -> None:
    rng = np.random.default_rng(9)
    a, b, x, v = map(jnp.asarray, rng.random((4, 65)))
    _, product = jax.linearize(lambda x: jax.grad(PAIR_SUM["softplus"], 2)(a, b, x, 0.0), x)
    assert primitives_within(jax.make_jaxpr(product)(v).jaxpr) == 1
    transposed = jax.linear_transpose(product, v)
    assert primitives_within(jax.make_jaxpr(transposed)(v).jaxpr) == 1


def primitives_within(program: Any) -> int:
    """The number of calls of the primitive."""
    inner = [inside for equation in program.eqns for inside in programs_within(equation.params)]
    here = sum(equation.primitive.name == "pair_sums" for equation in program.eqns)
    return here + sum(map(primitives_within, inner))


# Which arrays are mapped over, and one entry too wide for the fast way.
MAPPED = {
    "everything": (0, 0, 0, 0),
    "x": (None, None, 0, None),
    "weights": (0, 0, None, None),
    "first weights": (0, None, None, None),
    "offset": (None, None, None, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("mapped", sorted(MAPPED))
def test_a_mapped_sum_and_its_gradients_are_those_of_each_entry(mapped: str) -> None:
    rng = np.random.default_rng(12)
    half = np.array([[1.0], [1400.0], [0.0]])
    full = (*rng.random((2, 3, 65)), half * rng.uniform(-1, 1, (3, 65)), np.array([0.0, 0.25, -1.5]))
    axes = MAPPED[mapped]
    arguments = [array if axis == 0 else array[0] for array, axis in zip(full, axes, strict=True)]
    function = PAIR_SUM["softplus"]
    values = jax.jit(jax.vmap(function, axes))(*arguments)
    of_grad = jax.jit(jax.vmap(jax.grad(function, (0, 1, 2, 3)), axes))(*arguments)
    for entry in range(3):
        a, b, x, offset = (
            array[entry] if axis == 0 else array[0] for array, axis in zip(full, axes, strict=True)
        )
        pairs = Pairs("softplus", a, b, x, float(offset))
        pairs.check_value(values[entry])
        pairs.check_gradients([gradient[entry] for gradient in of_grad])
    # The gradient of a sum over the batch adds up where an array is shared.
    of_vmap = jax.jit(jax.grad(lambda *args: jnp.sum(jax.vmap(function, axes)(*args)), (0, 1, 2, 3)))(
        *arguments
    )
    for gradient, each, axis in zip(of_vmap, of_grad, axes, strict=True):
        expected = np.asarray(each if axis == 0 else each.sum(0))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10 * np.abs(each).max())


def test_a_hessian_by_mapped_products_is_symmetric_and_right() -> None:
    rng = np.random.default_rng(13)
    a, b, x = *rng.random((2, 65)), rng.normal(size=65)
    hessian = np.asarray(jax.jit(jax.hessian(PAIR_SUM["sigmoid"], 2))(a, b, x, 0.0))
    both = Pairs("sigmoid", a, b, x, 0.0)
    flow = both.a[:, None] * both.table(2) * both.b
    expected = np.diag((flow + flow.T).sum(1)) - flow - flow.T
    np.testing.assert_allclose(
        hessian, expected.astype(float), rtol=0, atol=1e-11 * np.abs(flow).sum(1).max()
    )


def test_a_batch_of_more_points_than_are_worked_on_at_once() -> None:
    rng = np.random.default_rng(14)
    a, b, x = *rng.random((2, 100, 65)), rng.normal(size=(100, 65))
    values = PAIR_SUM["softplus"](a, b, x, 0.0)
    for entry in range(100):
        Pairs("softplus", a[entry], b[entry], x[entry], 0.0).check_value(values[entry])


def test_other_values_do_not_trace_again() -> None:
    traced = 0

    def kernel(d: Any) -> Any:
        nonlocal traced
        traced += 1
        return jnp.exp(-(d**2))

    function = jax.jit(lambda a, b, x, offset: pair_sum(Analytic(kernel, 1.0), a, b, x, offset))
    rng = np.random.default_rng(15)
    function(*rng.random((2, 65)), rng.normal(size=65), 0.0)
    once = traced
    assert once > 0
    for half in HALF_RANGES:
        function(*rng.normal(size=(2, 65)), half * rng.normal(size=65), half)
    assert traced == once


def test_equal_kernels_at_the_call_do_not_trace_again() -> None:
    traced = 0

    def kernel(d: Any) -> Any:
        nonlocal traced
        traced += 1
        return jnp.exp(-(d**2))

    x = jnp.linspace(-1, 1, 65)
    pair_sum(Analytic(kernel, 1.0), x, x, x)
    once = traced
    pair_sum(Analytic(kernel, 1.0), x, x, 2 * x)
    assert traced == once > 0


def programs_within(parameters: Any) -> Iterator[Any]:
    is_program = lambda p: isinstance(p, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)  # noqa: E731
    for leaf in jax.tree.leaves(parameters, is_leaf=is_program):
        if isinstance(leaf, jax.extend.core.ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, jax.extend.core.Jaxpr):
            yield leaf


def shapes_within(program: Any) -> set[tuple[int, ...]]:
    """The shapes of all arrays that a program makes, those of its inner programs and primitives included."""
    shapes: set[tuple[int, ...]] = set()
    for equation in program.eqns:
        shapes |= {tuple(variable.aval.shape) for variable in equation.outvars}
        for inner in programs_within(equation.params):
            shapes |= shapes_within(inner)
        if equation.primitive.name == "pair_sums":
            operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
            inner = jax.make_jaxpr(lambda *args, p=equation.params: pairwise._compute(*args, **p))(*operands)
            shapes |= shapes_within(inner.jaxpr)
    return shapes


def elements(function: Callable[..., Any], *arguments: Any) -> int:
    """The number of elements of the largest array that a program makes."""
    shapes = shapes_within(jax.make_jaxpr(function)(*arguments).jaxpr)
    return max(math.prod(shape) for shape in shapes)


def test_no_array_of_all_pairs_is_made() -> None:
    size = 3000
    ones, batch = jnp.ones(size), jnp.ones((2, size))
    tiled = TILED["softplus"]
    # A tile has 8 rows, and derivatives hold a few numbers for each row: far below the 9 million pairs.
    assert 8 * size <= elements(tiled, ones, ones, ones) <= 16 * size
    assert elements(jax.grad(tiled, argnums=2), ones, ones, ones) <= 16 * size
    assert elements(TILED_HESSIAN_PRODUCT["softplus"], ones, ones, ones, ones) <= 16 * size
    for name in ("softplus", "square", "hinge"):
        value = PAIR_SUM[name]
        # A table of 512 by 512 nodes for each sum, and in a batch no more than those of one entry at once.
        for arguments in ((ones, ones, ones, 0.0), (batch, batch, batch, 0.0)):
            assert size <= elements(value, *arguments) <= 512**2
            of_batch = jax.grad(lambda *args, f=value: jnp.sum(f(*args)), argnums=2)
            assert elements(of_batch, *arguments) <= 2 * 512**2
        assert elements(ALL[name], ones, ones, ones, 0.0, ones) <= 4 * 512**2
    everything = np.ones((size, size))
    assert elements(lambda x: jnp.sum(jnp.exp(x[:, None] - x) * everything), ones) == size * size


# Which way is taken. Last, as the caches of everything compiled so far are cleared.


@pytest.fixture
def exact_sums_are_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def no_sums(wanted: Any, first: Any, second: Any, x: Any, offset: Any) -> Sums:
        nothing = jnp.full_like(x, jnp.nan)
        return Sums(
            [nothing[:, 0] for _ in wanted.totals],
            [nothing for _ in wanted.rows],
            [nothing for _ in wanted.columns],
        )

    monkeypatch.setattr(pairwise, "tiled_sums", no_sums)
    jax.clear_caches()
    yield
    monkeypatch.undo()
    jax.clear_caches()


def is_fast(name: str, size: int, half: float, dtype: str = "float64", *, separated: bool = False) -> bool:
    """Whether neither the sum nor its gradient is exact, which here is NaN."""
    x = jnp.linspace(-half, half, size, dtype=dtype)
    a, b = jnp.full((2, size), 1 / size, dtype)
    if separated:
        a, b = a * (x > 0.9 * half), b * (x < -0.9 * half)
    offset = jnp.zeros((), dtype)
    value, gradient = PAIR_SUM[name](a, b, x, offset), GRADIENTS[name](a, b, x, offset)[2]
    finite = math.isfinite(value), bool(np.isfinite(gradient).all())
    assert finite[0] == finite[1]
    return finite[0]


@pytest.mark.slow
@pytest.mark.usefixtures("exact_sums_are_nan")
def test_analytic_sums_are_fast_within_their_range_and_exact_beyond() -> None:
    for dtype in ("float64", "float32"):
        for half, fast in (
            (0.0, True),
            (1e-8, True),
            (1.0, True),
            (10.0, True),
            (40.0, True),
            (1400.0, False),
        ):
            assert is_fast("softplus", 1000, half, dtype) == fast
        # All terms are below e^−36, where interpolation of a function of size 40 has no digit left.
        assert not is_fast("softplus", 1000, 20.0, dtype, separated=True)
    assert is_fast("softplus", 64, 1.0)
    assert not is_fast("softplus", 63, 1.0)
    # 64 points carry a degree of 32 at most, good to 1 strip or so.
    assert not is_fast("softplus", 64, 10.0)


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_polynomials_and_lines_are_fast_at_any_range() -> None:
    for name in ("square", "hinge"):
        for half in (0.0, 1.0, 1400.0):
            assert is_fast(name, 64, half)
    assert is_fast("hinge", 64, 20.0, separated=True)
    assert not is_fast("square", 63, 1.0)


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_a_batch_is_exact_for_all_or_for_none() -> None:
    a = jnp.full((2, 300), 1 / 300)
    x = jnp.linspace(-1, 1, 300)
    together = PAIR_SUM["softplus"](a, a, jnp.stack([x, 1400 * x]), 0.0)
    assert np.isnan(together).all()
    assert np.isfinite(PAIR_SUM["softplus"](a, a, jnp.stack([x, 10 * x]), 0.0)).all()


@pytest.mark.usefixtures("exact_sums_are_nan")
def test_a_strip_of_another_kernel_is_noticed() -> None:
    # A step of width 0.01 that claims the strip of one of width 1.
    kernel = Analytic(lambda d: jax.nn.sigmoid(100 * d), math.pi)
    x, a = jnp.linspace(-10, 10, 300), jnp.ones(300)
    assert np.isnan(jax.jit(lambda a, x: pair_sum(kernel, a, a, x))(a, x))
