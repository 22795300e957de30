"""Newton's method: minimisers of smooth functions of a few hundred numbers, and how good they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from didsim.fixed_points.decompositions import eigen, least_squares

# A step changes no number by more than this.
_LONGEST_STEP = 8.0
_STEPS = 300
_NOTHING = 1e-30
_ROUNDING = 8


class Found(NamedTuple):
    """Where a solver stopped.

    Attributes:
        z: the numbers.
        value: the function's value.
        gradient: the largest entry of its gradient, by magnitude.
        step: the largest entry of the step that Newton's method would take next.
        flat: the number of directions along which the function does not curve. Directions along which it is
            known not to change are not counted.
        level: the number of those along which the function did not curve at the start either, if it does not
            change along them.
        lowest: the smallest eigenvalue of the scaled Hessian; not negative at a minimum.
    """

    z: Float[Array, "*starts numbers"]
    value: Float[Array, "*starts"]
    gradient: Float[Array, "*starts"]
    step: Float[Array, "*starts"]
    flat: Int[Array, "*starts"]
    level: Int[Array, "*starts"]
    lowest: Float[Array, "*starts"]

    @property
    def converged(self) -> Bool[Array, "*starts"]:
        """Whether Newton's next step is tiny, and the loss rises along every direction that is not level."""
        within = tolerance(self.z)
        rises = (self.flat >= 0) & (self.flat <= self.level) & (self.lowest > -within)
        return (self.step < within) & rises


def tolerance(like: Array) -> float:
    """How far from a stationary point a solver may stop: float32's rounding moves the end by more."""
    return 1e-6 if like.dtype == jnp.float64 else 3e-3


def _flat(like: Array) -> float:
    """The share of the largest curvature below which a curvature counts as zero."""
    return 5e3 * float(jnp.finfo(like.dtype).eps)


class _State(NamedTuple):
    z: Array
    iteration: Array
    step: Array
    stuck: Array


def minimise(
    loss: Callable[[Array, Array], Array], start: Array, idle: int, *, moves: bool, mass: Array | None = None
) -> Found:
    """A minimum of `z → loss(z, held)` with `held = z`, from one start.

    Newton's method with backtracking. Negative eigenvalues of the Hessian `H` are taken by magnitude, so that
    saddles repel. `H` is first scaled to a unit diagonal. So neither the unit of a number matters nor how
    improbable its sequence is. O(n³) a step.

    Args:
        loss: a function of the numbers, and of the same numbers held fixed (`Objective.population_loss`). If
            it depends on the latter, the result is a point where the gradient in the former vanishes.
        start: where to start.
        idle: the number of directions along which the loss is known not to change.
        moves: whether the loss depends on the numbers that are held fixed.
        mass: for each sequence, about how much the loss curves along its number. A direction with far less
            curvature than this counts as flat.
    """
    gradient = jax.grad(loss)

    def hessian_at(z: Array) -> Array:
        return jax.jacfwd(gradient)(z, z)

    def curvature(z: Array) -> tuple[Array, Array, Array, Array]:
        """The gradient, the Hessian's diagonal by magnitude, and the eigendecomposition of it scaled."""
        g = gradient(z, z)
        hessian = hessian_at(z)
        diagonal = jnp.abs(jnp.diag(hessian))
        return g, diagonal, *_decomposed(hessian, _scale(diagonal))

    def newton_step(g: Array, diagonal: Array, values: Array, vectors: Array) -> Array:
        scale = _scale(diagonal)
        along = (scale * g) @ vectors
        size = jnp.abs(values)
        # Along directions that do not count the gradient is rounding.
        flat = _flat(g)
        along = jnp.where(size > flat * jnp.max(size), along / jnp.maximum(size, flat), 0)
        return -scale * (vectors @ along)

    def advance(state: _State) -> _State:
        z = state.z
        g, *decomposed = curvature(z)
        step = newton_step(g, *decomposed)
        longest = jnp.max(jnp.abs(step))
        step = step * jnp.minimum(1, _LONGEST_STEP / longest)
        before = loss(z, z)
        noise = _ROUNDING * jnp.finfo(z.dtype).eps * jnp.abs(before)
        slope = jnp.vdot(g, step)

        def is_too_far(share: Array) -> Array:
            after = loss(z + share * step, z)
            return ~(after <= before + 1e-4 * share * slope + noise) & (share > 1e-10)

        def shorten(state: tuple[Array, Array]) -> tuple[Array, Array]:
            share = state[0] / 2
            return share, is_too_far(share)

        # The verdict is carried: computed again, it may round to another one, and the loop not end.
        whole_step = jnp.ones((), z.dtype)
        share, _ = jax.lax.while_loop(lambda state: state[1], shorten, (whole_step, is_too_far(whole_step)))
        stuck = ~(share > 1e-10)
        new = jnp.where(stuck, z, z + share * step)
        return _State(new, state.iteration + 1, longest, stuck)

    def going(state: _State) -> Array:
        return (state.iteration < _STEPS) & (state.step > 1e-13) & ~state.stuck

    first = _State(start, jnp.zeros((), int), jnp.full((), jnp.inf, start.dtype), jnp.zeros((), bool))
    z = jax.lax.while_loop(going, advance, first).z

    def whole(z: Array) -> Array:
        return gradient(z, z)

    if moves:
        z = _root(whole, z)
    at_start = hessian_at(start)
    nowhere = jnp.zeros((), bool)
    if mass is not None:
        # A loss that does not curve at the start, and does not change from there, is left where it is.
        nowhere = jnp.all(jnp.abs(jnp.diag(at_start)) <= 4 * jnp.finfo(z.dtype).eps * mass)
        nowhere = nowhere & _same(loss(z, z), loss(start, start))
        z = jnp.where(nowhere, start, z)
    g, diagonal, values, vectors = curvature(z)
    step = -least_squares(jax.jacfwd(whole)(z), g) if moves else newton_step(g, diagonal, values, vectors)
    size = jnp.abs(values)
    flat = jnp.sum(size <= _flat(z) * jnp.max(size)) - idle
    if mass is not None and len(z) > idle:
        # Far out nothing is left of the loss but rounding, which looks like curvature at a unit diagonal.
        curves = jnp.where(mass > 0, diagonal / jnp.where(mass > 0, mass, 1), jnp.inf)
        flat = flat + jnp.sum(curves < _NOTHING) + jnp.all(curves < 4 * jnp.finfo(z.dtype).eps)
    level, along = _level(at_start, hessian_at(z))
    unchanged = _same(loss(z + along, z), loss(z, z)) & _same(loss(z - along, z), loss(z, z))
    level = jnp.where(unchanged, level, idle) - idle
    step, lowest = jnp.max(jnp.abs(step)), jnp.min(values)
    # What is left of such a loss is rounding, in every direction but the idle ones.
    flat, level = (jnp.where(nowhere, len(z) - idle, count) for count in (flat, level))
    step, lowest = (jnp.where(nowhere, 0, number) for number in (step, lowest))
    return Found(z, loss(z, z), jnp.max(jnp.abs(g)), step, flat, level, lowest)


