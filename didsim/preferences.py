"""Where preference pairs come from.

A problem is a source of pairs of a chosen and a rejected sequence. `Contrastive` and `Labelled` are
populations, whose expectations are exact sums over all pairs, `Joint` a table of any distribution of pairs,
and `Pairs` a finite dataset. Each knows

    preference(i, j)      how probable it is that `i` is preferred to `j`
    sample(key, n)        `n` pairs, as `Pairs`
    expect(kernel, x, offset)     E[kernel(x_chosen − x_rejected − offset)]
    expect_across(kernel, x, y)   E[kernel(x_chosen − y_rejected)]
    expect_exp(x)         E[exp(x_chosen − x_rejected)], in log space throughout
    chosen_marginal(N), rejected_marginal(N)    the distributions of the chosen and of the rejected
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, log_softmax, logsumexp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from didsim import _checks
from didsim._checks import Shape
from didsim._tiles import map_rows
from didsim.information import LogProbs, LogProbsLike
from didsim.pairwise import Analytic, PairKernel, potentials, tiled_pair_sum, unchecked_pair_sum

Kernel = Callable[[Array], Array] | PairKernel


_SIGMOID = Analytic(jax.nn.sigmoid, strip=math.pi)
_DOUBT = _SIGMOID.derivative()  # σ(d) σ(−d)
_LEAST_DOUBT = 0.01
_FEW, _LARGE = 64, 4096


class Problem(eqx.Module):
    """A source of preference pairs.

    Attributes:
        online: whether it depends on the policy, so that all but `preference` must be asked of `at(…)`.
    """

    online: ClassVar[bool] = False

    @property
    def has_full_support(self) -> bool:
        """Whether every sequence can be chosen and rejected: no distribution has a zero."""
        return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(self))

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Problem":
        """The problem with `spread(array, event axes)` for each of its arrays."""
        return jax.tree.map(lambda leaf: spread(leaf, 1), self)

    @property
    @abstractmethod
    def batch_shape(self) -> Shape:
        """The batch axes of the problem."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the problem is one over `size` sequences."""

    @abstractmethod
    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """The probability that sequence `i` is preferred to sequence `j`."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """`num_pairs` independent pairs for each entry of the batch."""

    @abstractmethod
    def expect(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The expectation of `kernel(x_chosen − x_rejected − offset)` over pairs.

        A kernel of `didsim.pairwise` is summed by what it is; any other function pair by pair.
        """

    @abstractmethod
    def expect_across(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], y: Float[Array, "*batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The expectation of `kernel(x_chosen − y_rejected)` over pairs."""

    @abstractmethod
    def expect_exp(self, x: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
        """The expectation of `exp(x_chosen − x_rejected)` over pairs.

        Probabilities and exponentials are combined as logarithms, so that a vanishing one times a huge
        one is right.
        """

    def prepared(self) -> "Problem":
        """The same problem, with what its expectations need computed once."""
        return self

    def at(self, log_probs: Array, implicit_reward: Array) -> "Problem":
        """Where pairs come from while the policy is this one: the problem itself, unless it is online."""
        return self

    @abstractmethod
    def joint(self, size: int) -> "Joint":
        """The distribution of pairs of `size` sequences as a table. O(N²) memory."""

    @abstractmethod
    def chosen_marginal(self, size: int) -> LogProbs:
        """The distribution of the chosen sequence of a pair, over `size` sequences."""

    @abstractmethod
    def rejected_marginal(self, size: int) -> LogProbs:
        """The distribution of the rejected sequence of a pair, over `size` sequences."""


class Contrastive(Problem):
    """Chosen and rejected sequences drawn independently, each from its own distribution.

    Told the unordered pair, the probability that `i` is the one that was chosen is

        p(i ≻ j) = σ(log q(i) − log q(j)),    q = chosen/rejected, normalised:

    a Bradley–Terry model whose reward is the log of the DID of `chosen` against `rejected`.

    Args:
        chosen: where chosen sequences come from.
        rejected: where rejected ones come from.

    Raises:
        ValueError: an argument is not normalised, or shapes do not fit.

    >>> problem = Contrastive(
    ...     chosen=jnp.log(jnp.array([0.8, 0.2])), rejected=jnp.log(jnp.array([0.5, 0.5]))
    ... )
    >>> round(float(problem.preference(0, 1)), 6)
    0.8
    """

    chosen: LogProbs
    rejected: LogProbs

    def __init__(self, chosen: LogProbsLike, rejected: LogProbsLike):
        self.chosen = _checks.distribution("chosen", chosen)
        self.rejected = _checks.distribution("rejected", rejected)
        _checks.same_sequences(chosen=self.chosen, rejected=self.rejected)

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the distributions."""
        return _checks.same_sequences(chosen=self.chosen, rejected=self.rejected)

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the distributions are over `size` sequences."""
        _check_size(self.chosen.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(log q(i) − log q(j))`; NaN for a pair that never occurs in either order.

        Raises:
            ValueError: an index is out of range.
        """
        size = self.chosen.shape[-1]
        i, j = _pair_indices(i, j, size)
        forward = self.chosen[..., i] + self.rejected[..., j]
        backward = self.chosen[..., j] + self.rejected[..., i]
        return jnp.exp(forward - jnp.logaddexp(forward, backward))

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """Independent pairs.

        Raises:
            ValueError: `key` is no random key, or `num_pairs` below 1.
        """
        num_pairs = _checks.positive_int("num_pairs", num_pairs)
        first, second = jax.random.split(_checks.one_key("key", key))
        return Pairs(
            _draw(first, jnp.broadcast_to(self.chosen, self._shape), num_pairs),
            _draw(second, jnp.broadcast_to(self.rejected, self._shape), num_pairs),
        )

    @property
    def _shape(self) -> Shape:
        return (*self.batch_shape, self.chosen.shape[-1])

    def expect(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij chosen(i) rejected(j) kernel(x_i − x_j − offset)`.

        Costs as `didsim.pair_sum` does; O(N²) time for a kernel that is none of its kinds. O(N) memory.
        """
        weights = jnp.exp(self.chosen), jnp.exp(self.rejected)
        if isinstance(kernel, PairKernel):
            return unchecked_pair_sum(kernel, *weights, x, 0.0 if offset is None else offset)
        if offset is None:
            return tiled_pair_sum(kernel, *weights, x)
        return _at_offsets(tiled_pair_sum, kernel, offset, *weights, x)

    def expect_across(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], y: Float[Array, "*batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij chosen(i) rejected(j) kernel(x_i − y_j)`. A sum over the pairs of twice as many sequences."""
        weights, values = _doubled(jnp.exp(self.chosen), jnp.exp(self.rejected), x, y)
        if isinstance(kernel, PairKernel):
            return unchecked_pair_sum(kernel, *weights, values)
        return tiled_pair_sum(kernel, *weights, values)

    def expect_exp(self, x: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_i chosen(i) e^{x_i} · Σ_j rejected(j) e^{−x_j}`. O(N)."""
        return jnp.exp(logsumexp(self.chosen + x, axis=-1) + logsumexp(self.rejected - x, axis=-1))

    def joint(self, size: int) -> "Joint":
        """`log chosen(i) + log rejected(j)`."""
        self.check_size(size)
        return Joint(self.chosen[..., :, None] + self.rejected[..., None, :])

    def chosen_marginal(self, size: int) -> LogProbs:
        """`chosen` itself."""
        self.check_size(size)
        return self.chosen

    def rejected_marginal(self, size: int) -> LogProbs:
        """`rejected` itself."""
        self.check_size(size)
        return self.rejected


class Labelled(Problem):
    """Two sequences from samplers, labelled by Bradley–Terry with a reward.

    `y1 ~ first`, `y2 ~ second`, independent, and `y1` is chosen with probability `σ(r(y1) − r(y2))`.

    Args:
        reward: finite, in nats.
        first: where the first sequence comes from.
        second: where the second comes from.
        separable: whether expectations may be taken in two parts, in near-linear time; see `expect`. By
            default where preferences are not nearly deterministic.

    Raises:
        ValueError: `reward` is not finite, a sampler is not normalised, or shapes do not fit.

    >>> uniform = jnp.log(jnp.full(2, 0.5))
    >>> problem = Labelled(reward=jnp.log(jnp.array([3.0, 1.0])), first=uniform, second=uniform)
    >>> round(float(problem.preference(0, 1)), 6)
    0.75
    """

    reward: Float[Array, "*batch sequences"]
    first: LogProbs
    second: LogProbs
    separable: bool = eqx.field(static=True)
    pull: Float[Array, "*batch sequences"] | None

    def __init__(
        self,
        reward: Float[ArrayLike, "*batch sequences"],
        first: LogProbsLike,
        second: LogProbsLike,
        separable: bool | None = None,
    ):
        self.reward = _checks.finite("reward", reward)
        self.first = _checks.distribution("first", first)
        self.second = _checks.distribution("second", second)
        _checks.same_sequences(reward=self.reward, first=self.first, second=self.second)
        self.pull = None
        self.separable = self._may_separate() if separable is None else separable

    def _may_separate(self) -> bool:
        if self.reward.shape[-1] < _FEW:
            return False
        enough = jnp.all(self.doubt() >= _LEAST_DOUBT)
        return _checks.known(enough) and bool(enough)

    def doubt(self) -> Float[Array, "*batch"]:
        """The mean of `p (1 − p)` over pairs, `p` the probability of a label: 1/4 if all are coin flips."""
        return unchecked_pair_sum(_DOUBT, jnp.exp(self.first), jnp.exp(self.second), self.reward)

    def prepared(self) -> "Labelled":
        """The same problem, with the linear part of its expectations computed once."""
        if not self.separable or self.pull is not None:
            return self
        return eqx.tree_at(lambda one: one.pull, self, self._pull(), is_leaf=lambda leaf: leaf is None)

    def _pull(self) -> Array:
        """`2 [second(i) Σ_j first(j) σ(r_i − r_j) − first(i) Σ_j second(j) σ(r_j − r_i)]`.

        By how much more often a sequence is chosen than rejected, less by how much more often it is first
        than second.
        """
        first, second = jnp.exp(self.first), jnp.exp(self.second)
        rows, columns = potentials(_SIGMOID, second, first, self.reward)
        return 2 * (second * rows - first * columns)

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the distributions."""
        return _checks.same_sequences(reward=self.reward, first=self.first, second=self.second)

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the distributions are over `size` sequences."""
        _check_size(self.reward.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(r(i) − r(j))`, whatever the samplers.

        Raises:
            ValueError: an index is out of range.
        """
        size = self.reward.shape[-1]
        i, j = _pair_indices(i, j, size)
        return jax.nn.sigmoid(self.reward[..., i] - self.reward[..., j])

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """Independent pairs, labelled.

        Raises:
            ValueError: `key` is no random key, or `num_pairs` below 1.
        """
        num_pairs = _checks.positive_int("num_pairs", num_pairs)
        key_first, key_second, key_label = jax.random.split(_checks.one_key("key", key), 3)
        shape = (*self.batch_shape, self.reward.shape[-1])
        y1 = _draw(key_first, jnp.broadcast_to(self.first, shape), num_pairs)
        y2 = _draw(key_second, jnp.broadcast_to(self.second, shape), num_pairs)
        reward = jnp.broadcast_to(self.reward, shape)
        margin = jnp.take_along_axis(reward, y1, -1) - jnp.take_along_axis(reward, y2, -1)
        wins = jax.random.bernoulli(key_label, jax.nn.sigmoid(margin))
        return Pairs(jnp.where(wins, y1, y2), jnp.where(wins, y2, y1))

    def expect(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij first(i) second(j) [σ(Δr) k(Δx) + σ(−Δr) k(−Δx)]`, with `k` the kernel less its offset.

        If `k(d) − k(−d) = s·d` for some `s`, as for the logistic loss (`s = −1`) and the squared one, this is

            Σ_ij first(i) second(j) k(Δx) + (s/2) Σ_i pull(i) x(i),

        since `σ(Δr) k(Δx) + σ(−Δr) k(−Δx) = k(Δx) − s σ(−Δr) Δx`; `pull` does not depend on `x`. (Derived
        here.) Costs as `didsim.pair_sum` does, and errs by as much, relative to the two parts. These nearly
        cancel where preferences are nearly deterministic. So it is done, unless `separable` says otherwise,
        if the mean of `p (1 − p)` over pairs is 0.01 or more, from 64 sequences on. In other cases (also for
        values not known when the problem was made, under `jit`, and for another kernel), all pairs are
        summed as they stand, in O(N²) time. O(N) memory.
        """
        weights = jnp.exp(self.first), jnp.exp(self.second)
        if self.separable and isinstance(kernel, PairKernel):
            skew = kernel.skew(offset)
            if skew is not None:
                pull = self._pull() if self.pull is None else self.pull
                pairs = unchecked_pair_sum(kernel, *weights, x, 0.0 if offset is None else offset)
                # Pulls add up to zero but for rounding, which a constant in x must not meet.
                centred = x - jax.lax.stop_gradient(jnp.mean(x, axis=-1, keepdims=True))
                return pairs + skew / 2 * jnp.sum(pull * centred, axis=-1)
        if offset is None:
            return tiled_pair_sum(_EitherWay(kernel), *weights, self.reward, x)
        return _at_offsets(_either_way_sum, kernel, offset, *weights, self.reward, x)

    def expect_across(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], y: Float[Array, "*batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij [first(i) second(j) + second(i) first(j)] σ(r_i − r_j) kernel(x_i − y_j)`. O(N²) time."""
        first, second = jnp.exp(self.first), jnp.exp(self.second)

        def one_order(chosen: Array, rejected: Array) -> Array:
            weights, values = _doubled(chosen, rejected, x, y)
            _, rewards = _doubled(chosen, rejected, self.reward, self.reward)
            return tiled_pair_sum(_OneWay(kernel), *weights, rewards, values)

        return one_order(first, second) + one_order(second, first)

    def expect_exp(self, x: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij [first(i) second(j) + second(i) first(j)] σ(r_i − r_j) e^{x_i − x_j}`.

        Near-linear time from 4,096 sequences on, where expectations may be taken in two parts; else O(N²).
        """
        if not self._is_large:
            return jnp.exp(logsumexp(_log_wins(self.reward, self.first, self.second, x), axis=-1))

        def one_order(first: Array, second: Array) -> Array:
            up, down = first + x, second - x
            top, bottom = (jnp.max(part, axis=-1, keepdims=True) for part in (up, down))
            total = unchecked_pair_sum(_SIGMOID, jnp.exp(up - top), jnp.exp(down - bottom), self.reward)
            return jnp.log(total) + (top + bottom)[..., 0]

        return jnp.exp(jnp.logaddexp(one_order(self.first, self.second), one_order(self.second, self.first)))

    def joint(self, size: int) -> "Joint":
        """`log [first(i) second(j) + second(i) first(j)] + log σ(r_i − r_j)`."""
        self.check_size(size)
        one = self.first[..., :, None] + self.second[..., None, :]
        other = self.second[..., :, None] + self.first[..., None, :]
        margin = self.reward[..., :, None] - self.reward[..., None, :]
        return Joint(jnp.logaddexp(one, other) + log_sigmoid(margin))

    def chosen_marginal(self, size: int) -> LogProbs:
        """`Σ_j [first(i) second(j) + second(i) first(j)] σ(r_i − r_j)`.

        O(N²) time and O(N) memory; from 4,096 sequences on, where expectations may be taken in two parts,
        near-linear time, exact to rounding of the largest entry.
        """
        return self._marginal(self.reward, size)

    def rejected_marginal(self, size: int) -> LogProbs:
        """`Σ_j [first(i) second(j) + second(i) first(j)] σ(r_j − r_i)`. Costs as `chosen_marginal` does."""
        return self._marginal(-self.reward, size)

    @property
    def _is_large(self) -> bool:
        return self.separable and self.reward.shape[-1] >= _LARGE

    def _marginal(self, reward: Array, size: int) -> Array:
        self.check_size(size)
        if not self._is_large:
            wins = _log_wins(reward, self.first, self.second, jnp.zeros_like(reward))
            return log_softmax(wins, axis=-1)
        first, second = jnp.exp(self.first), jnp.exp(self.second)
        against_second, _ = potentials(_SIGMOID, first, second, reward)
        against_first, _ = potentials(_SIGMOID, second, first, reward)
        chosen = first * against_second + second * against_first
        return log_softmax(jnp.log(jnp.maximum(chosen, jnp.finfo(chosen.dtype).tiny)), axis=-1)


def _at_offsets(
    summed: Callable[..., Array], kernel: Callable[[Array], Array], offset: Array, *arrays: Array
) -> Array:
    """A sum over pairs of `kernel(d − offset)`, each entry of the batch with its own offset."""

    def one(offset: Array, *arrays: Array) -> Array:
        return summed(eqx.Partial(_at_offset, kernel, offset), *arrays)

    signature = "()" + ",(n)" * len(arrays) + "->()"
    return jnp.vectorize(one, signature=signature)(offset, *arrays)


def _at_offset(kernel: Callable[[Array], Array], offset: Array, d: Array) -> Array:
    return kernel(d - offset)


def _either_way_sum(kernel: Callable[[Array], Array], *arrays: Array) -> Array:
    return tiled_pair_sum(_EitherWay(kernel), *arrays)


def _doubled(first: Array, second: Array, x: Array, y: Array) -> tuple[tuple[Array, Array], Array]:
    """Weights and values over two copies of the space, the first of which is chosen, the second rejected."""
    first, second, x, y = jnp.broadcast_arrays(first, second, x, y)
    nothing = jnp.zeros_like(first)
    weights = (jnp.concatenate([first, nothing], axis=-1), jnp.concatenate([nothing, second], axis=-1))
    return weights, jnp.concatenate([x, y], axis=-1)


class _OneWay(eqx.Module):
    """A kernel of a pair whose first sequence must have won."""

    kernel: Kernel

    def __call__(self, reward: Array, difference: Array) -> Array:
        return jax.nn.sigmoid(reward) * self.kernel(difference)


class _EitherWay(eqx.Module):
    """A kernel of a pair whose label is drawn from Bradley–Terry with a difference of rewards."""

    kernel: Kernel

    def __call__(self, reward: Array, difference: Array) -> Array:
        wins, loses = jax.nn.sigmoid(reward), jax.nn.sigmoid(-reward)
        return wins * self.kernel(difference) + loses * self.kernel(-difference)


class Pairs(Problem):
    """A finite dataset of pairs.

    Args:
        winners: indices of the chosen sequences.
        losers: indices of the rejected ones.
        weights: how much each pair counts, zero or more; all alike by default. Only ratios matter.

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
        winners: Int[ArrayLike, "*batch pairs"],
        losers: Int[ArrayLike, "*batch pairs"],
        weights: Float[ArrayLike, "*batch pairs"] | None = None,
    ):
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
        """False: a dataset is not asked which sequences it lacks."""
        return False

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the dataset."""
        return self.winners.shape[:-1]

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless every index is one of `size` sequences."""
        _checks.indices("winners", self.winners, size)
        _checks.indices("losers", self.losers, size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """The weighted share of comparisons of `i` with `j` that `i` won; NaN if there is none.

        O(pairs) for each `(i, j)`.

        Raises:
            ValueError: an index is negative.
        """
        i, j = _pair_indices(i, j, jnp.iinfo(jnp.int32).max)
        # A place for the pairs asked about, between the batch axes and the dataset's pairs.
        place = self.batch_shape + (1,) * i.ndim + self.winners.shape[-1:]
        winners, losers = self.winners.reshape(place), self.losers.reshape(place)
        weights = self._pair_weights().reshape(place)
        won = jnp.sum(weights * ((winners == i[..., None]) & (losers == j[..., None])), axis=-1)
        lost = jnp.sum(weights * ((winners == j[..., None]) & (losers == i[..., None])), axis=-1)
        return won / (won + lost)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """Pairs drawn from the dataset with replacement, by weight.

        Raises:
            ValueError: `key` is no random key, or `num_pairs` below 1.
        """
        num_pairs = _checks.positive_int("num_pairs", num_pairs)
        log_weights = jnp.log(self._pair_weights())
        rows = _draw(_checks.one_key("key", key), log_weights, num_pairs)
        return Pairs(jnp.take_along_axis(self.winners, rows, -1), jnp.take_along_axis(self.losers, rows, -1))

    def expect(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The weighted mean of `kernel(x_winner − x_loser − offset)`. O(N + pairs).

        Raises:
            ValueError: a pair names a sequence that `x` does not have.
        """
        differences = self._differences(x, x)
        if offset is not None:
            differences = differences - offset[..., None]
        return jnp.sum(self._pair_weights(x.dtype) * kernel(differences), axis=-1)

    def expect_across(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], y: Float[Array, "*batch sequences"]
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

    def expect_exp(self, x: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
        """The weighted mean of `exp(x_winner − x_loser)`. O(N + pairs)."""
        log_weights = jnp.log(self._pair_weights(x.dtype))
        return jnp.exp(logsumexp(log_weights + self._differences(x, x), axis=-1))

    def joint(self, size: int) -> "Joint":
        """The weighted share of each pair; zero for those that there are not."""
        self.check_size(size)
        weights = self._pair_weights()
        count = jnp.vectorize(
            lambda winners, losers, weights: (
                jnp.zeros((size, size), weights.dtype).at[winners, losers].add(weights)
            ),
            signature="(k),(k),(k)->(n,n)",
        )
        return Joint(jnp.log(count(self.winners, self.losers, weights)))

    def chosen_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the winners; zero for those that never won."""
        return self._share(self.winners, size)

    def rejected_marginal(self, size: int) -> LogProbs:
        """The weighted share of each sequence among the losers; zero for those that never lost."""
        return self._share(self.losers, size)

    def _share(self, indices: Array, size: int) -> Array:
        self.check_size(size)
        weights = self._pair_weights()
        count = jnp.vectorize(
            lambda indices, weights: jnp.zeros(size, weights.dtype).at[indices].add(weights),
            signature="(k),(k)->(n)",
        )
        return jnp.log(count(indices, weights))

    def _pair_weights(self, dtype: Any = None) -> Array:
        """Weights that sum to one, by default in their own dtype, or JAX's where there are none."""
        if self.weights is None:
            return jnp.full(self.winners.shape, 1 / self.winners.shape[-1], dtype)
        dtype = self.weights.dtype if dtype is None else dtype
        return (self.weights / jnp.sum(self.weights, axis=-1, keepdims=True)).astype(dtype)


class Joint(Problem):
    """Pairs from any distribution at all, given as a table: O(N²) memory.

    Args:
        log_probs: the log-probability that `i` is chosen and `j` rejected, normalised over the last two axes.

    Raises:
        ValueError: `log_probs` is not square in its last two axes, or not normalised over them.

    >>> table = Joint(jnp.log(jnp.array([[0.0, 0.6], [0.2, 0.2]])))
    >>> round(float(table.preference(0, 1)), 4)
    0.75
    """

    log_probs: Float[Array, "*batch sequences sequences"]

    def __init__(self, log_probs: Float[ArrayLike, "*batch sequences sequences"]):
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
        """The batch axes of the table."""
        return self.log_probs.shape[:-2]

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Joint":
        """The problem with `spread(array, event axes)` for its table."""
        return eqx.tree_at(lambda one: one.log_probs, self, spread(self.log_probs, 2))

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the table is one over `size` sequences."""
        _check_size(self.log_probs.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """The share of pairs of `i` and `j` in which `i` is chosen; NaN for one that never occurs.

        Raises:
            ValueError: an index is out of range.
        """
        i, j = _pair_indices(i, j, self.log_probs.shape[-1])
        forward, backward = self.log_probs[..., i, j], self.log_probs[..., j, i]
        return jnp.exp(forward - jnp.logaddexp(forward, backward))

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        """Independent pairs.

        Raises:
            ValueError: `key` is no random key, or `num_pairs` below 1.
        """
        num_pairs = _checks.positive_int("num_pairs", num_pairs)
        size = self.log_probs.shape[-1]
        flat = self.log_probs.reshape(*self.batch_shape, size * size)
        drawn = _draw(_checks.one_key("key", key), flat, num_pairs)
        return Pairs(drawn // size, drawn % size)

    def expect(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − x_j − offset)`. O(N²) time and memory."""
        differences = x[..., :, None] - x[..., None, :]
        if offset is not None:
            differences = differences - offset[..., None, None]
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_across(
        self, kernel: Kernel, x: Float[Array, "*batch sequences"], y: Float[Array, "*batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) kernel(x_i − y_j)`. O(N²) time and memory."""
        differences = x[..., :, None] - y[..., None, :]
        return jnp.sum(jnp.exp(self.log_probs) * kernel(differences), axis=(-2, -1))

    def expect_exp(self, x: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij joint(i, j) e^{x_i − x_j}`. O(N²) time and memory."""
        return jnp.exp(logsumexp(self.log_probs + (x[..., :, None] - x[..., None, :]), axis=(-2, -1)))

    def joint(self, size: int) -> "Joint":
        """The table itself."""
        self.check_size(size)
        return self

    def chosen_marginal(self, size: int) -> LogProbs:
        """The sums of the table's rows."""
        self.check_size(size)
        return logsumexp(self.log_probs, axis=-1)

    def rejected_marginal(self, size: int) -> LogProbs:
        """The sums of the table's columns."""
        self.check_size(size)
        return logsumexp(self.log_probs, axis=-2)


@jax.jit
@partial(jnp.vectorize, signature="(n),(n),(n),(n)->(n)")
def _log_wins(reward: Array, first: Array, second: Array, x: Array) -> Array:
    """For each `i`, `log Σ_j P(i and j are drawn, and i is chosen) e^{x_i − x_j}`."""

    def row(reward_i: Array, first_i: Array, second_i: Array, x_i: Array) -> Array:
        either = jnp.logaddexp(first_i + second, second_i + first)
        return logsumexp(either + log_sigmoid(reward_i - reward) + (x_i - x))

    return map_rows(row, reward, first, second, x)


def _pair_indices(i: Any, j: Any, size: int) -> tuple[Array, Array]:
    i, j = _checks.indices("i", i, size), _checks.indices("j", j, size)
    _checks.broadcast(i=i.shape, j=j.shape)
    first, second = jnp.broadcast_arrays(i, j)
    return first, second


def _draw(key: Array, log_probs: Array, num: int) -> Int[Array, "*batch num"]:
    """`num` indices from each distribution, by its cumulative probabilities: O(N + num log N) each."""
    size = log_probs.shape[-1]
    keys = jax.random.split(key, log_probs.shape[:-1])

    def one(key: Array, p: Array) -> Array:
        return jax.random.choice(key, size, (num,), p=p)

    for _ in range(log_probs.ndim - 1):
        one = jax.vmap(one)
    return one(keys, jnp.exp(log_probs))


def _check_size(own: int, asked: int) -> None:
    if own != asked:
        raise ValueError(f"`problem` is over {own} sequences; it was asked about {asked}")
