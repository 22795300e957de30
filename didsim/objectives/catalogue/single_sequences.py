"""Losses of each sequence by itself. Most of them need no pairs, only sequences that are good or bad."""

import jax.numpy as jnp

from didsim import _checks
from didsim.objectives.baselines import ClippedPairMean, PairMean, PolicyMean
from didsim.objectives.kernels import Logistic, Sigmoid, Squared
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LogRatio, ScalarLike
from didsim.objectives.terms import LabelledSquare, Pair, Single


def nca(beta: ScalarLike = 0.01) -> Objective:
    """Noise-contrastive alignment on pairs: a loss of each reward, not of their difference.

        −log σ(h(y_w)) − ½ log σ(−h(y_w)) − ½ log σ(−h(y_l))

    Source: Chen et al., "Noise contrastive alignment of language models with explicit rewards"
    (arXiv 2402.05369), the form for binary preferences.

    In TRL: `DPOConfig(loss_type="nca_pair", beta)`.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    reward, half = LogRatio(_checks.positive("beta", beta)), jnp.asarray(0.5)
    return Objective(
        Single(reward, Logistic(), sequence="chosen", push="up"),
        Single(reward, Logistic(), half, sequence="chosen", push="down"),
        Single(reward, Logistic(), half, sequence="rejected", push="down"),
    )


def bco(beta: ScalarLike = 0.01) -> Objective:
    """Binary classifier optimisation: a classifier of chosen and rejected sequences, with a reward shift `δ`.

        −log σ(h(y_w) − δ) − log σ(−(h(y_l) − δ)),    δ = (E_w h + E_l h)/2

    `E_w` and `E_l` are means over the chosen and the rejected sequences of the population, the dataset or the
    minibatch that the loss is over. No gradient passes through `δ`. It is that of the current policy. The
    authors and TRL track it as a running mean over the batches of a run, and some trainers leave it out.
    Source: Jung et al., "Binary classifier optimization for large language model alignment"
    (arXiv 2404.04656), without its weights for prompts that differ between the two classes.

    In TRL: `DPOConfig(loss_type="bco_pair", beta)`, with a running mean for the baseline.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    return Objective(
        Single(reward, Logistic(), sequence="chosen", push="up", baseline=PairMean()),
        Single(reward, Logistic(), sequence="rejected", push="down", baseline=PairMean()),
    )


def sppo(beta: ScalarLike = 1e-3) -> Objective:
    """Self-play preference optimisation: a squared loss of each log-ratio from a label.

        (t(y_w) − (p − 1/2)/beta)² + (t(y_l) − (1 − p − 1/2)/beta)²

    `p` is the probability that `y_w` wins. By default it is 1, so that the label of `y_w` is 1 and that of
    `y_l` is 0; preference trainers call this `sppo_hard`. `Pairs(…, win_probs=p)` and
    `pair_loss(…, win_probs=p)` have soft labels, and a tie has 1/2. This is one round of the iteration of Wu
    et al., "Self-play preference optimization" (arXiv 2405.00675), whose `η = 1/beta` is 1000.

    Labels of 0 and 1 that are drawn with probability `p` have a larger mean loss, by `2 p (1 − p)/beta²`, but
    the same gradient (`LabelledSquare`). So a population, whose labels are drawn, has the minimiser that its
    soft labels have. In the paper the label of `y` is its win rate against the policy that draws the pairs.
    This is the mean of `p` over the partners of `y`, and again only a constant is different.

    In TRL: `DPOConfig(loss_type="sppo_hard", beta)`.

    Args:
        beta: strength of the regularisation towards the reference, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    goal = Squared(1 / (2 * _checks.positive("beta", beta)))
    reward = LogRatio(jnp.asarray(1.0))
    return Objective(
        LabelledSquare(reward, goal, sequence="chosen", push="up"),
        LabelledSquare(reward, goal, sequence="rejected", push="down"),
    )


def apo_zero(beta: ScalarLike = 0.1) -> Objective:
    """Anchored preference optimisation, zero: raises chosen likelihoods and lowers rejected ones.

        1 − σ(h(y_w)) + σ(h(y_l))

    Source: D'Oosterlinck et al., "Anchored preference optimization and contrastive revisions"
    (arXiv 2408.06266).

    In TRL: `DPOConfig(loss_type="apo_zero", beta)`.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    return Objective(
        Single(reward, Sigmoid(), sequence="chosen", push="up"),
        Single(reward, Sigmoid(), sequence="rejected", push="down"),
    )


