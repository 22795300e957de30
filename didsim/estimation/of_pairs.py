"""The likelihood of pairs: each is won, lost or tied."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from didsim.estimation.likelihood import Likelihood, Point, add_rows, block_weights, in_blocks, rows_of
from didsim.estimation.tie_models import TieModel
from didsim.preferences.explicit import Pairs


class PairLikelihood(Likelihood):
    """Minus the log-likelihood of pairs, with weights as given. O(pairs) each.

    Attributes:
        size: the number of items.
        observations: the number of pairs.
        model: how ties count.
        winners: indices of the winners, in blocks.
        losers: indices of the losers.
        labels: the soft label of each pair, a half for ties.
        tied: 1 for a tie, else 0.
        weights: the weight of each pair; zero where a block is filled up.
        cluster: the cluster of each pair.
    """

    size: int = eqx.field(static=True)
    observations: int = eqx.field(static=True)
    model: TieModel
    winners: Int[Array, "blocks rows"]
    losers: Int[Array, "blocks rows"]
    labels: Float[Array, "blocks rows"]
    tied: Float[Array, "blocks rows"]
    weights: Float[Array, "blocks rows"]
    cluster: Int[Array, "blocks rows"]

    @property
    def parameter(self) -> str | None:
        return self.model.parameter

    @property
    def _data(self) -> tuple[Any, ...]:
        return self.winners, self.losers, self.labels, self.tied, self.weights, self.cluster

    def total(self) -> float:
        return float(jnp.sum(self.weights))

    def value(self, at: Point) -> Float[Array, " draws"]:
        def add(total: Array, block: Any) -> Any:
            winners, losers, labels, tied, weights, _ = block
            losses = self._derivatives(at, winners, losers, labels, tied).loss
            return total + (weights[:, None] * losses).sum(0), None

        found: Array = jax.lax.scan(add, jnp.zeros_like(at.tie), self._data)[0]
        return found

    def slope(self, at: Point, counts: Array | None) -> tuple[Point, Point]:
        def add(total: Any, block: Any) -> Any:
            winners, losers, labels, tied, weights, cluster = block
            weight = block_weights(weights, cluster, counts)
            known = self._derivatives(at, winners, losers, labels, tied)
            slope, diagonal = total
            pull, bend = weight * known.d, weight * known.dd
            pulled = add_rows(add_rows(slope.rewards, winners, pull), losers, -pull)
            bent = add_rows(add_rows(diagonal.rewards, winners, bend), losers, bend)
            return (
                Point(pulled, slope.tie + (weight * known.s).sum(0)),
                Point(bent, diagonal.tie + (weight * known.ss).sum(0)),
            ), None

        nothing = Point(jnp.zeros_like(at.rewards), jnp.zeros_like(at.tie))
        found: tuple[Point, Point] = jax.lax.scan(add, (nothing, nothing), self._data)[0]
        return found

    def curvature(self, at: Point, counts: Array | None) -> Any:
        """The weighted second derivatives of each pair; those in the parameter for ties if there is one."""

        def one(_: None, block: Any) -> Any:
            winners, losers, labels, tied, weights, cluster = block
            weight = block_weights(weights, cluster, counts)
            known = self._derivatives(at, winners, losers, labels, tied)
            beside = (weight * known.ds, (weight * known.ss).sum(0)) if self.parameter else None
            return None, (weight * known.dd, beside)

        return jax.lax.scan(one, None, self._data)[1]

    def product(self, curvature: Any, along: Point) -> Point:
        def add(total: Point, block: Any) -> Any:
            winners, losers, (dd, beside) = block
            d = rows_of(along.rewards, winners) - rows_of(along.rewards, losers)
            pull, tie = dd * d, total.tie
            if beside is not None:
                ds, ss = beside
                pull, tie = pull + ds * along.tie, tie + (ds * d).sum(0) + ss * along.tie
            return Point(add_rows(add_rows(total.rewards, winners, pull), losers, -pull), tie), None

        nothing = Point(jnp.zeros_like(along.rewards), jnp.zeros_like(along.tie))
        found: Point = jax.lax.scan(add, nothing, (self.winners, self.losers, curvature))[0]
        return found

    def information(self, at: Point) -> Float[np.ndarray, "numbers numbers"]:
        flat = [one.reshape(-1) for one in (self.winners, self.losers, self.labels, self.tied)]
        known = self._derivatives(at, *flat)
        winners, losers = (np.asarray(one) for one in flat[:2])
        weights = np.asarray(self.weights).reshape(-1)
        dd, ds, ss = (weights * np.asarray(one)[:, 0] for one in (known.dd, known.ds, known.ss))
        size = self.size + (self.parameter is not None)
        matrix = np.zeros((size, size))
        np.add.at(matrix, (winners, losers), -dd)
        matrix += matrix.T
        for one, sign in ((winners, 1), (losers, -1)):
            own = np.bincount(one, dd, self.size)
            matrix[np.arange(self.size), np.arange(self.size)] += own
            if self.parameter is not None:
                beside = sign * np.bincount(one, ds, self.size)
                matrix[-1, :-1] += beside
                matrix[:-1, -1] += beside
        if self.parameter is not None:
            matrix[-1, -1] = ss.sum()
        return matrix

    def in_clusters(self, cluster: Int[np.ndarray, " observations"]) -> "PairLikelihood":
        moved = jnp.asarray(cluster.astype(np.int32))[self.cluster]
        return eqx.tree_at(lambda one: one.cluster, self, moved)

    def _derivatives(self, at: Point, winners: Array, losers: Array, labels: Array, tied: Array) -> Any:
        d = rows_of(at.rewards, winners) - rows_of(at.rewards, losers)
        return self.model.derivatives(d, at.tie, labels[:, None], tied[:, None])


def pair_likelihood(pairs: Pairs, size: int, model: TieModel) -> PairLikelihood:
    """The likelihood of pairs without batch axes, as a function of the rewards of `size` items."""
    rows = pairs.winners.shape[-1]
    weights = np.ones(rows) if pairs.weights is None else np.asarray(pairs.weights, float)
    tied = np.zeros(rows) if pairs.tied is None else np.asarray(pairs.tied, float)
    labels = np.ones(rows) if pairs.win_probs is None else np.asarray(pairs.win_probs, float)
    labels = np.where(tied > 0, 0.5, labels)
    arrays = [np.asarray(pairs.winners, np.int32), np.asarray(pairs.losers, np.int32), labels, tied, weights]
    arrays.append(np.arange(rows, dtype=np.int32))
    return PairLikelihood(size, rows, model, *(in_blocks(one) for one in arrays))
