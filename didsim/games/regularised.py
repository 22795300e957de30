"""The Nash policy of a game whose players pay for their distance from a reference.

Let `A` be the antisymmetric game, `A_ij = P(i ≻ j) − 1/2`, and `t = 1/beta`. The Nash policy is
`π ∝ reference · e^x` with `x = t A π` (up to a constant). With `Σ = diag(π) − π πᵀ`, the residual
`x − t A π(x)` has the Jacobian `I − t A Σ`. The product of an antisymmetric and a positive semidefinite
matrix has imaginary eigenvalues only, so that the Jacobian is never singular. Newton's step therefore exists
everywhere, and lowers the norm of the residual if it is short enough. As `A π` is bounded, so are the `x` of
any bounded residual: steps that lower it enough end at a root, and there is only one. (Derived here.)

The larger `t` is, the more the policy bends within a step. So `t` grows to its value in stages, each of which
begins where the last one ended.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax
from jaxtyping import Array, Float, Int

_GROWTH = 4.0
_NEAR = 0.1  # nats: the residual at which a stage ends, unless it is the last
_STEPS = 2000
_HALVINGS = 40


class _State(NamedTuple):
    x: Array
    t: Array
    steps: Array
    done: Array


@jax.jit
def regularised(
    games: Float[Array, "runs n n"], references: Float[Array, "runs n"], betas: Float[Array, " runs"]
) -> tuple[Float[Array, "runs n"], Int[Array, " runs"]]:
    """The Nash policies of several games, and how many steps each took. O(N³) a step."""
    return jax.lax.map(lambda one: _one(*one), (games, references, betas))


def _one(game: Array, reference: Array, beta: Array) -> tuple[Array, Array]:
    last = 1 / beta

    def residual(x: Array, t: Array) -> Array:
        return x - t * (game @ softmax(reference + x))

    def newton(x: Array, t: Array) -> Array:
        policy = softmax(reference + x)
        gains = game @ policy
        jacobian = jnp.eye(len(x)) - t * (game - gains[:, None]) * policy
        return -jnp.linalg.solve(jacobian, x - t * gains)

    def size(x: Array, t: Array) -> Array:
        return jnp.linalg.norm(residual(x, t))

    def step(state: _State) -> _State:
        x, t = state.x, state.t
        before, direction = size(x, t), newton(x, t)

        def too_long(share: Array) -> Array:
            worse = ~(size(x + share * direction, t) <= (1 - share / 1e4) * before)
            return worse & (share > 2.0**-_HALVINGS)

        share = jax.lax.while_loop(too_long, lambda share: share / 2, jnp.ones_like(t))
        new = x + share * direction
        lower = size(new, t) < before
        x = jnp.where(lower, new, x)
        is_last = t >= last
        grown = jnp.where(size(x, t) < _NEAR, jnp.minimum(_GROWTH * t, last), t)
        # At the last stage a step that no longer lowers the residual has met its rounding.
        return _State(x, grown, state.steps + 1, is_last & ~lower)

    start = _State(
        jnp.zeros_like(reference), jnp.minimum(jnp.ones_like(beta), last), jnp.zeros((), int), jnp.zeros((), bool)
    )
    end = jax.lax.while_loop(lambda state: ~state.done & (state.steps < _STEPS), step, start)
    return log_softmax(reference + end.x), end.steps
