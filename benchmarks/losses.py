"""The DPO population loss of free logits, and the ways to compute its value and gradient that are compared.

    loss(θ) = Σ_ij w_i l_j softplus(−(h_i − h_j)),    h = β · (log_softmax(θ) − reference)

with `w` the chosen distribution and `l` the rejected one. `A` is the half-range of `h`, on which the
engine's cost depends.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, softplus
from jaxtyping import Array, Float

from didsim.objectives.kernels import SURPRISE
from didsim.pairwise.sums import tiled_pair_sum, unchecked_pair_sum

_LARGEST_LOG_RATIO = 10.0


class Instance(NamedTuple):
    """The arrays of one loss.

    Attributes:
        theta: the policy's logits.
        chosen: probabilities `w`.
        rejected: probabilities `l`.
        reference: log-probabilities.
        beta: a scalar.
    """

    theta: Float[Array, " n"]
    chosen: Float[Array, " n"]
    rejected: Float[Array, " n"]
    reference: Float[Array, " n"]
    beta: Float[Array, ""]


Loss = Callable[..., Array]
Evaluation = Callable[[Instance], tuple[Array, Array]]


def make_instance(size: int, half_range: float = 1.0, dtype: str = "float64", seed: int = 0) -> Instance:
    """Normal logits, with log-ratios of policy and reference over a range of ±10, and `beta` to fit.

    Chosen sequences are the reference's own. A half-range of 1 is `beta = 0.1`.
    """
    draws = np.random.default_rng(seed).normal(size=(3, size))
    ratios = draws[1] * 2 * _LARGEST_LOG_RATIO / np.ptp(draws[1])
    reference = draws[0] - np.logaddexp.reduce(draws[0])
    rejected = draws[2] - np.logaddexp.reduce(draws[2])
    arrays = (
        reference + ratios,
        np.exp(reference),
        np.exp(rejected),
        reference,
        half_range / _LARGEST_LOG_RATIO,
    )
    theta, *rest = (jnp.asarray(array, dtype) for array in arrays)
    return Instance(theta, *rest)


def rewards(theta: Array, reference: Array, beta: Array) -> Array:
    """The implicit rewards `h`."""
    return beta * (log_softmax(theta) - reference)


def engine(theta: Array, chosen: Array, rejected: Array, reference: Array, beta: Array) -> Array:
    """The loss by the library's near-linear sum."""
    return unchecked_pair_sum(SURPRISE, chosen, rejected, rewards(theta, reference, beta))


def exact(theta: Array, chosen: Array, rejected: Array, reference: Array, beta: Array) -> Array:
    """The loss by the library's exact sum, row by row."""
    return tiled_pair_sum(SURPRISE, chosen, rejected, rewards(theta, reference, beta))


def dense(theta: Array, chosen: Array, rejected: Array, reference: Array, beta: Array) -> Array:
    """The loss as one would write it down: all N² pairs as a matrix, and JAX's own derivative of softplus."""
    h = rewards(theta, reference, beta)
    return chosen @ softplus(h - h[:, None]) @ rejected


def floor(theta: Array, chosen: Array, rejected: Array, reference: Array, beta: Array) -> Array:
    """No pairs at all: `Σ_i w_i log_softmax(θ)_i`, what any loss of the policy costs at least."""
    return jnp.sum(chosen * log_softmax(theta))


LOSSES: dict[str, Loss] = {
    "engine": engine,
    "exact": exact,
    "dense": dense,
    "floor": floor,
}


@functools.cache
def evaluation(loss: Loss) -> Evaluation:
    """The compiled value and gradient in the logits, compiled once for each size and dtype."""
    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda instance: compiled(*instance)
