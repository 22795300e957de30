"""Steps from Hessians as matrices, held against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import FEW, Decomposed

SEEDS = st.integers(0, 2**32 - 1)


def none(size: int) -> np.ndarray:
    """No idle direction."""
    return np.zeros((0, size))


def decomposed(
    matrix: np.ndarray,
    g: np.ndarray,
    idle: np.ndarray,
    *,
    positive: np.ndarray | None = None,
    is_far: bool = False,
    was_safe: bool = True,
) -> Decomposed:
    """Compiled, with the step for `g` taken as any other as well."""

    @jax.jit
    def both(
        matrix: jax.Array, g: jax.Array, is_far: jax.Array, was_safe: jax.Array
    ) -> tuple[jax.Array, ...]:
        other = None if positive is None else lambda: Dense(jnp.asarray(positive))
        found = Dense(matrix).decomposed(g, jnp.asarray(idle), None, other, is_far, was_safe)
        return found.step, found.step_for(g), found.flat, found.lowest, found.is_safe

    step, again, *known = both(*(jnp.asarray(one) for one in (matrix, g, is_far, was_safe)))
    np.testing.assert_allclose(again, step, rtol=1e-12, atol=1e-300)
    return Decomposed(step, lambda g: g, *known)


def symmetric(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """A matrix of unit diagonal with eigenvalues of the signs of these."""
    basis, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    matrix = (basis * values) @ basis.T
    scale = 1 / np.sqrt(np.abs(np.diag(matrix)))
    return matrix * scale[:, None] * scale


def by_magnitude(matrix: np.ndarray, g: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return -(vectors / np.abs(values)) @ vectors.T @ g


@given(SEEDS, st.sampled_from([1, 2, 3, 17]), st.floats(-150, 150))
def test_a_positive_hessian_gives_newtons_step_in_any_units(seed: int, size: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    matrix, g = symmetric(rng, rng.uniform(0.1, 1, size)), rng.normal(size=size)
    units = 10.0 ** (exponent * rng.random(size))
    found = decomposed(matrix * units[:, None] * units, g * units, none(size))
    np.testing.assert_allclose(found.step * units, -np.linalg.solve(matrix, g), rtol=1e-8, atol=1e-12)
    assert bool(found.is_safe)
    assert (int(found.flat), float(found.lowest)) == (0, 0.0)


@given(SEEDS, st.integers(0, 2))
def test_negative_eigenvalues_are_taken_by_magnitude(seed: int, positive: int) -> None:
    rng = np.random.default_rng(seed)
    signs = np.where(np.arange(3) < positive, 1, -1)
    matrix, g = symmetric(rng, signs * rng.uniform(0.5, 1, 3)), rng.normal(size=3)
    assume(np.linalg.cond(matrix) < 1e6)
    found = decomposed(matrix, g, none(3))
    np.testing.assert_allclose(found.step, by_magnitude(matrix, g), rtol=1e-6)
    np.testing.assert_allclose(found.lowest, np.linalg.eigvalsh(matrix)[0], rtol=1e-10)
    assert not bool(found.is_safe)


@given(SEEDS)
def test_idle_directions_count_neither_as_flat_nor_in_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.uniform(0.1, 1, (3, 3)), 1)
    weights = weights + weights.T
    matrix, g = np.diag(weights.sum(1)) - weights, rng.normal(size=3)
    g = g - g.mean()
    found = decomposed(matrix, g, np.ones((1, 3)))
    assert bool(found.is_safe)
    assert int(found.flat) == 0
    least = -np.linalg.pinv(matrix) @ g
    np.testing.assert_allclose(found.step - np.mean(found.step), least, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("was_safe", [False, True])
@pytest.mark.parametrize("is_far", [False, True])
def test_a_positive_matrix_takes_the_place_of_one_that_is_not_far_from_the_end(
    is_far: bool, was_safe: bool
) -> None:
    size = FEW + 1
    rng = np.random.default_rng(0)
    matrix = symmetric(rng, np.where(np.arange(size) < 3, -1, 1) * rng.uniform(0.5, 1, size))
    positive, g = symmetric(rng, rng.uniform(0.5, 1, size)), rng.normal(size=size)
    found = decomposed(matrix, g, none(size), positive=positive, is_far=is_far, was_safe=was_safe)
    expected = -np.linalg.solve(positive, g) if is_far else by_magnitude(matrix, g)
    np.testing.assert_allclose(found.step, expected, rtol=1e-8)
    assert not bool(found.is_safe)
    assert (float(found.lowest) < -0.1) is not is_far


@pytest.mark.parametrize("is_far", [False, True])
@pytest.mark.parametrize("size", [FEW, FEW + 1])
def test_after_a_hessian_that_was_not_safe_the_positive_one_is_taken_at_once(size: int, is_far: bool) -> None:
    """Far from the end, and for more than a few numbers. Such a step is not the Hessian's own."""
    rng = np.random.default_rng(2)
    matrix, positive = (symmetric(rng, rng.uniform(0.5, 1, size)) for _ in range(2))
    g = rng.normal(size=size)
    found = decomposed(matrix, g, none(size), positive=positive, is_far=is_far, was_safe=False)
    is_replaced = is_far and size > FEW
    expected = -np.linalg.solve(positive if is_replaced else matrix, g)
    np.testing.assert_allclose(found.step, expected, rtol=1e-8)
    assert bool(found.is_safe) is not is_replaced
    assert (int(found.flat), float(found.lowest)) == (0, 0.0)


def test_a_positive_matrix_that_is_singular_is_decomposed_as_well() -> None:
    """Its level direction counts as flat."""
    size = FEW + 1
    rng = np.random.default_rng(1)
    matrix = symmetric(rng, np.where(np.arange(size) < 3, -1, 1) * rng.uniform(0.5, 1, size))
    weights = rng.uniform(0.1, 1, (size, size))
    weights = weights + weights.T - np.diag(2 * np.diag(weights))
    positive, g = np.diag(weights.sum(1)) - weights, rng.normal(size=size)
    found = decomposed(matrix, g, none(size), positive=positive, is_far=True)
    assert int(found.flat) == 1
    assert np.isfinite(found.step).all()
