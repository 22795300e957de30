"""What samples of the reference or of the policy tell: the entropy of the DID, and the fall to be expected.

The DID `q ∝ r`, with `r = π/π_ref`, has the entropy `H(q) = log Z − E_q[log r]`, with `Z = Σ_y r(y)`.
Samples of a policy `p` give expectations under `q` by importance sampling with the weights

    w(y) = r(y) / p(y),   which are   1/π_ref(y)  for samples of the policy (p = π),
                          and   π(y)/π_ref(y)²    for samples of the reference (p = π_ref).

The mean weight estimates `Z`, as `E_p[r/p] = Σ_y r(y)`. So the estimate is `log mean(w) − Σ w log r / Σ w`.
It is a smooth function of two means, with a bias of order one over the number of samples. The jackknife
removes that bias, and gives the spread: without sample `k`, both sums are those of all samples less one
term. (The paper, arXiv 2505.23761, has the policy's weights; those of the reference and the correction are
derived here.)
"""

from typing import Any

import msgspec
import numpy as np
from jaxtyping import ArrayLike, Int, Real
from scipy.special import stdtrit

from didsim import _checks
from didsim.diagnostics.findings import Number

LEAST_EFFECTIVE = 10.0
"""Below this the weights of a few samples decide, and the interval of the jackknife cannot be trusted."""


class DidEntropyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate of the entropy of the DID from samples.

    Attributes:
        entropy: the entropy in nats, with its bias removed and its interval; None if it is refused.
        per_token: the entropy over the mean length under the DID, in nats per token; None if it is refused,
            or
            no lengths were given.
        bias: the bias that was removed, in nats; NaN if it is refused.
        expected_fall: for samples of the reference, KL(π_ref‖π) in nats: how far the log-probability of the
            reference's own responses fell. None for samples of the policy.
        divergence: for samples of the policy, KL(π‖π_ref) in nats. None for samples of the reference.
        samples: the number of samples.
        prompts: the number of prompts.
        effective_samples: `(Σw)² / Σw²`; with several prompts, the median over prompts.
        largest_weight: the largest share of a sample in the sum of the weights, over its prompt.
        refused: why there is no estimate of the entropy; empty if there is one.
    """

    entropy: Number | None
    per_token: Number | None
    bias: float
    expected_fall: Number | None
    divergence: Number | None
    samples: int
    prompts: int
    effective_samples: float
    largest_weight: float
    refused: str


def estimate_did_entropy(
    policy_logps: Real[ArrayLike, " samples"] | list[Any],
    ref_logps: Real[ArrayLike, " samples"] | list[Any],
    *,
    samples_of: str = "policy",
    lengths: Real[ArrayLike, " samples"] | list[Any] | None = None,
    prompts: Int[ArrayLike, " samples"] | list[Any] | None = None,
    least_effective: float = LEAST_EFFECTIVE,
) -> DidEntropyEstimate:
    """The entropy of the DID of an update, from samples of the policy or of the reference.

    With `log r = policy_logps − ref_logps` and log-weights `−ref_logps` (samples of the policy) or
    `policy_logps − 2 ref_logps` (of the reference), the estimate is `log mean(w) − Σ w log r / Σ w`, less its
    bias by the jackknife. The interval is Student's, of 95%, from the jackknife's spread. With several
    prompts it is an average over prompts of each prompt's own entropy, and the interval is that of this
    average.

    Few samples mislead where weights are uneven: a likely sequence of the DID that was never drawn is in no
    sum. So the estimate is refused if too few samples carry the weight. Even above this bound the effective
    number is an estimate from the same samples, and can be too large.

    Args:
        policy_logps: `[samples]`, log-probabilities of whole responses under the policy, in nats.
        ref_logps: `[samples]`, those under the reference.
        samples_of: "policy" or "reference", which of them drew the samples.
        lengths: `[samples]`, numbers of tokens.
        prompts: `[samples]`, an integer for the prompt of each sample. By default all are of one prompt.
        least_effective: the effective number of samples of a prompt below which the estimate is refused.

    Raises:
        ValueError: an argument has another shape, a log-probability is not finite or is positive, a length is
            not positive, or there are fewer than two samples.

    Cost:
        O(samples).

    Examples:
        >>> import numpy as np
        >>> reference, policy = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5])
        >>> drawn = np.random.default_rng(0).choice(3, 4000, p=np.exp(policy))
        >>> estimate = estimate_did_entropy(policy[drawn], reference[drawn])
        >>> estimate.entropy.low < 0.876 < estimate.entropy.high  # didsim.did_entropy(policy, reference)
        True
    """
    policy = _log_probs("policy_logps", policy_logps)
    reference = _log_probs("ref_logps", ref_logps, policy.shape)
    _checks.one_of("samples_of", samples_of, ("policy", "reference"))
    least = _checks.real("least_effective", least_effective, _checks.non_negative)
    length = None if lengths is None else _numbers("lengths", lengths, policy.shape)
    if length is not None and not (np.isfinite(length) & (length > 0)).all():
        raise ValueError(f"`lengths` must be positive and finite; got {length.min()}")
    prompt, count = _prompt_numbers(prompts, policy.shape)
    log_ratio = policy - reference
    moved = _average(log_ratio if samples_of == "policy" else -log_ratio, prompt, count)
    log_weight = -reference if samples_of == "policy" else policy - 2 * reference
    largest = _per_prompt(np.maximum, log_weight, prompt, count)
    weight = np.exp(log_weight - largest[prompt])
    total = np.bincount(prompt, weight)
    effective = total**2 / np.bincount(prompt, weight**2)
    drawn = np.bincount(prompt)
    median = float(np.median(effective))
    refused = ""
    if drawn.min() < 2:
        refused = f"a prompt has {drawn.min()} sample, and it takes 2 for a bias and a spread"
    elif median < least:
        refused = (
            f"{len(policy):,} samples count for {median:.1f} of equal weight"
            + (" (median over prompts)" if count > 1 else "")
            + f", fewer than {least:g}: a few of them decide the estimate"
        )
    entropy = per_token = None
    bias = float("nan")
    if not refused:
        entropy, bias = _jackknife(weight, log_ratio, largest, prompt, None, "nats")
        if length is not None:
            per_token, _ = _jackknife(weight, log_ratio, largest, prompt, length, "nats per token")
    return DidEntropyEstimate(
        entropy=entropy,
        per_token=per_token,
        bias=bias,
        expected_fall=moved if samples_of == "reference" else None,
        divergence=moved if samples_of == "policy" else None,
        samples=len(policy),
        prompts=count,
        effective_samples=median,
        largest_weight=float((weight / total[prompt]).max()),
        refused=refused,
    )


def _jackknife(
    weight: np.ndarray,
    log_ratio: np.ndarray,
    largest: np.ndarray,
    prompt: np.ndarray,
    length: np.ndarray | None,
    unit: str,
) -> tuple[Number, float]:
    """The entropy, or the entropy per token, without its bias, and the bias."""
    drawn = np.bincount(prompt)
    sums = [np.bincount(prompt, weight), np.bincount(prompt, weight * log_ratio)]
    if length is not None:
        sums.append(np.bincount(prompt, weight * length))

    def entropy(samples: np.ndarray, shift: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(parts[0] / samples) + shift - parts[1] / parts[0]
            return value if length is None else value * parts[0] / parts[2]

    whole = entropy(drawn, largest, sums)
    terms = [weight, weight * log_ratio] + ([] if length is None else [weight * length])
    left = [part[prompt] - term for part, term in zip(sums, terms, strict=True)]
    without = entropy(drawn[prompt] - 1, largest[prompt], left)
    mean_without = np.bincount(prompt, without) / drawn
    bias = (drawn - 1) * (mean_without - whole)
    squares = np.bincount(prompt, (without - mean_without[prompt]) ** 2) * (drawn - 1) / drawn
    value = float((whole - bias).mean())
    prompts = len(drawn)
    if prompts == 1:
        half = float(np.sqrt(squares[0]) * stdtrit(drawn[0] - 1, 0.975))
    else:
        half = float(np.std(whole - bias, ddof=1) / np.sqrt(prompts) * stdtrit(prompts - 1, 0.975))
    if not np.isfinite([value, half]).all():
        return Number(value=value, unit=unit, no_interval="one sample carries all the weight"), float(
            bias.mean()
        )
    return Number(value=value, unit=unit, low=value - half, high=value + half), float(bias.mean())


def _average(values: np.ndarray, prompt: np.ndarray, prompts: int) -> Number:
    """The mean over prompts of a mean over samples, with Student's interval."""
    means = np.bincount(prompt, values) / np.bincount(prompt) if prompts > 1 else values
    value = float(means.mean())
    if len(means) < 2:
        return Number(value=value, unit="nats", no_interval="there is one sample")
    half = float(means.std(ddof=1) / np.sqrt(len(means)) * stdtrit(len(means) - 1, 0.975))
    return Number(value=value, unit="nats", low=value - half, high=value + half)


def _per_prompt(largest: np.ufunc, values: np.ndarray, prompt: np.ndarray, prompts: int) -> np.ndarray:
    found = np.full(prompts, -np.inf)
    largest.at(found, prompt, values)
    return found


def _numbers(name: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = _checks.numbers_given(name, value).astype(float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"`{name}` must be a number for each sample; got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, as `policy_logps`; got {array.shape}")
    return array


def _log_probs(name: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = _numbers(name, value, shape)
    bad = ~np.isfinite(array) | (array > 0)
    if bad.any():
        raise ValueError(
            f"`{name}` must be finite log-probabilities, none above 0; got {array[bad][0]} at index "
            f"{np.flatnonzero(bad)[0]}, and {bad.sum()} such in all"
        )
    return array


def _prompt_numbers(prompts: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    if prompts is None:
        return np.zeros(shape, int), 1
    try:
        array = np.asarray(prompts)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise ValueError(f"`prompts` must be an integer for each sample, {shape}; got {prompts!r}")
    found, numbers = np.unique(array, return_inverse=True)
    return numbers, len(found)
