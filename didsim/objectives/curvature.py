"""Second derivatives of expected losses in the logits of a policy, from the structure of the losses.

The loss of a pair depends on its two rewards alone. So does its Hessian in the rewards `h`, which a table of
all pairs gives in O(N²):

    L = Σ_ij M_ij k(x_i − y_j)
    ∂²L/∂x_i² = Σ_j M_ij k''(x_i − y_j),    ∂²L/∂x_i ∂y_j = −M_ij k''(x_i − y_j)

A reward of the library depends on the log-probability `ℓ_i` of its own sequence alone. As if all
log-probabilities were free, with `J = diag(h')` and `s = Jᵀ ∂L/∂h`,

    B = ∂²L/∂ℓ² = Jᵀ (∂²L/∂h²) J + diag(∂L/∂h · h'')

The terms of an objective add up here. In the logits `z`, with `ℓ = z − lse(z)` and `p = exp(ℓ)`,

    ∂²L/∂z² = (I − p 1ᵀ) B (I − 1 pᵀ) − (Σ_i s_i) (diag(p) − p pᵀ)

which is O(N²) as well. (Derived here.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jax.nn import softmax
from jaxtyping import Array, Float

from didsim._differences import difference
from didsim.objectives.rewards import Reward


def derivatives(function: Callable[[Array], Array], at: Array) -> tuple[Array, Array]:
    """The first and the second derivative of a function that is applied to each number by itself."""
    ones = jnp.ones_like(at)

    def first(at: Array) -> Array:
        return jax.jvp(function, (at,), (ones,))[1]

    return jax.jvp(first, (at,), (ones,))


class Expansion(NamedTuple):
    """A function of many numbers around a point, to the second order, without a matrix.

    Attributes:
        value: the value.
        gradient: the gradient.
        diagonal: function that returns the diagonal of the Hessian.
        product: function that returns the product of the Hessian with a step.
    """

    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    diagonal: Callable[[], Array]
    product: Callable[[Array], Array]


def expanded(
    function: Callable[[Array], Array], at: Float[Array, " n"], diagonal: Callable[[], Array]
) -> Expansion:
    """The expansion of a function around a point. A product costs about a gradient."""
    (value, gradient), differential = jax.linearize(jax.value_and_grad(function), at)
    return Expansion(value, gradient, diagonal, lambda step: differential(step)[1])


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
    # Else XLA computes each kernel anew for every sum that it is part of.
    first, second = optimization_barrier((first, second))
    return OfRewards(first.sum(1), -first.sum(0), second)


class InLogProbs(NamedTuple):
    """Derivatives of a loss in the log-probabilities of all sequences, as if they need not sum to one.

    Attributes:
        gradient: the first derivatives.
        hessian: the second derivatives.
    """

    gradient: Float[Array, " n"]
    hessian: Float[Array, "n n"]

    def gradient_in_logits(self, logits: Float[Array, " n"]) -> Float[Array, " n"]:
        """The gradient in logits of the policy, `s − p Σ_i s_i`."""
        return self.gradient - softmax(logits) * jnp.sum(self.gradient)

    def in_logits(self, logits: Float[Array, " n"]) -> Float[Array, "n n"]:
        """The Hessian in logits of the policy."""
        p = softmax(logits)
        left = self.hessian - p[:, None] * self.hessian.sum(0)
        normaliser = jnp.diag(p) - jnp.outer(p, p)
        return left - left.sum(1)[:, None] * p - jnp.sum(self.gradient) * normaliser

    def by_magnitude(self, share: Float[Array, ""]) -> "InLogProbs":
        """A loss that curves about as much as this one, but upwards: its Hessian in logits is positive.

        Each of the curvatures between sequences, of each sequence, and of the normaliser is taken `upwards`.
        Only the sum of the gradient has a meaning then.
        """
        own = upwards(self.hessian.sum(1), share)
        total = upwards(-self.gradient.sum(keepdims=True), share)
        return InLogProbs(-total, by_magnitude(self.hessian, share) + jnp.diag(own))


class OwnDerivatives(NamedTuple):
    """Derivatives of a sum of functions of one log-probability each, in that log-probability.

    Attributes:
        first: the first derivatives, which are the gradient.
        second: the second derivatives, which are the diagonal of a Hessian without other entries.
    """

    first: Float[Array, " n"]
    second: Float[Array, " n"]

    def in_log_probs(self) -> InLogProbs:
        """The same with the Hessian as a matrix."""
        return InLogProbs(self.first, jnp.diag(self.second))


def upwards(curvatures: Float[Array, "*shape"], share: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Curvatures `c` made positive: `c` itself where it is positive, `−share · c` where it is negative."""
    return jnp.where(curvatures < 0, -share * curvatures, curvatures)


