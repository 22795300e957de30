"""Implicit rewards: what an objective takes for the reward of a sequence, from its log-probability."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log1mexp, log_softmax, logsumexp, relu, softplus
from jaxtyping import Array, Bool, Float

from didsim import _log_space
from didsim.information import LogProbs

Scalar = Float[Array, ""]


class Reward(eqx.Module):
    """An implicit reward: a function of the log-probability of a sequence.

    Like a kernel, a reward states what is known of it, and `didsim.solve` goes by these facts alone.

    Attributes:
        needs_reference: it depends on the reference.
        affine: it is affine in the log-probability.
        has_inverse: `policy` gives the distribution that has given rewards.
        penalises_falls: it is the log-ratio `beta · t`, less a convex function that never rises with `t`.
        kinked: it has a corner; `rounded` then rounds it off.
    """

    needs_reference: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    has_inverse: ClassVar[bool] = False
    penalises_falls: ClassVar[bool] = False
    kinked: ClassVar[bool] = False

    @property
    def needs_lengths(self) -> bool:
        """Whether the reward depends on the number of tokens."""
        return False

    @property
    def has_one_slope(self) -> bool:
        """Whether an affine reward has one slope for all sequences, so that a normaliser cancels in `d`."""
        return self.affine

    @property
    def is_log_ratio(self) -> bool:
        """Whether the reward is `beta · log(π/reference)` up to a constant: the reward of DPO."""
        return self.has_one_slope and self.needs_reference and not self.needs_lengths

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

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """The distribution whose reward is `h` up to a constant.

        Raises:
            ValueError: the reward has no known inverse.
        """
        raise ValueError(f"`reward` must have a known inverse; {type(self).__name__} has none")

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        """Whether `policy` looks for the root of a function of one number, in place of a closed form."""
        return False

    def rounded(self, temperature: Array) -> "Reward":
        """The reward with every corner `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""
        return self


class LogRatio(Reward):
    """`h(y) = beta · log(π(y) / reference(y))`, the reward of DPO; over `|y|` if `per_token`."""

    needs_reference: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar
    per_token: bool = eqx.field(default=False, static=True)

    @property
    def needs_lengths(self) -> bool:
        return self.per_token

    @property
    def has_one_slope(self) -> bool:
        return not self.per_token

    @property
    def has_concave_sigmoid(self) -> Bool[Array, "*batch"]:
        """For `beta ≤ 1`, since `σ(h − z) = π^β / (π^β + const)`."""
        return (self.beta <= 1) & (not self.per_token)

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · (logps − ref_logps)`, over lengths if `per_token`."""
        return self.beta * per_token(log_ratio_of(logps, ref_logps), lengths if self.per_token else None)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ reference · exp(h / beta)`, or `reference · exp(|y| (h + c) / beta)` if `per_token`."""
        if self.per_token and lengths is not None:
            return _with_slopes(reference, h, lengths / self.beta[..., None])
        return log_softmax(reference + h / self.beta[..., None], axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return self.per_token and lengths is not None


class LogProb(Reward):
    """`h(y) = beta · log π(y)`, or `beta · log π(y) / |y|` if `per_token`: no reference."""

    affine: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar
    per_token: bool = eqx.field(static=True)

    @property
    def needs_lengths(self) -> bool:
        return self.per_token

    @property
    def has_one_slope(self) -> bool:
        return not self.per_token

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · logps`, over lengths if `per_token`."""
        return self.beta * per_token(logps, lengths if self.per_token else None)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π ∝ exp(h / beta)`, or `exp(|y| (h + c) / beta)` if `per_token`."""
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

    beta: Scalar
    alpha: Scalar

    @property
    def needs_lengths(self) -> bool:
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · (logps − ref_logps) + alpha · lengths`; without lengths all are of one token."""
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

    DPO-positive's reward of a chosen sequence: a fall below the reference counts `1 + weight` times. At the
    corner `t = 0`, where every run starts, the penalty has derivative 0, as `relu` has in trainers.
    """

    needs_reference: ClassVar[bool] = True
    penalises_falls: ClassVar[bool] = True
    kinked: ClassVar[bool] = True

    beta: Scalar
    weight: Scalar

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The log-ratio, its negative part enlarged."""
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


class DivergenceSlope(Reward):
    """`h(y) = beta · f′(π(y)/reference(y))`, where `f` is that of an f-divergence: the reward of f-DPO.

    A policy that maximises `E r − beta · D_f(π ‖ reference)` has `r = h` up to a constant. With `u` the ratio
    and `t = log u`, `f′` is `slope(t)`, which increases to a least upper bound. The gap to it falls to 0.
    """

    needs_reference: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """`beta · f′(u)`."""
        return self.beta * self.slope(log_ratio_of(logps, ref_logps))

    @abstractmethod
    def slope(self, t: Array) -> Array:
        """`f′(e^t)`, up to a constant."""

    @abstractmethod
    def log_ratio(self, log_gap: Array) -> Array:
        """The `t` at which `slope` is a gap, given by its logarithm, below its least upper bound."""

    @abstractmethod
    def largest_log_gap(self) -> Array:
        """The logarithm of the gap at `t = 0`."""

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π = reference · u` with `beta · f′(u) = h + c`, and the one `c` that makes it sum to one.

        Let `g_y = (max h − h(y)) / beta`. The gap of `y` is `v + g_y` with one unknown `v > 0`, and the sum
        `Σ reference(y) u(v + g_y)` falls in `v` from infinity. At the gap of `u = 1` it is at most 1; where
        the sequence of largest `h` alone sums to one, it is at least 1. The root lies between. (Derived
        here.)
        """
        top = jnp.max(h, axis=-1, keepdims=True)
        gaps = (top - h) / self.beta[..., None]
        log_gaps = jnp.where(gaps > 0, jnp.log(jnp.where(gaps > 0, gaps, 1)), -jnp.inf)
        shape = jnp.broadcast_shapes(top.shape, (*gaps.shape[:-1], 1), (*reference.shape[:-1], 1))
        high = jnp.broadcast_to(self.largest_log_gap()[..., None], shape)

        def log_total(log_v: Array) -> Array:
            return logsumexp(self._logits(reference, log_gaps, log_v), axis=-1, keepdims=True)

        def is_short(low: Array) -> Array:
            return (log_total(low) < 0) & jnp.isfinite(low)

        def lower(state: tuple[Array, Array]) -> tuple[Array, Array]:
            low, short = state
            low = jnp.where(short, 2 * low - high - 1, low)
            return low, is_short(low)

        # From `high` downwards until the sum passes one, in strides that double.
        start = high - 1, is_short(high - 1)
        low, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), lower, start)
        root = decreasing_root(log_total, low, high)
        return log_softmax(self._logits(reference, log_gaps, root), axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return True

    def _logits(self, reference: Array, log_gaps: Array, log_v: Array) -> Array:
        return reference + self.log_ratio(jnp.logaddexp(log_gaps, log_v))


class ForwardKL(DivergenceSlope):
    """`h = beta · (1 − reference/π)`: `f(u) = u − 1 − log u`, `D_f(π ‖ reference) = KL(reference ‖ π)`."""

    def slope(self, t: Array) -> Array:
        """`1 − e^−t`."""
        return -jnp.expm1(-t)

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `1/u`."""
        return -log_gap

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is 1."""
        return jnp.zeros_like(self.beta)


class JensenShannon(DivergenceSlope):
    """`h = beta · log(2u / (1 + u))`: `f(u) = u log u − (1 + u) log((1 + u)/2)`, twice the JS divergence."""

    def slope(self, t: Array) -> Array:
        """`log 2 + t − log(1 + e^t)`."""
        return jnp.log(2.0) - softplus(-t)

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `log(1 + 1/u)`, so that `u = 1/(e^gap − 1)`."""
        gap = jnp.exp(log_gap)
        # log(e^g − 1), whose two forms are good for small and for large g.
        small = log_gap + gap / 2
        return -jnp.where(gap < 1e-4, small, gap + log1mexp(jnp.maximum(gap, 1e-4)))

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is `log 2`."""
        return jnp.full_like(self.beta, jnp.log(jnp.log(2.0)))


class Alpha(DivergenceSlope):
    """`h = beta · (1 − u^−alpha) / alpha`, of the alpha-divergence; `alpha → 0` gives DPO, 1 the forward KL.

    `f(u) = [u^(1−alpha) − (1 − alpha) u − alpha] / (alpha (alpha − 1))`.
    """

    alpha: Scalar

    def slope(self, t: Array) -> Array:
        """`(1 − e^(−alpha t)) / alpha`."""
        return -jnp.expm1(-self.alpha * t) / self.alpha

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `u^−alpha / alpha`."""
        alpha = self.alpha[..., None]
        return -(log_gap + jnp.log(alpha)) / alpha

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is `1/alpha`."""
        return jnp.broadcast_to(-jnp.log(self.alpha), jnp.broadcast_shapes(self.alpha.shape, self.beta.shape))


class LogOdds(Reward):
    """`h(y) = log(P / (1 − P))` with `log P = log π(y) / |y|`, the reward of ORPO.

    `1 − P` is held above the smallest normal number of its dtype, so that a policy that is sure of one
    sequence has large odds, not infinite ones.
    """

    @property
    def needs_lengths(self) -> bool:
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        """The log odds of the mean log-probability."""
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


def log_ratio_of(logps: Array, ref_logps: Array | None) -> Array:
    """`log π(y) − log reference(y)`.

    Raises:
        ValueError: the reference is missing.
    """
    if ref_logps is None:
        raise ValueError("`ref_logps` must be given: this implicit reward uses the reference; got None")
    return logps - ref_logps


def per_token(logps: Array, lengths: Array | None) -> Array:
    """Log-probabilities over numbers of tokens, or as they are without these."""
    return logps if lengths is None else logps / lengths.astype(logps.dtype)


def _with_slopes(base: Array, h: Array, slopes: Array) -> LogProbs:
    """`π = exp(base + slopes · (h + c))`, with the one `c` that makes it sum to one.

    The root of `f(c) = logsumexp(base + slopes (h + c))`, which increases and is convex. Newton's method from
    a point where `f >= 0` therefore falls to the root without passing it. Far from the root `f` is nearly
    piecewise linear, with a kink for each slope at most, and a step passes one kink or more.
    """
    shift = jnp.max(h + base / slopes, axis=-1, keepdims=True)

    def newton(_: int, c: Array) -> Array:
        logits = base + slopes * (h - shift + c)
        total = logsumexp(logits, axis=-1, keepdims=True)
        return c - total / jnp.sum(jnp.exp(logits - total) * slopes, axis=-1, keepdims=True)

    # At 0 the largest term is 1.
    start = jnp.zeros(jnp.broadcast_shapes(shift.shape, (*slopes.shape[:-1], 1)), h.dtype)
    root = jax.lax.fori_loop(0, 100, newton, start)
    return log_softmax(base + slopes * (h - shift + root), axis=-1)


def decreasing_root(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where each of a batch of decreasing functions is zero, between two bounds.

    Bisection to the last bit, then one step of Newton's, which gives the root its derivatives.
    """

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        above = f(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    bits = 2 * jnp.finfo(low.dtype).nmant
    low, high = jax.lax.fori_loop(0, bits, halve, jax.lax.stop_gradient((low, high)))
    root = (low + high) / 2
    value, slope = jax.jvp(f, (root,), (jnp.ones_like(root),))
    return root - value / jax.lax.stop_gradient(slope)
