"""The second stage of two: objectives of the reward that a policy expects.

They are no losses of pairs, so that `OBJECTIVES` does not list them, and `pair_loss` refuses them. The reward
is the one that labels the pairs of the problem: for a fitted one, `Labelled(reward, reference, reference)`.
"""

from didsim import _checks
from didsim.objectives.expected_reward import ClippedReward, ExpectedReward
from didsim.objectives.kernels import Linear
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LogRatio, ScalarLike


def policy_gradient(beta: ScalarLike = 0.1) -> Objective:
    """The regularised reward, by its exact gradient.

        −(E_π[r] − beta · KL(π ‖ ref))

    `r` is the reward that labels the pairs of the problem. The gradient is the expectation that REINFORCE
    estimates, `−E_π[∇ log π(y) (r(y) − beta log(π(y)/ref(y)))]`. Among all distributions the minimiser is
    `kl_optimum(r, ref, beta)`. The loss is not convex in logits. Source: Williams, "Simple statistical
    gradient-following algorithms for connectionist reinforcement learning" (Machine Learning 8, 1992), and
    Ziegler et al. (arXiv 1909.08593) for the divergence.

    Args:
        beta: weight of the divergence, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(ExpectedReward(LogRatio(_checks.positive("beta", beta)), Linear()))


def ppo(beta: ScalarLike = 0.1, clip: ScalarLike = 0.2) -> Objective:
    """Proximal policy optimisation: the regularised reward, clipped near the policy before the step.

        −E_q[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)] + const,    ρ = π/q,    A = r − h_q − E_q[r − h_q]

    `q` is the policy before the step, held fixed, and `h_q = beta · log(q/ref)`. The expectation is exact, as
    is the advantage `A`. The constant makes the loss at `π = q` that of `policy_gradient`. There the
    gradients are equal, too, so that a single step knows no clipping. It takes several steps for the same
    `q`: the optimiser `didsim.inner_steps(optimizer, times)`. A probability that has changed by the share `ε`
    is then no longer pushed on. Training rests at `kl_optimum(r, ref, beta)`, where all advantages are
    zero. Source: Schulman et al., "Proximal policy optimization algorithms" (arXiv 1707.06347), without a
    learned value.

    Args:
        beta: weight of the divergence, positive.
        clip: `ε`, positive.

    Raises:
        ValueError: `beta <= 0` or `clip <= 0`.
    """
    reward = LogRatio(_checks.positive("beta", beta))
    return Objective(ClippedReward(reward, Linear(), clip=_checks.positive("clip", clip)))