def by_magnitude(hessian: Float[Array, "n n"], share: Float[Array, ""]) -> Float[Array, "n n"]:
    """The Hessian `Σ_ij W_ij (e_i − e_j)(e_i − e_j)ᵀ` of a loss of differences with all `W` `upwards`."""
    between = upwards(jnp.diag(jnp.diag(hessian)) - hessian, share)
    return jnp.diag(between.sum(1)) - between


def of_function(loss: Callable[[Array], Array], log_probs: Float[Array, " n"]) -> InLogProbs:
    """Derivatives of any function of log-probabilities: N times the cost of a gradient."""

    def gradient(log_probs: Array) -> tuple[Array, Array]:
        return (jax.grad(loss)(log_probs),) * 2

    hessian, first = jax.jacfwd(gradient, has_aux=True)(log_probs)
    return InLogProbs(first, hessian)


class RewardMap:
    """The map from log-probabilities to the rewards of all sequences, with its derivatives.

    O(N²) for a reward that looks at one sequence at a time, but for the `Reward.dense_row`. For any other it
    has the dense Jacobian, and `pulled` is a product of N × N matrices.
    """

    def __init__(
        self, reward: Reward, log_probs: Array, reference: Array | None, lengths: Array | None
    ) -> None:
        def rewards(log_probs: Array) -> Array:
            return reward.of_space(log_probs, reference, lengths)

        self._rewards, self._log_probs = rewards, log_probs
        self._separate = reward.looks_at_one_sequence
        if self._separate:
            self._slope, self._bend = derivatives(
                lambda log_probs: reward(log_probs, reference, lengths), log_probs
            )
            return
        self._row = reward.dense_row(log_probs)
        if self._row is None:
            self._jacobian = jax.jacfwd(rewards)(log_probs)
            return
        _, sums = jax.jvp(rewards, (log_probs,), (jnp.ones_like(log_probs),))
        is_row = jnp.arange(log_probs.shape[-1]) == self._row
        (row,) = jax.vjp(rewards, log_probs)[1](is_row.astype(log_probs.dtype))
        self._slope, self._others = jnp.where(is_row, row, sums), jnp.where(is_row, 0, row)

    def values(self) -> Float[Array, " n"]:
        return self._rewards(self._log_probs)

    def pulled(self, matrix: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`Jᵀ · matrix`, with the Jacobian `J` of the rewards."""
        if not self._separate and self._row is None:
            return self._jacobian.T @ matrix
        own = self._slope[:, None] * matrix
        return own if self._separate else own + self._others[:, None] * matrix[self._row]

    def derivatives(self, first: Float[Array, " n"], second: Float[Array, "n n"]) -> InLogProbs:
        """Those of a loss with a gradient and a Hessian in the rewards."""
        if self._separate:
            bent = jnp.diag(first * self._bend)
        else:
            bent = jax.jacfwd(jax.grad(lambda logps: jnp.vdot(first, self._rewards(logps))))(self._log_probs)
        return InLogProbs(self.pulled(first[:, None])[:, 0], self.pulled(self.pulled(second).T).T + bent)


def in_log_probs(chosen: RewardMap, rejected: RewardMap, of: OfRewards) -> InLogProbs:
    """The derivatives of a loss whose derivatives in the rewards are known.

    If all sequences have one reward, chosen or rejected, `chosen` and `rejected` are the same object.
    """
    if chosen is rejected:
        return chosen.derivatives(of.chosen + of.rejected, of.hessian())
    mixed = chosen.pulled(rejected.pulled(of.across.T).T)
    won = chosen.derivatives(of.chosen, jnp.diag(of.across.sum(1)))
    lost = rejected.derivatives(of.rejected, jnp.diag(of.across.sum(0)))
    return InLogProbs(won.gradient + lost.gradient, won.hessian + lost.hessian - mixed - mixed.T)
