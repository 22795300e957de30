"""Baselines: numbers that are subtracted from the reward of one sequence.

They depend on the policy, and are held fixed when a loss is differentiated.
"""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from didsim.information import expectation
from didsim.preferences.problem import Marginals


class Baseline(eqx.Module):
    """A baseline: the number that is subtracted from the reward of one sequence.

    Attributes:
        is_of_pairs: whether it depends on the rewards of the sequences of pairs alone.
    """

    is_of_pairs: ClassVar[bool] = False

    @abstractmethod
    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The baseline, estimated from the rewards of a batch of pairs."""

    @abstractmethod
    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        """The exact baseline of a policy with log-probabilities `log_probs` and rewards `h`."""


class PolicyMean(Baseline):
    """`max(0, E_π h)`. With the log-ratio reward this is `beta · KL(π ‖ reference)`, the exact `z0` of KTO.

    It takes the whole policy, so that every loss over a population, a dataset or a minibatch has it. Pairs
    that are given by their log-probabilities alone do not tell it. Their mean stands in for it there, as in
    `ClippedPairMean`, unless `pair_loss` is given the exact number as `baseline`.
    """

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The mean reward over both sequences of all pairs, or zero if that is larger."""
        return ClippedPairMean().of_pairs(chosen, rejected)

    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        return jnp.maximum(0, expectation(log_probs, h))


class PairMean(Baseline):
    """`(E_w h + E_l h) / 2`, the mean over chosen and rejected sequences: the reward shift of BCO.

    The mean is over the pairs that the loss is over: a population, a dataset or a minibatch. So the loss of a
    dataset is the mean of `pair_loss` over it.
    """

    is_of_pairs: ClassVar[bool] = True

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        return (jnp.mean(chosen) + jnp.mean(rejected)) / 2

    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        chosen, rejected = marginals
        return (expectation(chosen.astype(h.dtype), h) + expectation(rejected.astype(h.dtype), h)) / 2


class ClippedPairMean(PairMean):
    """`max(0, (E_w h + E_l h) / 2)`: the estimate of KTO's `z0` from the pairs that the loss is over."""

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        return jnp.maximum(0, super().of_pairs(chosen, rejected))

    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        return jnp.maximum(0, super().of_policy(h, log_probs, marginals))
