"""What every source of preference pairs can be asked.

A problem is a source of pairs of a chosen and a rejected sequence. It answers

    preference(i, j)      how probable it is that `i` is preferred to `j`
    sample(key, n)        `n` pairs, as `Pairs`
    expect(kernel, x, offset)     E[kernel(x_chosen − x_rejected − offset)]
    expect_across(kernel, x, y)   E[kernel(x_chosen − y_rejected)]
    expect_exp(x)         E[exp(x_chosen − x_rejected)], in log space throughout
    chosen_marginal(N), rejected_marginal(N)    the distributions of the chosen and of the rejected
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from didsim import _checks
from didsim._checks import Shape
from didsim.information import LogProbs
from didsim.pairwise.forms import Form

Summand = Callable[[Array], Array] | Form
Marginals = tuple[Float[Array, "*#batch sequences"], Float[Array, "*#batch sequences"]]
"""The distributions of the chosen and of the rejected sequence; their batch axes broadcast."""


class IndependentDraws(NamedTuple):
    """The two sequences of a pair as independent draws, of which one is then chosen.

    Attributes:
        first: where the first comes from.
        second: where the second comes from.
        net_wins: for each sequence, the probability that it is chosen less the one that it is rejected, over
            the sum of its probabilities as the first and as the second.
    """

    first: LogProbs
    second: LogProbs
    net_wins: Float[Array, "*batch sequences"]


class Wins(NamedTuple):
    """A graph with an edge from `winners[k]` to `losers[k]` for every pair that can occur.

    All pairs of two sets are a complete bipartite graph. It connects what a graph does with a node between
    the two sets, which has O(N) edges; such nodes are numbered after the sequences.

    Attributes:
        winners: nodes.
        losers: nodes.
        nodes: the number of sequences and nodes between them.
    """

    winners: Int[np.ndarray, " edges"]
    losers: Int[np.ndarray, " edges"]
    nodes: int

    @classmethod
    def between(cls, node: int, winners: Any, losers: Any) -> "Wins":
        """All pairs of two sets, those of finite log-probability, by way of a new node."""
        won, lost = (np.flatnonzero(np.isfinite(np.asarray(one))) for one in (winners, losers))
        through = np.full_like(won, node), np.full_like(lost, node)
        return cls(np.concatenate([won, through[1]]), np.concatenate([through[0], lost]), node + 1)

    def joined(self, other: "Wins", size: int) -> "Wins":
        """The edges of two graphs over `size` sequences, each with its own nodes between them."""
        shift = self.nodes - size
        ends = (np.where(end < size, end, end + shift) for end in (other.winners, other.losers))
        winners, losers = (
            np.concatenate(pair) for pair in zip((self.winners, self.losers), ends, strict=True)
        )
        return Wins(winners, losers, self.nodes + other.nodes - size)


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

    @property
    def compares_all(self) -> bool:
        """Whether every two sequences are compared, and either of them can win."""
        return False

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
    def sample(self, key: Key[Array, ""], num_pairs: int) -> Any:
        """`num_pairs` independent pairs for each entry of the batch, as `Pairs`."""

    @abstractmethod
    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The expectation of `kernel(x_chosen − x_rejected − offset)` over pairs.

        A kernel of `didsim.pairwise` is summed by what it is; any other function pair by pair.
        """

    @abstractmethod
    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The expectation of `kernel(x_chosen − y_rejected)` over pairs."""

    @abstractmethod
    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """The expectation of `exp(x_chosen − x_rejected)` over pairs.

        Probabilities and exponentials are combined as logarithms, so that a vanishing one times a huge
        one is right.
        """

    def prepared(self) -> "Problem":
        """The same problem, with what its expectations need computed once."""
        return self

    def occurring(self) -> Bool[Array, "*batch sequences"]:
        """Whether each sequence can be part of a pair, as far as that is known without a look at values."""
        return jnp.asarray(True)

    def encoded_reward(self) -> Float[Array, "*batch sequences"] | None:
        """The reward `r` of which every preference is `σ(r_i − r_j)`, up to a constant; None if not known."""
        return None

    def independent_draws(self) -> IndependentDraws | None:
        """How pairs are drawn, if their two sequences are independent; None if they are not, or not known."""
        return None

    def wins(self, size: int) -> Wins:
        """The graph of wins of a problem without batch axes.

        Raises:
            ValueError: this kind of problem does not say.
        """
        raise ValueError(f"`problem` must know its graph of wins; {type(self).__name__} does not")

    def offline(self) -> "Problem":
        """A problem of the same preferences that does not depend on the policy."""
        return self

    def at(self, log_probs: Array, implicit_reward: Array) -> "Problem":
        """Where pairs come from while the policy is this one: the problem itself, unless it is online."""
        return self

    @abstractmethod
    def joint(self, size: int) -> Any:
        """The distribution of pairs of `size` sequences as a table, a `Joint`. O(N²) memory."""

    @abstractmethod
    def chosen_marginal(self, size: int) -> LogProbs:
        """The distribution of the chosen sequence of a pair, over `size` sequences."""

    @abstractmethod
    def rejected_marginal(self, size: int) -> LogProbs:
        """The distribution of the rejected sequence of a pair, over `size` sequences."""


def at_offsets(
    summed: Callable[..., Array], kernel: Callable[[Array], Array], offset: Array, *arrays: Array
) -> Array:
    """A sum over pairs of `kernel(d − offset)`, each entry of the batch with its own offset."""

    def one(offset: Array, *arrays: Array) -> Array:
        return summed(eqx.Partial(_at_offset, kernel, offset), *arrays)

    signature = "()" + ",(n)" * len(arrays) + "->()"
    return jnp.vectorize(one, signature=signature)(offset, *arrays)


def _at_offset(kernel: Callable[[Array], Array], offset: Array, d: Array) -> Array:
    return kernel(d - offset)


def doubled(first: Array, second: Array, x: Array, y: Array) -> tuple[tuple[Array, Array], Array]:
    """Weights and values over two copies of the space, the first of which is chosen, the second rejected."""
    first, second, x, y = jnp.broadcast_arrays(first, second, x, y)
    nothing = jnp.zeros_like(first)
    weights = (jnp.concatenate([first, nothing], axis=-1), jnp.concatenate([nothing, second], axis=-1))
    return weights, jnp.concatenate([x, y], axis=-1)


def pair_indices(i: Any, j: Any, size: int) -> tuple[Array, Array]:
    i, j = _checks.indices("i", i, size), _checks.indices("j", j, size)
    _checks.broadcast(i=i.shape, j=j.shape)
    first, second = jnp.broadcast_arrays(i, j)
    return first, second


def draw_indices(key: Array, log_probs: Array, num: int) -> Int[Array, "*batch num"]:
    """`num` indices from each distribution, by its cumulative probabilities: O(N + num log N) each."""
    size = log_probs.shape[-1]
    keys = jax.random.split(key, log_probs.shape[:-1])

    def one(key: Array, p: Array) -> Array:
        return jax.random.choice(key, size, (num,), p=p)

    for _ in range(log_probs.ndim - 1):
        one = jax.vmap(one)
    return one(keys, jnp.exp(log_probs))


def check_same_size(own: int, asked: int) -> None:
    """Raise `ValueError` unless a problem is over as many sequences as it was asked about."""
    if own != asked:
        raise ValueError(f"`problem` is over {own} sequences; it was asked about {asked}")
