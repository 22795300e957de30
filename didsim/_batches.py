"""Reshape batch axes into one axis of runs, and back.

Each index of a batch is one run. An array has its batch axes first. All later axes are event axes, which
belong to a single run; the axis of sequences is one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from didsim._checks import Shape


def as_runs(tree: PyTree, batch: Shape, event_ndim: int) -> Any:
    """Broadcast each array to `[*batch, *event]`, and reshape it to `[runs, *event]`.

    Args:
        tree: arrays `[*own, *event]`, whose own batch axes broadcast to `batch`.
        batch: the batch shape. The number of runs is the product of its entries, 1 for `()`.
        event_ndim: number of event axes of every array.
    """

    def one(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        event = leaf.shape[leaf.ndim - event_ndim :]
        return jnp.broadcast_to(leaf, (*batch, *event)).reshape(math.prod(batch), *event)

    return jax.tree.map(one, tree)


def batched(tree: PyTree, batch: Shape) -> Any:
    """Reshape each array from `[runs, …]` to `[*batch, …]`."""
    return jax.tree.map(lambda leaf: leaf.reshape((*batch, *leaf.shape[1:])), tree)
