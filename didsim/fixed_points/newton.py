"""Newton's method: minimisers of smooth functions of a few hundred numbers, and how good they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from didsim.fixed_points.decompositions import eigen, least_squares, linear, solved, triangle

LONGEST_STEP = 8.0
"""A step changes no number by more than this."""
_STEPS = 300
TOLERANCE = 1e-6
"""How far from a stationary point a solver may stop."""
_NOTHING = 1e-30
# After a shorter step than this one, a Hessian that is not safe is decomposed into its eigenvalues.
_NEAR = 0.1
# Where the loss moves with the numbers, a shorter step than this one leaves the rest to a root search.
_ENDS_IN_A_ROOT = 1e-8
# So few numbers have eigenvalues that cost little.
_FEW = 64
# A Hessian of unit diagonal whose Cholesky decomposition has no smaller pivot is far from singular.
_SAFE = 1e-7
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
        falls: whether the function curves downwards along some direction, as it does at a saddle; or descent
            leads away, since it moves a baseline.
        steps: the number of steps that were taken.
    """

    z: Float[Array, "*starts numbers"]
    value: Float[Array, "*starts"]
    gradient: Float[Array, "*starts"]
    step: Float[Array, "*starts"]
    flat: Int[Array, "*starts"]
    level: Int[Array, "*starts"]
    falls: Bool[Array, "*starts"]
    steps: Int[Array, "*starts"] | int = 0

    @property
    def converged(self) -> Bool[Array, "*starts"]:
        """Whether Newton's next step is tiny, and the loss rises along every direction that is not level."""
        rises = (self.flat >= 0) & (self.flat <= self.level) & ~self.falls
        return (self.step < TOLERANCE) & rises


def _flat(like: Array) -> float:
    """The share of the largest curvature below which a curvature counts as zero."""
    return 5e3 * float(jnp.finfo(like.dtype).eps)


class Curvature(NamedTuple):
    """The Hessian of a loss at some numbers.

    Attributes:
        hessian: the Hessian.
        by_magnitude: a function that returns a positive Hessian of about the same curvatures; None if there
            is none that is cheap.
    """

    hessian: Float[Array, "numbers numbers"]
    by_magnitude: Callable[[], Array] | None = None


class _Point(NamedTuple):
    """The loss at some numbers, and its derivatives."""

    z: Array
    value: Array
    gradient: Array
    hessian: Array


class _State(NamedTuple):
    """A pass of Newton's method.

    Attributes:
        z: where the next pass looks at the loss.
        value: the loss there, as the line search found it; infinite if it is not known.
        iteration: the number of steps that were taken.
        step: the largest entry of the step from the point of this pass.
        stuck: whether no share of it made the loss fall.
        is_last: whether this pass only looked at where the method had ended.
        first: the point of the first pass.
        here: the point of this pass.
        flat: as in `_Decomposed`, at this point.
        lowest: as in `_Decomposed`, at this point.
        repels: as in `_with_rank_one`, at this point.
        record: the smallest gradient that such a step has reached.
    """

    z: Array
    value: Array
    iteration: Array
    step: Array
    stuck: Array
    is_last: Array
    first: _Point
    here: _Point
    flat: Array
    lowest: Array
    repels: Array
    record: Array


