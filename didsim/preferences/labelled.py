"""Pairs of two independent draws, labelled by a Bradley–Terry model with a given reward."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, log_softmax
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs, LogProbsLike
from didsim.pairwise.exact import map_rows
from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear
from didsim.pairwise.products import nodes_for, product_sum
from didsim.pairwise.sums import potentials, tiled_pair_sum, unchecked_pair_sum
from didsim.preferences.contrastive import Contrastive
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
from didsim.preferences.table import reward_of_labels

_SIGMOID = Analytic(jax.nn.sigmoid, strip=math.pi)
_DOUBT = _SIGMOID.derivative()  # σ(d) σ(−d)


def _half_tanh(d: Array) -> Array:
    return jnp.tanh(d / 2)


_HALF_TANH = Analytic(_half_tanh, strip=math.pi)
_LEAST_DOUBT = 0.01
_FEW, _LARGE = 64, 4096


class Labelled(Problem):
    """Two independent sequences, labelled by a Bradley–Terry model.

    `y1 ~ first` and `y2 ~ second` are independent. `y1` is chosen with probability `σ(r(y1) − r(y2))`, and
    `y2` otherwise.

    Args:
        reward: `r`, finite, in nats, `[*batch, sequences]`. Labels from a `PreferenceTable` make a
            `LabelledByTable`.
        first: log-probabilities of the first sequence, `[*batch, sequences]`.
        second: log-probabilities of the second sequence, of the same kind.
        separable: whether to take expectations in two parts, in near-linear time. By default this is decided
            by how noisy the labels are; see `expect`.

    Attributes:
        nodes: how many nodes of interpolation sums of `PiecewiseLinear` kernels have, which the range of the
            rewards decides when the problem is made; None if all pairs are summed. If `eqx.tree_at` puts
            rewards of a wider range in their place, these sums are NaN.

    Raises:
        ValueError: `reward` is not finite, or is a table of preferences, `first` or `second` is not
            normalised, or shapes do not fit.

    Examples:
        >>> uniform = jnp.log(jnp.full(2, 0.5))
        >>> problem = Labelled(reward=jnp.log(jnp.array([3.0, 1.0])), first=uniform, second=uniform)
        >>> round(float(problem.preference(0, 1)), 6)
        0.75
    """

    reward: Float[Array, "*batch sequences"]
    first: LogProbs
    second: LogProbs
    separable: bool = eqx.field(static=True)
    nodes: int | None = eqx.field(static=True)
    pull: Float[Array, "*batch sequences"] | None

    def __init__(
        self,
        reward: Float[ArrayLike, "*#batch sequences"],
        first: LogProbsLike,
        second: LogProbsLike,
        separable: bool | None = None,
    ) -> None:
        self.reward = reward_of_labels(reward)
        self.first = _checks.distribution("first", first)
        self.second = _checks.distribution("second", second)
        _checks.same_sequences(reward=self.reward, first=self.first, second=self.second)
        if separable is not None:
            _checks.flag("separable", separable)
        self.pull = None
        self.separable = self._may_separate() if separable is None else separable
        self.nodes = nodes_for(_SIGMOID, self.reward) if _checks.known(self.reward) else None

    def _may_separate(self) -> bool:
        if self.reward.shape[-1] < _FEW:
            return False
        enough = jnp.all(self.doubt() >= _LEAST_DOUBT)
        return _checks.known(enough) and bool(enough)

    def doubt(self) -> Float[Array, "*batch"]:
        """The mean of `p (1 − p)` over pairs, with `p` the probability that the first sequence is chosen.

        It is 1/4 if every label is a coin flip, and 0 if every label is certain.
        """
        return unchecked_pair_sum(_DOUBT, jnp.exp(self.first), jnp.exp(self.second), self.reward)

    def prepared(self) -> "Labelled":
        """The same problem, with `pull` computed. Then `expect` need not compute it at each call."""
        if not self.separable or self.pull is not None:
            return self
        return eqx.tree_at(lambda one: one.pull, self, self._pull(), is_leaf=lambda leaf: leaf is None)

    def _pull(self) -> Array:
        """`2 [second(i) Σ_j first(j) σ(r_i − r_j) − first(i) Σ_j second(j) σ(r_j − r_i)]` for every `i`.

        This is `P(i is chosen) − P(i is rejected) − P(i is drawn first) + P(i is drawn second)`.
        """
        first, second = jnp.exp(self.first), jnp.exp(self.second)
        rows, columns = potentials(_SIGMOID, second, first, self.reward)
        return 2 * (second * rows - first * columns)

    @property
    def batch_shape(self) -> Shape:
        return _checks.same_sequences(reward=self.reward, first=self.first, second=self.second)

    def check_size(self, size: int) -> None:
        check_same_size(self.reward.shape[-1], size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(r(i) − r(j))`. It does not depend on `first` and `second`.

        Raises:
            ValueError: an index is out of range.
        """
        size = self.reward.shape[-1]
        i, j = pair_indices(i, j, size)
        return jax.nn.sigmoid(self.reward[..., i] - self.reward[..., j])

    def sample(self, key: Key[Array, ""], num_pairs: int) -> "Pairs":
        """`num_pairs` independent labelled pairs for each entry of the batch.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        key_first, key_second, key_label = jax.random.split(_checks.one_key("key", key), 3)
        shape = (*self.batch_shape, self.reward.shape[-1])
        y1 = draw_indices(key_first, jnp.broadcast_to(self.first, shape), num_pairs)
        y2 = draw_indices(key_second, jnp.broadcast_to(self.second, shape), num_pairs)
        reward = jnp.broadcast_to(self.reward, shape)
        margin = jnp.take_along_axis(reward, y1, -1) - jnp.take_along_axis(reward, y2, -1)
        wins = jax.random.bernoulli(key_label, jax.nn.sigmoid(margin))
        return Pairs(jnp.where(wins, y1, y2), jnp.where(wins, y2, y1))

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """`Σ_ij first(i) second(j) [σ(Δr) k(Δx) + σ(−Δr) k(−Δx)]`. O(N) memory.

        `Δr = r_i − r_j`, `Δx = x_i − x_j` and `k(d) = kernel(d − offset)`.

        Suppose that `k(d) − k(−d) = s·d` for all `d`. The logistic loss (`s = −1`) and the squared loss have
        such an `s`. Then `σ(Δr) k(Δx) + σ(−Δr) k(−Δx) = k(Δx) − s σ(−Δr) Δx`, and the expectation has two
        parts:

            Σ_ij first(i) second(j) k(Δx) + (s/2) Σ_i pull(i) x(i)

        The weights `pull` do not depend on `x`. With `pull` known the cost is that of `didsim.pair_sum`. So
        is the error, relative to the two parts. (Derived here.)

        If labels are nearly certain, the two parts nearly cancel, and accuracy is lost. By default
        (`separable`), the parts are therefore used only if the mean of `p (1 − p)` over pairs (`doubt`) is
        0.01 or more, and there are 64 sequences or more. In all other cases the sum over pairs is taken
        as first written, in O(N²) time. These include kernels without an `s`, and a problem that was made
        under `jit`, where the mean is not known.

        A `PiecewiseLinear` kernel has no `s`. A step, whose expectation is the reward accuracy, is one. It is
        summed by `product_sum`, in O(N log N) for each of 32, 128 or 512 nodes (in float32, 16, 64 or 256).
        The wider the range of `r`, the more nodes. The error is the rounding of `E |k|`. All pairs are summed
        if there are fewer than 16 sequences for each node, or if `r` is not known when the problem is made.
        """
        check_kernel(kernel)
        x = values_over(self, "x", x)
        offset = offset_of(self, x, offset)
        weights = jnp.exp(self.first), jnp.exp(self.second)
        if self.separable and isinstance(kernel, Form):
            skew = kernel.skew(offset)
            if skew is not None:
                pull = self._pull() if self.pull is None else self.pull
                pairs = unchecked_pair_sum(kernel, *weights, x, 0.0 if offset is None else offset)
                # Pulls add up to zero, except for rounding, which a large constant in x would multiply.
                centred = x - jax.lax.stop_gradient(jnp.mean(x, axis=-1, keepdims=True))
                return pairs + skew / 2 * jnp.sum(pull * centred, axis=-1)
        if self.nodes is not None and isinstance(kernel, PiecewiseLinear):
            by = 0.0 if offset is None else offset
            orders = weights, weights[::-1]
            wins = [product_sum(_SIGMOID, kernel, self.nodes, *order, self.reward, x, by) for order in orders]
            return wins[0] + wins[1]
        if offset is None:
            return tiled_pair_sum(_EitherWay(kernel), *weights, self.reward, x)
        return at_offsets(_either_way_sum, kernel, offset, *weights, self.reward, x)

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """`Σ_ij [first(i) second(j) + second(i) first(j)] σ(r_i − r_j) kernel(x_i − y_j)`.

        O(N²) time; for a `PiecewiseLinear` kernel as `expect`.
        """
        check_kernel(kernel)
        x, y = values_over(self, "x", x), values_over(self, "y", y)
        first, second = jnp.exp(self.first), jnp.exp(self.second)

        def one_order(chosen: Array, rejected: Array) -> Array:
            weights, values = doubled(chosen, rejected, x, y)
            _, rewards = doubled(chosen, rejected, self.reward, self.reward)
            if self.nodes is not None and isinstance(kernel, PiecewiseLinear):
                return product_sum(_SIGMOID, kernel, self.nodes, *weights, rewards, values)
            return tiled_pair_sum(_OneWay(kernel), *weights, rewards, values)

        return one_order(first, second) + one_order(second, first)

    def own_curvature(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch sequences"]:
        """As in `Problem.own_curvature`, at the cost of `expect`.

        A kernel with an `s`, as in `expect`, has an even second derivative. Labels then make no difference.
        """
        if self.separable and isinstance(kernel, Form) and kernel.skew(offset) is not None:
            return Contrastive(self.first, self.second).own_curvature(kernel, x, offset)
        return super().own_curvature(kernel, x, offset)

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """`Σ_ij [first(i) second(j) + second(i) first(j)] σ(r_i − r_j) e^{x_i − x_j}`.

        Near-linear time if `separable` and there are 4,096 sequences or more; otherwise O(N²) time.
        """
        x = values_over(self, "x", x)
        if not self._is_large:
            return jnp.exp(_log_space.logsumexp(_log_wins(self.reward, self.first, self.second, x), axis=-1))

        def one_order(first: Array, second: Array) -> Array:
            up, down = first + x, second - x
            top, bottom = (jnp.max(part, axis=-1, keepdims=True) for part in (up, down))
            total = unchecked_pair_sum(_SIGMOID, jnp.exp(up - top), jnp.exp(down - bottom), self.reward)
            return _log_space.log(total) + (top + bottom)[..., 0]

        orders = one_order(self.first, self.second), one_order(self.second, self.first)
        return jnp.exp(_log_space.logaddexp(*orders))

    @property
    def compares_all(self) -> bool:
        return self.has_full_support

    def occurring(self) -> Bool[Array, "*batch sequences"]:
        return jnp.isfinite(jnp.maximum(self.first, self.second))

    @property
    def labels(self) -> Array:
        """The reward."""
        return self.reward

    def encoded_reward(self) -> Float[Array, "*batch sequences"]:
        return self.reward

    def independent_draws(self) -> IndependentDraws:
        """The two draws. `net_wins(i)` is the mean of `tanh((r_i − r_j)/2)` over the partners `j` of `i`."""
        share = jax.nn.sigmoid(self.first - self.second)
        weights = jnp.exp(self.first), jnp.exp(self.second)
        of_second, of_first = potentials(_HALF_TANH, *weights, self.reward)
        return IndependentDraws(self.first, self.second, share * of_second - (1 - share) * of_first)

    def wins(self, size: int) -> Wins:
        """Edges both ways between each sequence that `first` can draw and each that `second` can draw."""
        self.check_size(size)
        one = Wins.between(size, self.first, self.second)
        return one.joined(Wins.between(size, self.second, self.first), size)

    def joint(self, size: int) -> "Joint":
        """`log [first(i) second(j) + second(i) first(j)] + log σ(r_i − r_j)`."""
        self.check_table(size)
        one = self.first[..., :, None] + self.second[..., None, :]
        other = self.second[..., :, None] + self.first[..., None, :]
        margin = self.reward[..., :, None] - self.reward[..., None, :]
        return Joint(_log_space.logaddexp(one, other) + log_sigmoid(margin))

    def chosen_marginal(self, size: int) -> LogProbs:
        """`Σ_j [first(i) second(j) + second(i) first(j)] σ(r_i − r_j)`.

        O(N²) time and O(N) memory. If `separable` and there are 4,096 sequences or more, time is near-linear,
        and the error of every entry is the rounding of the largest entry.
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


