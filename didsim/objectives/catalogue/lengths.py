"""Variants of DPO that depend on the tokens of a sequence: on how many there are, or on each of them."""

from typing import Any

from didsim import _checks
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LengthRegularised, LogRatio, ScalarLike
from didsim.objectives.terms import Pair
from didsim.objectives.tokens import PolicyWeighted, SharedLength
from didsim.spaces import SequenceSpace


def rdpo(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.01) -> Objective:
    """Length-regularised DPO: the implicit reward has a bonus for each token.

        −log σ(d + alpha · |y_w| − alpha · |y_l|)

    Suppose that the policy should maximise the penalised reward `r − alpha · |y|` with the usual KL
    regularisation. The optimal policy has `r = h + alpha · |y|` up to a constant, so `h + alpha · |y|` is the
    implicit reward. Source: Park et al., "Disentangling length from quality in direct preference
    optimization" (arXiv 2403.19159).

    Args:
        beta: inverse temperature, positive.
        alpha: penalty in nats for each token, zero (DPO) or more.

    Raises:
        ValueError: `beta <= 0` or `alpha < 0`.
    """
    reward = LengthRegularised(_checks.positive("beta", beta), _checks.non_negative("alpha", alpha))
    return Objective(Pair(reward, Logistic()))


def length_normalised_dpo(beta: ScalarLike = 5.0) -> Objective:
    """Length-normalised DPO: log-ratios are means over tokens.

        −log σ(beta/|y_w| · t(y_w) − beta/|y_l| · t(y_l))

    Source: Lambert et al., "Tülu 3" (arXiv 2411.15124), equation 6, with its value of `beta`.

    In TRL: `DPOConfig(loss_type="sigmoid_norm", beta)`.

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(LogRatio(_checks.positive("beta", beta), per_token=True), Logistic()))


def ld_dpo(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.5, space: SequenceSpace | None = None) -> Objective:
    """Length-desensitised DPO (LD-DPO): tokens beyond the shorter length of a pair count less.

        −log σ(ĥ(y_w) − ĥ(y_l)),    ĥ = beta · [s + alpha · (t − s)]

    `s(y)` is the log-ratio of the first `min(|y_w|, |y_l|)` tokens of `y`, and `t(y)` that of all its tokens.
    In `pair_loss`, `chosen_tokens` and `rejected_tokens` are `s(y_w)` and `s(y_l)`. The population loss takes
    them from the space, in O(N²) memory.

    The loss is not known to be convex, and `didsim.solve` tries several starts. Source: Liu et al., "Length
    desensitization in direct preference optimization" (arXiv 2409.06411). TRL calls `alpha` `ld_alpha`. From
    version 1 on it weighs the tokens of the policy and of the reference alike, as here. Before, it weighed
    those of the policy alone.

    In TRL: `DPOConfig(ld_alpha=alpha, beta)`.

    Args:
        beta: inverse temperature, positive.
        alpha: weight of tokens beyond the shorter length, from 0 (none) to 1 (DPO).
        space: the space of all sequences. Without it every sequence counts as one token, and the population
            loss is DPO's. Lengths alone are refused, since they do not say which sequences share tokens.

    Raises:
        ValueError: `beta <= 0`, `alpha` is not in [0, 1], or `space` is not a `SequenceSpace`. Losses raise
            it if there are lengths but no space, or if the space is of another size.
    """
    _check_space(space)
    reward, alpha = LogRatio(_checks.positive("beta", beta)), _checks.within("alpha", alpha, 0, 1)
    return Objective(SharedLength(reward, Logistic(), alpha=alpha, space=space))


def wpo(beta: ScalarLike = 0.1, space: SequenceSpace | None = None) -> Objective:
    """Weighted preference optimisation (WPO): DPO with pairs weighed by how likely the policy finds them.

        −min(1, w(y_w) · w(y_l)) · log σ(d),
        log w(y) = 1/|y| · Σ_t [log π(y_t | y_<t) − log Σ_v π(v | y_<t)²]

    The sum over next tokens `v` makes `w` about 1 for sequences that the policy samples itself. No gradient
    passes through the weights. In `pair_loss`, `chosen_tokens` and `rejected_tokens` are `log w(y_w)` and
    `log w(y_l)`. The population loss takes them from the space, in O(N²) memory.

    The result of `didsim.solve` is a point where the gradient vanishes with the weights held fixed. If the
    pairs are `Contrastive` or `Labelled`, of full support, this is DPO's minimiser and no other point. For
    DPO's minimiser is right for every pair at once. So it is the only minimiser for any positive weights that
    do not depend on the order of the pair. (Derived here.)

    Source: Zhou et al., "WPO: enhancing RLHF with weighted preference optimization" (arXiv 2406.11827),
    equation 2, with the cap at 1 of preference trainers (`use_weighting` of TRL).

    In TRL: `DPOConfig(use_weighting=True, beta)`.

    Args:
        beta: inverse temperature, positive.
        space: the space of all sequences. Without it every sequence counts as one token. Lengths alone are
            refused, since they do not say what the next tokens are.

    Raises:
        ValueError: `beta <= 0`, or `space` is not a `SequenceSpace`. Losses raise it if there are lengths but
            no space, or if the space is of another size.
    """
    _check_space(space)
    return Objective(PolicyWeighted(LogRatio(_checks.positive("beta", beta)), Logistic(), space=space))


def _check_space(space: Any) -> None:
    if space is not None:
        _checks.instance("space", space, SequenceSpace, "a SequenceSpace or None")
