"""The Nash policy of a game whose players pay for their distance from a reference.

Let `A` be the antisymmetric game, `A_ij = P(i ≻ j) − 1/2`, and `t = 1/beta`. The Nash policy is
`π ∝ reference · e^x` with `x = t A π`. For `t = 0` it is the reference, with `x = 0`. With
`Σ = diag(π) − π πᵀ`, the residual `x − t A π(x)` has the Jacobian `I − t A Σ`. The product of an
antisymmetric and a positive semidefinite matrix has imaginary eigenvalues only, so that the Jacobian is never
singular. So the Nash policies for all `t` are one smooth path. (Derived here.) It is followed from `t = 0` to
`1/beta`. Each stage takes Newton's method at a larger `t`, from the end of the stage before. A stage that
does not come near the path is tried again with half the increase; after one that does, the increase is
larger.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax
from jaxtyping import Array, Float, Int

from didsim._extremes import largest_magnitude

_GROWTH = 4.0
_NEAR = 1e-3  # nats: the residual at which a stage has found the path
_ROUNDING = 1e-14  # of `t`, which all of `x` may be as large as
_TRIES = 8  # Newton's method, near the path, takes fewer steps than this
_POLISH = 30
_STAGES = 5000


class _Stage(NamedTuple):
    x: Array
    t: Array
    increase: Array
    stages: Array


@jax.jit
def regularised(
    games: Float[Array, "runs n n"], references: Float[Array, "runs n"], betas: Float[Array, " runs"]
) -> tuple[Float[Array, "runs n"], Int[Array, " runs"]]:
    """The Nash policies of several games, and how many stages each took. O(N³) for a step of a stage."""
    return jax.lax.map(lambda one: _one(*one), (games, references, betas))


def _one(game: Array, reference: Array, beta: Array) -> tuple[Array, Array]:
    last = 1 / beta

    def residual(x: Array, t: Array) -> Array:
        return x - t * (game @ softmax(reference + x))

    def size(x: Array, t: Array) -> Array:
        return largest_magnitude(residual(x, t))

    def is_near(x: Array, t: Array) -> Array:
        return size(x, t) < _NEAR + _ROUNDING * t

    def newton(x: Array, t: Array) -> Array:
        policy = softmax(reference + x)
        gains = game @ policy
        jacobian = jnp.eye(len(x)) - t * (game - gains[:, None]) * policy
        return x - jnp.linalg.solve(jacobian, x - t * gains)

    def stage(now: _Stage) -> _Stage:
        t = jnp.minimum(now.t + now.increase, last)
        _, x = jax.lax.while_loop(
            lambda at: (at[0] < _TRIES) & ~is_near(at[1], t),
            lambda at: (at[0] + 1, newton(at[1], t)),
            (0, now.x),
        )
        found = is_near(x, t)
        return _Stage(
            jnp.where(found, x, now.x),
            jnp.where(found, t, now.t),
            jnp.where(found, _GROWTH * now.increase, now.increase / 2),
            now.stages + 1,
        )

    def polish(at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        steps, x, _ = at
        new = newton(x, last)
        lower = size(new, last) < size(x, last)
        return steps + 1, jnp.where(lower, new, x), lower

    begun = _Stage(
        jnp.zeros_like(reference),
        jnp.zeros_like(beta),
        jnp.minimum(jnp.ones_like(beta), last),
        jnp.zeros((), int),
    )
    end = jax.lax.while_loop(lambda now: (now.t < last) & (now.stages < _STAGES), stage, begun)
    # Until a step no longer lowers the residual, which is then its rounding.
    first = jnp.zeros((), int), end.x, jnp.asarray(True)
    _, x, _ = jax.lax.while_loop(lambda at: at[2] & (at[0] < _POLISH), polish, first)
    return log_softmax(reference + x), end.stages
