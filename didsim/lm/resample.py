"""Rejected responses by resampling what the reference gave."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Real
from scipy.special import log_softmax

from didsim import _checks
from didsim.diagnostics.samples.estimate import LEAST_EFFECTIVE


class Weights(NamedTuple):
    """Weights of the samples of each prompt.

    Attributes:
        log_weights: `[prompts, samples]`, normalised over the samples of a prompt.
        effective: `[prompts]`, the effective number of samples, `1 / Σ w²`.
    """

    log_weights: Float[np.ndarray, "prompts samples"]
    effective: Float[np.ndarray, " prompts"]


def resampling_weights(
    log_weights: Real[ArrayLike, "prompts samples"],
    what: str = "the distribution",
    least_effective: float = LEAST_EFFECTIVE,
) -> Weights:
    """Self-normalised weights by which samples of a proposal stand for another distribution.

        w_k = (π_l(y_k) / p(y_k)) / Σ_k' π_l(y_k') / p(y_k'),   y_k ~ p

    Args:
        log_weights: `[prompts, samples]`, `log π_l − log p` up to a constant for each prompt.
        what: the name of the distribution, for the error.
        least_effective: the effective number of samples below which the weights are refused: then a few
            samples stand for all of the distribution.

    Raises:
        ValueError: weights are not finite numbers of two axes, or the median over prompts of the effective
            number of samples is below `least_effective`.
    """
    values = _numbers("log_weights", log_weights)
    least = _checks.real("least_effective", least_effective, _checks.non_negative)
    normalised = log_softmax(values, axis=1)
    effective = np.exp(-np.logaddexp.reduce(2 * normalised, axis=1))
    median = float(np.median(effective))
    if median < least:
        raise ValueError(
            f"{what}: {values.shape[1]} samples of a prompt count for {median:.1f} of equal weight (median "
            f"over {len(values)} prompts), fewer than {least:g}. Draw more samples, or take a smaller beta "
            "or shorter responses"
        )
    return Weights(normalised, effective)


def optimal_rejected_weights(
    reference_logps: Real[ArrayLike, "prompts samples"],
    target_logps: Real[ArrayLike, "prompts samples"],
    beta: float,
    least_effective: float = LEAST_EFFECTIVE,
) -> Weights:
    """Weights by which samples of the reference become samples of the optimal rejected distribution.

        w_k ∝ (π_ref(y_k) / π*(y_k))^β,   y_k ~ π_ref

    Source: the distribution is the paper's (arXiv 2505.23761); the weights follow from `π_l / π_ref`.
    With chosen responses from the reference, and rejected ones from `π_l ∝ π_ref (π_ref/π*)^β`, the target
    `π*` is what DPO with the same beta converges to (`didsim.optimal_rejected`).

    Args:
        reference_logps: `[prompts, samples]`, log-probabilities of the reference's samples under it, in nats.
        target_logps: `[prompts, samples]`, the same under the target.
        beta: beta of DPO.
        least_effective: as for `resampling_weights`.

    Raises:
        ValueError: an argument is wrong, or too few samples carry the weight.
    """
    reference = _numbers("reference_logps", reference_logps)
    target = _numbers("target_logps", target_logps)
    if reference.shape != target.shape:
        raise ValueError(
            f"`reference_logps` and `target_logps` must have one shape; got {reference.shape} and "
            f"{target.shape}"
        )
    strength = _checks.real("beta", beta, _checks.positive)
    what = f"the optimal rejected distribution with beta {strength:g}"
    return resampling_weights(strength * (reference - target), what, least_effective)


def draw_pairs(
    rejected: Weights, count: int, seed: int
) -> tuple[Int[np.ndarray, "prompts count"], Int[np.ndarray, "prompts count"]]:
    """Pairs of samples of each prompt: chosen ones uniformly, rejected ones by their weights.

    Args:
        rejected: the weights of the rejected responses.
        count: the number of pairs of each prompt.
        seed: what makes the draws.

    Returns:
        The places of the chosen and of the rejected responses among the samples of their prompt.

    Raises:
        ValueError: `count` is no positive integer.

    Cost:
        Prompts times pairs times samples.
    """
    random = np.random.default_rng(seed)
    prompts, samples = rejected.log_weights.shape
    chosen = random.integers(samples, size=(prompts, _checks.integer("count", count, 1)))
    # The largest of log-weights with Gumbel noise is a draw by the weights.
    noise = random.gumbel(size=(*chosen.shape, samples))
    return chosen, (rejected.log_weights[:, None, :] + noise).argmax(-1)


def _numbers(name: str, value: Any) -> Float[np.ndarray, "prompts samples"]:
    array = _checks.numbers_given(name, value).astype(float)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite numbers [prompts, samples]; got shape {array.shape}"
            + ("" if np.isfinite(array).all() else " with values that are not finite")
        )
    return array
