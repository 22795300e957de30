"""Newton's method on functions whose minima are known."""

from collections.abc import Iterator

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, example, given
from hypothesis import strategies as st
from jax import Array

from didsim.fixed_points import roots
from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import Curvature
from didsim.fixed_points.newton import Found, minimise
from didsim.fixed_points.task import over_starts
from didsim.objectives.curvature import by_magnitude

NONE = jnp.zeros((0, 5))  # no direction along which nothing changes
SCALES = np.array([1e-8, 1e-3, 1.0, 1e4, 1e9])


def test_scales_do_not_matter_to_a_quadratic() -> None:
    middle = np.array([1.0, -2.0, 3.0, 0.5, -0.25])
    mixing = np.eye(5) + 0.2 * np.ones((5, 5))
    hessian = np.sqrt(SCALES)[:, None] * mixing * np.sqrt(SCALES)

    def loss(z: Array, _: Array) -> Array:
        return (z - middle) @ hessian @ (z - middle) / 2

    found = jax.jit(lambda start: minimise(loss, start, NONE[:, :5], moves=False))(jnp.zeros(5))
    np.testing.assert_allclose(found.z, middle, rtol=1e-12)
    assert bool(found.converged)
    assert int(found.flat) == 0
    assert not bool(found.falls)
    assert float(found.value) < 1e-20


def double_well(z: Array, _: Array) -> Array:
    return z[0] ** 2 / 2 - z[1] ** 2 / 2 + z[1] ** 4 / 4


def test_saddles_repel() -> None:
    found = minimise(double_well, jnp.array([1.0, 1e-3]), NONE[:, :2], moves=False)
    np.testing.assert_allclose(found.z, [0, 1], atol=1e-12)
    assert bool(found.converged)
    assert float(found.value) == pytest.approx(-0.25, abs=1e-15)


def test_a_saddle_is_no_minimum() -> None:
    found = minimise(double_well, jnp.zeros(2), NONE[:, :2], moves=False)
    np.testing.assert_array_equal(found.z, [0, 0])
    assert float(found.gradient) == 0
    assert bool(found.falls)
    assert not bool(found.converged)


def test_directions_that_do_not_count_are_counted() -> None:
    def loss(z: Array, _: Array) -> Array:
        return (z[0] + z[1] - 3) ** 2

    start, along = jnp.array([0.5, -1.0]), jnp.array([[1.0, -1.0]])
    unknown, known = (minimise(loss, start, idle, moves=False) for idle in (NONE[:, :2], along))
    assert int(unknown.flat) == 1
    # A stationary point, and the loss is level along the line.
    assert bool(unknown.converged)
    assert (int(unknown.level), int(known.level)) == (1, 0)
    assert int(known.flat) == 0
    assert bool(known.converged)
    # The shortest way to the line of minima leaves the difference as it was.
    np.testing.assert_allclose(known.z, [2.25, 0.75], rtol=1e-13)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_function_that_falls_for_ever_does_not_converge(sign: float) -> None:
    found = minimise(lambda z, _: jnp.sum(jax.nn.softplus(sign * z)), jnp.zeros(2), NONE[:, :2], moves=False)
    assert not bool(found.converged)
    assert float((sign * found.z).max()) < -30


def test_a_function_without_lower_bound_does_not_converge() -> None:
    found = minimise(lambda z, _: -jnp.sum(z), jnp.zeros(2), NONE[:, :2], moves=False)
    assert float(found.gradient) == 1
    assert not bool(found.converged)


def test_what_is_held_is_not_differentiated() -> None:
    """The field `z − tanh(2z)/2 − 1` is no gradient of the loss as a whole."""

    def loss(z: Array, held: Array) -> Array:
        return jnp.sum(z**2 / 2 - z * (jnp.tanh(2 * held) / 2 + 1))

    expected = scipy.optimize.brentq(lambda z: z - np.tanh(2 * z) / 2 - 1, 0, 3, xtol=1e-15)
    found = minimise(loss, jnp.array([-1.0]), NONE[:, :1], moves=True)
    assert float(found.z[0]) == pytest.approx(expected, rel=1e-13)
    assert float(found.gradient) < 1e-14
    assert float(found.step) < 1e-13
    assert bool(found.converged)


def test_steps_that_overshoot_are_shortened() -> None:
    """Newton's full steps on `sqrt(1 + z²)` run away from any start beyond 1."""
    found = minimise(lambda z, _: jnp.sum(jnp.sqrt(1 + z**2)), jnp.array([5.0]), NONE[:, :1], moves=False)
    assert float(jnp.abs(found.z[0])) < 1e-12
    assert bool(found.converged)


