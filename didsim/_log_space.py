"""Logarithms of what may be zero, with derivatives that are finite there.

A probability of zero has the logarithm `−inf`. JAX's own functions give that value, but a derivative of NaN,
which spreads to every entry of a gradient. Here the derivative at a zero is 0: what has no probability moves
nothing.
"""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, Float


def log(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log x` for `x ≥ 0`; `−inf` at 0, with derivative 0 there."""
    absent = x <= 0
    return jnp.where(absent, -jnp.inf, jnp.log(jnp.where(absent, 1, x)))


def logsumexp(x: Float[Array, "..."], axis: int | tuple[int, ...] = -1) -> Float[Array, "..."]:
    """`log Σ exp(x)` over axes; `−inf` where all of `x` is, with derivative 0 there."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return log(jnp.sum(jnp.exp(x - top), axis=axis)) + jnp.squeeze(top, axis=axis)


def logaddexp(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(e^x + e^y)`; `−inf` where both are, with derivative 0 there."""
    return logsumexp(jnp.stack(jnp.broadcast_arrays(x, y)), axis=0)


def tilted(
    base: Float[Array, "*#batch sequences"],
    direction: Float[Array, "*#batch sequences"],
    factor: Float[Array, "*#batch"],
) -> Float[Array, "*batch sequences"]:
    """`log_softmax(base + factor · direction)`, normalised however large the factor is.

    The direction is first shifted to be 0 where it counts most. A compiled program may round a product in two
    ways: once for the maximum, and once for the entries that the maximum is subtracted from. After the shift
    both are small.
    """
    factor = factor[..., None]
    top = jnp.where(
        factor >= 0,
        jnp.max(direction, axis=-1, keepdims=True),
        jnp.min(direction, axis=-1, keepdims=True),
    )
    return log_softmax(base + factor * (direction - top), axis=-1)


def log_minus_log1m(log_u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(−log(1 − u))` from `log u <= 0`; infinite at `u = 1`."""
    small, whole = log_u < -40, jnp.exp(log_u) == 1
    exact = jnp.log(-jnp.log1p(-jnp.exp(jnp.where(small | whole, -1, log_u))))
    return jnp.where(small, log_u, jnp.where(whole, jnp.inf, exact))


def log1m_exp_minus(log_z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(1 − exp(−z))` from `log z`."""
    small, large = log_z < -40, log_z > 5
    exact = jnp.log(-jnp.expm1(-jnp.exp(jnp.where(small | large, 0, log_z))))
    return jnp.where(small, log_z, jnp.where(large, 0, exact))
