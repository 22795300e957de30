"""The interface of a problem, which is a source of preference pairs.

A pair is a chosen and a rejected sequence. `x` and `y` are numbers for every sequence, such as rewards. The
main methods are

    preference(i, j)               the probability that `i` is preferred to `j`
    sample(key, n)                 `n` pairs, as `Pairs`
    expect(kernel, x, offset)      E[kernel(x_chosen − x_rejected − offset)]
    expect_across(kernel, x, y)    E[kernel(x_chosen − y_rejected)]
    expect_exp(x)                  E[exp(x_chosen − x_rejected)], computed in log space
    chosen_marginal(N)             the distribution of the chosen sequence, over all `N` sequences
    rejected_marginal(N)           the distribution of the rejected sequence
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
from didsim._memory import check_fits
from didsim.information import LogProbs
from didsim.pairwise.forms import Form

_BYTES = 8  # of a pair in a table of all pairs: its log-probability

Summand = Callable[[Array], Array] | Form
Marginals = tuple[Float[Array, "*#batch sequences"], Float[Array, "*#batch sequences"]]
"""The distributions of the chosen and of the rejected sequence; their batch axes broadcast."""


class IndependentDraws(NamedTuple):
    """The distributions of two independent sequences, one of which is then chosen.

    Attributes:
        first: log-probabilities of the first sequence.
        second: log-probabilities of the second sequence.
        net_wins: `[P(y is chosen) − P(y is rejected)] / [first(y) + second(y)]` for every sequence `y`.
    """

    first: LogProbs
    second: LogProbs
    net_wins: Float[Array, "*batch sequences"]


class Wins(NamedTuple):
    """A directed graph of wins: an edge leads from `i` to `j` if a pair can have `i` chosen and `j` rejected.

    If every winner of one set can meet every loser of another set, that would be O(N²) edges. The graph then
    has an auxiliary node instead: each winner has an edge to the node, and the node has an edge to each
    loser. These O(N) edges connect the same sequences. Auxiliary nodes are numbered after the sequences.

    Attributes:
        winners: the node where each edge starts.
        losers: the node where each edge ends.
        nodes: the number of all nodes, sequences and auxiliary ones.
    """

    winners: Int[np.ndarray, " edges"]
    losers: Int[np.ndarray, " edges"]
    nodes: int

    @classmethod
    def between(cls, node: int, winners: Any, losers: Any) -> "Wins":
        """The graph of all pairs of a possible winner and a possible loser, by way of one auxiliary node.

        Args:
            node: number of the auxiliary node, which is the number of sequences.
            winners: log-probabilities; a sequence can win if its log-probability is finite.
            losers: log-probabilities; a sequence can lose if its log-probability is finite.
        """
        won, lost = (np.flatnonzero(np.isfinite(np.asarray(one))) for one in (winners, losers))
        through = np.full_like(won, node), np.full_like(lost, node)
        return cls(np.concatenate([won, through[1]]), np.concatenate([through[0], lost]), node + 1)

    def joined(self, other: "Wins", size: int) -> "Wins":
        """The union of two graphs over the same `size` sequences. Their auxiliary nodes stay distinct."""
        shift = self.nodes - size
        ends = (np.where(end < size, end, end + shift) for end in (other.winners, other.losers))
        winners, losers = (
            np.concatenate(pair) for pair in zip((self.winners, self.losers), ends, strict=True)
        )
        return Wins(winners, losers, self.nodes + other.nodes - size)


class Listed(NamedTuple):
    """Pairs one by one, with their probabilities.

    Attributes:
        winners: indices of the chosen sequences.
        losers: indices of the rejected ones.
        weights: the probability of each pair.
    """

    winners: Int[Array, "*#batch pairs"]
    losers: Int[Array, "*#batch pairs"]
    weights: Float[Array, "*#batch pairs"]


class Problem(eqx.Module):
    """A source of preference pairs.

    Attributes:
        online: whether the pairs depend on the policy. If they do, only `preference` can be asked of the
            problem itself, and all else of `at(log_probs, implicit_reward)`.
    """

    online: ClassVar[bool] = False

    @property
    def has_full_support(self) -> bool:
        """Whether every sequence can be chosen and can be rejected, since no distribution has a zero."""
        return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(self))

    @property
    def compares_all(self) -> bool:
        """Whether any two sequences can form a pair, and either of them can be the chosen one."""
        return False

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Problem":
        """The problem with each array replaced by `spread(array, number of its event axes)`.

        Event axes are the last axes of an array, such as the axis of sequences. The others are batch axes.
        """
        return jax.tree.map(lambda leaf: spread(leaf, 1), self)

    @property
    @abstractmethod
    def batch_shape(self) -> Shape:
        """The batch axes of the problem."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the problem is over `size` sequences."""

    def check_table(self, size: int) -> None:
        """Raise `ValueError` unless the problem is over `size` sequences, and a table of all pairs fits."""
        self.check_size(size)
        check_fits(f"`size` = {size:,}: a table of all pairs", _BYTES * size**2)

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

        A kernel of `didsim.pairwise` can be summed in near-linear time. For any other function of a
        difference, all pairs are summed.
        """

    @abstractmethod
    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The expectation of `kernel(x_chosen − y_rejected)` over pairs."""

    def own_curvature(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch sequences"]:
        """The second derivatives of `expect_across(x, y)` in `x_i` and in `y_i`, at `y = x`, added up.

            Σ_j [P(i, j) kernel''(x_i − x_j − offset) + P(j, i) kernel''(x_j − x_i − offset)]

        This is the diagonal of the Hessian of `expect`, but for the pair of a sequence with itself, which has
        no curvature and counts here all the same. No two entries of `x` alone meet in a pair. So the Hessian
        of `expect_across` in `x` is diagonal, and its product with ones is the diagonal. (Derived here.)
        Costs as `expect_across`. Arguments are not checked.
        """
        offset = jnp.zeros(()) if offset is None else jnp.asarray(offset)[..., None]

        def slopes(x: Array, y: Array) -> tuple[Array, Array]:
            return jax.grad(lambda x, y: jnp.sum(self.expect_across(kernel, x, y + offset)), (0, 1))(x, y)

        ones = jnp.ones_like(x)
        in_chosen = jax.jvp(lambda one: slopes(one, x)[0], (x,), (ones,))[1]
        in_rejected = jax.jvp(lambda one: slopes(x, one)[1], (x,), (ones,))[1]
        return in_chosen + in_rejected

    @abstractmethod
    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """The expectation of `exp(x_chosen − x_rejected)` over pairs.

        Probabilities and exponentials are multiplied as logarithms. So their product is right even if the
        exponential overflows and the probability underflows.
        """

    def expect_ties(
        self, kernel: Callable[[Array], Array], x: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "..."]:
        """`E[kernel(x_i − x_j); the pair i, j ends in a tie]` for an even kernel; 0 if there are no ties.

        All other methods count a tie as half a win for either sequence.
        """
        check_kernel(kernel)
        return jnp.zeros((), values_over(self, "x", x).dtype)

    def label_doubt(self) -> Float[Array, "..."]:
        """The mean of `p (1 − p)` over pairs, with `p` the soft label of a pair; 0 for labels of 0 and 1."""
        return jnp.zeros(())

    def prepared(self) -> "Problem":
        """The same problem, with all that its expectations share computed in advance."""
        return self

    def occurring(self) -> Bool[Array, "..."]:
        """For each sequence, whether it can be part of a pair. True if this is not known."""
        return jnp.asarray(True)

    def encoded_reward(self) -> Float[Array, "*batch sequences"] | None:
        """The reward `r`, up to a constant, with preference `σ(r_i − r_j)` for all pairs; None if unknown."""
        return None

    @property
    def labels(self) -> Any:
        """What labels the pairs, whatever they are: a reward or a `PreferenceTable`; None if unknown."""
        return None

    def independent_draws(self) -> IndependentDraws | None:
        """The two draws behind a pair, if these are independent; None if they are not, or if unknown."""
        return None

    def wins(self, size: int) -> Wins:
        """The graph of wins over `size` sequences. The problem must have no batch axes.

        Raises:
            ValueError: this kind of problem has no graph of wins.
        """
        raise ValueError(f"`problem` must know its graph of wins; {type(self).__name__} does not")

    def offline(self) -> "Problem":
        """A problem with the same preferences that does not depend on the policy."""
        return self

    def at(self, log_probs: Array, implicit_reward: Array) -> "Problem":
        """The source of pairs for one policy: the problem itself, unless it is online.

        Args:
            log_probs: log-probabilities of the policy.
            implicit_reward: the objective's implicit reward of every sequence under the policy.
        """
        return self

    @abstractmethod
    def joint(self, size: int) -> Any:
        """The same distribution of pairs, as a `Joint` table over `size` sequences. O(N²) memory."""

    def listed(self, size: int) -> Listed:
        """All pairs of `size` sequences, with their probabilities. O(N²) memory."""
        self.check_size(size)
        table = self.joint(size).log_probs
        winners, losers = jnp.divmod(jnp.arange(size * size), size)
        return Listed(winners, losers, jnp.exp(table).reshape(*table.shape[:-2], size * size))

    @abstractmethod
    def chosen_marginal(self, size: int) -> LogProbs:
        """Log-probabilities of the chosen sequence of a pair, over `size` sequences."""

    @abstractmethod
    def rejected_marginal(self, size: int) -> LogProbs:
        """Log-probabilities of the rejected sequence of a pair, over `size` sequences."""


def at_offsets(
    summed: Callable[..., Array], kernel: Callable[[Array], Array], offset: Array, *arrays: Array
) -> Array:
    """A sum over pairs of `kernel(d − offset)`. Each entry of the batch has its own offset."""

    def one(offset: Array, *arrays: Array) -> Array:
        return summed(eqx.Partial(_at_offset, kernel, offset), *arrays)

    signature = "()" + ",(n)" * len(arrays) + "->()"
    return jnp.vectorize(one, signature=signature)(offset, *arrays)


def _at_offset(kernel: Callable[[Array], Array], offset: Array, d: Array) -> Array:
    return kernel(d - offset)


def doubled(first: Array, second: Array, x: Array, y: Array) -> tuple[tuple[Array, Array], Array]:
    """Weights and values over two copies of the space: the first for the chosen, the second for the rejected.

    A sum over pairs of `kernel(x_i − y_j)` becomes a sum over pairs of one array of values.
    """
    first, second, x, y = jnp.broadcast_arrays(first, second, x, y)
    nothing = jnp.zeros_like(first)
    weights = (jnp.concatenate([first, nothing], axis=-1), jnp.concatenate([nothing, second], axis=-1))
    return weights, jnp.concatenate([x, y], axis=-1)


def at_indices(values: Array, indices: Array) -> Array:
    """The values of each index along the last axis. The batch axes of both broadcast."""
    batch = jnp.broadcast_shapes(values.shape[:-1], indices.shape[:-1])
    values, indices = (jnp.broadcast_to(one, (*batch, one.shape[-1])) for one in (values, indices))
    return jnp.take_along_axis(values, indices, axis=-1)


def pair_indices(i: Any, j: Any, size: int) -> tuple[Array, Array]:
    i, j = _checks.indices("i", i, size), _checks.indices("j", j, size)
    _checks.broadcast(i=i.shape, j=j.shape)
    first, second = jnp.broadcast_arrays(i, j)
    return first, second


def draw_indices(key: Array, log_probs: Array, num: int) -> Int[Array, "*batch num"]:
    """`num` indices drawn from each distribution. O(N + num log N) time for each distribution."""
    size = log_probs.shape[-1]
    keys = jax.random.split(key, log_probs.shape[:-1])

    def one(key: Array, p: Array) -> Array:
        return jax.random.choice(key, size, (num,), p=p)

    for _ in range(log_probs.ndim - 1):
        one = jax.vmap(one)
    return one(keys, jnp.exp(log_probs))


def check_same_size(own: int, asked: int) -> None:
    """Raise `ValueError` unless `asked`, an argument called `size`, is a problem's number of sequences."""
    if own != _checks.count("size", asked):
        raise ValueError(f"`problem` must be over {asked} sequences; got one over {own}, its `size`")


def check_kernel(kernel: Any) -> None:
    _checks.function("kernel", kernel, "a function of a difference, or a form of didsim.pairwise")


def check_over(problem: Problem, name: str, array: Array) -> None:
    """Raise `ValueError` unless an argument has as many sequences as the problem is over."""
    try:
        problem.check_size(array.shape[-1])
    except ValueError as error:
        raise ValueError(f"{error}. `{name}` has shape {array.shape}") from None


def values_over(problem: Problem, name: str, values: Any) -> Float[Array, "*#batch sequences"]:
    """An argument as one finite number for every sequence of a problem."""
    # Those of a solver are traced, and are not checked again in every step.
    array = _checks.finite(name, values) if _checks.known(values) else values
    check_over(problem, name, array)
    _checks.broadcast(**{"problem": problem.batch_shape, name: array.shape[:-1]})
    return array


def offset_of(problem: Problem, x: Array, offset: Any) -> Array | None:
    """An offset as numbers that broadcast with the batch axes of `x` and of a problem; None stays None."""
    if offset is None:
        return None
    # A solver's own offset is traced, and is not checked again in every step.
    array = _checks.number("offset", offset, beside=x) if _checks.known(offset) else offset
    _checks.broadcast(problem=problem.batch_shape, x=x.shape[:-1], offset=array.shape)
    return array