def test_a_quadratic_loss_is_looked_at_twice() -> None:
    """At the start, and where the one step ends. There the next step is rounding, and is not taken."""
    looks = []

    def curvature(z: Array) -> Curvature:
        jax.debug.callback(lambda z: looks.append(float(z[0])), z)
        return Curvature(2 * (z - 3), Dense(2 * jnp.eye(2)))

    found = minimise(
        lambda z, _: jnp.sum((z - 3) ** 2), jnp.full(2, 2.95), NONE[:, :2], moves=False, curvature=curvature
    )
    jax.effects_barrier()
    assert looks == [2.95, pytest.approx(3, abs=1e-14)]
    assert int(found.steps) == 1
    assert bool(found.converged)


@pytest.mark.parametrize(("slope", "curves"), [(1e20, 1e-300), (1.0, 1e-300), (-1.0, 1.0)])
def test_a_step_of_which_no_share_will_do_leaves_the_start(slope: float, curves: float) -> None:
    """The start is the minimum, but slope and curvature lie: the step is endless, far too long, or short."""

    def curvature(z: Array) -> Curvature:
        return Curvature(jnp.full(1, slope), Dense(jnp.full((1, 1), curves)))

    found = minimise(
        lambda z, _: jnp.sum(jnp.exp(jnp.abs(z - 0.5))),
        jnp.array([0.5]),
        NONE[:, :1],
        moves=False,
        curvature=curvature,
    )
    assert float(found.z[0]) == 0.5
    assert float(found.value) == 1
    assert not bool(found.converged)


def test_a_direction_that_ceases_to_curve_where_a_root_is_found_is_not_level() -> None:
    """No step is left at the start, so that the root is searched at once. The first point is still the start.

    There the loss curves along the second number, and at the root, where the first number is 1, it does not.
    """

    def loss(z: Array, held: Array) -> Array:
        own = (z[0] - held[0] + 1e-9 * (held[0] - 1)) ** 2 / 2
        return own + z[1] ** 2 * jnp.maximum(0, 0.5 - held[0])

    found = minimise(loss, jnp.zeros(2), NONE[:, :2], moves=True, mass=jnp.ones(2))
    assert float(found.z[0]) == pytest.approx(1, abs=1e-6)
    assert int(found.flat) > 0
    assert int(found.level) == 0
    assert not bool(found.converged)


def test_one_number_that_does_not_matter() -> None:
    found = minimise(lambda z, _: 0 * jnp.sum(z), jnp.array([0.5]), jnp.ones((1, 1)), moves=False)
    assert float(found.z[0]) == 0.5
    assert bool(found.converged)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_pairs_by_magnitude_lead_to_a_minimum(scale: float) -> None:
    """`Σ_ij W_ij (1 − sech(x_i − x_j − c_ij))` curves downwards far out, and is zero at `c`, a minimum."""
    rng = np.random.default_rng(0)
    middle, weights = rng.normal(size=100), scale * rng.dirichlet(np.ones(100), 100)

    def loss(z: Array, _: Array) -> Array:
        apart = z - middle
        return jnp.sum(weights * (1 - 1 / jnp.cosh(apart[:, None] - apart)))

    start, idle = jnp.asarray(middle + 1.5 * rng.normal(size=100)), jnp.ones((1, 100))
    assert float(jnp.linalg.eigvalsh(jax.hessian(loss)(start, start))[0]) < 0

    def curvature(z: Array) -> Curvature:
        hessian = jax.hessian(loss)(z, z)
        return Curvature(
            jax.grad(loss)(z, z), Dense(hessian), lambda share: Dense(by_magnitude(hessian, share))
        )

    found = jax.jit(lambda z: minimise(loss, z, idle, moves=False, curvature=curvature))(start)
    assert bool(found.converged)
    assert not bool(found.falls)
    np.testing.assert_allclose(found.z - jnp.mean(found.z), middle - middle.mean(), atol=1e-10)


