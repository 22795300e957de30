"""Pairs given one by one, as a finite dataset, or all at once, as a table."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs
from didsim.preferences.problem import Problem, Summand, Wins, check_same_size, draw_indices, pair_indices


class Pairs(Problem):
    """A finite dataset of pairs.

    Args:
        winners: indices of the chosen sequences.
        losers: indices of the rejected ones.
        weights: weight of each pair, zero or more. They are normalised. By default all are equal.

    Raises:
        ValueError: indices are not integers or are negative, weights are negative, not finite or all zero,
            there is no pair, or shapes do not fit.

    >>> data = Pairs(winners=jnp.array([0, 0, 1]), losers=jnp.array([1, 1, 0]))
    >>> round(float(data.preference(0, 1)), 4)
    0.6667
    """

    winners: Int[Array, "*batch pairs"]
    losers: Int[Array, "*batch pairs"]
    weights: Float[Array, "*batch pairs"] | None

    def __init__(
        self,
        winners: Int[ArrayLike, "*batch pairs"] | list[Any],
        losers: Int[ArrayLike, "*batch pairs"] | list[Any],
        weights: Float[ArrayLike, "*batch pairs"] | list[Any] | None = None,
    ) -> None:
        most = jnp.iinfo(jnp.int32).max
        self.winners = _checks.indices("winners", winners, most)
        self.losers = _checks.indices("losers", losers, most)
        if self.winners.shape != self.losers.shape or not self.winners.ndim or not self.winners.size:
            raise ValueError(
                "`winners` and `losers` must have one shape, with at least one pair on the last axis; "
                f"got shapes {self.winners.shape} and {self.losers.shape}"
            )
        self.weights = None if weights is None else _checks.finite("weights", weights)
        if self.weights is not None:
            if self.weights.shape != self.winners.shape:
                raise ValueError(
                    f"`weights` must have one entry for each pair, shape {self.winners.shape}; "
                    f"got shape {self.weights.shape}"
                )
            given = np.asarray(weights) if _checks.known(weights) else None
            if given is not None and ((given < 0).any() or (given.sum(-1) == 0).any()):
                raise ValueError("`weights` must be zero or more, and not all zero")

    @property
    def has_full_support(self) -> bool:
        """False: the indices of a dataset are not searched for missing sequences."""
        return False

    @property
    def batch_shape(self) -> Shape:
        return self.winners.shape[:-1]

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless every index is below `size`."""
        _checks.indices("winners", self.winners, size)
        _checks.indices("losers", self.losers, size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """Of the pairs of `i` and `j`, the weighted share in which `i` won; NaN if there are no such pairs.

        O(pairs) for each `(i, j)`.

        Raises:
            ValueError: an index is negative.
        """
        i, j = pair_indices(i, j, jnp.iinfo(jnp.int32).max)
        # Axes for the entries of i and j go between the batch axes and the axis of the dataset's pairs.
        place = self.batch_shape + (1,) * i.ndim + self.winners.shape[-1:]
        winners, losers = self.winners.reshape(place), self.losers.reshape(place)
        weights = self._pair_weights().reshape(place)
        won = jnp.sum(weights * ((winners == i[..., None]) & (losers == j[..., None])), axis=-1)
        lost = jnp.sum(weights * ((winners == j[..., None]) & (losers == i[..., None])), axis=-1)
        return won / (won + lost)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """Pairs drawn from the dataset with replacement, with probabilities proportional to their weights.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        log_weights = _log_space.log(self._pair_weights())
        rows = draw_indices(_checks.one_key("key", key), log_weights, num_pairs)
        return Pairs(jnp.take_along_axis(self.winners, rows, -1), jnp.take_along_axis(self.losers, rows, -1))

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The weighted mean of `kernel(x_winner − x_loser − offset)`. O(N + pairs).

        Raises:
            ValueError: an index is not below the number of sequences of `x`.
        """
        differences = self._differences(x, x)
        if offset is not None:
            differences = differences - offset[..., None]
        return jnp.sum(self._pair_weights(x.dtype) * kernel(differences), axis=-1)

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The weighted mean of `kernel(x_winner − y_loser)`. O(N + pairs)."""
        return jnp.sum(self._pair_weights(x.dtype) * kernel(self._differences(x, y)), axis=-1)

    def _differences(self, x: Array, y: Array) -> Array:
        """`x_winner − y_loser` of every pair."""
        self.check_size(x.shape[-1])
        batch = _checks.broadcast(pairs=self.batch_shape, x=x.shape[:-1], y=y.shape[:-1])

        def of(values: Array, indices: Array) -> Array:
            values = jnp.broadcast_to(values, (*batch, values.shape[-1]))
            indices = jnp.broadcast_to(indices, (*batch, indices.shape[-1]))
            return jnp.take_along_axis(values, indices, axis=-1)

        return of(x, self.winners) - of(y, self.losers)

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """The weighted mean of `exp(x_winner − x_loser)`. O(N + pairs)."""
        log_weights = _log_space.log(self._pair_weights(x.dtype))
        return jnp.exp(_log_space.logsumexp(log_weights + self._differences(x, x), axis=-1))

    def wins(self, size: int) -> Wins:
        """One edge for each pair of positive weight."""
        kept = np.ones(self.winners.shape[-1], bool) if self.weights is None else np.asarray(self.weights) > 0
        return Wins(np.asarray(self.winners)[kept], np.asarray(self.losers)[kept], size)

    def joint(self, size: int) -> "Joint":
        """The weighted share of each pair of sequences in the dataset. O(N²) memory."""
        self.check_size(size)
        weights = self._pair_weights()
        count = jnp.vectorize(
            lambda winners, losers, weights: (
                jnp.zeros((size, size), weights.dtype).at[winners, losers].add(weights)
            ),
            signature="(k),(k),(k)->(n,n)",
        )
        return Joint(_log_space.log(count(self.winners, self.losers, weights)))

    def chosen_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the winners, as a log-probability."""
        return self._share(self.winners, size)

    def rejected_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the losers, as a log-probability."""
        return self._share(self.losers, size)

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


class Joint(Problem):
    """Pairs from any joint distribution of two sequences, given as a table. O(N²) memory.

    Args:
        log_probs: entry `[i, j]` is the log-probability that `i` is chosen and `j` is rejected. The table is
            normalised over its last two axes.

    Raises:
        ValueError: `log_probs` is not square in its last two axes, or not normalised over them.

    >>> table = Joint(jnp.log(jnp.array([[0.0, 0.6], [0.2, 0.2]])))
    >>> round(float(table.preference(0, 1)), 4)
    0.75
    """

    log_probs: Float[Array, "*batch sequences sequences"]

    def __init__(self, log_probs: Float[ArrayLike, "*batch sequences sequences"]) -> None:
        shape = jnp.shape(log_probs)
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"`log_probs` must be square in its last two axes; got shape {shape}")
        flat = jnp.reshape(jnp.asarray(log_probs), (*shape[:-2], -1))
        self.log_probs = _checks.distribution("log_probs", flat).reshape(shape)

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
        return eqx.tree_at(lambda one: one.log_probs, self, spread(self.log_probs, 2))

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
        drawn = draw_indices(_checks.one_key("key", key), flat, num_pairs)
        return Pairs(drawn // size, drawn % size)

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − x_j − offset)`. O(N²) time and memory."""
        differences = x[..., :, None] - x[..., None, :]
        if offset is not None:
            differences = differences - offset[..., None, None]
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − y_j)`. O(N²) time and memory."""
        differences = x[..., :, None] - y[..., None, :]
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) e^{x_i − x_j}`. O(N²) time and memory."""
        differences = x[..., :, None] - x[..., None, :]
        return jnp.exp(_log_space.logsumexp(self.log_probs + differences, axis=(-2, -1)))

    def wins(self, size: int) -> Wins:
        """One edge for each pair of positive probability."""
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
