"""The likelihood of comparisons, for many weightings of the same data at once.

A function of rewards gets them as `[items, draws]`, one column for each weighting of the data. So it reads
the data once for all columns, and a gathered row is a run of neighbouring numbers. Data come in blocks, that
what a block needs stays in the processor's cache, and memory is that of a block beside the data.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_BLOCK = 1 << 12


class Point(NamedTuple):
    """Where a likelihood is evaluated.

    Attributes:
        rewards: a reward for each item and draw.
        tie: the parameter for ties of each draw; zero if there is none.
    """

    rewards: Float[Array, "items draws"]
    tie: Float[Array, " draws"]


class Likelihood(eqx.Module):
    """Minus a log-likelihood, as a sum over observations with weights.

    Every observation is in a cluster; at first it is alone in its own. `counts` says how often each cluster
    counts in each draw, `[clusters, draws]`. It is None if there is one draw, in which each counts once.
    """

    size: eqx.AbstractVar[int]
    observations: eqx.AbstractVar[int]

    @property
    def parameter(self) -> str | None:
        """The name of the parameter for ties, or None if there is none."""
        return None

    @abstractmethod
    def total(self) -> float:
        """The sum of all weights."""

    @abstractmethod
    def value(self, at: Point) -> Float[Array, " draws"]:
        """The sum, if every observation counts once."""

    @abstractmethod
    def slope(self, at: Point, counts: Array | None) -> tuple[Point, Point]:
        """Its gradient, and the diagonal of its Hessian."""

    @abstractmethod
    def curvature(self, at: Point, counts: Array | None) -> Any:
        """What `product` needs to know of a point, so that it is computed once for many products."""

    @abstractmethod
    def product(self, curvature: Any, along: Point) -> Point:
        """The product of its Hessian with a vector."""

    @abstractmethod
    def information(self, at: Point) -> Float[np.ndarray, "numbers numbers"]:
        """Its Hessian at a point of one draw: rewards first, then the parameter for ties, if there is one."""

    @abstractmethod
    def in_clusters(self, cluster: Int[np.ndarray, " observations"]) -> "Likelihood":
        """The same data, with the cluster of each observation."""


def in_blocks(values: np.ndarray, block: int | None = None) -> Array:
    """An array with its first axis cut into blocks of one size; the last is filled up with zeros."""
    size = min(_BLOCK if block is None else block, len(values))
    missing = -len(values) % size
    filled = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
    return jnp.asarray(filled.reshape(-1, size, *values.shape[1:]))


def block_weights(weights: Array, cluster: Array, counts: Array | None) -> Array:
    """The weight of each observation of a block in each draw, `[observations, draws]`."""
    if counts is None:
        return weights[:, None]
    return weights[:, None] * rows_of(counts, cluster).astype(weights.dtype)


def rows_of(table: Array, rows: Array) -> Array:
    """Rows of a table, whose indices were checked when the data were made."""
    return table.at[rows].get(mode="promise_in_bounds")


def add_rows(table: Array, rows: Array, values: Array) -> Array:
    """A table with values added to some of its rows."""
    return table.at[rows].add(values, mode="promise_in_bounds")