def _either_way_sum(kernel: Callable[[Array], Array], *arrays: Array) -> Array:
    return tiled_pair_sum(_EitherWay(kernel), *arrays)


class _OneWay(eqx.Module):
    """`σ(Δr) kernel(Δx)`: the kernel, times the probability that the first sequence is chosen."""

    kernel: Summand

    def __call__(self, reward: Array, difference: Array) -> Array:
        return jax.nn.sigmoid(reward) * self.kernel(difference)


class _EitherWay(eqx.Module):
    """`σ(Δr) kernel(Δx) + σ(−Δr) kernel(−Δx)`: the mean of the kernel over the label."""

    kernel: Summand

    def __call__(self, reward: Array, difference: Array) -> Array:
        wins, loses = jax.nn.sigmoid(reward), jax.nn.sigmoid(-reward)
        return wins * self.kernel(difference) + loses * self.kernel(-difference)


@jax.jit
@partial(jnp.vectorize, signature="(n),(n),(n),(n)->(n)")
def _log_wins(reward: Array, first: Array, second: Array, x: Array) -> Array:
    """For each `i`, `log Σ_j P(i is chosen and j is rejected) e^{x_i − x_j}`."""

    def row(reward_i: Array, first_i: Array, second_i: Array, x_i: Array) -> Array:
        either = _log_space.logaddexp(first_i + second, second_i + first)
        return _log_space.logsumexp(either + log_sigmoid(reward_i - reward) + (x_i - x))

    return map_rows(row, reward, first, second, x)
