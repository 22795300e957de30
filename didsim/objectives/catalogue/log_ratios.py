"""DPO, and other losses of the same difference of rewards `d`: the loss function differs."""

import jax.numpy as jnp

from didsim import _checks
from didsim.objectives.kernels import (
    Exponential,
    Hinge,
    Logistic,
    LogRatioModulated,
    ReverseCrossEntropy,
    Squared,
)
from didsim.objectives.objective import Objective
from didsim.objectives.proximal import ProximalPair
from didsim.objectives.rewards import LogRatio, ScalarLike
from didsim.objectives.terms import Pair, PairOrTie
from didsim.objectives.ties import RaoKupper


def dpo(beta: ScalarLike = 0.1) -> Objective:
    """Direct preference optimisation.

        −log σ(beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Convex in the logits of an `EnergyBased` policy. Source: Rafailov et al., "Direct Preference Optimization"
    (arXiv 2305.18290).

    In TRL: `DPOConfig(loss_type="sigmoid", beta)`.

    From version 1 on TRL ignores `label_smoothing` in this loss. Before, the loss with `label_smoothing` was
    `cdpo`.

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), Logistic()))


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
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=smoothing)))


def robust(beta: ScalarLike = 0.01, label_smoothing: ScalarLike = 0.1) -> Objective:
    """Robust DPO: if labels are flipped at rate `ε`, its expectation is the DPO loss on clean labels.

        [−(1 − ε) log σ(d) + ε log σ(−d)] / (1 − 2ε)

    Since `log σ(−d) = log σ(d) − d`, this is `−log σ(d) − ε/(1 − 2ε) · d`. The loss has no lower bound. There
    is a finite minimiser only if every preference lies between `ε` and `1 − ε`. Source: Chowdhury, Kini,
    Natarajan, "Provably robust DPO" (arXiv 2403.00409).

    In TRL: `DPOConfig(loss_type="robust", beta, label_smoothing)`.

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, the rate of flipped labels, from 0 (DPO) to below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5).
    """
    flips = _checks.within("label_smoothing", label_smoothing, 0, 0.5 - 1e-6)
    return Objective(
        Pair(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=-flips / (1 - 2 * flips)))
    )


def ipo(tau: ScalarLike = 0.1, length_normalised: bool = False) -> Objective:
    """Identity preference optimisation.

        (log(π/ref)(y_w) − log(π/ref)(y_l) − 1/(2 tau))²

    Source: Azar et al., "A general theoretical paradigm to understand learning from human preferences"
    (arXiv 2310.12036). Log-probabilities are sums over tokens, as in the paper. TRL takes means over tokens,
    which `length_normalised=True` gives: `log(π/ref)(y)` is then divided by `|y|`.

    In TRL: `DPOConfig(loss_type="ipo", beta=tau)`, which is `length_normalised=True` here.

    Args:
        tau: strength of the regularisation towards the reference, positive.
        length_normalised: whether log-ratios are divided by lengths.

    Raises:
        ValueError: `tau <= 0`, or `length_normalised` is not a boolean.
    """
    centre = 1 / (2 * _checks.positive("tau", tau))
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    return Objective(Pair(LogRatio(jnp.asarray(1.0), per_token=length_normalised), Squared(centre)))


def inpo(tau: ScalarLike = 0.1, eta: ScalarLike = 0.3) -> Objective:
    """Iterative Nash policy optimisation: IPO, anchored between the reference and the policy before the step.

        (g(y_w) − g(y_l) − 1/(2 eta))²,    g = log π − (tau/eta) log ref − (1 − tau/eta) log q

    `q` is the policy before the step, and is held fixed (`didsim.inner_steps` holds it for several steps). It
    is meant for pairs that the policy itself draws, `Online(preferences, OnPolicy())`. There it rests at the
    regularised Nash policy, `didsim.nash(preferences, reference, tau)`. For at `π = q` it is
    `g = (tau/eta) log(π/ref)`, so that the gradient is that of `ipo(tau)` times `tau/eta`. (Derived here.)
    `OBJECTIVES` does not list it, since pairs alone do not tell `q`; `pair_loss` takes `q = π`. Source: Zhang
    et al., "Iterative Nash policy optimization" (arXiv 2407.00617).

    Args:
        tau: strength of the regularisation towards the reference, positive.
        eta: strength of the regularisation towards the policy before the step and the reference together, at
            least `tau`. At `eta = tau` this is `ipo(tau)`.

    Raises:
        ValueError: `tau <= 0`, or `eta < tau`.
    """
    tau, eta = _checks.positive("tau", tau), _checks.positive("eta", eta)
    if _checks.known((tau, eta)) and bool((tau > eta).any()):
        raise ValueError(f"`eta` must be at least `tau`; got tau = {tau} and eta = {eta}")
    return Objective(ProximalPair(LogRatio(jnp.asarray(1.0)), Squared(1 / (2 * eta)), share=tau / eta))


def slic(beta: ScalarLike = 0.1, delta: ScalarLike = 1.0) -> Objective:
    """The hinge loss of SLiC, on the log-ratio reward.

        max(0, delta − beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Source: Liu et al., "Statistical rejection sampling improves preference optimization" (arXiv 2309.06657).
    Preference trainers call this form hinge. The original loss of Zhao et al., "SLiC-HF" (arXiv 2305.10425),
    has `log π` in place of the log-ratio and adds a likelihood term.

    In TRL: `DPOConfig(loss_type="hinge", beta)`, with a `delta` of 1.

    Args:
        beta: scale of the reward, positive.
        delta: margin, positive. Only pairs whose difference of rewards is below it have a loss.

    Raises:
        ValueError: `beta <= 0` or `delta <= 0`.
    """
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), Hinge(_checks.positive("delta", delta))))


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
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), Exponential()))


def exo(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 1e-3) -> Objective:
    """Efficient exact optimisation on pairs: the KL divergence of the policy's label from a smoothed label.

        σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]

    The loss is bounded and not convex. Source: Ji et al., "Towards efficient exact optimization of language
    model alignment" (arXiv 2402.00856), in its form for pairs. The default of `label_smoothing` is that of
    preference trainers. The authors' code has `e^−10`.

    In TRL: `DPOConfig(loss_type="exo_pair", beta, label_smoothing)`.

    Args:
        beta: scale of the reward, positive.
        label_smoothing: `ε`, above 0 and below 0.5.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in (0, 0.5).
    """
    smoothing = _checks.within("label_smoothing", label_smoothing, 1e-30, 0.5 - 1e-6)
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), ReverseCrossEntropy(smoothing)))


def discopop(beta: ScalarLike = 0.05, temperature: ScalarLike = 0.05) -> Objective:
    """The log-ratio modulated loss that DiscoPOP found by search.

        −log σ(d) · (1 − σ(d/τ)) + e^−d · σ(d/τ)

    Source: Lu et al., "Discovering preference optimization algorithms with and for large language models"
    (arXiv 2406.08414). It is not convex.

    In TRL: `DPOConfig(loss_type="discopop", beta, discopop_tau)`.

    Args:
        beta: scale of the reward, positive.
        temperature: `τ`, positive.

    Raises:
        ValueError: `beta <= 0` or `temperature <= 0`.
    """
    kernel = LogRatioModulated(_checks.positive("temperature", temperature))
    return Objective(Pair(LogRatio(_checks.positive("beta", beta)), kernel))


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

    Examples:
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
