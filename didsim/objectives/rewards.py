"""Implicit rewards: the reward that an objective assigns to a sequence, given its log-probability."""

from abc import abstractmethod
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log1mexp, log_softmax, logsumexp, relu, softplus
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from didsim import _checks, _log_space
from didsim.information import LogProbs

Scalar = Float[Array, "*#batch"]
"""A parameter: one number, or one for each of a batch of objectives."""
ScalarLike = Real[ArrayLike, "*#batch"]
"""What a parameter is made of."""


class Reward(eqx.Module):
    """An implicit reward: a function of the log-probability of a sequence.

    Like a kernel, a reward states facts about itself, and `didsim.solve` chooses its method by these facts
    alone.

    Attributes:
        needs_reference: the reward depends on the reference.
        affine: the reward is affine in the log-probability.
        has_inverse: `policy` is defined: it gives the distribution that has given rewards.
        penalises_falls: the reward is the log-ratio `beta · t` minus a convex function of `t` that never
            increases.
        rises_slower: the reward is a convex function of `t` whose slope lies between 0 and `beta`.
        kinked: the reward has a corner. Then `rounded` replaces the corner by a smooth curve.
    """

    needs_reference: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    has_inverse: ClassVar[bool] = False
    penalises_falls: ClassVar[bool] = False
    rises_slower: ClassVar[bool] = False
    kinked: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:
        """Whether the reward depends on the number of tokens."""
        return False

    @property
    def has_one_slope(self) -> bool:
        """Whether the reward is affine, with the same slope for all sequences.

        The normaliser of the policy then cancels in differences of rewards.
        """
        return self.affine

    @property
    def looks_at_one_sequence(self) -> bool:
        """Whether the reward of a sequence depends on no other sequence's log-probability."""
        return type(self).of_space is Reward.of_space

    @property
    def is_log_ratio(self) -> bool:
        """Whether the reward is known to be `beta · log(π/reference)`, the reward of DPO."""
        return False

    @property
    def has_concave_sigmoid(self) -> Bool[Array, "*batch"]:
        """Whether `σ(h(y) − z)` is concave in `π(y)` for every `z`, for each entry of a batch of rewards."""
        return jnp.asarray(False)

    @abstractmethod
    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The reward of sequences with these log-probabilities."""

    def of_space(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The reward of every sequence of a space, whose log-probabilities are normalised over the last axis.

        It is `__call__`, unless the probabilities of the other sequences tell more than a rounded one of its
        own.
        """
        return self(logps, ref_logps, lengths)

    def dense_row(self, logps: Array) -> Array | None:
        """The one sequence whose reward, by `of_space`, depends on the log-probabilities of others.

        None if it is not known that no other sequence's reward does.
        """
        return None

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """The distribution whose reward is `h` up to a constant `c`. Normalisation fixes `c`.

        Raises:
            ValueError: the reward has no known inverse.
        """
        raise ValueError(f"`reward` must have a known inverse; {type(self).__name__} has none")

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        """Whether `policy` has no closed form, and finds a root of a function of one number."""
        return False

    def rounded(self, temperature: Array) -> "Reward":
        """The reward with every corner `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""
        return self


class LogRatio(Reward):
    """`h(y) = beta · log(π(y) / reference(y))`, the reward of DPO. If `per_token`, divided by `|y|`."""

    needs_reference: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    per_token: bool = eqx.field(default=False, static=True, converter=partial(_checks.flag, "per_token"))

    @property
    def needs_lengths(self) -> bool:
        return self.per_token

    @property
    def has_one_slope(self) -> bool:
        return not self.per_token

    @property
    def is_log_ratio(self) -> bool:
        return not self.per_token

    @property
    def has_concave_sigmoid(self) -> Bool[Array, "*batch"]:
        """True for `beta ≤ 1` without `per_token`, since `σ(h − z) = π^β / (π^β + const)`."""
        return (self.beta <= 1) & (not self.per_token)

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        return self.beta * per_token(log_ratio_of(logps, ref_logps), lengths if self.per_token else None)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ reference · exp(h / beta)`. If `per_token`, `π = reference · exp(|y| (h + c) / beta)`."""
        if self.per_token and lengths is not None:
            return _with_slopes(reference, h, lengths / self.beta[..., None])
        return log_softmax(reference + h / self.beta[..., None], axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return self.per_token and lengths is not None


class LogProb(Reward):
    """`h(y) = beta · log π(y)`, without a reference. If `per_token`, divided by `|y|`."""

    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    per_token: bool = eqx.field(static=True, converter=partial(_checks.flag, "per_token"))

    @property
    def needs_lengths(self) -> bool:
        return self.per_token

    @property
    def has_one_slope(self) -> bool:
        return not self.per_token

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        return self.beta * per_token(logps, lengths if self.per_token else None)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ exp(h / beta)`. If `per_token`, `π = exp(|y| (h + c) / beta)`."""
        if self.per_token and lengths is not None:
            return _with_slopes(jnp.zeros_like(reference), h, lengths / self.beta[..., None])
        return log_softmax(h / self.beta[..., None], axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return self.per_token and lengths is not None


class LengthRegularised(Reward):
    """`h(y) = beta · log(π(y) / reference(y)) + alpha · |y|`, the reward of R-DPO."""

    needs_reference: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    alpha: Scalar = eqx.field(converter=partial(_checks.number, "alpha"))

    @property
    def needs_lengths(self) -> bool:
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · (logps − ref_logps) + alpha · lengths`. Without lengths, every sequence has one token."""
        return self.beta * log_ratio_of(logps, ref_logps) + self._bonus(logps, lengths)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ reference · exp((h − alpha · |y|) / beta)`."""
        alpha = self.alpha[..., None]
        bonus = alpha if lengths is None else alpha * lengths.astype(h.dtype)
        return log_softmax(reference + (h - bonus) / self.beta[..., None], axis=-1)

    def _bonus(self, logps: Array, lengths: Array | None) -> Array:
        return self.alpha if lengths is None else self.alpha * lengths.astype(logps.dtype)


class Guarded(Reward):
    """`h(y) = beta · [t − weight · max(0, −t)]` with `t = log(π(y) / reference(y))`.

    This is the reward of a chosen sequence in DPO-positive. A negative log-ratio is multiplied by
    `1 + weight`. At the corner `t = 0`, where every run starts, the penalty has derivative 0, as in trainers.
    """

    needs_reference: ClassVar[bool] = True
    penalises_falls: ClassVar[bool] = True
    kinked: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    weight: Scalar = eqx.field(converter=partial(_checks.non_negative, "weight"))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        t = log_ratio_of(logps, ref_logps)
        return self.beta * (t - self.weight * relu(-t))

    def rounded(self, temperature: Array) -> Reward:
        return RoundedGuarded(self.beta, self.weight, temperature)


class RoundedGuarded(Reward):
    """`Guarded` with its corner at `t = 0` rounded off."""

    needs_reference: ClassVar[bool] = True
    penalises_falls: ClassVar[bool] = True

    beta: Scalar
    weight: Scalar
    temperature: Scalar

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        t = log_ratio_of(logps, ref_logps)
        return self.beta * (t - self.weight * (self.temperature * softplus(-t / self.temperature)))


class WeightedEntropy(Reward):
    """`h(y) = beta · [alpha · log π(y) − log reference(y)]`, the reward of H-DPO."""

    needs_reference: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    alpha: Scalar = eqx.field(converter=partial(_checks.positive, "alpha"))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        # The log-ratio first: its digits are lost if two large products are subtracted.
        return self.beta * (log_ratio_of(logps, ref_logps) + (self.alpha - 1) * logps)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ [reference · exp(h / beta)]^(1/alpha)`."""
        tempered = (reference + h / self.beta[..., None]) / self.alpha[..., None]
        return log_softmax(tempered, axis=-1)


class Shrunk(Reward):
    """`h(y) = share · beta · log(π(y) / reference(y))`, the reward of a rejected sequence in DPO-Shift."""

    needs_reference: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    rises_slower: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    share: Scalar = eqx.field(converter=partial(_checks.within, "share", low=0, high=1))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        return self.share * (self.beta * log_ratio_of(logps, ref_logps))


class MixedWithReference(Reward):
    """`h(y) = beta · log(share · π(y)/reference(y) + 1 − share)`.

    This is the log-ratio of a mixture of the policy and the reference: the reward of a rejected sequence in
    BDPO. It is never below `beta · log(1 − share)`.
    """

    needs_reference: ClassVar[bool] = True
    rises_slower: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    share: Scalar = eqx.field(converter=partial(_checks.within, "share", low=0, high=1))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        t = log_ratio_of(logps, ref_logps)
        return self.beta * jnp.logaddexp(jnp.log(self.share) + t, jnp.log1p(-self.share))


class LogOdds(Reward):
    """`h(y) = log(P / (1 − P))` with `log P = log π(y) / |y|`, the reward of ORPO.

    `1 − P` is kept at or above the smallest normal number of its dtype. So the odds of a sequence are finite
    even if the policy gives it probability 1.
    """

    @property
    def needs_lengths(self) -> bool:
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        log_p = per_token(logps, lengths)
        tiny = jnp.finfo(log_p.dtype).tiny
        sure = -log_p < tiny
        return log_p - jnp.where(sure, jnp.log(tiny), log1mexp(jnp.where(sure, 1, -log_p)))

    def of_space(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The log odds, to full precision even of a sequence whose probability rounds to 1.

        `1 − π(y)` is the sum of the other probabilities. Only the likeliest sequence needs it. Any other has
        a probability of at most a half, and `1 − π(y)` loses no digits.
        """
        size = logps.shape[-1]
        likeliest = jnp.arange(size) == jnp.argmax(logps, axis=-1, keepdims=True)
        log_rest = _log_space.logsumexp(jnp.where(likeliest, -jnp.inf, logps))[..., None]
        log_rest = jnp.where(jnp.isneginf(log_rest), jnp.log(jnp.finfo(logps.dtype).tiny), log_rest)
        # −log π as a logarithm, of the likeliest from the rest, divided by the number of tokens.
        log_tokens = 0.0 if lengths is None else jnp.log(lengths.astype(logps.dtype))
        log_nats = _log_space.log_minus_log1m(jnp.minimum(log_rest, jnp.log(0.5))) - log_tokens
        sure = likeliest & (log_rest < jnp.log(0.5))
        of_rest = -jnp.exp(log_nats) - _log_space.log1m_exp_minus(log_nats)
        # A stand-in for the likeliest, so that no branch that is not taken divides by zero.
        return jnp.where(sure, of_rest, self(jnp.where(sure, -1.0, logps), ref_logps, lengths))

    def dense_row(self, logps: Array) -> Array | None:
        return jnp.argmax(logps)


def log_ratio_of(logps: Array, ref_logps: Array | None) -> Array:
    """`log π(y) − log reference(y)`.

    Raises:
        ValueError: the reference is missing.
    """
    return logps - given_reference(ref_logps)


def given_reference(ref_logps: Array | None) -> Array:
    """Log-probabilities of the reference.

    Raises:
        ValueError: they are missing.
    """
    if ref_logps is None:
        raise ValueError("`ref_logps` must be given: this implicit reward uses the reference; got None")
    return ref_logps


def per_token(logps: Array, lengths: Array | None) -> Array:
    """Log-probabilities divided by the number of tokens. Without lengths they are returned unchanged."""
    return logps if lengths is None else logps / lengths.astype(logps.dtype)


def _with_slopes(base: Array, h: Array, slopes: Array) -> LogProbs:
    """`π = exp(base + slopes · (h + c))`. The constant `c` makes `π` sum to one.

    `c` is the root of `f(c) = logsumexp(base + slopes (h + c))`. This function is increasing and convex. So
    Newton's method, started where `f >= 0`, descends to the root and never passes it. Far from the root `f`
    is nearly piecewise linear, with at most one kink for each slope. Each step passes at least one kink.
    """
    shift = jnp.max(h + base / slopes, axis=-1, keepdims=True)

    def newton(_: Array, c: Array) -> Array:
        logits = base + slopes * (h - shift + c)
        total = logsumexp(logits, axis=-1, keepdims=True)
        return c - total / jnp.sum(jnp.exp(logits - total) * slopes, axis=-1, keepdims=True)

    # At 0 the largest term is 1.
    start = jnp.zeros(jnp.broadcast_shapes(shift.shape, (*slopes.shape[:-1], 1)), h.dtype)
    root = jax.lax.fori_loop(0, 100, newton, start)
    return log_softmax(base + slopes * (h - shift + root), axis=-1)
