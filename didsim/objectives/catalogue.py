"""The catalogue of objectives: the losses of preference optimisation that are in use, as sums of terms.

Each objective is built from implicit rewards (`didsim.objectives.rewards`), kernels
(`didsim.objectives.kernels`) and the terms that join them (`didsim.objectives.terms`), so that its code reads
like its formula. Defaults are those of the papers. For an objective of your own, combine other parts, or
write another `Reward` or `Kernel`.

In formulas, `y_w` is the chosen and `y_l` the rejected sequence. `t(y) = log(π(y)/ref(y))` is the log-ratio
and `h = beta · t` the implicit reward. `d = h(y_w) − h(y_l)` is the difference of implicit rewards.
Log-probabilities are sums over tokens unless they are divided by `|y|`.

Parameters are arrays, so new values compile nothing. `jax.vmap(didsim.dpo)(betas)` is a batch of objectives.
"""

import numbers
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from didsim import _checks
from didsim._registry import Registry
from didsim.objectives.divergences import Alpha, ForwardKL, JensenShannon
from didsim.objectives.kernels import (
    Exponential,
    Hinge,
    Kernel,
    Linear,
    Logistic,
    LogRatioModulated,
    ReverseCrossEntropy,
    Sigmoid,
    Squared,
)
from didsim.objectives.objective import KeepsChosen, Objective
from didsim.objectives.rewards import (
    Guarded,
    LengthRegularised,
    LogOdds,
    LogProb,
    LogRatio,
    Reward,
    Scalar,
    ScalarLike,
)
from didsim.objectives.terms import (
    ClippedPairMean,
    LabelledSquare,
    Pair,
    PairMean,
    PairOrTie,
    PolicyMean,
    Single,
)
from didsim.objectives.ties import RaoKupper


def dpo(beta: ScalarLike = 0.1) -> Objective:
    """Direct preference optimisation.

        −log σ(beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Convex in the logits of an `EnergyBased` policy. Source: Rafailov et al., "Direct Preference
    Optimization" (arXiv 2305.18290).

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Logistic())


def cdpo(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 0.1) -> Objective:
    """Conservative DPO, which assumes that labels are wrong with a given probability.

        −(1 − ε) log σ(d) − ε log σ(−d),    d = beta · [log(π/ref)(y_w) − log(π/ref)(y_l)]

    Source: Mitchell, "A note on DPO with noisy preferences" (2023).

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, from 0 (DPO) to 0.5 (nothing is learned).

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5].
    """
    smoothing = _checks.within("label_smoothing", label_smoothing, 0, 0.5)
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=smoothing))


def ipo(tau: ScalarLike = 0.1) -> Objective:
    """Identity preference optimisation.

        (log(π/ref)(y_w) − log(π/ref)(y_l) − 1/(2 tau))²

    Source: Azar et al., "A general theoretical paradigm to understand learning from human preferences"
    (arXiv 2310.12036). Log-probabilities are sums over tokens, as in the paper. Some trainers take means.

    Args:
        tau: strength of the regularisation towards the reference, positive.

    Raises:
        ValueError: `tau <= 0`.
    """
    centre = 1 / (2 * _checks.positive("tau", tau))
    return _pairwise(LogRatio(jnp.asarray(1.0)), Squared(centre))


def simpo(
    beta: ScalarLike = 2.0,
    gamma: ScalarLike = 1.0,
    length_normalised: bool = True,
) -> Objective:
    """Simple preference optimisation: the reward is a mean log-probability, without a reference.

        −log σ(beta/|y_w| · log π(y_w) − beta/|y_l| · log π(y_l) − gamma)

    Source: Meng, Xia, Chen, "SimPO" (arXiv 2405.14734). Defaults are its values for Llama-3-Base. Here
    `gamma` is the margin itself, as in the paper. Some trainers ask for `gamma / beta`.

    Args:
        beta: scale of the reward, positive.
        gamma: target margin, zero or more. The Python number 0 leaves the margin out. The minimiser then has
            a closed form.
        length_normalised: whether log-probabilities are divided by lengths.

    Raises:
        ValueError: `beta <= 0`, `gamma < 0`, or `length_normalised` is not a boolean.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    margin = None if _is_plain_zero(gamma) else _checks.non_negative("gamma", gamma)
    reward = LogProb(_checks.positive("beta", beta), per_token=length_normalised)
    return _pairwise(reward, Logistic(margin=margin))