def test_negative_curvatures_count_in_full_once_a_step_was_refused() -> None:
    """`Σ_i (1 − cos x_i)`, from where it curves downwards: a step by a fifth of that is too long."""
    shares: list[float] = []

    def loss(z: Array, _: Array) -> Array:
        return jnp.sum(1 - jnp.cos(z))

    def curvature(z: Array) -> Curvature:
        def upwards(share: Array) -> Dense:
            jax.debug.callback(lambda share: shares.append(float(share)), share)
            return Dense(jnp.diag(jnp.where(jnp.cos(z) < 0, -share, 1) * jnp.cos(z)))

        return Curvature(jnp.sin(z), Dense(jnp.diag(jnp.cos(z))), upwards)

    start, idle = jnp.linspace(1.7, 1.9, 100), jnp.zeros((0, 100))
    found = jax.jit(lambda z: minimise(loss, z, idle, moves=False, curvature=curvature))(start)
    jax.effects_barrier()
    assert bool(found.converged)
    assert shares[0] == 0.2
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_what_rounding_leaves_along_an_idle_direction_takes_no_singular_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gradient is zero along such a direction, but for its rounding. At a root that is all of it."""
    monkeypatch.setattr(jnp.linalg, "lstsq", lambda matrix, right: (jnp.full_like(right, jnp.nan),))
    rng = np.random.default_rng(0)
    idle, step = np.ones((1, 5)), rng.normal(size=5)
    apart = np.eye(5) - 1 / 5
    jacobian = apart @ (rng.normal(size=(5, 5)) + 5 * np.eye(5)) @ apart
    field = -jacobian @ step + 0.01
    found = roots.root_step(jnp.asarray(jacobian), jnp.asarray(field), jnp.asarray(idle))
    np.testing.assert_allclose(found, apart @ step, rtol=1e-12)


@jax.jit
def _root_of_a_loss_that_moves(hessian: Array, c: Array, u: Array, v: Array, start: Array) -> Found:
    def loss(z: Array, held: Array) -> Array:
        return z @ (hessian @ z) / 2 - z @ c + (z @ u) * (held @ v)

    return minimise(loss, start, jnp.zeros((0, len(start))), moves=True, by_baseline=True)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 40]), st.floats(-3, 3))
@example(0, 40, -0.99)
@example(0, 40, -1.01)
@example(0, 1, -0.99)
@example(0, 1, -2.0)  # the gradient of the root is zero without rounding
def test_a_loss_that_moves_with_one_number(seed: int, size: int, kappa: float) -> None:
    """`∇L = H z − c + u (v · z)` has one root. Descent stays there if `1 + vᵀ H⁻¹ u` is positive."""
    rng = np.random.default_rng(seed)
    square = rng.normal(size=(size, size))
    hessian = square @ square.T / size + np.eye(size)
    u, v, root = rng.normal(size=(3, size))
    slope = v @ np.linalg.solve(hessian, u)
    assume(abs(1 + kappa) > 1e-3 and abs(slope) > 1e-3)
    u = u * kappa / slope
    c = hessian @ root + u * (v @ root)
    start = root + rng.uniform(-1, 1, size)
    found = _root_of_a_loss_that_moves(*map(jnp.asarray, (hessian, c, u, v, start)))
    np.testing.assert_allclose(found.z, root, atol=1e-9)
    # Steps without the part of rank one shrink the error by κ each, or not at all.
    assert int(found.steps) <= 8
    descends = np.linalg.eigvals(hessian + np.outer(u, v)).real.min() > 0
    assert bool(found.converged) == (kappa > -1)
    assert descends <= (kappa > -1)


DECOMPOSED = {"eigh", "svd", "lu", "cholesky", "geqrf", "qr", "schur", "eig", "tridiagonal_solve"}


def operations(jaxpr: jex.core.Jaxpr) -> Iterator[jex.core.JaxprEqn]:
    """All operations of a program, those inside loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if isinstance(inner, jex.core.ClosedJaxpr):
                    yield from operations(inner.jaxpr)
                elif isinstance(inner, jex.core.Jaxpr):
                    yield from operations(inner)


@pytest.mark.parametrize("moves", [False, True])
def test_a_batch_of_starts_decomposes_one_matrix_at_a_time(moves: bool) -> None:
    """jaxlib spreads a batch over XLA's threads; two batches side by side wait for each other for ever."""

    def one(scale: Array, start: Array) -> Found:
        def loss(z: Array, held: Array) -> Array:
            return scale * jnp.sum(jnp.cosh(z - held / 2))

        return minimise(loss, start, jnp.ones((1, 4)), moves=moves)

    program = jax.make_jaxpr(lambda given, starts: over_starts(one, given, starts))
    jaxpr = program(jnp.ones(2), jnp.ones((2, 3, 4))).jaxpr
    found = [each.invars[0].aval.ndim for each in operations(jaxpr) if str(each.primitive) in DECOMPOSED]  # type: ignore[attr-defined]
    assert found
    assert set(found) == {2}
