"""Newton's method: minimisers of smooth functions of a few hundred numbers, and how good they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from didsim._extremes import largest_magnitude
from didsim.fixed_points.dense import Dense
from didsim.fixed_points.hessians import Curvature, Hessian
from didsim.fixed_points.roots import LONGEST_STEP, ROOT_STEPS, root, step_with_rank_one

_STEPS = 300
TOLERANCE = 1e-6
"""How far from a stationary point a solver may stop."""
SHORTEST_SHARE = 1e-10
"""The share of a step below which a line search gives up."""
_NOTHING = 1e-30
# After a shorter step than this one, a Hessian that is not safe is decomposed into its eigenvalues.
_NEAR = 0.1
# Far from the end a negative curvature counts with this share of its magnitude, until a step is refused.
_SHARE_OF_NEGATIVE = 0.2
# Where the loss moves with the numbers, a shorter step than this one leaves the rest to a root search.
_AT_THE_END = 1e-8
# After a shorter step than this one, steps that do not shrink are rounding. Rounded corners are 1e-10 wide.
_ROUNDING_STEP = 1e-11
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
        falls: whether the function curves downwards along some direction, as it does at a saddle, or may do
            so, as far as was told; or descent leads away, since it moves a baseline.
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
    def converged(self) -> Bool[Array | np.ndarray, "*starts"]:
        """Whether Newton's next step is tiny, and the loss rises along every direction that is not level."""
        rises = (self.flat >= 0) & (self.flat <= self.level) & ~self.falls
        return (self.step < TOLERANCE) & rises


class _Point(NamedTuple):
    """The loss at some numbers, and its derivatives."""

    z: Array
    value: Array
    gradient: Array
    hessian: Hessian


class _Try(NamedTuple):
    """A share of a step, which a pass of Newton's method tries.

    Attributes:
        origin: where the step began.
        value: the loss there.
        step: the step.
        slope: the slope of the loss along the step.
        share: the share of the step that is tried.
        is_checked: whether the loss must fall. It need not at the start, nor for a step to a root.
    """

    origin: Array
    value: Array
    step: Array
    slope: Array
    share: Array
    is_checked: Array