def slic(beta: ScalarLike = 0.1, delta: ScalarLike = 1.0) -> Objective:
    """The hinge loss of SLiC, on the log-ratio reward.

        max(0, delta − beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Source: Liu et al., "Statistical rejection sampling improves preference optimization" (arXiv 2309.06657).
    Preference trainers call this form hinge. The original loss of Zhao et al., "SLiC-HF" (arXiv 2305.10425),
    has `log π` in place of the log-ratio and adds a likelihood term.

    Args:
        beta: scale of the reward, positive.
        delta: margin, positive. Only pairs whose difference of rewards is below it have a loss.

    Raises:
        ValueError: `beta <= 0` or `delta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Hinge(_checks.positive("delta", delta)))


def orpo(weight: ScalarLike = 0.1) -> Objective:
    """Odds-ratio preference optimisation: a likelihood term and an odds-ratio term.

        −log P(y_w) − weight · log σ(log odds(y_w) − log odds(y_l)),
        log P(y) = log π(y) / |y|,    odds(y) = P(y) / (1 − P(y))

    Source: Hong, Lee, Thorne, "ORPO" (arXiv 2403.07691), which calls the weight lambda.

    Args:
        weight: factor of the odds-ratio term, positive.

    Raises:
        ValueError: `weight <= 0`.
    """
    odds = Pair(LogOdds(), Logistic(), _checks.positive("weight", weight))
    return Objective(odds, _likelihood(per_token=True))


def cpo(beta: ScalarLike = 0.1, weight: ScalarLike = 1.0) -> Objective:
    """Contrastive preference optimisation: DPO without a reference, plus a likelihood term.

        −log σ(beta · [log π(y_w) − log π(y_l)]) − weight · log π(y_w)

    Source: Xu et al., "Contrastive preference optimization" (arXiv 2401.08417). Its likelihood term has
    weight 1 and is a sum over tokens. Some trainers take the mean over tokens.

    Args:
        beta: scale of the reward, positive.
        weight: factor of the likelihood term, positive.

    Raises:
        ValueError: `beta <= 0` or `weight <= 0`.
    """
    reward = LogProb(_checks.positive("beta", beta), per_token=False)
    return Objective(Pair(reward, Logistic()), _likelihood(weight=_checks.positive("weight", weight)))


def exponential(beta: ScalarLike = 0.1) -> Objective:
    """The exponential loss on the log-ratio reward.

        exp(−beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    This is one of the convex losses of Tang et al., "Generalized preference optimization" (arXiv 2402.05749).
    It overflows if the difference of rewards of a pair is below −88 nats in float32, or −709 in float64.
    Training then raises `DivergenceError`.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Exponential())


