"""Pairs given one by one, as a finite dataset, or all at once, as a table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._differences import difference
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs
from didsim.preferences.outcomes import Name, read_outcomes
from didsim.preferences.problem import (
    Listed,
    Problem,
    Summand,
    Wins,
    at_indices,
    check_kernel,
    check_same_size,
    draw_indices,
    offset_of,
    pair_indices,
    values_over,
)
from didsim.preferences.table import check_ties


class Pairs(Problem):
    """A finite dataset of pairs.

    A pair can have a soft label `p`, the probability that its winner wins. It then counts as `p` of a win and
    `1 − p` of a loss. A pair can also be tied. An objective that knows ties (`didsim.dpo_rao_kupper`) takes a
    tie as it is. For any other, a tie is half a win for either sequence, a soft label of a half.

    Args:
        winners: indices of the chosen sequences.
        losers: indices of the rejected ones.
        weights: weight of each pair, zero or more. They are normalised. By default all are equal.
        win_probs: soft label of each pair, from 0 to 1. By default every winner wins.
        tied: whether each pair ended in a tie; the order of its two sequences then means nothing, and its
            soft label is not used. By default none did.

    Raises:
        ValueError: indices are not integers or are negative, weights are negative, not finite or all zero,
            soft labels are not in [0, 1], `tied` is not boolean, there is no pair, or shapes do not fit.

    Examples:
        >>> data = Pairs(winners=jnp.array([0, 0, 1]), losers=jnp.array([1, 1, 0]))
        >>> round(float(data.preference(0, 1)), 4)
        0.6667
        >>> float(Pairs(winners=[0], losers=[1], win_probs=[0.75]).preference(0, 1))
        0.75
    """

    winners: Int[Array, "*batch pairs"]
    losers: Int[Array, "*batch pairs"]
    weights: Float[Array, "*batch pairs"] | None
    win_probs: Float[Array, "*batch pairs"] | None
    tied: Bool[Array, "*batch pairs"] | None

    def __init__(
        self,
        winners: Int[ArrayLike, "*batch pairs"] | list[Any],
        losers: Int[ArrayLike, "*batch pairs"] | list[Any],
        weights: Float[ArrayLike, "*batch pairs"] | list[Any] | None = None,
        *,
        win_probs: Float[ArrayLike, "*batch pairs"] | list[Any] | None = None,
        tied: Bool[ArrayLike, "*batch pairs"] | list[Any] | None = None,
    ) -> None:
        most = jnp.iinfo(jnp.int32).max
        self.winners = _checks.indices("winners", winners, most)
        self.losers = _checks.indices("losers", losers, most)
        if self.winners.shape != self.losers.shape or not self.winners.ndim or not self.winners.size:
            raise ValueError(
                "`winners` and `losers` must have one shape, with at least one pair on the last axis; "
                f"got shapes {self.winners.shape} and {self.losers.shape}"
            )
        self.weights = None if weights is None else self._of_pairs("weights", weights)
        if self.weights is not None:
            given = np.asarray(weights) if _checks.known(weights) else None
            if given is not None and ((given < 0).any() or (given.sum(-1) == 0).any()):
                raise ValueError("`weights` must be zero or more, and not all zero")
        self.win_probs = None if win_probs is None else self._of_pairs("win_probs", win_probs)
        if self.win_probs is not None:
            _checks.within("win_probs", self.win_probs, 0, 1)
        self.tied = None if tied is None else self._of_pairs("tied", tied, _checks.booleans)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        winner: str = "winner",
        loser: str = "loser",
        between: tuple[str, str] | None = None,
        weight: str | None = None,
        tie: str | None = None,
        prompt: str | None = None,
        shared_items: bool = False,
    ) -> "NamedPairs":
        """Pairs from a table in which items have names: `NamedPairs`, the pairs with the names.

        Two layouts are known. In one, a column names the winner and another the loser. In the other, which
        arenas and sports have, two columns name the items (`between=("model_a", "model_b")`), and `winner`
        says which of them won: by the name of its column ("model_a"), by its own name, by a word for a tie
        (`didsim.preferences.outcomes.TIES`), or, if names are words, by the score of the first: 1, 0, or 0.5.

        Args:
            table: a path to a file in CSV, Parquet, Arrow or JSONL; a table of pandas, polars or pyarrow; any
                object with `__arrow_c_stream__`; or a mapping from names of columns to values.
            winner: the column of winners, or, with `between`, of results.
            loser: the column of losers. Not used with `between`.
            between: the columns of the two items.
            weight: the column of weights, zero or more. By default every row counts once.
            tie: the column that is true where a row is a tie (True, False, 1, 0, "true", "false").
            prompt: the column that names the prompt of each row.
            shared_items: whether a name means the same item under every prompt, as that of a model does. By
                default a response belongs to its prompt: a name under two prompts is two items, each called
                `(prompt, name)`. Without `prompt` this has no effect.

        Returns:
            The pairs, one for each row, with the names of items and prompts. Names are words, or integers if
            all are. A million rows take about a second.

        Raises:
            ValueError: a column is not there (the message has the nearest name), a value is missing or
                cannot be used (it has the row, counted from 1), an item meets itself, or there is no row.
            ImportError: pyarrow is not installed; it comes with `didsim[parquet]`.

        Examples:
            >>> battles = {"model_a": ["x", "y"], "model_b": ["y", "z"], "winner": ["model_a", "tie"]}
            >>> named = Pairs.from_table(battles, between=("model_a", "model_b"))
            >>> named.items
            ('x', 'y', 'z')
            >>> named.pairs.winners.tolist(), named.pairs.tied.tolist()
            ([0, 2], [False, True])
        """
        given = read_outcomes(
            table,
            winner=winner,
            loser=loser,
            between=between,
            weight=weight,
            tie=tie,
            prompt=prompt,
            shared_items=shared_items,
        )
        pairs = cls(given.winners, given.losers, given.weights, tied=given.tied)
        return NamedPairs(pairs, given.items, given.prompt, given.prompts)

    def _of_pairs(self, name: str, value: Any, check: Callable[..., Array] = _checks.finite) -> Array:
        array = check(name, value)
        if array.shape != self.winners.shape:
            raise ValueError(
                f"`{name}` must have one entry for each pair, shape {self.winners.shape}; "
                f"got shape {array.shape}"
            )
        return array

    def ordered(self) -> "Pairs":
        """The same pairs with labels of 0 and 1: a soft label or a tie becomes a pair in either order."""
        if self.win_probs is None and self.tied is None:
            return self
        won = self._labels()
        weights = self._pair_weights(won.dtype)
        return Pairs(
            jnp.concatenate([self.winners, self.losers], axis=-1),
            jnp.concatenate([self.losers, self.winners], axis=-1),
            jnp.concatenate([weights * won, weights * (1 - won)], axis=-1),
        )

    def weighted(self) -> "Pairs":
        """The same pairs with weights of their own: ones, if none were given."""
        if self.weights is not None:
            return self
        ones = jnp.ones(self.winners.shape)
        return eqx.tree_at(lambda pairs: pairs.weights, self, ones, is_leaf=lambda leaf: leaf is None)

    def _labels(self) -> Array:
        """The soft label of every pair; a half for ties."""
        won = jnp.ones(self.winners.shape) if self.win_probs is None else self.win_probs
        return won if self.tied is None else jnp.where(self.tied, 0.5, won)

    @property
    def has_full_support(self) -> bool:
        """False: the indices of a dataset are not searched for missing sequences."""
        return False

    @property
    def batch_shape(self) -> Shape:
        return self.winners.shape[:-1]

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless every index is below `size`."""
        size = _checks.count("size", size)
        _checks.indices("winners", self.winners, size)
        _checks.indices("losers", self.losers, size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """Of the pairs of `i` and `j`, the weighted share in which `i` won; NaN if there are no such pairs.

        A soft label counts as a share of a win, and a tie as half of one. O(pairs) for each `(i, j)`.

        Raises:
            ValueError: an index is negative.
        """
        i, j = pair_indices(i, j, jnp.iinfo(jnp.int32).max)
        pairs = self.ordered()
        # Axes for the entries of i and j go between the batch axes and the axis of the dataset's pairs.
        place = self.batch_shape + (1,) * i.ndim + pairs.winners.shape[-1:]
        winners, losers = pairs.winners.reshape(place), pairs.losers.reshape(place)
        weights = pairs._pair_weights().reshape(place)
        won = jnp.sum(weights * ((winners == i[..., None]) & (losers == j[..., None])), axis=-1)
        lost = jnp.sum(weights * ((winners == j[..., None]) & (losers == i[..., None])), axis=-1)
        return won / (won + lost)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """Pairs drawn from the dataset with replacement, with probabilities proportional to their weights.

        They keep their soft labels and ties.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        log_weights = _log_space.log(self._pair_weights())
        rows = draw_indices(_checks.one_key("key", key), log_weights, num_pairs)

        def drawn(values: Array | None) -> Array | None:
            return None if values is None else jnp.take_along_axis(values, rows, axis=-1)

        winners, losers = jnp.take_along_axis(jnp.stack([self.winners, self.losers]), rows[None], axis=-1)
        return Pairs(winners, losers, win_probs=drawn(self.win_probs), tied=drawn(self.tied))

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The weighted mean of `kernel(x_winner − x_loser − offset)`. O(N + pairs).

        Raises:
            ValueError: an index is not below the number of sequences of `x`.
        """
        check_kernel(kernel)
        x = values_over(self, "x", x)
        offset = offset_of(self, x, offset)
        pairs = self.ordered()
        differences = pairs._differences(x, x)
        if offset is not None:
            differences = differences - offset[..., None]
        return jnp.sum(pairs._pair_weights(x.dtype) * kernel(differences), axis=-1)

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The weighted mean of `kernel(x_winner − y_loser)`. O(N + pairs)."""
        check_kernel(kernel)
        x, y = values_over(self, "x", x), values_over(self, "y", y)
        pairs = self.ordered()
        return jnp.sum(pairs._pair_weights(x.dtype) * kernel(pairs._differences(x, y)), axis=-1)

    def expect_ties(
        self, kernel: Callable[[Array], Array], x: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "..."]:
        """The weighted sum of `kernel(x_i − x_j)` over the pairs that are tied. O(N + pairs)."""
        if self.tied is None:
            return super().expect_ties(kernel, x)
        check_kernel(kernel)
        x = values_over(self, "x", x)
        weights = jnp.where(self.tied, self._pair_weights(x.dtype), 0)
        return jnp.sum(weights * kernel(self._differences(x, x)), axis=-1)

    def label_doubt(self) -> Float[Array, "..."]:
        """The weighted mean of `p (1 − p)` with the soft labels `p` of the pairs; a half for ties."""
        if self.win_probs is None and self.tied is None:
            return super().label_doubt()
        won = self._labels()
        return jnp.sum(self._pair_weights(won.dtype) * won * (1 - won), axis=-1)

    def _differences(self, x: Array, y: Array) -> Array:
        """`x_winner − y_loser` of every pair."""
        self.check_size(x.shape[-1])
        _checks.broadcast(pairs=self.batch_shape, x=x.shape[:-1], y=y.shape[:-1])
        return difference(at_indices(x, self.winners), at_indices(y, self.losers))

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """The weighted mean of `exp(x_winner − x_loser)`. O(N + pairs)."""
        x = values_over(self, "x", x)
        pairs = self.ordered()
        log_weights = _log_space.log(pairs._pair_weights(x.dtype))
        return jnp.exp(_log_space.logsumexp(log_weights + pairs._differences(x, x), axis=-1))

    def wins(self, size: int) -> Wins:
        """One edge for each pair of positive weight; both ways for a tie, and for a label between 0 and 1."""
        self.check_size(size)
        pairs = self.ordered()
        kept = np.asarray(pairs._pair_weights()) > 0
        return Wins(np.asarray(pairs.winners)[kept], np.asarray(pairs.losers)[kept], size)

    def joint(self, size: int) -> "Joint":
        """The weighted share of each pair of sequences in the dataset. O(N²) memory."""
        self.check_table(size)
        count = jnp.vectorize(
            lambda winners, losers, weights: (
                jnp.zeros((size, size), weights.dtype).at[winners, losers].add(weights)
            ),
            signature="(k),(k),(k)->(n,n)",
        )
        pairs, ties = self.ordered(), None
        table = _log_space.log(count(pairs.winners, pairs.losers, pairs._pair_weights()))
        if self.tied is not None:
            half = jnp.where(self.tied, self._pair_weights(table.dtype), 0) / 2
            one_order = count(self.winners, self.losers, half)
            ties = _log_space.log(one_order + jnp.swapaxes(one_order, -1, -2))
        return Joint(table, ties)

    def listed(self, size: int) -> Listed:
        """The pairs of the dataset; a soft label or a tie has a pair in either order. O(pairs)."""
        self.check_size(size)
        pairs = self.ordered()
        return Listed(pairs.winners, pairs.losers, pairs._pair_weights())

    def chosen_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the winners, as a log-probability."""
        pairs = self.ordered()
        return pairs._share(pairs.winners, size)

    def rejected_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the losers, as a log-probability."""
        pairs = self.ordered()
        return pairs._share(pairs.losers, size)

    def _share(self, indices: Array, size: int) -> Array:
        self.check_size(size)
        weights = self._pair_weights()
        count = jnp.vectorize(
            lambda indices, weights: jnp.zeros(size, weights.dtype).at[indices].add(weights),
            signature="(k),(k)->(n)",
        )
        return _log_space.log(count(indices, weights))

    def _pair_weights(self, dtype: Any = None) -> Array:
        """Weights that sum to one. Their default dtype is their own, or JAX's if none were given."""
        if self.weights is None:
            return jnp.full(self.winners.shape, 1 / self.winners.shape[-1], dtype)
        dtype = self.weights.dtype if dtype is None else dtype
        return (self.weights / jnp.sum(self.weights, axis=-1, keepdims=True)).astype(dtype)


class NamedPairs(NamedTuple):
    """Pairs of items that have names, as `Pairs.from_table` reads them.

    Attributes:
        pairs: the pairs, one for each row of the table.
        items: the name of each item: a word, an integer, or `(prompt, name)`.
        prompt: the index of the prompt of each pair, or None if the table names no prompts.
        prompts: the name of each prompt, or None.
    """

    pairs: Pairs
    items: tuple[Name, ...]
    prompt: Int[np.ndarray, " pairs"] | None = None
    prompts: tuple[str | int, ...] | None = None


class Joint(Problem):
    """Pairs from any joint distribution of two sequences, given as a table. O(N²) memory.

    Args:
        log_probs: entry `[i, j]` is the log-probability that `i` is chosen and `j` is rejected. A tie counts
            as half a win for either. The table is normalised over its last two axes.
        log_ties: the part of `log_probs` that comes from ties, symmetric, as logarithms. Entries `[i, j]` and
            `[j, i]` add up to the probability that the pair ends in a tie. By default there are no ties.

    Raises:
        ValueError: `log_probs` is not square in its last two axes, or not normalised over them, or
            `log_ties` has another shape, is not symmetric, or exceeds `log_probs`.

    Examples:
        >>> table = Joint(jnp.log(jnp.array([[0.0, 0.6], [0.2, 0.2]])))
        >>> round(float(table.preference(0, 1)), 4)
        0.75
    """

    log_probs: Float[Array, "*batch sequences sequences"]
    log_ties: Float[Array, "*batch sequences sequences"] | None

    def __init__(
        self,
        log_probs: Float[ArrayLike, "*batch sequences sequences"],
        log_ties: Float[ArrayLike, "*batch sequences sequences"] | None = None,
    ) -> None:
        table = _checks.float_array("log_probs", log_probs)
        shape = table.shape
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"`log_probs` must be square in its last two axes; got shape {shape}")
        flat = jnp.reshape(table, (*shape[:-2], -1))
        self.log_probs = _checks.distribution("log_probs", flat).reshape(shape)
        self.log_ties = None if log_ties is None else _checks.float_array("log_ties", log_ties)
        if self.log_ties is not None:
            check_ties(self.log_probs, self.log_ties)

    @property
    def has_full_support(self) -> bool:
        """Whether every sequence is sometimes chosen and sometimes rejected."""
        size = self.log_probs.shape[-1]
        marginals = self.chosen_marginal(size), self.rejected_marginal(size)
        return all(bool(jnp.isfinite(marginal).all()) for marginal in marginals)

    @property
    def batch_shape(self) -> Shape:
        return self.log_probs.shape[:-2]

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Joint":
        spread_out: Joint = jax.tree.map(lambda leaf: spread(leaf, 2), self)
        return spread_out

    def check_size(self, size: int) -> None:
        check_same_size(self.log_probs.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """Of the pairs of `i` and `j`, the share in which `i` is chosen; NaN if they never form a pair.

        Raises:
            ValueError: an index is out of range.
        """
        i, j = pair_indices(i, j, self.log_probs.shape[-1])
        forward, backward = self.log_probs[..., i, j], self.log_probs[..., j, i]
        return jnp.exp(forward - jnp.logaddexp(forward, backward))

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        """`num_pairs` independent pairs for each entry of the batch.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        size = self.log_probs.shape[-1]
        flat = self.log_probs.reshape(*self.batch_shape, size * size)
        key = _checks.one_key("key", key)
        drawn = draw_indices(key, flat, num_pairs)
        tied = None
        if self.log_ties is not None:
            ties = self.log_ties.reshape(*self.batch_shape, size * size)
            share = jnp.exp(jnp.take_along_axis(ties, drawn, -1) - jnp.take_along_axis(flat, drawn, -1))
            tied = jax.random.uniform(jax.random.fold_in(key, 1), drawn.shape, share.dtype) < share
        return Pairs(drawn // size, drawn % size, tied=tied)

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − x_j − offset)`. O(N²) time and memory."""
        check_kernel(kernel)
        x = values_over(self, "x", x)
        offset = offset_of(self, x, offset)
        differences = difference(x[..., :, None], x[..., None, :])
        if offset is not None:
            differences = differences - offset[..., None, None]
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − y_j)`. O(N²) time and memory."""
        check_kernel(kernel)
        x, y = values_over(self, "x", x), values_over(self, "y", y)
        differences = difference(x[..., :, None], y[..., None, :])
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_ties(
        self, kernel: Callable[[Array], Array], x: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "..."]:
        """`Σ_ij ties(i, j) kernel(x_i − x_j)`. O(N²) time and memory."""
        if self.log_ties is None:
            return super().expect_ties(kernel, x)
        check_kernel(kernel)
        x = values_over(self, "x", x)
        differences = difference(x[..., :, None], x[..., None, :])
        return jnp.sum(jnp.exp(self.log_ties) * kernel(differences), axis=(-2, -1))

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) e^{x_i − x_j}`. O(N²) time and memory."""
        x = values_over(self, "x", x)
        differences = difference(x[..., :, None], x[..., None, :])
        return jnp.exp(_log_space.logsumexp(self.log_probs + differences, axis=(-2, -1)))

    def wins(self, size: int) -> Wins:
        """One edge for each pair of positive probability."""
        self.check_size(size)
        winners, losers = np.nonzero(np.isfinite(np.asarray(self.log_probs)))
        return Wins(winners, losers, size)

    def joint(self, size: int) -> "Joint":
        """The table itself."""
        self.check_size(size)
        return self

    def chosen_marginal(self, size: int) -> LogProbs:
        """The sums of the table's rows."""
        self.check_size(size)
        return _log_space.logsumexp(self.log_probs, axis=-1)

    def rejected_marginal(self, size: int) -> LogProbs:
        """The sums of the table's columns."""
        self.check_size(size)
        return _log_space.logsumexp(self.log_probs, axis=-2)
