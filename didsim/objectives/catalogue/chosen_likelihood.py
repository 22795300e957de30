"""Variants of DPO that keep the likelihood of chosen sequences from falling."""

from didsim import _checks
from didsim.objectives.catalogue.log_ratios import dpo
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import KeepsChosen, Objective
from didsim.objectives.rewards import Guarded, LogRatio, ScalarLike
from didsim.objectives.terms import Pair


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