def reference_free(beta: ScalarLike = 0.1) -> Objective:
    """DPO without its reference: the reward is `beta · log π`.

        −log σ(beta · [log π(y_w) − log π(y_l)])

    This is also CPO without its likelihood term, and SimPO without its margin and length normalisation.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogProb(_checks.positive("beta", beta), per_token=False), Logistic())


def robust(beta: ScalarLike = 0.01, label_smoothing: ScalarLike = 0.1) -> Objective:
    """Robust DPO: if labels are flipped at rate `ε`, its expectation is the DPO loss on clean labels.

        [−(1 − ε) log σ(d) + ε log σ(−d)] / (1 − 2ε)

    Since `log σ(−d) = log σ(d) − d`, this is `−log σ(d) − ε/(1 − 2ε) · d`. The loss has no lower bound. There
    is a finite minimiser only if every preference lies between `ε` and `1 − ε`. Source: Chowdhury, Kini,
    Natarajan, "Provably robust DPO" (arXiv 2403.00409).

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, the rate of flipped labels, from 0 (DPO) to below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5).
    """
    flips = _checks.within("label_smoothing", label_smoothing, 0, 0.5 - 1e-6)
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=-flips / (1 - 2 * flips)))


def exo(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 1e-3) -> Objective:
    """Efficient exact optimisation on pairs: the KL divergence of the policy's label from a smoothed label.

        σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]

    The loss is bounded and not convex. Source: Ji et al., "Towards efficient exact optimization of language
    model alignment" (arXiv 2402.00856), in its form for pairs. The default of `label_smoothing` is that of
    preference trainers. The authors' code has `e^−10`.

    Args:
        beta: scale of the reward, positive.
        label_smoothing: `ε`, above 0 and below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in (0, 0.5).
    """
    smoothing = _checks.within("label_smoothing", label_smoothing, 1e-30, 0.5 - 1e-6)
    return _pairwise(LogRatio(_checks.positive("beta", beta)), ReverseCrossEntropy(smoothing))


def nca(beta: ScalarLike = 0.01) -> Objective:
    """Noise-contrastive alignment on pairs: a loss of each reward, not of their difference.

        −log σ(h(y_w)) − ½ log σ(−h(y_w)) − ½ log σ(−h(y_l))

    Source: Chen et al., "Noise contrastive alignment of language models with explicit rewards"
    (arXiv 2402.05369), the form for binary preferences.

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
    authors track it with a moving average, and some trainers leave it
    out. Source: Jung et al., "Binary classifier optimization for large language model alignment"
    (arXiv 2404.04656), without its weights for prompts that differ between the two classes.

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

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    return Objective(Single(reward, Sigmoid(), sequence="chosen", push="down"), Pair(reward, Sigmoid()))


