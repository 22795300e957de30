"""Batch axes as one axis of runs, and back.

A batch of shape `batch` is many runs, one for each index. Arrays have their batch axes first and then event
axes, as that of sequences, which belong to a single run.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from didsim._checks import Shape


def as_runs(tree: PyTree, batch: Shape, event_ndim: int) -> Any:
    """Each array broadcast to the batch, `[*batch, *event]`, and reshaped to `[runs, *event]`.

    Args:
        tree: arrays `[*own, *event]`, whose own batch axes broadcast to `batch`.
        batch: the batch shape; the number of runs is its product, 1 for `()`.
        event_ndim: number of event axes of every array.
    """

    def one(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        event = leaf.shape[leaf.ndim - event_ndim :]
        return jnp.broadcast_to(leaf, (*batch, *event)).reshape(math.prod(batch), *event)

    return jax.tree.map(one, tree)


def batched(tree: PyTree, batch: Shape) -> Any:
    """Each array `[runs, …]` reshaped to `[*batch, …]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), tree)
