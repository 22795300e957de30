"""The likelihood of rankings in the Plackett–Luce model, with all stages.

With `x` the rewards of a ranking from the best item on, and `T_s = log Σ_{j≥s} e^(x_j)`, the loss is
`Σ_s (T_s − x_s)` over its stages. Its gradient in `x_i` is `Σ_{s≤i} e^(x_i − T_s)`, minus 1 if `i` was chosen
at a stage of its own. Both are running sums, which are kept as logarithms. (Derived here.) So all stages of a
ranking of `m` items take O(m log m). Rankings stand together with others of about their length, filled up to
the next power of two: at most twice the numbers.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import cumlogsumexp
from jaxtyping import Array, Bool, Float, Int

from didsim.estimation.likelihood import Likelihood, Point, add_rows, block_weights, in_blocks, rows_of
from didsim.preferences.rankings import Rankings

_BLOCK = 1 << 12  # numbers of a block
_COLUMNS = 64
_NEVER = -1e30
"""The logarithm of nothing. It is finite, so that differences of two of these are numbers."""


class Group(eqx.Module):
    """Rankings of about one length, in blocks.

    Attributes:
        order: indices of the items of each ranking, the best first; 0 where it is filled up.
        present: whether there is an item.
        chosen: whether an item was chosen at a stage of its own.
        weights: the weight of each ranking; zero where a block is filled up.
        cluster: the cluster of each ranking.
    """

    order: Int[Array, "blocks rows width"]
    present: Bool[Array, "blocks rows width"]
    chosen: Bool[Array, "blocks rows width"]
    weights: Float[Array, "blocks rows"]
    cluster: Int[Array, "blocks rows"]


class RankingLikelihood(Likelihood):
    """Minus the log-likelihood of rankings, with weights as given. O(entries log(width)) each.

    Attributes:
        size: the number of items.
        observations: the number of rankings.
        groups: the rankings, by their length.
    """

    size: int = eqx.field(static=True)
    observations: int = eqx.field(static=True)
    groups: tuple[Group, ...]

    def total(self) -> float:
        return float(sum(jnp.sum(group.weights) for group in self.groups))

    def value(self, at: Point) -> Float[Array, " draws"]:
        def add(total: Array, group: Group) -> Any:
            x = _rewards(at.rewards, group)
            losses = jnp.where(group.chosen[..., None], cumlogsumexp(x, axis=1, reverse=True) - x, 0)
            return total + (group.weights[:, None] * losses.sum(1)).sum(0), None

        total = jnp.zeros_like(at.tie)
        for group in self.groups:
            total = jax.lax.scan(add, total, group)[0]
        return total

    def slope(self, at: Point, counts: Array | None) -> tuple[Point, Point]:
        def add(total: Any, group: Group) -> Any:
            x, weight = _rewards(at.rewards, group), block_weights(group.weights, group.cluster, counts)
            chosen = group.chosen[..., None]
            sums = _sums(x, chosen, 1)
            # Σ_s p_s (1 − p_s), with p_s the probability that the item is chosen at stage s.
            bend = sums - _sums(x, chosen, 2)
            slope, diagonal = total
            return (_added(slope, group, weight, sums - chosen), _added(diagonal, group, weight, bend)), None

        total: Any = (jnp.zeros_like(at.rewards),) * 2
        for group in self.groups:
            total = jax.lax.scan(add, total, group)[0]
        slope, diagonal = (Point(one, jnp.zeros_like(at.tie)) for one in total)
        return slope, diagonal

    def curvature(self, at: Point, counts: Array | None) -> Any:
        """The point itself: running sums take less time again than memory takes to hold them."""
        return at, counts

    def product(self, curvature: Any, along: Point) -> Point:
        at, counts = curvature

        def add(rewards: Array, group: Group) -> Any:
            u = jnp.where(group.present[..., None], rows_of(along.rewards, group.order), 0)
            x = jnp.broadcast_to(_rewards(at.rewards, group), u.shape)
            weight = block_weights(group.weights, group.cluster, counts)
            image = jax.jvp(lambda x: _sums(x, group.chosen[..., None], 1), (x,), (u,))[1]
            return _added(rewards, group, weight, image), None

        rewards = jnp.zeros_like(along.rewards)
        for group in self.groups:
            rewards = jax.lax.scan(add, rewards, group)[0]
        return Point(rewards, jnp.zeros_like(along.tie))

    def information(self, at: Point) -> Float[np.ndarray, "numbers numbers"]:
        # A few columns of the identity at a time.
        chunks = -(-self.size // _COLUMNS)
        identity = jnp.eye(self.size, chunks * _COLUMNS).reshape(self.size, chunks, _COLUMNS)
        nothing = jnp.zeros(_COLUMNS)

        def columns(some: Array) -> Array:
            return self.product((at, None), Point(some, nothing)).rewards

        found = jax.lax.map(columns, jnp.moveaxis(identity, 1, 0))
        matrix = np.moveaxis(np.asarray(found), 0, 1).reshape(self.size, -1)[:, : self.size]
        return (matrix + matrix.T) / 2

    def in_clusters(self, cluster: Int[np.ndarray, " observations"]) -> "RankingLikelihood":
        lookup = jnp.asarray(cluster.astype(np.int32))
        return eqx.tree_at(
            lambda one: [group.cluster for group in one.groups],
            self,
            [lookup[group.cluster] for group in self.groups],
        )


def _rewards(rewards: Array, group: Group) -> Float[Array, "rows width draws"]:
    return jnp.where(group.present[..., None], rows_of(rewards, group.order), _NEVER)


def _added(rewards: Array, group: Group, weight: Array, values: Array) -> Array:
    weighted = weight[:, None] * jnp.where(group.present[..., None], values, 0)
    return add_rows(rewards, group.order.reshape(-1), weighted.reshape(-1, weighted.shape[-1]))


def _sums(x: Array, chosen: Array, power: int) -> Array:
    """`Σ_{s≤i} p_s^power` for every item, with `p_s = e^(x_i − T_s)` and `s` the stages."""
    tails = cumlogsumexp(x, axis=1, reverse=True)
    terms = jnp.where(chosen, -power * tails, _NEVER)
    return jnp.exp(power * x + cumlogsumexp(terms, axis=1))


def ranking_likelihood(rankings: Rankings) -> RankingLikelihood:
    """The likelihood of rankings, as a function of the rewards of their items."""
    sizes = np.diff(rankings.starts)
    kinds = np.ceil(np.log2(sizes)).astype(int)
    groups = []
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        width = 1 << int(kind)
        place = np.arange(width)
        present = place < sizes[rows, None]
        entries = np.minimum(rankings.starts[rows, None] + place, len(rankings.order) - 1)
        # The last item that is left is chosen with certainty.
        chosen = place < rankings.stages[rows, None]
        arrays = (
            np.where(present, rankings.order[entries], 0).astype(np.int32),
            present,
            chosen,
            rankings.weights[rows],
            rows.astype(np.int32),
        )
        groups.append(Group(*(in_blocks(one, max(1, _BLOCK // width)) for one in arrays)))
    return RankingLikelihood(len(rankings.items), len(sizes), tuple(groups))
