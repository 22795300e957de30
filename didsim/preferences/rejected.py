"""Distributions that rejected responses may be sampled from.

Each is a function of what it needs among `reference`, `target`, `beta` and more; `REJECTED` holds them by
name. With chosen responses from the reference, only `optimal` makes preferences encode the differential
information of the target.

All return normalised log-probabilities `[*batch, sequences]`; batch axes broadcast. All cost O(N), but
`worst_of_n`, which sorts. All raise `ValueError` for an argument that is not normalised or has a zero, for
shapes that do not fit, and for numbers out of range.
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

    The only one for which preferences between it and the reference encode the differential information of
    the target. It lies on the geodesic through reference and target, at `−beta`. Source: the paper
    (arXiv 2505.23761).

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or `beta <= 0`.

    >>> reference, target = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.8, 0.2]))
    >>> jnp.exp(optimal_rejected(reference, target, beta=1.0)).tolist()
    [0.2, 0.8]
    """
    return geodesic_rejected(reference, target, -_checks.positive("beta", beta))


def uniform_rejected(reference: LogProbsLike) -> LogProbs:
    """Every sequence alike: `π_l = 1/N`."""
    reference = _checks.distribution("reference", reference)
    return jnp.full_like(reference, -jnp.log(reference.shape[-1]))


def reference_rejected(reference: LogProbsLike) -> LogProbs:
    """The reference itself: `π_l = reference`. Nothing is learned if the chosen come from it too."""
    return _checks.distribution("reference", reference)


def target_rejected(target: LogProbsLike) -> LogProbs:
    """The target itself: `π_l = target`. The policy is driven away from it."""
    return _checks.distribution("target", target)


def tempered_rejected(reference: LogProbsLike, exponent: Real[ArrayLike, "*#batch"] = 0.5) -> LogProbs:
    """The reference at another temperature: `π_l ∝ reference^exponent`."""
    reference = _checks.distribution("reference", reference, full_support=True)
    return families.temper(reference, exponent)


def reversed_rejected(
    reference: LogProbsLike, target: LogProbsLike, beta: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """The optimal one with its sign reversed: `π_l ∝ reference · (target / reference)^beta`."""
    return geodesic_rejected(reference, target, _checks.positive("beta", beta))


def geodesic_rejected(
    reference: LogProbsLike, target: LogProbsLike, position: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """Anywhere on the geodesic: `π_l ∝ reference · (target / reference)^position`.

    At `−beta` it is the optimal one, at 0 the reference, at 1 the target. Below `−beta` DPO overshoots: it
    ends at `reference · (target / reference)^(−position/beta)`.

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or `position` is not
            finite.
    """
    reference = _checks.distribution("reference", reference, full_support=True)
    target = _checks.distribution("target", target, full_support=True)
    _checks.same_sequences(reference=reference, target=target)
    return geodesic(reference, target - reference, _checks.number("position", position))


def perturbed_rejected(
    key: Key[Array, ""],
    reference: LogProbsLike,
    target: LogProbsLike,
    beta: Real[ArrayLike, "*#batch"],
    noise: Real[ArrayLike, "*#batch"] = 0.5,
) -> LogProbs:
    """The optimal one with noise in log space: `π_l ∝ π_optimal · exp(noise · z)`, `z_y ~ N(0, 1)`.

    The power law then fails by a known amount: the margins of `reference/π_l` are those of
    `(target/reference)^beta` plus independent noise of standard deviation `noise · √2`.

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
    """The lowest-scoring of `n` draws from the reference, as practitioners build rejected responses."""
    reference = _checks.distribution("reference", reference, full_support=True)
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
