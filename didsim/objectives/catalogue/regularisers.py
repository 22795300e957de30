"""DPO with another regulariser in place of the KL divergence: the implicit reward differs.

And a divergence from the reference as a term of its own, to be added to any objective.
"""

from typing import Literal

import jax.numpy as jnp

from didsim import _checks
from didsim.objectives.divergences import Alpha, ChiSquared, ForwardKL, JensenShannon
from didsim.objectives.kernels import Linear, Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.prior import Divergence
from didsim.objectives.rewards import LogRatio, ScalarLike, WeightedEntropy
from didsim.objectives.terms import Pair


def fdpo_forward_kl(beta: ScalarLike = 0.1) -> Objective:
    """f-DPO with the forward KL divergence: DPO regularised by `beta · KL(ref ‖ π)`.

        −log σ(−beta · ref/π(y_w) + beta · ref/π(y_l))

    Source: Wang et al., "Beyond reverse KL: generalizing direct preference optimization with diverse
    divergence constraints" (arXiv 2309.16240). The reward overflows if a log-ratio is below −88 nats in
    float32, or −709 in float64. Training then raises `DivergenceError`.

    In TRL: `DPOConfig(f_divergence_type="forward_kl", beta)`.

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(ForwardKL(_checks.positive("beta", beta)), Logistic()))


def fdpo_js(beta: ScalarLike = 0.1) -> Objective:
    """f-DPO with the Jensen–Shannon divergence.

        −log σ(beta · [log(2u_w/(1 + u_w)) − log(2u_l/(1 + u_l))]),    u = π/ref

    Source: Wang et al. (arXiv 2309.16240).

    In TRL: `DPOConfig(f_divergence_type="js_divergence", beta)`.

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(JensenShannon(_checks.positive("beta", beta)), Logistic()))


def fdpo_alpha(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.5) -> Objective:
    """f-DPO with an alpha-divergence, between DPO (`alpha → 0`) and the forward KL (1).

        −log σ(beta · [u_l^−alpha − u_w^−alpha] / alpha),    u = π/ref

    Source: Wang et al. (arXiv 2309.16240), who take `alpha` from (0, 1). TRL's `f_alpha_divergence_coef` is
    `1 − alpha` from its version 1 on. The reward overflows if a log-ratio
    is below −88/alpha nats in float32, or −709/alpha in float64. Training then raises `DivergenceError`.

    In TRL: `DPOConfig(f_divergence_type="alpha_divergence", f_alpha_divergence_coef)`.

    Args:
        beta: strength of the regularisation, positive.
        alpha: parameter of the divergence, above 0, at most 1.

    Raises:
        ValueError: `beta <= 0`, or `alpha` is not in (0, 1].
    """
    alpha = _checks.within("alpha", alpha, 1e-6, 1)
    return Objective(Pair(Alpha(_checks.positive("beta", beta), alpha), Logistic()))


def h_dpo(beta: ScalarLike = 0.1, alpha: ScalarLike = 0.9) -> Objective:
    """H-DPO: DPO with its own weight for the policy's entropy.

        −log σ(beta · [alpha · log(π(y_w)/π(y_l)) − log(ref(y_w)/ref(y_l))])

    The KL divergence of the policy from the reference is a cross-entropy minus the entropy of the policy.
    Here the entropy has the weight `alpha`. So the policy is sharper than DPO's if `alpha < 1`: DPO ends at
    some `π ∝ ref · e^(r/beta)`, and H-DPO at `π^(1/alpha)`, normalised. (Derived here.) Source: Omura et al.,
    "Entropy controllable direct preference optimization" (arXiv 2411.07595).

    Args:
        beta: inverse temperature, positive.
        alpha: weight of the entropy, positive; 1 gives DPO.

    Raises:
        ValueError: `beta <= 0` or `alpha <= 0`.
    """
    reward = WeightedEntropy(_checks.positive("beta", beta), _checks.positive("alpha", alpha))
    return Objective(Pair(reward, Logistic()))


def chi_po(beta: ScalarLike = 0.1) -> Objective:
    """χ²-preference optimisation (χPO): DPO regularised by the χ² and the KL divergence together.

        −log σ(beta · φ(u_w) − beta · φ(u_l)),    φ(z) = z + log z,    u = π/ref

    Source: Huang et al., "Correcting the mythos of KL-regularization: direct alignment without
    overoptimization via chi-squared preference optimization" (arXiv 2407.13399). Their analysis also clips
    the difference of rewards at `±2 R_max`, for a known bound `R_max` on rewards. Here it is not clipped. The
    reward overflows if a log-ratio is above 88 nats in float32, or 709 in float64. Training then raises
    `DivergenceError`.

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(ChiSquared(_checks.positive("beta", beta)), Logistic()))


def kl_to_reference(
    weight: ScalarLike = 1.0, direction: Literal["forward", "reverse"] = "forward"
) -> Objective:
    """The divergence of the whole policy from the reference, to be added to a loss of pairs.

        forward: weight · KL(ref ‖ π)        reverse: weight · KL(π ‖ ref)

    It is a prior for finite data: `dpo(beta) + kl_to_reference(weight)` has one minimiser on any pairs, also
    where DPO alone has none as no pair says that a sequence ever loses. For the forward divergence is convex
    in the logits, and grows without bound as any probability goes to zero.

    The reverse divergence does not do this. It stays below `−log min ref`, so that it cannot hold a policy
    against a loss that falls for ever. If a sequence `l` always loses, with the log-ratio `−t`, DPO's loss
    falls like `e^(−beta · t)`, and the divergence rises like `t · e^(−t)` at most. For `beta < 1` the sum of
    both falls as `t` grows, whatever the weight; there may be a local minimum besides. (Derived here.)

    Args:
        weight: the factor of the divergence, positive.
        direction: "forward" or "reverse".

    Raises:
        ValueError: `weight <= 0`, or `direction` is neither.

    Examples:
        >>> import didsim
        >>> data, uniform = didsim.Pairs([0], [1]), jnp.log(jnp.full(3, 1 / 3))
        >>> limit = didsim.fixed_point(didsim.dpo(1.0) + kl_to_reference(1.0), uniform, data)
        >>> jnp.exp(limit).tolist()  # sequence 2, of which no pair tells, keeps its probability
        [0.5333, 0.1333, 0.3333]
    """
    _checks.one_of("direction", direction, ("forward", "reverse"))
    term = Divergence(
        LogRatio(jnp.asarray(1.0)), Linear(), _checks.positive("weight", weight), direction=direction
    )
    return Objective(term)