def discopop(beta: ScalarLike = 0.05, temperature: ScalarLike = 0.05) -> Objective:
    """The log-ratio modulated loss that DiscoPOP found by search.

        −log σ(d) · (1 − σ(d/τ)) + e^−d · σ(d/τ)

    Source: Lu et al., "Discovering preference optimization algorithms with and for large language models"
    (arXiv 2406.08414). It is not convex.

    Args:
        beta: scale of the reward, positive.
        temperature: `τ`, positive.

    Raises:
        ValueError: `beta <= 0` or `temperature <= 0`.
    """
    kernel = LogRatioModulated(_checks.positive("temperature", temperature))
    return _pairwise(LogRatio(_checks.positive("beta", beta)), kernel)


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
    loss of the dataset. This is what trainers do, but that their batch has responses to other prompts, and
    here all sequences answer one prompt. Source: Ethayarajh et al., "KTO" (arXiv 2402.01306).

    Args:
        beta: scale of the reward, positive.
        desirable_weight: `λ_D`, positive.
        undesirable_weight: `λ_U`, positive.
        baseline: "policy" or "pairs".

    Raises:
        ValueError: a number is not positive, or `baseline` is neither "policy" nor "pairs".
    """
    if baseline not in ("policy", "pairs"):
        raise ValueError(f"`baseline` must be 'policy' or 'pairs'; got {baseline!r}")
    z0 = PolicyMean() if baseline == "policy" else ClippedPairMean()
    reward = LogRatio(_checks.positive("beta", beta))
    desirable = _checks.positive("desirable_weight", desirable_weight)
    undesirable = _checks.positive("undesirable_weight", undesirable_weight)
    return Objective(
        Single(reward, Sigmoid(), desirable, sequence="chosen", push="up", baseline=z0),
        Single(reward, Sigmoid(), undesirable, sequence="rejected", push="down", baseline=z0),
    )


def dpo_rao_kupper(beta: ScalarLike = 0.1, theta: ScalarLike = 3.0) -> Objective:
    """DPO with ties: the likelihood of wins and ties in the model of Rao and Kupper.

        win:  −log σ(d − log θ)
        tie:  −log(θ² − 1) − log σ(d − log θ) − log σ(−d − log θ)

    `PreferenceTable.rao_kupper` has the probabilities. If it labels all pairs with the same `θ` and a reward
    `r`, the minimiser is `reference · exp(r/beta)`, normalised. Ties come from `LabelledByTable`,
    `Pairs(…, tied=…)` and `pair_loss(…, tied=…)`. Without ties this is DPO with the margin `log θ`. Sources:
    Rao and Kupper (Journal of the American Statistical Association 62, 1967), and Chen et al., "On extending
    direct preference optimization to accommodate ties" (arXiv 2409.17431), whose `θ` is 3.

    Args:
        beta: inverse temperature, positive.
        theta: `θ`, from 1 + 1e-6 to 1e6. Two sequences of equal reward tie with probability
            `(θ − 1)/(θ + 1)`.

    Raises:
        ValueError: `beta <= 0`, or `theta` is out of range.

    >>> import didsim
    >>> win, tie = (
    ...     didsim.dpo_rao_kupper(0.5).pair_loss(-1.0, -1.0, -1.0, -1.0, tied=tied)
    ...     for tied in (False, True)
    ... )
    >>> round(float(jnp.exp(-win)), 6), round(float(jnp.exp(-tie)), 6)  # σ(−log 3), and 8 σ(−log 3)²
    (0.25, 0.5)
    """
    kernel = RaoKupper(_checks.within("theta", theta, 1 + 1e-6, 1e6))
    return Objective(PairOrTie(LogRatio(_checks.positive("beta", beta)), kernel))


def dpop(beta: ScalarLike = 0.3, weight: ScalarLike = 50.0) -> Objective:
    """DPO-positive: DPO with a penalty if the chosen sequence is less likely than under the reference.

        −log σ(beta · [t(y_w) − t(y_l) − λ max(0, −t(y_w))])

    Source: Pal et al., "Smaug: fixing failure modes of preference optimisation with DPO-positive"
    (arXiv 2402.13228).

    Args:
        beta: inverse temperature, positive.
        weight: `λ`, the weight of the penalty, zero (DPO) or more.

    Raises:
        ValueError: `beta <= 0` or `weight < 0`.
    """
    beta, weight = _checks.positive("beta", beta), _checks.non_negative("weight", weight)
    return Objective(Pair(LogRatio(beta), Logistic(), chosen_reward=Guarded(beta, weight)))


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
    return _pairwise(reward, Logistic())


def length_normalised_dpo(beta: ScalarLike = 5.0) -> Objective:
    """Length-normalised DPO: log-ratios are means over tokens.

        −log σ(beta/|y_w| · t(y_w) − beta/|y_l| · t(y_l))

    Source: Lambert et al., "Tülu 3" (arXiv 2411.15124), equation 6, with its value of `beta`.

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta), per_token=True), Logistic())


def fdpo_forward_kl(beta: ScalarLike = 0.1) -> Objective:
    """f-DPO with the forward KL divergence: DPO regularised by `beta · KL(ref ‖ π)`.

        −log σ(−beta · ref/π(y_w) + beta · ref/π(y_l))

    Source: Wang et al., "Beyond reverse KL: generalizing direct preference optimization with diverse
    divergence constraints" (arXiv 2309.16240). The reward overflows if a log-ratio is below −88 nats in
    float32, or −709 in float64. Training then raises `DivergenceError`.

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(ForwardKL(_checks.positive("beta", beta)), Logistic())


def fdpo_js(beta: ScalarLike = 0.1) -> Objective:
    """f-DPO with the Jensen–Shannon divergence.

        −log σ(beta · [log(2u_w/(1 + u_w)) − log(2u_l/(1 + u_l))]),    u = π/ref

    Source: Wang et al. (arXiv 2309.16240).

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(JensenShannon(_checks.positive("beta", beta)), Logistic())