def minimise(
    loss: Callable[[Array, Array], Array],
    start: Array,
    idle: Float[Array, "idle numbers"],
    *,
    moves: bool,
    by_baselines: bool = False,
    curvature: Callable[[Array], Curvature] | None = None,
    mass: Array | None = None,
    size: Array | None = None,
) -> Found:
    """A minimum of `z → loss(z, held)` with `held = z`, from one start.

    Newton's method with backtracking. The Hessian `H` is first scaled to a unit diagonal. So neither the unit
    of a number matters nor how improbable its sequence is. A step is a Cholesky decomposition, O(n³/3). Where
    `H` has negative or tiny eigenvalues, it is an eigendecomposition, at about 10 times that: negative ones
    are taken by magnitude, so that saddles repel, and tiny ones are left out.

    If there are more than 64 numbers, a step far from the end takes curvatures by magnitude in place of
    eigenvalues, where `curvature` gives these. That is a second Cholesky decomposition, and takes half as
    many steps or fewer. For fewer numbers eigenvalues cost little. Their bolder steps lead to more of the
    minima, so that it tells more if several starts agree.

    If the loss moves with `z`, its gradient at `held = z` has the Jacobian `H + K`, and a step by `H` alone
    converges at a fixed rate, if at all. A baseline makes `K` a matrix of rank one. `_with_rank_one` has the
    step for it, which is taken if it halves the gradient, and the smallest one that such a step has reached.
    Therefore such steps and others cannot undo each other for ever.

    Args:
        loss: a function of the numbers, and of the same numbers held fixed (`Objective.population_loss`). If
            it depends on the latter, the result is a point where the gradient in the former vanishes.
        start: where to start.
        idle: directions along which the loss is known not to change, one in each row.
        moves: whether the loss depends on the numbers that are held fixed.
        by_baselines: whether it depends on them through baselines alone.
        curvature: the Hessian of the loss in the former numbers, where both are the same. By default it is
            differentiated, at n times the cost of a gradient.
        mass: for each sequence, about how much the loss curves along its number. A direction with far less
            curvature than this counts as flat.
        size: for each number, the size of the terms that add up to its curvature. A curvature far below is
            their rounding. By default the curvature itself.
    """
    gradient = jax.grad(loss)
    ends_below = _ENDS_IN_A_ROOT if moves else 1e-13
    no = jnp.zeros((), bool)

    def field(z: Array) -> Array:
        return gradient(z, z)

    def curvature_at(z: Array) -> Curvature:
        return Curvature(jax.jacfwd(gradient)(z, z)) if curvature is None else curvature(z)

    def advance(state: _State) -> _State:
        is_last = (state.iteration >= _STEPS) | ~(state.step > ends_below) | state.stuck
        z, root_step = state.z, None
        if moves:
            z, root_step = _root(field, z, idle, is_last)
        g, at_z = field(z), curvature_at(z)
        is_near = is_last | (state.step < _NEAR)
        decomposed = _decomposed(at_z, idle, size, is_far=~is_near)
        step = decomposed.step(g)
        longest = jnp.max(jnp.abs(step))
        jumps, repels, is_wanted, record = no, no, ~is_last, state.record
        if by_baselines:
            jump, repels = _with_rank_one(field, z, step, at_z.hessian, decomposed.step)
            jumps = is_wanted & (decomposed.is_safe | (longest < 1))
            jumps = jumps & (jnp.max(jnp.abs(jump)) < LONGEST_STEP)
            reached = jnp.max(jnp.abs(field(z + jump)))
            jumps = jumps & (reached < jnp.minimum(jnp.max(jnp.abs(g)), record) / 2)
            record = jnp.where(jumps, reached, record)
            step = jnp.where(jumps, jump, step)
            longest = jnp.max(jnp.abs(step))
        step = step * jnp.minimum(1, LONGEST_STEP / longest)
        slope = jnp.vdot(g, step)
        known = jnp.full_like(state.value, jnp.inf) if moves else state.value
        share, value, after = share_of_step(
            lambda moved: loss(moved, z), z, step, slope, before=known, wanted=is_wanted & ~jumps
        )
        share = jnp.where(jumps, 1, share)
        here = _Point(z, value, g, at_z.hessian)
        if root_step is not None:
            longest = jnp.where(is_last, jnp.max(jnp.abs(root_step)), longest)
        return _State(
            jnp.where(share > 0, z + share * step, z),
            after,
            state.iteration + jnp.where(is_last, 0, 1),
            longest,
            share == 0,
            is_last,
            jax.tree.map(lambda a, b: jnp.where(state.iteration == 0, a, b), here, state.first),
            here,
            decomposed.flat,
            decomposed.lowest,
            repels,
            record,
        )

    # The start, the steps and the end are passes of one loop, so that the loss and its derivatives are
    # compiled once.
    zero, none = jnp.zeros((), start.dtype), jnp.zeros((), int)
    nowhere_yet = _Point(start, zero, jnp.zeros_like(start), jnp.zeros((len(start),) * 2, start.dtype))
    endless = zero + jnp.inf
    begun = _State(start, endless, none, endless, no, no, nowhere_yet, nowhere_yet, none, zero, no, endless)
    ended = jax.lax.while_loop(lambda state: ~state.is_last, advance, begun)
    first, here, flat = ended.first, ended.here, ended.flat
    if mass is not None and len(start) > len(idle):
        # Far out nothing is left of the loss but rounding, which looks like curvature at a unit diagonal.
        diagonal = jnp.abs(jnp.diag(here.hessian))
        curves = jnp.where(mass > 0, diagonal / jnp.where(mass > 0, mass, 1), jnp.inf)
        flat = flat + jnp.sum(curves < _NOTHING) + jnp.all(curves < 4 * jnp.finfo(start.dtype).eps)

    def level_there(_: None) -> Array:
        level, along = _level(first.hessian, here.hessian, size)
        # One program computes all three, as two may differ by more than the rounding of the loss.
        signs = jnp.array([0.0, 1.0, -1.0], start.dtype)
        values = jax.vmap(lambda sign: loss(here.z + sign * along, here.z))(signs)
        return jnp.where(jnp.all(_same(values, values[0])), level - len(idle), 0)

    # A direction that is level is flat, too.
    level = jax.lax.cond(flat > 0, level_there, lambda _: jnp.zeros_like(flat), None)
    found = Found(
        here.z,
        here.value,
        jnp.max(jnp.abs(here.gradient)),
        ended.step,
        flat,
        level,
        (ended.lowest < -TOLERANCE) | ended.repels,
        ended.iteration,
    )
    if mass is None:
        return found
    # A loss that does not curve at the start, and does not change from there, is left where it is. What is
    # left of such a loss is rounding, in every direction but the idle ones.
    curves_nowhere = jnp.all(jnp.abs(jnp.diag(first.hessian)) <= 4 * jnp.finfo(start.dtype).eps * mass)
    nowhere = curves_nowhere & _same(here.value, first.value)
    every = jnp.full((), len(start) - len(idle))
    size_of_gradient = jnp.max(jnp.abs(first.gradient))
    left = Found(first.z, first.value, size_of_gradient, zero, every, every, no, ended.iteration)
    chosen: Found = jax.tree.map(lambda a, b: jnp.where(nowhere, a, b), left, found)
    return chosen


