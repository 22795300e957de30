"""Second derivatives of expected losses in the logits of a policy, from the structure of the losses.

The loss of a pair depends on its two rewards alone. So does its Hessian in the rewards `h`, which a table of
all pairs gives in O(N²):

    L = Σ_ij M_ij k(x_i − y_j)
    ∂²L/∂x_i² = Σ_j M_ij k''(x_i − y_j),    ∂²L/∂x_i ∂y_j = −M_ij k''(x_i − y_j)

A reward of the library depends on the log-probability `ℓ_i` of its own sequence alone, and `ℓ = z − lse(z)`.
With `p = exp(ℓ)` and `J = diag(h') (I − 1 pᵀ)`, the Jacobian of the rewards in the logits,

    ∂²L/∂z² = Jᵀ (∂²L/∂h²) J + Σ_i ∂L/∂h_i · ∂²h_i/∂z²
    Σ_i s_i ∂²h_i/∂z² = (I − p 1ᵀ) diag(s h'') (I − 1 pᵀ) − (Σ_i s_i h'_i) (diag(p) − p pᵀ)

which is O(N²) as well. (Derived here.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, Float

from didsim._differences import difference
from didsim.objectives.rewards import Reward


def derivatives(function: Callable[[Array], Array], at: Array) -> tuple[Array, Array]:
    """The first and the second derivative of a function that is applied to each number by itself."""
    ones = jnp.ones_like(at)

    def first(at: Array) -> Array:
        return jax.jvp(function, (at,), (ones,))[1]

    return jax.jvp(first, (at,), (ones,))


class OfRewards(NamedTuple):
    """Derivatives of a loss in the rewards of chosen and of rejected sequences, `x` and `y`.

    Attributes:
        chosen: the gradient in `x`.
        rejected: the gradient in `y`.
        across: minus the mixed second derivatives, `M_ij k''(x_i − y_j)`. The row sums are the second
            derivatives in `x`, the column sums those in `y`.
    """

    chosen: Float[Array, " n"]
    rejected: Float[Array, " n"]
    across: Float[Array, "n n"]

    def hessian(self) -> Float[Array, "n n"]:
        """The Hessian if both rewards are the same numbers, `x = y`."""
        return jnp.diag(self.across.sum(1) + self.across.sum(0)) - self.across - self.across.T


def of_table(
    log_table: Float[Array, "n n"], kernel: Callable[[Array], Array], x: Array, y: Array
) -> OfRewards:
    """Derivatives of `Σ_ij M_ij kernel(x_i − y_j)`, with `M` given as logarithms. O(N²)."""
    weights = jnp.exp(log_table)
    first, second = derivatives(kernel, difference(x[:, None], y))
    # A pair that never occurs has no part, even where its loss is infinite.
    first, second = (jnp.where(weights > 0, weights * one, 0) for one in (first, second))
    return OfRewards(first.sum(1), -first.sum(0), second)


class RewardMap:
    """The map from logits to the rewards of all sequences, with its derivatives.

    O(N²) for a reward that looks at one sequence at a time. For any other it has the dense Jacobian, and
    `pulled` is a product of N × N matrices.
    """

    def __init__(self, reward: Reward, z: Array, reference: Array, lengths: Array | None) -> None:
        def rewards(z: Array) -> Array:
            return reward.of_space(log_softmax(z), reference, lengths)

        self._rewards, self._z = rewards, z
        self._p = jnp.exp(log_softmax(z))
        if reward.looks_at_one_sequence:
            self._slope, self._bend = derivatives(
                lambda logps: reward(logps, reference, lengths), log_softmax(z)
            )
        else:
            self._jacobian = jax.jacfwd(rewards)(z)
        self._separate = reward.looks_at_one_sequence

    def values(self) -> Float[Array, " n"]:
        return self._rewards(self._z)

    def pulled(self, matrix: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`Jᵀ · matrix`, with the Jacobian `J` of the rewards in the logits."""
        if not self._separate:
            return self._jacobian.T @ matrix
        scaled = self._slope[:, None] * matrix
        return scaled - self._p[:, None] * scaled.sum(0)

    def pulled_on_both_sides(self, matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
        """`Jᵀ · matrix · J`."""
        return self.pulled(self.pulled(matrix).T).T

    def bent(self, weights: Float[Array, " n"]) -> Float[Array, "n n"]:
        """The Hessian of `Σ_i weights_i h_i` in the logits."""
        if not self._separate:
            return jax.jacfwd(jax.grad(lambda z: jnp.vdot(weights, self._rewards(z))))(self._z)
        p = self._p
        each = weights * self._bend
        spread = jnp.outer(p, each)
        total = jnp.vdot(weights, self._slope)
        return jnp.diag(each - total * p) - spread - spread.T + (jnp.sum(each) + total) * jnp.outer(p, p)


def in_logits(chosen: RewardMap, rejected: RewardMap, of: OfRewards) -> Float[Array, "n n"]:
    """The Hessian in the logits of a loss whose derivatives in the rewards are known.

    If all sequences have one reward, chosen or rejected, `chosen` and `rejected` are the same object.
    """
    if chosen is rejected:
        return chosen.pulled_on_both_sides(of.hessian()) + chosen.bent(of.chosen + of.rejected)
    mixed = chosen.pulled(rejected.pulled(of.across.T).T)
    own = (
        chosen.pulled_on_both_sides(jnp.diag(of.across.sum(1))) + chosen.bent(of.chosen),
        rejected.pulled_on_both_sides(jnp.diag(of.across.sum(0))) + rejected.bent(of.rejected),
    )
    return own[0] + own[1] - mixed - mixed.T
