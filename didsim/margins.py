"""Log-margins of pairs, their order across three policies, and the power law behind this order."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from didsim import _checks
from didsim._extremes import largest_magnitude
from didsim.information import LogProbsLike, expectation
from didsim.pairwise.dominance import violations


def log_margin(p: LogProbsLike, i: Any, j: Any) -> Float[Array, "..."]:
    """The log-margin `m(i, j) = log p(i) − log p(j)` of a pair, in nats.

    Args:
        p: log-probabilities.
        i: index of the first sequence, or an integer array of indices.
        j: index of the second sequence, or an integer array that broadcasts with `i`.

    Raises:
        ValueError: `p` is not normalised, or an index is out of range.

    Examples:
        >>> p = jnp.log(jnp.array([0.2, 0.8]))
        >>> round(float(log_margin(p, 1, 0)), 4)  # log 4
        1.3863
    """
    p = _checks.distribution("p", p)
    first, second = _checks.indices("i", i, p.shape[-1]), _checks.indices("j", j, p.shape[-1])
    _checks.broadcast(i=first.shape, j=second.shape)
    first, second = jnp.broadcast_arrays(first, second)
    return p[..., first] - p[..., second]


class OrderReport(NamedTuple):
    """How far three policies are log-margin ordered. `check_order` defines the order and the steps of a pair.

    Attributes:
        ordered: whether all pairs are ordered.
        fraction: share of ordered pairs among all `N(N − 1)/2` pairs; 1 for a single sequence.
        worst_violation: largest violation of any pair, in nats; 0 if there is none. A pair violates the order
            if its two steps have opposite signs. Its violation is the size of the smaller step, which is the
            least change of one policy's margin that restores the order.
        expected_target: mean of `m_target` over pairs of a chosen and a rejected response, in nats.
        expected_reference: mean of `m_reference` over the same pairs.
        expected_rejected: mean of `m_rejected` over the same pairs.
    """

    ordered: Bool[Array, "*batch"]
    fraction: Float[Array, "*batch"]
    worst_violation: Float[Array, "*batch"]
    expected_target: Float[Array, "*batch"]
    expected_reference: Float[Array, "*batch"]
    expected_rejected: Float[Array, "*batch"]


def check_order(
    target: LogProbsLike,
    reference: LogProbsLike,
    rejected: LogProbsLike,
    atol: Real[ArrayLike, ""] | None = None,
    chosen: LogProbsLike | None = None,
) -> OrderReport:
    """Check the log-margin order of three policies on all pairs.

    The margin of a pair `(i, j)` is `m(i, j) = log p(i) − log p(j)`. A pair has two steps,
    `m_target − m_reference` and `m_reference − m_rejected`. The pair is ordered if its two steps have the
    same sign, or are both zero. One of its two orientations then has `m_target >= m_reference >= m_rejected`.
    A pair is ordered if and only if some `beta > 0` satisfies the power law
    `m_reference − m_rejected = beta · (m_target − m_reference)` on it. Source: the paper (arXiv 2505.23761).

    Args:
        target: the target, or the learned policy in its place.
        reference: the reference policy.
        rejected: the rejected-sampling distribution.
        atol: steps of at most this size, in nats, count as zero. A pair with one such step and one larger
            step is unordered. By default, a step within rounding counts as a step of unknown sign. Rounding
            is 4 eps times the sum of the largest magnitudes of the log-probabilities, where the reference
            counts twice and `eps` is machine epsilon. A pair with a step of unknown sign counts as ordered if
            its other step is at most rounding/√eps, since an exponent between √eps and 1/√eps could explain
            both steps. If the other step is larger, the pair counts as unordered.
        chosen: distribution of chosen responses, for the expected margins. The default is the reference.

    Returns:
        An `OrderReport`. O(N log N) time, O(N) memory.

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or `atol < 0`.

    Examples:
        >>> reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        >>> report = check_order(
        ...     target=jnp.log(jnp.array([0.2, 0.3, 0.5])),
        ...     reference=reference,
        ...     rejected=jnp.log(jnp.array([0.6, 0.3, 0.1])),
        ... )
        >>> bool(report.ordered), float(report.fraction)
        (True, 1.0)
    """
    target, reference, rejected = _three(target, reference, rejected)
    chosen = reference if chosen is None else _checks.distribution("chosen", chosen)
    _checks.same_sequences(target=target, reference=reference, rejected=rejected, chosen=chosen)
    if atol is None:
        tolerance, eps = _rounding(target, reference, rejected)
        unexplained = tolerance / eps**0.5
    else:
        tolerance = unexplained = _checks.single("atol", _checks.non_negative("atol", atol))
    fraction, ordered, worst = _orders(target - reference, reference - rejected, tolerance, unexplained)

    def expected(p: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        return expectation(chosen, p) - expectation(rejected, p)

    return OrderReport(
        ordered=ordered,
        fraction=fraction,
        worst_violation=worst,
        expected_target=expected(target),
        expected_reference=expected(reference),
        expected_rejected=expected(rejected),
    )


@jax.jit
@partial(jnp.vectorize, signature="(n),(n),(),()->(),(),()")
def _orders(
    up: Float[Array, " n"],
    down: Float[Array, " n"],
    tolerance: Float[Array, ""],
    unexplained: Float[Array, ""],
) -> tuple[Float[Array, ""], Bool[Array, ""], Float[Array, ""]]:
    """The share of ordered pairs, whether all pairs are ordered, and the worst violation."""
    size = up.shape[-1]
    found = violations(up, down, tolerance, unexplained)
    unordered = found.pairs / float(max(size * (size - 1), 1))
    return jnp.clip(1 - unordered, 0, 1).astype(up.dtype), ~found.any, found.worst


def _three(
    target: LogProbsLike, reference: LogProbsLike, rejected: LogProbsLike
) -> tuple[
    Float[Array, "*#batch sequences"], Float[Array, "*#batch sequences"], Float[Array, "*#batch sequences"]
]:
    """The three policies, checked."""
    target = _checks.distribution("target", target, full_support=True)
    reference = _checks.distribution("reference", reference, full_support=True)
    rejected = _checks.distribution("rejected", rejected, full_support=True)
    _checks.same_sequences(target=target, reference=reference, rejected=rejected)
    return target, reference, rejected


def _rounding(
    target: Float[Array, "*#batch sequences"],
    reference: Float[Array, "*#batch sequences"],
    rejected: Float[Array, "*#batch sequences"],
) -> tuple[Float[Array, "*batch"], float]:
    """A bound on the rounding of a step of a margin, and the machine epsilon in this bound."""
    eps = max(float(jnp.finfo(p.dtype).eps) for p in (target, reference, rejected))
    target, reference, rejected = (largest_magnitude(p, axis=-1) for p in (target, reference, rejected))
    return 4 * eps * (target + 2 * reference + rejected), eps


def pair_exponent(
    target: LogProbsLike, reference: LogProbsLike, rejected: LogProbsLike, i: Any, j: Any
) -> Float[Array, "..."]:
    """The exponent of the power law on one pair: `(m_ref − m_rejected) / (m_target − m_ref)`.

    It is positive if and only if the pair is strictly ordered. It is NaN if numerator and denominator are
    both zero, and infinite if only the denominator is zero. If the power law holds globally, it is `beta` for
    every pair.

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or an index is out of
            range.
    """
    target, reference, rejected = _three(target, reference, rejected)
    in_target, in_reference, in_rejected = (log_margin(p, i, j) for p in (target, reference, rejected))
    return (in_reference - in_rejected) / (in_target - in_reference)


class PowerLaw(NamedTuple):
    """How well three policies obey a power law; see `fit_power_law`.

    Attributes:
        exponent: the fitted `beta`; NaN if the target equals the reference.
        residual: root mean square of the regression's residuals over sequences, in nats.
        holds: whether the exponent is positive and rounding explains every residual. It is also true if both
            log-ratios are constant, since any exponent then fits.
    """

    exponent: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    holds: Bool[Array, "*batch"]


def fit_power_law(target: LogProbsLike, reference: LogProbsLike, rejected: LogProbsLike) -> PowerLaw:
    """Fit `reference/rejected ∝ (target/reference)^beta` by least squares.

    `log(reference/rejected)` is regressed on `log(target/reference)` with an intercept, with equal weights
    for all sequences. The slope is `beta`. A regression of the steps of margins over all pairs gives the same
    slope. O(N).

    Raises:
        ValueError: an argument is not normalised or has a zero, or shapes do not fit.

    Examples:
        >>> reference, target = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
        >>> rejected = reference + 0.5 * (reference - target)
        >>> law = fit_power_law(target, reference, rejected - jnp.log(jnp.sum(jnp.exp(rejected))))
        >>> round(float(law.exponent), 4), bool(law.holds)
        (0.5, True)
    """
    target, reference, rejected = _three(target, reference, rejected)
    up, down = target - reference, reference - rejected
    up = up - jnp.mean(up, axis=-1, keepdims=True)
    down = down - jnp.mean(down, axis=-1, keepdims=True)
    rounding, _ = _rounding(target, reference, rejected)
    flat = largest_magnitude(up, axis=-1) <= rounding
    exponent = jnp.sum(up * down, axis=-1) / jnp.where(flat, 1, jnp.sum(up * up, axis=-1))
    exponent = jnp.where(flat, 0, exponent)
    residuals = down - exponent[..., None] * up
    explained = largest_magnitude(residuals, axis=-1) <= rounding * (1 + jnp.abs(exponent))
    return PowerLaw(
        exponent=_nan_where(flat, exponent),
        residual=jnp.sqrt(jnp.mean(residuals**2, axis=-1)),
        holds=explained & (flat | (exponent > 0)),
    )


def _nan_where(flat: Bool[Array, "*batch"], exponent: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """NaN in the place of an exponent that means nothing."""
    if not _checks.known((flat, exponent)):
        return jnp.where(flat, jnp.nan, exponent)
    # By NumPy, since JAX can be asked to stop at every NaN that it computes.
    return jax.device_put(np.where(flat, np.nan, exponent).astype(exponent.dtype))