def share_of_step(
    loss: Callable[[Array], Array],
    z: Array,
    step: Array,
    slope: Array,
    *,
    before: Array | float = jnp.inf,
    wanted: Array | bool = True,
) -> tuple[Array, Array, Array]:
    """The share of a step that a line search takes: 1, halved until the loss falls; 0 if no share will do.

    The loss must fall, from its value before the step, by a part of what its slope along the step promises,
    or by nothing but rounding.

    Args:
        loss: the loss.
        z: where the step begins.
        step: the step.
        slope: the slope of the loss along the step.
        before: the loss before the step, if the same program has found it after the last one: two programs
            for one loss may differ by more than its rounding. If it is infinite, the search computes it.
        wanted: whether a step is wanted at all; if not, its share is 0.

    Returns:
        The share, the loss before the step, and the loss after that share of it.
    """

    def shorten(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        share, before, _, _ = state
        is_before = share == 0
        after = loss(jnp.where(is_before, z, z + share * step))
        before = jnp.where(is_before, after, before)
        noise = _ROUNDING * jnp.finfo(z.dtype).eps * jnp.abs(before)
        is_too_far = ~(after <= before + 1e-4 * share * slope + noise) & (share > 1e-10)
        following = jnp.where(is_before, 1, jnp.where(is_too_far, share / 2, share))
        return following, before, after, jnp.where(is_before, wanted, is_too_far)

    # All losses come from the one loop, so that it is compiled in one place. The verdict is carried: computed
    # again, it may round to another one, and the loop not end.
    before = jnp.asarray(before, z.dtype)
    is_known = jnp.isfinite(before)
    first = jnp.where(is_known, 1, jnp.zeros((), z.dtype)), before, before, ~is_known | wanted
    share, before, after, _ = jax.lax.while_loop(lambda state: state[3], shorten, first)
    taken = wanted & (share > 1e-10)
    return jnp.where(taken, share, 0), before, jnp.where(taken, after, before)


class _Decomposed(NamedTuple):
    """A Hessian, decomposed.

    Attributes:
        step: Newton's step for a gradient.
        flat: the number of directions along which the Hessian does not curve, without the idle ones.
        lowest: the smallest eigenvalue of the scaled Hessian; 0 if all are known to be positive.
        is_safe: whether it was the Hessian's own Cholesky decomposition that was taken.
    """

    step: Callable[[Array], Array]
    flat: Int[Array, ""]
    lowest: Float[Array, ""]
    is_safe: Bool[Array, ""]


class _Scaled(NamedTuple):
    """A matrix scaled to a unit diagonal, with its Cholesky decomposition.

    Attributes:
        scale: the factors of rows and columns.
        matrix: the scaled matrix.
        lower: the triangle of this matrix, with the curvature 1 added along the idle directions.
        is_safe: whether the triangle is there, and far from singular.
    """

    scale: Float[Array, " n"]
    matrix: Float[Array, "n n"]
    lower: Float[Array, "n n"]
    is_safe: Bool[Array, ""]


def _scaled(hessian: Array, idle: Array, size: Array | None) -> _Scaled:
    scale = _scale(jnp.abs(jnp.diag(hessian)), size)
    matrix = _symmetric(hessian * scale[:, None] * scale)
    held = idle / scale
    held = held / jnp.linalg.norm(held, axis=-1, keepdims=True)
    lower = triangle(matrix + held.T @ held)
    return _Scaled(scale, matrix, lower, jnp.min(jnp.diag(lower)) ** 2 > _SAFE)


def _decomposed(at: Curvature, idle: Array, size: Array | None, is_far: Bool[Array, ""]) -> _Decomposed:
    """A Hessian, decomposed; far from the end, one that is not safe has its curvatures by magnitude.

    In the latter case `flat` and `lowest` are those of the matrix that took its place.
    """
    scaled = _scaled(at.hessian, idle, size)
    is_own, positive = scaled.is_safe, at.by_magnitude
    if positive is not None and len(at.hessian) > _FEW:
        scaled = jax.lax.cond(
            is_far & ~scaled.is_safe, lambda: _scaled(positive(), idle, size), lambda: scaled
        )
    scale, matrix, lower, is_safe = scaled
    least = _flat(scale)

    def by_eigenvalues(_: None) -> tuple[Array, Array]:
        return eigen(matrix)

    def unused(_: None) -> tuple[Array, Array]:
        return jnp.ones_like(scale), jnp.zeros_like(matrix)

    values, vectors = jax.lax.cond(is_safe, unused, by_eigenvalues, None)
    magnitudes = jnp.abs(values)
    counts = magnitudes > least * jnp.max(magnitudes)

    def step(g: Array) -> Array:
        # Along directions that do not count the gradient is rounding.
        along = (scale * g) @ vectors
        by_values = vectors @ jnp.where(counts, along / jnp.maximum(magnitudes, least), 0)
        by_triangle = solved(jnp.where(is_safe, lower, jnp.eye(len(lower), dtype=lower.dtype)), scale * g)
        return -scale * jnp.where(is_safe, by_triangle, by_values)

    flat = jnp.where(is_safe, 0, jnp.sum(~counts) - len(idle))
    return _Decomposed(step, flat, jnp.where(is_safe, 0, jnp.min(values)), is_own)


def _with_rank_one(
    field: Callable[[Array], Array],
    z: Array,
    step: Array,
    hessian: Array,
    inverse: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Newton's step to a root of a field whose Jacobian is `H + K`, with `K` of rank one. O(n²).

    Let `s = −H⁻¹ F` be the step without `K`. Then `w = K s` is a multiple of the one direction that `K` maps
    to, and so is `K y = κ w` with `y = H⁻¹ w`. The step `s − α y` solves `(H + K)(s − α y) = −F` if
    `α = 1 / (1 + κ)`. Products with the Jacobian tell `w` and `κ`. The latter is taken one product later,
    where rounding has no part in the direction. (Derived here.)

    For a positive `H` the sign of `1 + κ` is that of the determinant of `H + K`. If it is negative, then so
    is an eigenvalue, and descent leads away from the root.

    Args:
        field: the field `F`.
        z: where to step from.
        step: `s`.
        hessian: `H`.
        inverse: a function that maps `g` to `−H⁻¹ g`.

    Returns:
        The step, and whether `1 + κ` is negative.
    """

    def rest(along: Array) -> Array:
        return jax.jvp(field, (z,), (along,))[1] - hessian @ along

    def advance(along: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        moved = rest(along)
        return -inverse(moved), (moved, along)

    _, (moved, along) = jax.lax.scan(advance, step, length=3)
    size = jnp.vdot(moved[1], moved[1])
    kappa = jnp.vdot(moved[1], moved[2]) / jnp.where(size > 0, size, 1)
    return step - along[1] / (1 + kappa), kappa < -1


def _level(first: Array, last: Array, size: Array | None) -> tuple[Array, Array]:
    """The number of directions along which neither of two Hessians curves, and one mixture of them.

    The largest entry of the mixture is 1.
    """
    scale = _scale(jnp.maximum(jnp.abs(jnp.diag(first)), jnp.abs(jnp.diag(last))), size)
    values, vectors = eigen(_symmetric(_magnitude(first, scale) + _magnitude(last, scale)))
    level = values <= _flat(values) * jnp.max(values)
    mixture = scale * (vectors @ jnp.where(level, jnp.cos(jnp.arange(len(values), dtype=scale.dtype)), 0))
    longest = jnp.max(jnp.abs(mixture))
    return jnp.sum(level), mixture / jnp.where(longest > 0, longest, 1)


def _magnitude(hessian: Array, scale: Array) -> Array:
    """The scaled Hessian with its eigenvalues taken by magnitude."""
    values, vectors = eigen(_symmetric(hessian * scale[:, None] * scale))
    return (vectors * jnp.abs(values)) @ vectors.T


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def is_rounding(number: Array, size: Array) -> Array:
    """Whether a number is no more than the rounding of terms of some size."""
    return jnp.abs(number) <= 64 * jnp.finfo(size.dtype).eps * size


def _same(a: Array, b: Array) -> Array:
    """Whether two values of a loss differ by no more than their rounding."""
    return jnp.abs(a - b) <= 64 * jnp.finfo(a.dtype).eps * jnp.maximum(jnp.abs(a), jnp.abs(b))


def _scale(diagonal: Array, size: Array | None) -> Array:
    """Factors of rows and columns that give a matrix of this diagonal a unit diagonal, but for rounding."""
    if size is not None:
        diagonal = jnp.where(is_rounding(diagonal, size), size, diagonal)
    return jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))


def _root(
    field: Callable[[Array], Array], start: Array, idle: Array, wanted: Array, steps: int = 30
) -> tuple[Array, Array]:
    """A root of a field near a start, and the next step from there: Newton's method.

    It goes on until a step no longer shrinks the field. If no root is `wanted`, it returns the start.
    """

    def advance(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        z, _, iteration, _ = state
        jacobian, here = jax.jacfwd(lambda z: (field(z),) * 2, has_aux=True)(z)
        step = root_step(jacobian, here, idle)
        shrinks = jnp.max(jnp.abs(field(z + step))) < jnp.max(jnp.abs(here))
        better = shrinks & (iteration < steps)
        return jnp.where(better, z + step, z), better, iteration + 1, step

    first = start, wanted, jnp.zeros((), int), jnp.zeros_like(start)
    z, _, _, step = jax.lax.while_loop(lambda state: state[1], advance, first)
    return z, step


def root_step(jacobian: Array, field: Array, idle: Array) -> Array:
    """Newton's step to a root of a field with a given Jacobian.

    The Jacobian is zero along the idle directions. With a curvature added there, one linear system is to be
    solved. If its solution is not one of the Jacobian itself, the shortest least-squares step is taken.
    """
    size = jnp.max(jnp.abs(jacobian))
    held = idle * jnp.sqrt(size) / jnp.linalg.norm(idle, axis=-1, keepdims=True)
    quick = -linear(jacobian + held.T @ held, field)
    left = jnp.max(jnp.abs(jacobian @ quick + field))
    fits = left <= 1e-8 * jnp.max(jnp.abs(field))
    return jax.lax.cond(
        fits & (jnp.max(jnp.abs(quick)) < LONGEST_STEP),
        lambda _: quick,
        lambda _: -least_squares(jacobian, field),
        None,
    )
