"""Variants of DPO that depend on how many tokens a sequence has."""

from didsim import _checks
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LengthRegularised, LogRatio, ScalarLike
from didsim.objectives.terms import Pair


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

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(LogRatio(_checks.positive("beta", beta), per_token=True), Logistic()))
