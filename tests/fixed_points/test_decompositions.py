from collections.abc import Callable, Iterator

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from didsim.fixed_points import decompositions
from didsim.fixed_points.newton import minimise

DECOMPOSED = {"eigh", "svd", "lu", "cholesky", "geqrf", "qr", "schur", "eig", "tridiagonal_solve"}


def primitives(jaxpr: jex.core.Jaxpr) -> Iterator[jex.core.JaxprEqn]:
    """All operations of a program, those inside loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if isinstance(inner, jex.core.ClosedJaxpr):
                    yield from primitives(inner.jaxpr)
                elif isinstance(inner, jex.core.Jaxpr):
                    yield from primitives(inner)


def decomposed(function: Callable[..., object], *arguments: Array) -> list[str]:
    """The types of what a program decomposes, as `float64[2,3]`."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return [one.invars[0].aval.str_short() for one in primitives(jaxpr) if str(one.primitive) in DECOMPOSED]


@pytest.mark.parametrize("moves", [False, True])
def test_a_batch_of_starts_decomposes_one_matrix_at_a_time(moves: bool) -> None:
    """jaxlib spreads a batch over XLA's threads; two batches side by side wait for each other for ever."""

    def one(start: Array) -> object:
        return minimise(lambda z, held: jnp.sum(jnp.cosh(z - held / 2)), start, jnp.ones((1, 4)), moves=moves)

    types = decomposed(jax.vmap(jax.vmap(one)), jnp.ones((2, 3, 4)))
    assert types
    assert {one.count(",") for one in types} == {1}


def test_they_are_those_of_numpy() -> None:
    matrices = np.random.default_rng(0).normal(size=(3, 5, 5))
    matrices = matrices + np.swapaxes(matrices, -1, -2)
    values, vectors = jax.vmap(decompositions.eigen)(matrices)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrices), rtol=1e-12)
    np.testing.assert_allclose(vectors * values[:, None] @ np.swapaxes(vectors, -1, -2), matrices, atol=1e-12)
    flat, right = matrices.copy(), matrices[:, 0]
    flat[:, 4] = flat[:, 3]
    found = jax.vmap(decompositions.least_squares)(flat, right)
    expected = [np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(flat, right, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
