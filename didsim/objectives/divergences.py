"""Implicit rewards that are no logarithms: slopes of f-divergences, and powers of probabilities."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log1mexp, log_softmax, logsumexp, softplus
from jaxtyping import Array

from didsim import _checks
from didsim.information import LogProbs
from didsim.objectives.rewards import Reward, Scalar, log_ratio_of, per_token


class DivergenceSlope(Reward):
    """`h(y) = beta · f′(π(y)/reference(y))`, the reward of f-DPO, for the function `f` of an f-divergence.

    The f-divergence is `D_f(π ‖ reference) = Σ reference · f(π/reference)`. A policy that maximises
    `E r − beta · D_f(π ‖ reference)` has `r = h` up to a constant.

    Let `u = π/reference` and `t = log u`. Then `f′(u) = slope(t)` increases with `t` towards an upper limit.
    The distance from `slope(t)` to this limit is called the gap.
    """

    needs_reference: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        return self.beta * self.slope(log_ratio_of(logps, ref_logps))

    @abstractmethod
    def slope(self, t: Array) -> Array:
        """`f′(e^t)`, up to a constant."""

    @abstractmethod
    def log_ratio(self, log_gap: Array) -> Array:
        """The `t` whose gap has the logarithm `log_gap`."""

    @abstractmethod
    def largest_log_gap(self) -> Array:
        """The logarithm of the gap at `t = 0`."""

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π = reference · u` with `beta · f′(u) = h + c`. The constant `c` makes `π` sum to one.

        Let `g_y = (max h − h(y)) / beta`. The gap of `y` is `v + g_y`, where `v > 0` is one unknown number.
        The sum `Σ reference(y) u(v + g_y)` decreases in `v`, and a root of `sum = 1` is wanted. If `v` is the
        gap of `u = 1`, every `u` is at most 1, so the sum is at most 1. If `v` is so small that the sequence
        of largest `h` has probability 1, the sum is at least 1. The root lies between. (Derived here.)
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

        # Go down from `high`, in strides that double, until the sum passes one.
        start = high - 1, is_short(high - 1)
        low, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), lower, start)
        root = decreasing_root(log_total, low, high)
        return log_softmax(self._logits(reference, log_gaps, root), axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return True

    def _logits(self, reference: Array, log_gaps: Array, log_v: Array) -> Array:
        return reference + self.log_ratio(jnp.logaddexp(log_gaps, log_v))


class ForwardKL(DivergenceSlope):
    """`h = beta · (1 − reference/π)`, from `f(u) = u − 1 − log u`: `D_f(π ‖ reference) = KL(reference ‖ π)`.

    The constant makes it 0 at `π = reference`, as the other divergences' rewards are.
    """

    def slope(self, t: Array) -> Array:
        return -jnp.expm1(-t)

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `1/u`."""
        return -log_gap

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is 1."""
        return jnp.zeros_like(self.beta)


class JensenShannon(DivergenceSlope):
    """`h = beta · log(2u / (1 + u))` with `u = π/reference`, from the Jensen–Shannon divergence.

    `f(u) = u log u − (1 + u) log((1 + u)/2)`, and `D_f` is twice the Jensen–Shannon divergence.
    """

    def slope(self, t: Array) -> Array:
        return jnp.log(2.0) - softplus(-t)

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `log(1 + 1/u)`, so that `u = 1/(e^gap − 1)`."""
        gap = jnp.exp(log_gap)
        # log(e^g − 1) in two forms: one is accurate for small g, the other for large g.
        small = log_gap + gap / 2
        return -jnp.where(gap < 1e-4, small, gap + log1mexp(jnp.maximum(gap, 1e-4)))

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is `log 2`."""
        return jnp.full_like(self.beta, jnp.log(jnp.log(2.0)))


class Alpha(DivergenceSlope):
    """`h = beta · (1 − u^−alpha) / alpha` with `u = π/reference`, from the alpha-divergence.

    `f(u) = [u^(1−alpha) − (1 − alpha) u − alpha] / (alpha (alpha − 1))`. The limit `alpha → 0` is the reward
    of DPO. `alpha = 1` is the reward of the forward KL divergence, up to a constant.
    """

    alpha: Scalar = eqx.field(converter=partial(_checks.positive, "alpha"))

    def slope(self, t: Array) -> Array:
        return -jnp.expm1(-self.alpha * t) / self.alpha

    def log_ratio(self, log_gap: Array) -> Array:
        """The gap is `u^−alpha / alpha`."""
        alpha = self.alpha[..., None]
        return -(log_gap + jnp.log(alpha)) / alpha

    def largest_log_gap(self) -> Array:
        """The gap of `u = 1` is `1/alpha`."""
        return jnp.broadcast_to(-jnp.log(self.alpha), jnp.broadcast_shapes(self.alpha.shape, self.beta.shape))


class ChiSquared(Reward):
    """`h = beta · (u − 1 + log u)` with `u = π/reference`, the reward of χPO up to a constant.

    The constant makes it 0 at `π = reference`, as the other divergences' rewards are.
    It belongs to `f(u) = (u − 1)²/2 + u log u`: the sum of half the χ² divergence and of the KL divergence.
    """

    needs_reference: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        t = log_ratio_of(logps, ref_logps)
        return self.beta * (jnp.expm1(t) + t)

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π = reference · u` with `u + log u = h/beta + c`. The constant `c` makes `π` sum to one.

        `u` increases with `c`, and is 1 where `h/beta + c = 1`. If `c = 1 − max h/beta`, every `u` is at most
        1, so `Σ reference · u` is at most 1. If `c = 1 − min h/beta`, the sum is at least 1. The root lies
        between. (Derived here.)
        """
        scaled = h / self.beta[..., None]
        shape = jnp.broadcast_shapes(scaled.shape, reference.shape)[:-1]
        least, most = (one(scaled, axis=-1, keepdims=True) for one in (jnp.min, jnp.max))

        def log_total(lift: Array) -> Array:
            return logsumexp(reference + _log_omega(scaled - lift), axis=-1, keepdims=True)

        low, high = (jnp.broadcast_to(bound - 1, (*shape, 1)) for bound in (least, most))
        root = decreasing_root(log_total, low, high)
        return log_softmax(reference + _log_omega(scaled - root), axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return True


class PowerProb(Reward):
    """`h = beta · (1 − P^−alpha) / alpha` with `log P = log π(y) / |y|`, the reward of AlphaPO.

    The limit `alpha → 0` is the reward of SimPO.
    """

    has_inverse: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=partial(_checks.positive, "beta"))
    alpha: Scalar = eqx.field(converter=partial(_checks.positive, "alpha"))

    @property
    def needs_lengths(self) -> bool:
        return True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        return self.beta * -jnp.expm1(-self.alpha * per_token(logps, lengths)) / self.alpha

    def policy(self, h: Array, reference: Array, lengths: Array | None) -> LogProbs:
        """`π = P^|y|` with `P^−alpha = v + alpha · (max h − h)/beta`. The number `v` makes `π` sum to one.

        The sum of `π` decreases in `v`. At `v = 1` the sequence of largest `h` has probability 1, so the sum
        is at least 1. At `v = N^alpha`, for `N` sequences, no `P` exceeds `1/N`, so it is at most 1. The root
        lies between. (Derived here.)
        """
        alpha = self.alpha[..., None]
        gaps = alpha * (jnp.max(h, axis=-1, keepdims=True) - h) / self.beta[..., None]
        log_gaps = jnp.where(gaps > 0, jnp.log(jnp.where(gaps > 0, gaps, 1)), -jnp.inf)
        powers = -(1.0 if lengths is None else lengths.astype(h.dtype)) / alpha

        def logits(log_v: Array) -> Array:
            return powers * jnp.logaddexp(log_gaps, log_v)

        def log_total(log_v: Array) -> Array:
            return logsumexp(logits(log_v), axis=-1, keepdims=True)

        low = jnp.zeros((*jnp.broadcast_shapes(gaps.shape[:-1], powers.shape[:-1]), 1), h.dtype)
        root = decreasing_root(log_total, low, low + alpha * jnp.log(h.shape[-1]).astype(h.dtype))
        return log_softmax(logits(root), axis=-1)

    def inverse_needs_root(self, lengths: Array | None) -> bool:
        return True