def _level(first: Array, last: Array) -> tuple[Array, Array]:
    """The number of directions along which neither of two Hessians curves, and one mixture of them.

    The largest entry of the mixture is 1.
    """
    scale = _scale(jnp.maximum(jnp.abs(jnp.diag(first)), jnp.abs(jnp.diag(last))))
    size, vectors = _decomposed(_magnitude(first, scale) + _magnitude(last, scale), jnp.ones_like(scale))
    level = size <= _flat(size) * jnp.max(size)
    mixture = scale * (vectors @ jnp.where(level, jnp.cos(jnp.arange(len(size), dtype=size.dtype)), 0))
    longest = jnp.max(jnp.abs(mixture))
    return jnp.sum(level), mixture / jnp.where(longest > 0, longest, 1)


def _magnitude(hessian: Array, scale: Array) -> Array:
    """The scaled Hessian with its eigenvalues taken by magnitude."""
    values, vectors = _decomposed(hessian, scale)
    return (vectors * jnp.abs(values)) @ vectors.T


def _decomposed(hessian: Array, scale: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of a Hessian whose rows and columns are multiplied by `scale`."""
    scaled = hessian * scale[:, None] * scale
    return eigen((scaled + scaled.T) / 2)


def _same(a: Array, b: Array) -> Array:
    """Whether two values of a loss differ by no more than their rounding."""
    return jnp.abs(a - b) <= 64 * jnp.finfo(a.dtype).eps * jnp.maximum(jnp.abs(a), jnp.abs(b))


def _scale(diagonal: Array) -> Array:
    """Factors of rows and columns that give a matrix of this diagonal a unit diagonal."""
    return jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))


def _root(field: Callable[[Array], Array], start: Array, steps: int = 30) -> Array:
    """A root of a field near a start, by Newton's method, until a step no longer shrinks the field."""

    def size(z: Array) -> Array:
        return jnp.max(jnp.abs(field(z)))

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        z, _, iteration = state
        new = z - least_squares(jax.jacfwd(field)(z), field(z))
        better = size(new) < size(z)
        return jnp.where(better, new, z), better, iteration + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        return state[1] & (state[2] < steps)

    first = start, jnp.ones((), bool), jnp.zeros((), int)
    return jax.lax.while_loop(going, advance, first)[0]