def fdpo_alpha(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.5) -> Objective:
    """f-DPO with an alpha-divergence, between DPO (`alpha → 0`) and the forward KL (1).

        −log σ(beta · [u_l^−alpha − u_w^−alpha] / alpha),    u = π/ref

    Source: Wang et al. (arXiv 2309.16240), who take `alpha` from (0, 1). The reward overflows if a log-ratio
    is below −88/alpha nats in float32, or −709/alpha in float64. Training then raises `DivergenceError`.

    Args:
        beta: strength of the regularisation, positive.
        alpha: parameter of the divergence, above 0, at most 1.

    Raises:
        ValueError: `beta <= 0`, or `alpha` is not in (0, 1].
    """
    alpha = _checks.within("alpha", alpha, 1e-6, 1)
    return _pairwise(Alpha(_checks.positive("beta", beta), alpha), Logistic())


def sft(length_normalised: bool = False) -> Objective:
    """Supervised fine-tuning: the negative log-likelihood of the chosen sequence.

        −log π(y_w)

    It can be added to another loss with a weight: `dpo(0.1) + 0.5 * sft()`.

    Args:
        length_normalised: whether the loss is divided by `|y_w|`.

    Raises:
        ValueError: `length_normalised` is not a boolean.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    return Objective(_likelihood(per_token=length_normalised))


def dpo_pg(beta: ScalarLike = 0.1) -> Objective:
    """DPO with projected gradients (DPO-PG): DPO with steps that do not lower the chosen likelihood.

    Let `d` be the descent direction of DPO's loss over the pairs of a step. Let `g` be the gradient of their
    mean `log π(y_w)`. If `⟨d, g⟩ < 0`, then `d` becomes `d − g ⟨d, g⟩/⟨g, g⟩`.

    DPO-PG is a rule for gradients. Its loss is that of DPO. The optimiser and the metric `gradient_norm` use
    the projected direction. If the policy has a free logit for every sequence, a single pair never needs
    the projection, because `⟨e_w − e_l, e_w − π⟩ = 1 − π_w + π_l > 0`. (Derived here.)

    The definition is ours. It follows the public description of the reinforcing variant of DPO in
    "Differential Information" (arXiv 2505.23761).

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return KeepsChosen(*dpo(beta).terms)


OBJECTIVES: Registry[Callable[..., Objective]] = Registry(
    "objective",
    {
        "dpo": dpo,
        "cdpo": cdpo,
        "robust": robust,
        "ipo": ipo,
        "slic": slic,
        "simpo": simpo,
        "orpo": orpo,
        "cpo": cpo,
        "exo": exo,
        "nca": nca,
        "bco": bco,
        "sppo": sppo,
        "apo_zero": apo_zero,
        "apo_down": apo_down,
        "discopop": discopop,
        "kto": kto,
        "dpop": dpop,
        "rdpo": rdpo,
        "length_normalised_dpo": length_normalised_dpo,
        "fdpo_forward_kl": fdpo_forward_kl,
        "fdpo_js": fdpo_js,
        "fdpo_alpha": fdpo_alpha,
        "sft": sft,
        "exponential": exponential,
        "reference_free": reference_free,
        "dpo_pg": dpo_pg,
    },
)


def _pairwise(reward: Reward, kernel: Kernel) -> Objective:
    return Objective(Pair(reward, kernel))


def _likelihood(weight: Scalar | None = None, per_token: bool = False) -> Single:
    """The negative log-likelihood of the chosen sequence."""
    return Single(LogProb(jnp.asarray(1.0), per_token), Linear(), weight, sequence="chosen", push="up")


def _is_plain_zero(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value == 0
