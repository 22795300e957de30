"""Terms of the reward that a policy expects: the second stage, after a reward was fitted to pairs.

No pair is looked at. The reward `r` is the one that labels the pairs of the problem (`encoded_reward`).
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from didsim import _checks
from didsim.information import expectation
from didsim.objectives.rewards import Scalar
from didsim.objectives.terms import Population, Sequences, Term, check_parts
from didsim.preferences.problem import Problem


class ExpectedReward(Term):
    """`E_π kernel(r(y) − h(y))`, over the policy's own sequences. The kernel is `Linear`.

    With the log-ratio `h = beta · log(π/ref)` it is `−(E_π r − beta · KL(π ‖ ref))`. All of `π` is
    differentiated, so that the gradient is the exact policy gradient.
    """

    def __post_init__(self) -> None:
        check_parts(self)
        if not (self.kernel.linear and self.reward.is_log_ratio):
            raise ValueError("`kernel` must be Linear(), and `reward` a LogRatio, for an expected reward")

    @property
    def sees_policy(self) -> bool:
        return True

    @property
    def is_expected_reward(self) -> bool:
        return True

    def of_pairs(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        raise ValueError("`self` has no loss of a pair: it is the expected reward of a whole policy")

    def expected(self, space: Sequences, over: Population) -> Array:
        gain = reward_of(over.problem).astype(space.logps.dtype) - self.reward.of_space(*space)
        return expectation(space.logps, self.kernel(gain))


class ClippedReward(ExpectedReward):
    """The clipped surrogate of PPO, in exact expectation over the policy `q` that is held fixed.

        −E_q[r − h_q] − Σ_y min(π(y) A(y), clip(π(y), (1 − ε) q(y), (1 + ε) q(y)) A(y))

    `A = r − h_q − E_q[r − h_q]` is the advantage, and `h_q` the implicit reward of `q`. At `π = q` the value
    and the gradient are those of `ExpectedReward`.

    Attributes:
        clip: `ε`, by how much of itself a probability may move, positive.
    """

    clip: Scalar = eqx.field(kw_only=True, converter=partial(_checks.positive, "clip"))

    @property
    def has_baseline(self) -> bool:
        return True

    def expected(self, space: Sequences, over: Population) -> Array:
        held = over.held
        gain = reward_of(over.problem).astype(space.logps.dtype) - self.reward.of_space(*held)
        mean = expectation(held.logps, gain)
        advantage = gain - mean[..., None]
        p, q = jnp.exp(space.logps), jnp.exp(held.logps)
        near = jnp.clip(p, (1 - self.clip) * q, (1 + self.clip) * q)
        return -mean - jnp.sum(jnp.minimum(p * advantage, near * advantage), axis=-1)


def reward_of(problem: Problem) -> Array:
    """The reward that labels the pairs of a problem."""
    reward = problem.encoded_reward()
    if reward is None:
        raise ValueError(
            f"`problem` must have labels by a reward, as Labelled(reward, …); got {type(problem).__name__}"
        )
    return reward
