"""Alignment via optimal transport: chosen and rejected sequences are compared rank by rank."""

from didsim import _checks
from didsim.objectives.kernels import Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LogRatio, ScalarLike
from didsim.objectives.transport import SortedMargins, SortedRewards


def aot(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 0.0) -> Objective:
    """Alignment via optimal transport (AOT) on pairs: sorted margins of the policy and of the reference.

        E_u φ(Q(u) − Q_ref(u)),    φ(d) = −(1 − ε) log σ(d) − ε log σ(−d)

    `Q` is the quantile function of `beta · [log π(y_w) − log π(y_l)]` over pairs, and `Q_ref` that of the
    same margin under the reference. In a batch, the margins of both are sorted, and the `k`-th smallest ones
    are compared. Entry `k` of `pair_loss` is their loss, and so belongs to a rank, not to the `k`-th pair.
    Its mean is the population loss of `Pairs` that list the batch.

    The loss is the least over all ways to match the margins of the policy with those of the reference. It is
    not convex, and `didsim.solve` tries several starts. `didsim.objectives.transport` says more. Source:
    Melnyk et al., "Distributional preference alignment of LLMs via optimal transport" (arXiv 2406.05882).
    In TRL: `DPOConfig(loss_type="aot", beta)`.

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, from 0 to 0.5, an addition of preference trainers.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5].
    """
    return Objective(SortedMargins(LogRatio(_checks.positive("beta", beta)), _smoothed(label_smoothing)))


def aot_unpaired(beta: ScalarLike = 0.1, label_smoothing: ScalarLike = 0.0) -> Objective:
    """AOT on unpaired sequences: sorted rewards of chosen and of rejected sequences.

        E_u φ(Q_w(u) − Q_l(u)),    φ(d) = −(1 − ε) log σ(d) − ε log σ(−d)

    `Q_w` is the quantile function of `h(y_w)`, and `Q_l` that of `h(y_l)`. Only the distributions of chosen
    and of rejected sequences matter, not how they are paired. In a batch, both sides are sorted, and the
    `k`-th smallest rewards are compared. Entry `k` of `pair_loss` is their loss.

    The loss is not convex. Without smoothing it has no stationary point, and the policy runs off, unless
    chosen and rejected sequences have the same distribution. To see this, let `S` be the sequences whose
    reward is above some number. Sorting matches chosen sequences of `S` with rejected ones outside, or the
    reverse, but not both. All these matches pull `S` the same way, and no other match depends on where `S`
    is. So a stationary point has none of them: `P(y_w ∈ S) = P(y_l ∈ S)` for every such `S`. The same holds
    within a set of equal rewards. (Derived here.)

    Source: Melnyk et al. (arXiv 2406.05882). TRL once called it `aot_pair`.

    In TRL: `DPOConfig(loss_type="aot_unpaired", beta)`.

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, from 0 to 0.5, an addition of preference trainers.

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5].
    """
    return Objective(SortedRewards(LogRatio(_checks.positive("beta", beta)), _smoothed(label_smoothing)))


def _smoothed(label_smoothing: ScalarLike) -> Logistic:
    return Logistic(smoothing=_checks.within("label_smoothing", label_smoothing, 0, 0.5))