@jax.custom_jvp
def _log_omega(x: Array) -> Array:
    """The `t` with `e^t + t = x`. `e^t` is called the Wright omega function of `x`.

    Newton's method, from above: `e^t + t` is convex and increasing. The start is `x` where `x < 1`, and
    `log x` elsewhere.
    """

    def newton(_: Array, t: Array) -> Array:
        u = jnp.exp(t)
        return t - (u + t - x) / (1 + u)

    start = jnp.where(x < 1, x, jnp.log(jnp.maximum(x, 1)))
    return jax.lax.fori_loop(0, 8, newton, start)


@_log_omega.defjvp
def _log_omega_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    t = _log_omega(*primals)
    return t, jax.nn.sigmoid(-t) * tangents[0]


def decreasing_root(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The root of a decreasing function between two bounds, for each entry of a batch.

    Bisection goes to the last bit. One step of Newton's method follows, so that the root has derivatives.
    """

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        above = f(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    bits = 2 * jnp.finfo(low.dtype).nmant
    low, high = jax.lax.fori_loop(0, bits, halve, jax.lax.stop_gradient((low, high)))
    root = (low + high) / 2
    value, slope = jax.jvp(f, (root,), (jnp.ones_like(root),))
    return root - value / jax.lax.stop_gradient(slope)
