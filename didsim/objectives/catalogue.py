"""The catalogue of objectives: every loss of preference optimisation that is in use, as a sum of terms.

Each is made of a few parts, so that it reads as its formula does: implicit rewards
(`didsim.objectives.rewards`), kernels (`didsim.objectives.kernels`) and the terms that join them
(`didsim.objectives.terms`). Defaults are those of the papers. An objective of one's own is another
combination, or another `Reward` or `Kernel`.

In formulas `d` is the difference of implicit rewards, `beta · [t(y_w) − t(y_l)]` with the log-ratio
`t(y) = log(π(y)/ref(y))`, and `h = beta · t`. Log-probabilities are sums over tokens unless divided by `|y|`.

Parameters are arrays, so that new values compile nothing; `jax.vmap(didsim.dpo)(betas)` is a batch.
"""

import numbers
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from didsim import _checks
from didsim._registry import Registry
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
    Alpha,
    ForwardKL,
    Guarded,
    JensenShannon,
    LengthRegularised,
    LogOdds,
    LogProb,
    LogRatio,
    Reward,
    Scalar,
    ScalarLike,
)
from didsim.objectives.terms import Pair, PairMean, PolicyMean, Single


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
    """Conservative DPO: labels are taken to be wrong with a given probability.

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
    (arXiv 2310.12036). Log-probabilities are sums over tokens, as in the paper; some trainers take means.

    Args:
        tau: strength of the regularisation towards the reference, positive.

    Raises:
        ValueError: `tau <= 0`.
    """
    centre = 1 / (2 * _checks.positive("tau", tau))
    return _pairwise(LogRatio(jnp.asarray(1.0)), Squared(centre))


