"""Pairs whose chosen and rejected sequences are drawn independently."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs, LogProbsLike
from didsim.pairwise.forms import Analytic, Form, Polynomial
from didsim.pairwise.sums import potentials, tiled_pair_sum, unchecked_pair_sum
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.problem import (
    IndependentDraws,
    Problem,
    Summand,
    Wins,
    at_offsets,
    check_kernel,
    check_same_size,
    doubled,
    draw_indices,
    offset_of,
    pair_indices,
    values_over,
)


class Contrastive(Problem):
    """Chosen and rejected sequences drawn independently, each from its own distribution.

    Given that a pair consists of `i` and `j`, the probability that `i` was the chosen one is

        p(i ≻ j) = σ(log q(i) − log q(j)),    q ∝ chosen/rejected.

    This is a Bradley–Terry model with reward `log q`. `q` is the differential information distribution (DID)
    of an update from `rejected` to `chosen`, `didsim.did(chosen, rejected)`.

    Args:
        chosen: log-probabilities of the chosen sequence, `[*batch, sequences]`.
        rejected: log-probabilities of the rejected sequence, of the same kind.

    Raises:
        ValueError: an argument is not normalised, or shapes do not fit.

    Examples:
        >>> problem = Contrastive(
        ...     chosen=jnp.log(jnp.array([0.8, 0.2])), rejected=jnp.log(jnp.array([0.5, 0.5]))
        ... )
        >>> round(float(problem.preference(0, 1)), 6)
        0.8
    """

    chosen: LogProbs
    rejected: LogProbs

    def __init__(self, chosen: LogProbsLike, rejected: LogProbsLike) -> None:
        self.chosen = _checks.distribution("chosen", chosen)
        self.rejected = _checks.distribution("rejected", rejected)
        _checks.same_sequences(chosen=self.chosen, rejected=self.rejected)

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the distributions."""
        return _checks.same_sequences(chosen=self.chosen, rejected=self.rejected)

    def check_size(self, size: int) -> None:
        check_same_size(self.chosen.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(log q(i) − log q(j))`; NaN if the pair occurs in neither order.

        Raises:
            ValueError: an index is out of range.
        """
        size = self.chosen.shape[-1]
        i, j = pair_indices(i, j, size)
        forward = self.chosen[..., i] + self.rejected[..., j]
        backward = self.chosen[..., j] + self.rejected[..., i]
        return jnp.exp(forward - jnp.logaddexp(forward, backward))

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """`num_pairs` independent pairs for each entry of the batch.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        first, second = jax.random.split(_checks.one_key("key", key))
        return Pairs(
            draw_indices(first, jnp.broadcast_to(self.chosen, self._shape), num_pairs),
            draw_indices(second, jnp.broadcast_to(self.rejected, self._shape), num_pairs),
        )

    @property
    def _shape(self) -> Shape:
        return (*self.batch_shape, self.chosen.shape[-1])

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij chosen(i) rejected(j) kernel(x_i − x_j − offset)`.

        The cost is that of `didsim.pair_sum` for a kernel that it takes, and O(N²) time for any other
        function. O(N) memory.
        """
        check_kernel(kernel)
        x = values_over(self, "x", x)
        offset = offset_of(self, x, offset)
        weights = jnp.exp(self.chosen), jnp.exp(self.rejected)
        if isinstance(kernel, Form):
            return unchecked_pair_sum(kernel, *weights, x, 0.0 if offset is None else offset)
        if offset is None:
            return tiled_pair_sum(kernel, *weights, x)
        return at_offsets(tiled_pair_sum, kernel, offset, *weights, x)

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij chosen(i) rejected(j) kernel(x_i − y_j)`. Costs as `expect` for twice as many sequences."""
        check_kernel(kernel)
        x, y = values_over(self, "x", x), values_over(self, "y", y)
        weights, values = doubled(jnp.exp(self.chosen), jnp.exp(self.rejected), x, y)
        if isinstance(kernel, Form):
            return unchecked_pair_sum(kernel, *weights, values)
        return tiled_pair_sum(kernel, *weights, values)

    def own_curvature(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch sequences"]:
        """As in `Problem.own_curvature`, at the cost of `expect` for a smooth form of `didsim.pairwise`."""
        if not isinstance(kernel, Analytic | Polynomial):
            return super().own_curvature(kernel, x, offset)
        chosen, rejected = jnp.exp(self.chosen), jnp.exp(self.rejected)
        curvature = kernel.derivative().derivative()
        rows, columns = potentials(curvature, chosen, rejected, x, 0.0 if offset is None else offset)
        return chosen * rows + rejected * columns

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_i chosen(i) e^{x_i} · Σ_j rejected(j) e^{−x_j}`. O(N)."""
        x = values_over(self, "x", x)
        return jnp.exp(_log_space.logsumexp(self.chosen + x) + _log_space.logsumexp(self.rejected - x))

    @property
    def compares_all(self) -> bool:
        return self.has_full_support

    def occurring(self) -> Bool[Array, "*batch sequences"]:
        return jnp.isfinite(jnp.maximum(self.chosen, self.rejected))

    def encoded_reward(self) -> Float[Array, "*batch sequences"]:
        """`log(chosen/rejected)`: up to a constant, the log of the DID from `rejected` to `chosen`."""
        return self.chosen - self.rejected

    def independent_draws(self) -> IndependentDraws:
        """The chosen and the rejected sequence, with `net_wins = (chosen − rejected)/(chosen + rejected)`."""
        return IndependentDraws(self.chosen, self.rejected, jnp.tanh((self.chosen - self.rejected) / 2))

    def wins(self, size: int) -> Wins:
        """Edges from every sequence that can be chosen to every sequence that can be rejected."""
        self.check_size(size)
        return Wins.between(size, self.chosen, self.rejected)

    def joint(self, size: int) -> "Joint":
        """`log chosen(i) + log rejected(j)`."""
        self.check_table(size)
        return Joint(self.chosen[..., :, None] + self.rejected[..., None, :])

    def chosen_marginal(self, size: int) -> LogProbs:
        self.check_size(size)
        return self.chosen

    def rejected_marginal(self, size: int) -> LogProbs:
        self.check_size(size)
        return self.rejected