def apo_down(beta: ScalarLike = 0.1) -> Objective:
    """Anchored preference optimisation, down: lowers chosen likelihoods, and rejected ones further.

        σ(h(y_w)) + 1 − σ(h(y_w) − h(y_l))

    Source: D'Oosterlinck et al., "Anchored preference optimization and contrastive revisions"
    (arXiv 2408.06266).

    In TRL: `DPOConfig(loss_type="apo_down", beta)`.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    return Objective(Single(reward, Sigmoid(), sequence="chosen", push="down"), Pair(reward, Sigmoid()))


def kto(
    beta: ScalarLike = 0.1,
    desirable_weight: ScalarLike = 1.0,
    undesirable_weight: ScalarLike = 1.0,
    baseline: str = "policy",
) -> Objective:
    """Kahneman–Tversky optimisation on pairs: chosen sequences are desirable, rejected ones undesirable.

        λ_D · [1 − σ(h(y_w) − z0)] + λ_U · [1 − σ(z0 − h(y_l))]

    No gradient passes through `z0`. `baseline` says what it is:

        "policy"    z0 = beta · KL(π ‖ ref) = E_π h, exactly
        "pairs"     z0 = max(0, (E_w h + E_l h)/2), estimated from the pairs that the loss is over

    With "policy", `loss`, `train` (with `batch_size` too) and `solve` take the KL divergence of the whole
    policy. `pair_loss` is not given the policy. Without `baseline=…` it estimates `z0` from its pairs. Its
    mean is then not `loss` on the same pairs. With "pairs", `E_w` and `E_l` are means over the chosen and the
    rejected sequences of the population, the dataset or the minibatch. The mean of `pair_loss` is then the
    loss of the dataset. Trainers estimate `z0` in this way, from responses to other prompts. Here all
    sequences answer one prompt. Source: Ethayarajh et al., "KTO" (arXiv 2402.01306).

    TRL takes the mean over the `2n` sequences of `n` pairs, which is half of the mean of this loss.

    In TRL: `KTOConfig(beta)`, which is half of this loss, with `z0` from other prompts.

    Args:
        beta: scale of the reward, positive.
        desirable_weight: `λ_D`, positive.
        undesirable_weight: `λ_U`, positive.
        baseline: "policy" or "pairs".

    Raises:
        ValueError: a number is not positive, or `baseline` is neither "policy" nor "pairs".
    """
    _checks.one_of("baseline", baseline, ("policy", "pairs"))
    z0 = PolicyMean() if baseline == "policy" else ClippedPairMean()
    reward = LogRatio(_checks.positive("beta", beta))
    desirable = _checks.positive("desirable_weight", desirable_weight)
    undesirable = _checks.positive("undesirable_weight", undesirable_weight)
    return Objective(
        Single(reward, Sigmoid(), desirable, sequence="chosen", push="up", baseline=z0),
        Single(reward, Sigmoid(), undesirable, sequence="rejected", push="down", baseline=z0),
    )


def npo(beta: ScalarLike = 0.1) -> Objective:
    """Negative preference optimisation: DPO's loss of the rejected sequence alone, for unlearning.

        −(2/beta) · log σ(−h(y_l))

    For `beta → 0` its gradient is that of `log π(y_l)`, which lowers the likelihood of rejected sequences
    without end. On a population it has no minimiser of full support if `beta ≤ 1`: the loss of every sequence
    is then strictly concave in its probability, so the loss is least where one sequence has probability 1.
    (Derived here.) Source: Zhang et al., "Negative preference optimization: from catastrophic
    collapse to effective unlearning" (arXiv 2404.05868).

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    beta = _checks.positive("beta", beta)
    return Objective(Single(LogRatio(beta), Logistic(), 2 / beta, sequence="rejected", push="down"))
