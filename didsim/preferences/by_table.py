"""Pairs of two independent draws, labelled by a table of preferences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs, LogProbsLike
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.problem import (
    IndependentDraws,
    Problem,
    Summand,
    Wins,
    check_same_size,
    draw_indices,
    pair_indices,
)
from didsim.preferences.table import PreferenceTable


class LabelledByTable(Problem):
    """Two independent sequences, labelled by a table of preferences.

    `y1 ~ first` and `y2 ~ second` are independent. `y1` is chosen with probability `P(y1 ≻ y2)`, and `y2`
    with probability `P(y2 ≻ y1)`. If the table has ties, the pair ends in a tie otherwise. An objective that
    knows ties (`didsim.dpo_rao_kupper`) takes them as they are. For any other, a tie is half a win for either
    sequence. Sums over pairs take O(N²) time and memory, as those of `Joint` do.

    Args:
        preferences: the table, `[*batch, sequences, sequences]`.
        first: log-probabilities of the first sequence, `[*batch, sequences]`.
        second: log-probabilities of the second sequence, of the same kind.

    Raises:
        ValueError: `preferences` is not a `PreferenceTable`, `first` or `second` is not normalised, or shapes
            do not fit.

    Examples:
        >>> table = PreferenceTable(jnp.array([[0.5, 0.8], [0.2, 0.5]]))
        >>> uniform = jnp.log(jnp.full(2, 0.5))
        >>> jnp.exp(LabelledByTable(table, uniform, uniform).chosen_marginal(2)).round(6).tolist()
        [0.65, 0.35]
    """

    preferences: PreferenceTable
    first: LogProbs
    second: LogProbs

    def __init__(self, preferences: PreferenceTable, first: LogProbsLike, second: LogProbsLike) -> None:
        _checks.instance("preferences", preferences, PreferenceTable, "a PreferenceTable")
        self.preferences = preferences
        self.first = _checks.distribution("first", first)
        self.second = _checks.distribution("second", second)
        _checks.same_sequences(preferences=preferences.log_wins[..., 0], first=self.first, second=self.second)

    @property
    def batch_shape(self) -> Shape:
        return _checks.broadcast(
            preferences=self.preferences.batch_shape,
            first=self.first.shape[:-1],
            second=self.second.shape[:-1],
        )

    @property
    def has_full_support(self) -> bool:
        """Whether every sequence can be drawn, and is sometimes chosen and sometimes rejected."""
        return self.joint(self.preferences.size).has_full_support

    @property
    def compares_all(self) -> bool:
        """Whether any two sequences can be drawn as a pair, and either of them can be the chosen one."""
        parts = self.first, self.second, self.preferences.log_preferences()
        return all(bool(jnp.isfinite(part).all()) for part in parts)

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "LabelledByTable":
        preferences = jax.tree.map(lambda leaf: spread(leaf, 2), self.preferences)
        return LabelledByTable(preferences, spread(self.first, 1), spread(self.second, 1))

    def check_size(self, size: int) -> None:
        check_same_size(self.preferences.size, size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`P(i ≻ j)`, and half the probability of a tie. It does not depend on `first` and `second`.

        Raises:
            ValueError: an index is out of range.
        """
        i, j = pair_indices(i, j, self.preferences.size)
        return jnp.exp(self.preferences.log_preferences()[..., i, j])

    @property
    def labels(self) -> PreferenceTable:
        """The table."""
        return self.preferences

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        """`num_pairs` independent labelled pairs for each entry of the batch; `tied` says which are ties.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        key_first, key_second, key_label = jax.random.split(_checks.one_key("key", key), 3)
        batch, size = self.batch_shape, self.preferences.size
        y1 = draw_indices(key_first, jnp.broadcast_to(self.first, (*batch, size)), num_pairs)
        y2 = draw_indices(key_second, jnp.broadcast_to(self.second, (*batch, size)), num_pairs)

        def at(log_table: Array, i: Array, j: Array) -> Array:
            flat = jnp.broadcast_to(log_table, (*batch, size, size)).reshape(*batch, size * size)
            return jnp.exp(jnp.take_along_axis(flat, i * size + j, axis=-1))

        win, loss = at(self.preferences.log_wins, y1, y2), at(self.preferences.log_wins, y2, y1)
        place = jax.random.uniform(key_label, win.shape, win.dtype)
        tied = None if self.preferences.log_ties is None else (place >= win) & (place < 1 - loss)
        wins = place < win if tied is None else (place < win) | tied
        return Pairs(jnp.where(wins, y1, y2), jnp.where(wins, y2, y1), tied=tied)

    def joint(self, size: int) -> Joint:
        """`log [first(i) second(j) + second(i) first(j)] + log [P(i ≻ j) + P(tie)/2]`, and the ties."""
        self.check_table(size)
        one = self.first[..., :, None] + self.second[..., None, :]
        other = self.second[..., :, None] + self.first[..., None, :]
        drawn, ties = _log_space.logaddexp(one, other), self.preferences.log_ties
        tied = None if ties is None else drawn + ties - jnp.log(2.0).astype(ties.dtype)
        return Joint(drawn + self.preferences.log_preferences(), tied)

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − x_j − offset)`. O(N²) time and memory."""
        return self._joint().expect(kernel, x, offset)

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − y_j)`. O(N²) time and memory."""
        return self._joint().expect_across(kernel, x, y)

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) e^{x_i − x_j}`. O(N²) time and memory."""
        return self._joint().expect_exp(x)

    def expect_ties(
        self, kernel: Callable[[Array], Array], x: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "..."]:
        """`Σ_ij first(i) second(j) P(tie of i, j) kernel(x_i − x_j)`. O(N²) time and memory."""
        return self._joint().expect_ties(kernel, x)

    def _joint(self) -> Joint:
        return self.joint(self.preferences.size)

    def occurring(self) -> Bool[Array, "*batch sequences"]:
        return jnp.isfinite(jnp.maximum(self.first, self.second))

    def independent_draws(self) -> IndependentDraws:
        """The two draws. `net_wins(i)` is the mean of `P(i ≻ j) − P(j ≻ i)` over the partners `j` of `i`."""
        won = jnp.exp(self.preferences.log_wins)
        lead = won - jnp.swapaxes(won, -1, -2)
        of_second = jnp.sum(lead * jnp.exp(self.second)[..., None, :], axis=-1)
        of_first = jnp.sum(lead * jnp.exp(self.first)[..., None, :], axis=-1)
        share = jax.nn.sigmoid(self.first - self.second)
        return IndependentDraws(self.first, self.second, share * of_second + (1 - share) * of_first)

    def wins(self, size: int) -> Wins:
        """One edge for each pair of positive probability; a tie has edges both ways."""
        return self.joint(size).wins(size)

    def chosen_marginal(self, size: int) -> LogProbs:
        """`Σ_j [first(i) second(j) + second(i) first(j)] [P(i ≻ j) + P(tie)/2]`. O(N²)."""
        return self.joint(size).chosen_marginal(size)

    def rejected_marginal(self, size: int) -> LogProbs:
        """`Σ_j [first(i) second(j) + second(i) first(j)] [P(j ≻ i) + P(tie)/2]`. O(N²)."""
        return self.joint(size).rejected_marginal(size)
