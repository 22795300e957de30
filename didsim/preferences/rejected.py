"""Distributions to sample rejected responses from.

Each distribution is a function. The names of its arguments, such as `reference`, `target` and `beta`, say
what it needs. `REJECTED` holds the functions by name. If chosen responses come from the reference, the
preferences encode the differential information of the target for `optimal` alone.

All functions return normalised log-probabilities `[*batch, sequences]`; batch axes broadcast. All cost O(N),
except `worst_of_n`, which sorts in O(N log N). All raise `ValueError` for an argument that is not normalised
or has a zero, for shapes that do not fit, and for numbers out of range.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, Key, Real

from didsim import _checks, families
from didsim._registry import Registry
from didsim.information import LogProbs, LogProbsLike, geodesic


def optimal_rejected(
    reference: LogProbsLike, target: LogProbsLike, beta: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """The rejected-sampling distribution under which DPO with `beta` learns `target`.

        π_l(y) ∝ reference(y) · (reference(y) / target(y))^beta

    Let chosen responses come from the reference. Preferences then encode the differential information of the
    target if and only if rejected responses come from `π_l`. This distribution lies on the geodesic through
    reference and target, at position `−beta`. Source: the paper (arXiv 2505.23761).

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or `beta <= 0`.

    Examples:
        >>> reference, target = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.8, 0.2]))
        >>> jnp.exp(optimal_rejected(reference, target, beta=1.0)).tolist()
        [0.2, 0.8]
    """
    return _on_geodesic(reference, target, "beta", -_checks.positive("beta", beta))


def uniform_rejected(reference: LogProbsLike) -> LogProbs:
    """The uniform distribution: `π_l = 1/N`."""
    reference = _checks.distribution("reference", reference)
    return jnp.full_like(reference, -jnp.log(reference.shape[-1]))


def reference_rejected(reference: LogProbsLike) -> LogProbs:
    """The reference itself: `π_l = reference`. If chosen responses come from it too, nothing is learned."""
    return _checks.distribution("reference", reference)


def target_rejected(target: LogProbsLike) -> LogProbs:
    """The target itself: `π_l = target`. The policy is driven away from it."""
    return _checks.distribution("target", target)


def tempered_rejected(reference: LogProbsLike, exponent: Real[ArrayLike, "*#batch"] = 0.5) -> LogProbs:
    """The reference at another temperature: `π_l ∝ reference^exponent`."""
    reference = _checks.distribution("reference", reference, full_support=True)
    power = _checks.number("exponent", exponent, beside=reference)
    _checks.broadcast(reference=reference.shape[:-1], exponent=power.shape)
    return families.temper(reference, power)


def reversed_rejected(
    reference: LogProbsLike, target: LogProbsLike, beta: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """The optimal distribution with `−beta` for `beta`: `π_l ∝ reference · (target/reference)^beta`."""
    return _on_geodesic(reference, target, "beta", _checks.positive("beta", beta))


def geodesic_rejected(
    reference: LogProbsLike, target: LogProbsLike, position: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """A point of the geodesic through reference and target: `π_l ∝ reference · (target/reference)^position`.

    Position `−beta` is the optimal distribution, 0 the reference and 1 the target. DPO with `beta` ends at
    `reference · (target/reference)^(−position/beta)`, up to normalisation. So it overshoots the target for a
    position below `−beta`.

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or `position` is not
            finite.
    """
    return _on_geodesic(reference, target, "position", _checks.number("position", position))


def _on_geodesic(reference: LogProbsLike, target: LogProbsLike, name: str, position: Array) -> LogProbs:
    """The point at a position that an argument called `name` gave."""
    reference = _checks.distribution("reference", reference, full_support=True)
    target = _checks.distribution("target", target, full_support=True)
    batch = _checks.same_sequences(reference=reference, target=target)
    _checks.broadcast(**{"reference": batch, name: position.shape})
    return geodesic(reference, target - reference, position)


def perturbed_rejected(
    key: Key[Array, ""],
    reference: LogProbsLike,
    target: LogProbsLike,
    beta: Real[ArrayLike, "*#batch"],
    noise: Real[ArrayLike, "*#batch"] = 0.5,
) -> LogProbs:
    """The optimal distribution with noise in log space: `π_l ∝ π_optimal · exp(noise · z)`, `z_y ~ N(0, 1)`.

    The power law `reference/π_l ∝ (target/reference)^beta` then fails by a known amount: noise of standard
    deviation `noise · √2` is added to the log-margin of each pair.

    Raises:
        ValueError: as `optimal_rejected` does, or `noise` is negative or not finite.
    """
    best = optimal_rejected(reference, target, beta)
    size = _checks.non_negative("noise", noise)
    _checks.broadcast(reference=best.shape[:-1], noise=size.shape)
    z = jax.random.normal(_checks.one_key("key", key), best.shape, best.dtype)
    return log_softmax(best + size[..., None] * z, axis=-1)


def worst_of_n_rejected(
    reference: LogProbsLike, score: Float[ArrayLike, "*#batch sequences"], n: Real[ArrayLike, ""] = 4
) -> LogProbs:
    """The lowest-scoring of `n` draws from the reference, a common way to make rejected responses."""
    reference = _checks.distribution("reference", reference, full_support=True)
    score = _checks.finite("score", score)
    _checks.same_sequences(reference=reference, score=score)
    return families.worst_of_n(reference, score, n)


REJECTED: Registry[Callable[..., LogProbs]] = Registry(
    "rejected-sampling distribution",
    {
        "optimal": optimal_rejected,
        "uniform": uniform_rejected,
        "reference": reference_rejected,
        "target": target_rejected,
        "tempered": tempered_rejected,
        "reversed": reversed_rejected,
        "geodesic": geodesic_rejected,
        "perturbed": perturbed_rejected,
        "worst_of_n": worst_of_n_rejected,
    },
)
"""Rejected-sampling distributions by name. An entry of your own is one line, `REJECTED["mine"] = mine`."""