def simpo(beta: ScalarLike = 2.0, gamma: ScalarLike = 1.0, length_normalised: bool = True) -> Objective:
    """Simple preference optimisation: mean log-probabilities, a margin, no reference.

        −log σ(beta/|y_w| · log π(y_w) − beta/|y_l| · log π(y_l) − gamma)

    Source: Meng, Xia, Chen, "SimPO" (arXiv 2405.14734), with its values for Llama-3-Base as defaults. Here
    `gamma` is the margin itself, as in the paper; some trainers ask for `gamma / beta`.

    Args:
        beta: scale of the reward, positive.
        gamma: target margin, zero or more. A plain 0 drops it, and the limit has a closed form.
        length_normalised: whether log-probabilities are divided by lengths.

    Raises:
        ValueError: `beta <= 0` or `gamma < 0`.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    margin = None if _is_plain_zero(gamma) else _checks.non_negative("gamma", gamma)
    reward = LogProb(_checks.positive("beta", beta), per_token=length_normalised)
    return _pairwise(reward, Logistic(margin=margin))


def slic(beta: ScalarLike = 0.1, delta: ScalarLike = 1.0) -> Objective:
    """The hinge loss of SLiC, on the log-ratio reward.

        max(0, delta − beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Source: Zhao et al., "SLiC-HF" (arXiv 2305.10425), whose loss has `log π` for the log-ratio and adds a
    likelihood term; the form here, which preference trainers call hinge, is that of Liu et al.,
    "Statistical rejection sampling improves preference optimization" (arXiv 2309.06657).

    Args:
        beta: scale of the reward, positive.
        delta: margin below which a pair counts, positive.

    Raises:
        ValueError: `beta <= 0` or `delta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Hinge(_checks.positive("delta", delta)))


def orpo(weight: ScalarLike = 0.1) -> Objective:
    """Odds-ratio preference optimisation: likelihood of the chosen, and a log odds ratio.

        −log P(y_w) − weight · log σ(log odds(y_w) − log odds(y_l)),
        log P(y) = log π(y) / |y|,    odds(y) = P(y) / (1 − P(y))

    Source: Hong, Lee, Thorne, "ORPO" (arXiv 2403.07691), where `weight` is lambda.

    Args:
        weight: factor of the odds-ratio term, positive.

    Raises:
        ValueError: `weight <= 0`.
    """
    odds = Pair(LogOdds(), Logistic(), _checks.positive("weight", weight))
    return Objective(odds, _likelihood(per_token=True))


def cpo(beta: ScalarLike = 0.1, weight: ScalarLike = 1.0) -> Objective:
    """Contrastive preference optimisation: DPO without a reference, plus likelihood of the chosen.

        −log σ(beta · [log π(y_w) − log π(y_l)]) − weight · log π(y_w)

    Source: Xu et al., "Contrastive preference optimization" (arXiv 2401.08417), whose likelihood term has
    weight 1 and is a sum over tokens; some trainers take its mean.

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

    One of the convex losses of Tang et al., "Generalized preference optimization" (arXiv 2402.05749). It
    overflows, and says so in training, where a difference passes 88 nats in float32 or 709 in float64.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Exponential())


def reference_free(beta: ScalarLike = 0.1) -> Objective:
    """DPO with the bare `log π` for its reward.

        −log σ(beta · [log π(y_w) − log π(y_l)])

    DPO's loss with its reference left out; CPO without its likelihood term; SimPO without margin and
    length normalisation.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return _pairwise(LogProb(_checks.positive("beta", beta), per_token=False), Logistic())


def robust(beta: ScalarLike = 0.01, label_smoothing: ScalarLike = 0.1) -> Objective:
    """Robust DPO: the loss whose mean over labels flipped at a known rate is DPO's on clean ones.

        [−(1 − ε) log σ(d) + ε log σ(−d)] / (1 − 2ε)

    Since `log σ(−d) = log σ(d) − d`, this is `−log σ(d) − ε/(1 − 2ε) · d`: it has no lower bound, and a
    finite minimiser only if no preference is surer than the noise allows. Source: Chowdhury, Kini, Natarajan,
    "Provably robust DPO" (arXiv 2403.00409).

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, the rate of flipped labels, from 0 (DPO) to below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5).
    """
    flips = _checks.within("label_smoothing", label_smoothing, 0, 0.5 - 1e-6)
    return _pairwise(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=-flips / (1 - 2 * flips)))


def exo(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 1e-3) -> Objective:
    """Efficient exact optimisation on pairs: the reverse KL between the policy's label and a smoothed one.

        σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]

    Bounded and not convex. Source: Ji et al., "Towards efficient exact optimization of language model
    alignment" (arXiv 2402.00856), the form for pairs; `label_smoothing` is as in preference trainers (the
    authors' code has `e^−10`).

    Args:
        beta: scale of the reward, positive.
        label_smoothing: `ε`, above 0 and below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in (0, 0.5).
    """
    smoothing = _checks.within("label_smoothing", label_smoothing, 1e-30, 0.5 - 1e-6)
    return _pairwise(LogRatio(_checks.positive("beta", beta)), ReverseCrossEntropy(smoothing))


def nca(beta: ScalarLike = 0.01) -> Objective:
    """Noise-contrastive alignment on pairs: absolute rewards rather than their difference.

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
    """Binary classifier optimisation: a classifier of chosen and rejected, with a reward shift.

        −log σ(h(y_w) − δ) − log σ(−(h(y_l) − δ)),    δ = (E_w h + E_l h)/2

    No gradient passes through `δ`, which the authors track with a moving average and some trainers leave out;
    here it is that of the policy at hand. Source: Jung et al., "Binary classifier optimization for large
    language model alignment" (arXiv 2404.04656), without the weights for prompts that differ between the
    classes.

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
    """Self-play preference optimisation with hard labels: each log-ratio has its own goal.

        (t(y_w) − 1/(2 beta))² + (t(y_l) + 1/(2 beta))²

    Source: Wu et al., "Self-play preference optimization" (arXiv 2405.00675), where `η = 1/beta` is 1000 and
    estimated win rates stand for the labels 1 and 0 of this form, which preference trainers call
    `sppo_hard`. One round of the paper's iteration.

    Args:
        beta: strength of the regularisation towards the reference, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    goal = Squared(1 / (2 * _checks.positive("beta", beta)))
    reward = LogRatio(jnp.asarray(1.0))
    return Objective(
        Single(reward, goal, sequence="chosen", push="up"),
        Single(reward, goal, sequence="rejected", push="down"),
    )


def apo_zero(beta: ScalarLike = 0.1) -> Objective:
    """Anchored preference optimisation, zero: chosen likelihoods up, rejected ones down.

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
    """Anchored preference optimisation, down: chosen likelihoods down, rejected ones down further.

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
) -> Objective:
    """Kahneman–Tversky optimisation, on pairs: the chosen is desirable, the rejected undesirable.

        λ_D · [1 − σ(h(y_w) − z0)] + λ_U · [1 − σ(z0 − h(y_l))],    z0 = beta · KL(π ‖ ref)

    No gradient passes through `z0`. In a population it is the policy's exact KL; on a batch of pairs it is
    estimated from the batch's own sequences and held at zero or more (the authors take responses to other
    prompts). Source: Ethayarajh et al., "KTO" (arXiv 2402.01306).

    Args:
        beta: scale of the reward, positive.
        desirable_weight: `λ_D`, positive.
        undesirable_weight: `λ_U`, positive.

    Raises:
        ValueError: an argument is not positive.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    desirable = _checks.positive("desirable_weight", desirable_weight)
    undesirable = _checks.positive("undesirable_weight", undesirable_weight)
    return Objective(
        Single(reward, Sigmoid(), desirable, sequence="chosen", push="up", baseline=PolicyMean()),
        Single(reward, Sigmoid(), undesirable, sequence="rejected", push="down", baseline=PolicyMean()),
    )


def dpop(beta: ScalarLike = 0.3, weight: ScalarLike = 50.0) -> Objective:
    """DPO-positive: DPO with a penalty where the chosen likelihood is below the reference's.

        −log σ(beta · [t(y_w) − t(y_l) − λ max(0, −t(y_w))])

    Source: Pal et al., "Smaug: fixing failure modes of preference optimisation with DPO-positive"
    (arXiv 2402.13228).

    Args:
        beta: inverse temperature, positive.
        weight: `λ`, of the penalty, zero (DPO) or more.

    Raises:
        ValueError: `beta <= 0` or `weight < 0`.
    """
    beta, weight = _checks.positive("beta", beta), _checks.non_negative("weight", weight)
    return Objective(Pair(LogRatio(beta), Logistic(), chosen_reward=Guarded(beta, weight)))


def rdpo(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.01) -> Objective:
    """Length-regularised DPO: the implicit reward grants longer sequences a bonus that the policy forgoes.

        −log σ(d + alpha · |y_w| − alpha · |y_l|)

    Where rewards `r` are penalised as `r − alpha · |y|`, the best policy has `r = h + alpha · |y|`. Source:
    Park et al., "Disentangling length from quality in direct preference optimization" (arXiv 2403.19159).

    Args:
        beta: inverse temperature, positive.
        alpha: nats for each token, zero (DPO) or more.

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
    """f-DPO with the forward KL divergence: DPO whose regularisation is `beta · KL(ref ‖ π)`.

        −log σ(−beta · ref/π(y_w) + beta · ref/π(y_l))

    Source: Wang et al., "Beyond reverse KL: generalizing direct preference optimization with diverse
    divergence constraints" (arXiv 2309.16240). It overflows, and says so in training, where a log-ratio is
    below −88 nats in float32 or −709 in float64.

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

    Source: Wang et al. (arXiv 2309.16240), who take `alpha` from (0, 1). It overflows where a log-ratio is
    below −88/alpha nats in float32 or −709/alpha in float64.

    Args:
        beta: strength of the regularisation, positive.
        alpha: the divergence's, above 0, at most 1.

    Raises:
        ValueError: `beta <= 0`, or `alpha` is not in (0, 1].
    """
    alpha = _checks.within("alpha", alpha, 1e-6, 1)
    return _pairwise(Alpha(_checks.positive("beta", beta), alpha), Logistic())


def sft(length_normalised: bool = False) -> Objective:
    """Supervised fine-tuning on the chosen: its negative log-likelihood.

        −log π(y_w)

    As an addition to another loss, weighted: `dpo(0.1) + 0.5 * sft()`.

    Args:
        length_normalised: whether it is divided by `|y_w|`.

    Raises:
        ValueError: `length_normalised` is no boolean.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    return Objective(_likelihood(per_token=length_normalised))


def dpo_pg(beta: ScalarLike = 0.1) -> Objective:
    """DPO with projected gradients (DPO-PG): DPO's steps, but the chosen likelihood must not fall.

    With `d` the descent direction of DPO's loss over the pairs of a step and `g` the gradient of their mean
    `log π(y_w)`, `d` becomes `d − g ⟨d, g⟩/⟨g, g⟩` if `⟨d, g⟩ < 0`. It is a rule for gradients and the loss
    is DPO's; optimisers get the rule, and so does the metric `gradient_norm`. On logits of its own for every
    sequence, a single pair never needs it: `⟨e_w − e_l, e_w − π⟩ = 1 − π_w + π_l > 0`. (Derived here.)

    The definition is ours, from the public description of the reinforcing variant of DPO in "Differential
    Information" (arXiv 2505.23761).

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