class _State(NamedTuple):
    """A pass of Newton's method.

    Attributes:
        z: where the next pass looks at the loss.
        tried: the step that leads there.
        iteration: the number of steps that were taken.
        length: the largest entry of the last step that was computed.
        negative: the share of its magnitude with which a negative curvature counts, far from the end.
        was_safe: as in `Hessian.decomposed`.
        rests: whether the next pass only looks at where the method has ended.
        is_over: whether no pass is left.
        first: the start.
        here: the point of this pass.
        flat: as in `Decomposed`, at the last point from which a step was computed.
        lowest: the same.
        repels: as in `step_with_rank_one`, at that point.
        record: the smallest gradient that such a step has reached.
    """

    z: Array
    tried: _Try
    iteration: Array
    length: Array
    negative: Array
    was_safe: Array
    rests: Array
    is_over: Array
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
    by_baseline: bool = False,
    curvature: Callable[[Array], Curvature] | None = None,
    mass: Array | None = None,
    size: Array | None = None,
) -> Found:
    """A minimum of `z → loss(z, held)` with `held = z`, from one start.

    Newton's method with backtracking. A step is halved until it `falls_enough`. Nearly every one is taken
    whole, so that a point is looked at for the loss and its derivatives together.

    The Hessian `H` is first scaled to a unit diagonal. So neither the unit of a number matters nor how
    improbable its sequence is. A step is a Cholesky decomposition, O(n³/3). Where `H` has negative or tiny
    eigenvalues, it is an eigendecomposition, at about 10 times that: negative ones are taken by magnitude, so
    that saddles repel, and tiny ones are left out.

    Costs are those of a `Dense` Hessian; an `Arrow` takes O(n) for either step.

    If there are more than 64 numbers, a step far from the end takes curvatures by magnitude in place of
    eigenvalues, where `curvature` gives these. That takes half as many steps or fewer. The first such step
    takes a second Cholesky decomposition, and those that follow it take one. Negative curvatures count with a
    fifth of their magnitude, which makes steps longer, until a step is refused; after that, with all of it.
    For fewer numbers eigenvalues cost little. Their bolder steps lead to more of the minima, so that it tells
    more if several starts agree.

    If the loss moves with `z`, its gradient at `held = z` has the Jacobian `H + K`, and a step by `H` alone
    converges at a fixed rate, if at all. A baseline makes `K` a matrix of rank one. `step_with_rank_one` has
    the step for it. It is taken if it halves both the gradient here and the smallest gradient that such a
    step has reached. So these steps and others cannot undo each other for ever. At the end, or after 300
    steps, all steps are of this kind, for as long as they shrink the gradient and are not rounding. For any
    other `K` the end is a search for a root.

    Args:
        loss: a function of the numbers, and of the same numbers held fixed (`Objective.population_loss`). If
            it depends on the latter, the result is a point where the gradient in the former vanishes.
        start: where to start.
        idle: directions along which the loss is known not to change, one in each row.
        moves: whether the loss depends on the numbers that are held fixed.
        by_baseline: whether it depends on them through one baseline alone.
        curvature: the derivatives of the loss in the former numbers, where both are the same. By default the
            gradient is differentiated, at n times its cost.
        mass: for each sequence, about how much the loss curves along its number. A direction with far less
            curvature than this counts as flat.
        size: for each number, the size of the terms that add up to its curvature. A curvature far below is
            their rounding. By default the curvature itself.
    """
    gradient = jax.grad(loss)
    searches_root = moves and not by_baseline
    ends_below = _AT_THE_END if searches_root else 1e-14
    most_steps = _STEPS + (ROOT_STEPS if by_baseline else 0)
    zero, none, no = jnp.zeros((), start.dtype), jnp.zeros((), int), jnp.zeros((), bool)

    def field(z: Array) -> Array:
        return gradient(z, z)

    def curvature_at(z: Array) -> Curvature:
        if curvature is not None:
            return curvature(z)
        hessian, g = jax.jacfwd(lambda free: (gradient(free, z),) * 2, has_aux=True)(z)
        return Curvature(g, Dense(hessian))

    def advance(state: _State) -> _State:
        tried, z, last_step = state.tried, state.z, None
        if searches_root:
            z, last_step = root(field, z, idle, state.rests)
        if moves:
            # One program computes both, as two may differ by more than the rounding of the loss.
            after, value = jax.vmap(lambda held: loss(z, held))(jnp.stack([tried.origin, z]))
        else:
            after = value = loss(z, z)
        is_good = ~tried.is_checked | falls_enough(tried.value, after, tried.share, tried.slope)
        if curvature is None:
            at_z = jax.lax.cond(
                is_good, lambda: curvature_at(z), lambda: Curvature(state.here.gradient, state.here.hessian)
            )
        else:
            # In the open, so that XLA computes once what it shares with the loss.
            at_z = curvature_at(z)
        here = _Point(z, value, at_z.gradient, at_z.hessian)

        def shorten() -> _State:
            share = tried.share / 2
            gives_up = share <= SHORTEST_SHARE
            return state._replace(
                z=jnp.where(gives_up, tried.origin, tried.origin + share * tried.step),
                tried=tried._replace(share=share, is_checked=~gives_up),
                negative=jnp.ones_like(state.negative),
                rests=gives_up,
            )

        after_this = jax.lax.cond(is_good, lambda: step_from(state, here, at_z, last_step), shorten)
        is_first = (state.iteration == 0) & ~state.rests
        first = jax.tree.map(lambda a, b: jnp.where(is_first, a, b), here, state.first)
        return after_this._replace(here=here, first=first)

    def step_from(state: _State, here: _Point, at_z: Curvature, last_step: Array | None) -> _State:
        z, g, is_last = here.z, here.gradient, state.rests
        is_near = is_last | (state.length < _NEAR)
        upwards = at_z.by_magnitude
        positive = None if upwards is None else lambda: upwards(state.negative)
        at = here.hessian.decomposed(g, idle, size, positive, ~is_near, state.was_safe)
        step = at.step
        longest = largest_magnitude(step)
        jumps, repels, descends, record = no, no, ~is_last, state.record
        if by_baseline:
            last_step, repels = step_with_rank_one(field, z, step, here.hessian.product, at.step_for)
            # Such steps lead to saddles as well.
            jumps = ~is_last & (at.is_safe | ((longest < 1) & ~(at.lowest < -TOLERANCE)))
            ends = (state.length < _AT_THE_END) | (state.iteration >= _STEPS)
            jumps = jumps & (ends | (largest_magnitude(last_step) < LONGEST_STEP))
            reached, size_of_gradient = largest_magnitude(field(z + last_step)), largest_magnitude(g)
            enough = jnp.where(ends, size_of_gradient, jnp.minimum(size_of_gradient, record) / 2)
            jumps = jumps & (reached < enough)
            record = jnp.where(jumps, reached, record)
            step = jnp.where(jumps, last_step, step)
            longest = largest_magnitude(step)
            descends = descends & ~jumps & ~ends
        step = step * jnp.where(jumps, 1, jnp.minimum(1, LONGEST_STEP / longest))
        # So near to a minimum each step is a tiny part of the last one, unless rounding is all of it.
        stays = (longest >= state.length) & (longest < TOLERANCE)
        is_rounding = (state.length < _ROUNDING_STEP) & stays
        is_at_the_end = ~(longest > ends_below) | (state.iteration >= most_steps)
        rests = ~(jumps | descends) | is_at_the_end | is_rounding
        # A loss that moves is looked at once more: for a root, and for how a baseline moves there.
        is_over = is_last if moves else is_last | (rests & is_near)
        if last_step is not None:
            longest = jnp.where(is_last, largest_magnitude(last_step), longest)
        share = jnp.where(rests, zero, 1)
        return state._replace(
            z=jnp.where(rests, z, z + step),
            tried=_Try(z, here.value, step, jnp.vdot(g, step), share, ~(jumps | rests)),
            iteration=state.iteration + jnp.where(rests, 0, 1),
            length=longest,
            was_safe=at.is_safe,
            rests=rests,
            is_over=is_over,
            flat=at.flat,
            lowest=at.lowest,
            repels=repels,
            record=record,
        )

    # The start, the steps and the end are passes of one loop, so that the loss and its derivatives are
    # compiled once.
    no_hessian = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: curvature_at(start).hessian)
    )
    nowhere_yet = _Point(start, zero, jnp.zeros_like(start), no_hessian)
    endless = zero + jnp.inf
    tried = _Try(start, endless, jnp.zeros_like(start), zero, zero, no)
    begun = _State(
        z=start,
        tried=tried,
        iteration=none,
        length=endless,
        negative=zero + _SHARE_OF_NEGATIVE,
        was_safe=~no,
        rests=no,
        is_over=no,
        first=nowhere_yet,
        here=nowhere_yet,
        flat=none,
        lowest=zero,
        repels=no,
        record=endless,
    )
    ended = jax.lax.while_loop(lambda state: ~state.is_over, advance, begun)
    first, here, flat = ended.first, ended.here, ended.flat
    if mass is not None and len(start) > len(idle):
        flat = flat + levels(here.hessian.diagonal(), mass)

    def level_there(_: None) -> Array:
        level, along = first.hessian.level_directions(here.hessian, size)
        # One program computes all three, as two may differ by more than the rounding of the loss.
        signs = jnp.array([0.0, 1.0, -1.0], start.dtype)
        values = jax.vmap(lambda sign: loss(here.z + sign * along, here.z))(signs)
        return jnp.where(jnp.all(_same(values, values[0])), level - len(idle), 0)

    # A direction that is level is flat, too.
    level = jax.lax.cond(flat > 0, level_there, lambda _: jnp.zeros_like(flat), None)
    found = Found(
        here.z,
        here.value,
        largest_magnitude(here.gradient),
        ended.length,
        flat,
        level,
        (ended.lowest < -TOLERANCE) | ended.repels,
        ended.iteration,
    )
    if mass is None:
        return found
    # A loss that does not curve at the start, and does not change from there, is left where it is. What is
    # left of such a loss is rounding, in every direction but the idle ones.
    curves_nowhere = jnp.all(jnp.abs(first.hessian.diagonal()) <= 4 * jnp.finfo(start.dtype).eps * mass)
    nowhere = curves_nowhere & _same(here.value, first.value)
    every = jnp.full((), len(start) - len(idle))
    size_of_gradient = largest_magnitude(first.gradient)
    left = Found(first.z, first.value, size_of_gradient, zero, every, every, no, ended.iteration)
    chosen: Found = jax.tree.map(lambda a, b: jnp.where(nowhere, a, b), left, found)
    return chosen


def falls_enough(before: Array, after: Array, share: Array, slope: Array) -> Array:
    """Whether a loss falls by a part of what its slope along a step promises, or by nothing but rounding."""
    noise = _ROUNDING * jnp.finfo(after.dtype).eps * jnp.abs(before)
    return after <= before + 1e-4 * share * slope + noise


def levels(diagonal: Array, mass: Array) -> Array:
    """The number of numbers along which a loss has far less curvature than its mass.

    Far out nothing is left of a loss but rounding, which looks like curvature at a unit diagonal.
    """
    curves = jnp.where(mass > 0, jnp.abs(diagonal) / jnp.where(mass > 0, mass, 1), jnp.inf)
    return jnp.sum(curves < _NOTHING) + jnp.all(curves < 4 * jnp.finfo(diagonal.dtype).eps)


def _same(a: Array, b: Array) -> Array:
    """Whether two values of a loss differ by no more than their rounding."""
    return jnp.abs(a - b) <= 64 * jnp.finfo(a.dtype).eps * jnp.maximum(jnp.abs(a), jnp.abs(b))
