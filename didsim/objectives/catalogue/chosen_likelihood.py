"""Variants of DPO that keep the likelihood of chosen sequences from falling."""

from didsim import _checks
from didsim.objectives.catalogue.log_ratios import dpo
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import KeepsChosen, Objective
from didsim.objectives.rewards import Guarded, LogRatio, MixedWithReference, ScalarLike, Shrunk
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


def dpo_shift(beta: ScalarLike = 0.1, shift: ScalarLike = 0.75) -> Objective:
    """DPO-Shift: DPO with a smaller reward of the rejected sequence.

        −log σ(h(y_w) − shift · h(y_l))

    The smaller `shift`, the less the likelihood of chosen sequences falls. The loss is convex in the logits
    of an `EnergyBased` policy, as `Pair.is_convex_in_logits` shows. Source: Yang et al., "DPO-Shift"
    (arXiv 2502.07599), which calls the factor `f(λ)`. The paper also changes it along a run, linearly in the
    step. The default is ours; the paper tries several.

    Args:
        beta: inverse temperature, positive.
        shift: factor of the reward of the rejected sequence, from 0 (none) to 1 (DPO).

    Raises:
        ValueError: `beta <= 0`, or `shift` is not in [0, 1].
    """
    beta, shift = _checks.positive("beta", beta), _checks.within("shift", shift, 0, 1)
    return Objective(Pair(LogRatio(beta), Logistic(), rejected_reward=Shrunk(beta, shift)))


def bdpo(beta: ScalarLike = 0.1, mixture: ScalarLike = 0.5) -> Objective:
    """Bounded DPO: the rejected sequence is judged by a mixture of the policy and the reference.

        −log σ(h(y_w) − beta · log[λ · π(y_l)/ref(y_l) + 1 − λ])

    The reward of the rejected sequence is never below `beta · log(1 − λ)`. So the loss can't be lowered
    without end by making rejected sequences improbable. It is convex in the logits of an `EnergyBased`
    policy, as `Pair.is_convex_in_logits` shows. Source: Cho et al., "Rethinking DPO: the role of rejected
    responses in preference misalignment" (arXiv 2506.12725).

    Args:
        beta: inverse temperature, positive.
        mixture: `λ`, the weight of the policy in the mixture, above 0, at most 1 (DPO).

    Raises:
        ValueError: `beta <= 0`, or `mixture` is not in (0, 1].
    """
    beta, mixture = _checks.positive("beta", beta), _checks.within("mixture", mixture, 1e-6, 1)
    return Objective(Pair(LogRatio(beta), Logistic(), rejected_reward=MixedWithReference(beta, mixture)))
