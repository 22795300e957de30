"""Implicit rewards: what an objective takes for the reward of a sequence, from its log-probability."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log1mexp, log_softmax, logsumexp
from jaxtyping import Array, Float

from didsim.information import LogProbs

Scalar = Float[Array, ""]


class Reward(eqx.Module):
    """An implicit reward: a function of the log-probability of a sequence."""

    needs_reference: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:
        """Whether the reward depends on the number of tokens."""
        return False

    @abstractmethod
    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The reward of sequences with these log-probabilities."""

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """The distribution whose reward is `h` up to a constant, where it has a closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form inverse")


class LogRatio(Reward):
    """`h(y) = beta · log(π(y) / reference(y))`, the reward of DPO."""

    beta: Scalar
    needs_reference: ClassVar[bool] = True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · (logps − ref_logps)`."""
        assert ref_logps is not None, "an objective checks that it has what its reward needs"
        return self.beta * (logps - ref_logps)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ reference · exp(h / beta)`."""
        return log_softmax(reference + h / self.beta[..., None], axis=-1)


class LogProb(Reward):
    """`h(y) = beta · log π(y)`, or `beta · log π(y) / |y|` if `per_token`: no reference."""

    beta: Scalar
    per_token: bool = eqx.field(static=True)

    @property
    def needs_lengths(self) -> bool:
        """True if `per_token`."""
        return self.per_token

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · logps`, over lengths if `per_token`."""
        return self.beta * per_token(logps, lengths if self.per_token else None)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π(y) = exp(|y| (h(y) + c) / beta)`, with the one `c` that makes it sum to one.

        Without lengths the constant is the normaliser of a softmax. With them it is the root of
        `f(c) = logsumexp_y(|y| (h(y) + c) / beta)`, which increases and is convex. Newton's method from a
        point where `f >= 0` therefore falls to the root without passing it.
        """
        if not self.per_token or lengths is None:
            return log_softmax(h / self.beta[..., None], axis=-1)
        slopes = lengths / self.beta[..., None]
        shift = jnp.max(h, axis=-1, keepdims=True)

        def newton(_: int, c: Array) -> Array:
            logits = slopes * (h - shift + c)
            total = logsumexp(logits, axis=-1, keepdims=True)
            return c - total / jnp.sum(jnp.exp(logits - total) * slopes, axis=-1, keepdims=True)

        # f(0) >= 0, since its largest term is exp(0). Far from the root f is nearly piecewise linear, with
        # a kink for each length at most, and a step passes one kink or more.
        start = jnp.zeros(jnp.broadcast_shapes(shift.shape, self.beta[..., None].shape), h.dtype)
        root = jax.lax.fori_loop(0, 100, newton, start)
        return log_softmax(slopes * (h - shift + root), axis=-1)


class LogOdds(Reward):
    """`h(y) = log(P / (1 − P))` with `log P = log π(y) / |y|`, the reward of ORPO.

    `1 − P` is held above the smallest normal number of its dtype, so that a policy that is sure of one
    sequence has large odds, not infinite ones.
    """

    @property
    def needs_lengths(self) -> bool:
        """True."""
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The log odds of the mean log-probability."""
        log_p = per_token(logps, lengths)
        tiny = jnp.finfo(log_p.dtype).tiny
        sure = -log_p < tiny
        return log_p - jnp.where(sure, jnp.log(tiny), log1mexp(jnp.where(sure, 1, -log_p)))


def per_token(logps: Array, lengths: Array | None) -> Array:
    """Log-probabilities over numbers of tokens, or as they are without these."""
    return logps if lengths is None else logps / lengths.astype(logps.dtype)
