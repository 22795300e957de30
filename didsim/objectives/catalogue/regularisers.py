"""DPO with another regulariser in place of the KL divergence: the implicit reward differs."""

from didsim import _checks
from didsim.objectives.divergences import Alpha, ForwardKL, JensenShannon
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import ScalarLike
from didsim.objectives.terms import Pair


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
    return Objective(Pair(ForwardKL(_checks.positive("beta", beta)), Logistic()))


def fdpo_js(beta: ScalarLike = 0.1) -> Objective:
    """f-DPO with the Jensen–Shannon divergence.

        −log σ(beta · [log(2u_w/(1 + u_w)) − log(2u_l/(1 + u_l))]),    u = π/ref

    Source: Wang et al. (arXiv 2309.16240).

    Args:
        beta: strength of the regularisation, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(JensenShannon(_checks.positive("beta", beta)), Logistic()))


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
    return Objective(Pair(Alpha(_checks.positive("beta", beta), alpha), Logistic()))
