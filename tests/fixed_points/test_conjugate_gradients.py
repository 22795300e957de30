"""Conjugate gradients, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from didsim.fixed_points.conjugate_gradients import Direction, conjugate_gradients


def solved(matrix: np.ndarray, right: np.ndarray, share: float = 1e-12) -> Direction:
    return conjugate_gradients(lambda step: jnp.asarray(matrix) @ step, jnp.asarray(right), share, 400)


def symmetric(seed: int, eigenvalues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))
    return (turn * eigenvalues) @ turn.T, rng.normal(size=len(eigenvalues))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_positive_matrix_is_solved(seed: int, size: int) -> None:
    matrix, right = symmetric(seed, np.linspace(0.1, 2, size))
    step, lowest, is_solved = solved(matrix, right)
    assert bool(is_solved)
    np.testing.assert_allclose(step, np.linalg.solve(matrix, right), atol=1e-9)
    assert 0.1 - 1e-12 <= float(lowest) <= 2 + 1e-12


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.floats(0.01, 2))
def test_a_direction_that_curves_downwards_is_met_and_taken(seed: int, size: int, depth: float) -> None:
    matrix, right = symmetric(seed, np.append(np.linspace(0.1, 2, size - 1), -depth))
    found = solved(matrix, right)
    step, lowest = np.asarray(found.step), found.lowest
    assert not bool(found.is_solved)
    assert -depth - 1e-12 <= float(lowest) < 0
    assert right @ step > 0
    assert step @ matrix @ step / 2 - right @ step < 0


def test_what_does_not_curve_is_as_far_as_its_curvature_is_small() -> None:
    step, lowest, _ = solved(np.diag([1.0, 0.0]), np.array([0.0, 1.0]))
    assert float(lowest) == 0
    assert float(step[1]) > 1e6


def test_nothing_to_solve_and_nan() -> None:
    matrix = np.eye(3)
    np.testing.assert_array_equal(solved(matrix, np.zeros(3)).step, np.zeros(3))
    assert np.isnan(solved(matrix, np.full(3, np.nan)).step).all()


def test_it_stops_at_the_share_that_was_asked_for() -> None:
    matrix, right = symmetric(0, np.linspace(0.01, 2, 30))
    for share in (0.1, 1e-3, 1e-6):
        left = right - matrix @ np.asarray(jax.jit(lambda s: solved(matrix, right, s).step)(share))
        assert np.linalg.norm(left) <= 1.01 * share * np.linalg.norm(right)
