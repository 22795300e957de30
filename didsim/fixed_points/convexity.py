"""What a term of an objective is convex in, from what it is made of."""

import numpy as np
from jaxtyping import Bool

from didsim.objectives.kernels import (
    Exponential,
    Hinge,
    Linear,
    Logistic,
    LogRatioModulated,
    Sigmoid,
    Squared,
)
from didsim.objectives.rewards import Guarded, LengthRegularised, LogProb, LogRatio
from didsim.objectives.terms import Pair, Single, Term


def has_convex_kernel(pair: Pair) -> bool:
    """Whether a pair's loss is convex in the difference of rewards."""
    return isinstance(pair.kernel, Logistic | Squared | Hinge | Exponential | Linear)


def is_convex_in_logits(term: Term) -> bool:
    """Whether a term is convex in the logits of a policy, from what it is made of.

    Differences of log-probabilities are linear in logits, and minus a log-probability is convex.
    """
    reward = term.reward
    if isinstance(term, Pair):
        linear = isinstance(reward, LogRatio | LogProb | LengthRegularised) and not (
            isinstance(reward, LogRatio | LogProb) and reward.per_token
        )
        return linear and has_convex_kernel(term) and _is_concave(term)
    assert isinstance(term, Single)
    falls = isinstance(term.kernel, Linear | Exponential) or is_plain_logistic(term)
    return falls and isinstance(reward, LogRatio | LogProb) and term.push == "up" and term.baseline is None


def is_convex_in_log_probs(term: Term) -> bool:
    """Whether a term is convex in a free vector of log-probabilities, from what it is made of."""
    if not isinstance(term.reward, LogRatio | LogProb | LengthRegularised):
        return False
    if isinstance(term, Pair):
        return has_convex_kernel(term) and _is_concave(term)
    assert isinstance(term, Single)
    return isinstance(term.kernel, Logistic | Squared | Hinge | Exponential | Linear)


def _is_concave(pair: Pair) -> bool:
    """Whether another reward of the chosen, if there is one, leaves the loss convex.

    DPO-positive's takes a convex function of the log-probability off the difference, and its kernel falls.
    """
    guarded = isinstance(pair.chosen_reward, Guarded) and is_plain_logistic(pair)
    return pair.chosen_reward is None or guarded


def is_plain_logistic(term: Pair | Single) -> bool:
    """Whether its kernel is `−log σ(d)`, less a margin or not."""
    return isinstance(term.kernel, Logistic) and term.kernel.smoothing is None


def is_least_at_preferences(term: Pair) -> bool:
    """Whether the loss of each pair is least where `σ(h_i − h_j)` is its preference."""
    return isinstance(term.kernel, Logistic) and is_plain_logistic(term) and term.kernel.margin is None


def is_one_sided(term: Pair) -> Bool[np.ndarray, "..."]:
    """Whether the loss of a pair falls for ever with its difference of rewards; for each of a batch."""
    kernel = term.kernel
    if isinstance(kernel, Logistic) and kernel.smoothing is not None:
        return np.asarray(kernel.smoothing) == 0
    return np.asarray(isinstance(kernel, Logistic | Exponential | Sigmoid | LogRatioModulated))


def is_likelihood(term: Single) -> bool:
    """Whether it is the negative log-likelihood of the chosen."""
    upwards = term.sequence == "chosen" and term.push == "up" and term.baseline is None
    return upwards and isinstance(term.kernel, Linear) and isinstance(term.reward, LogProb)
