"""Labelled pairs from samplers that depend on the policy that is trained.

At each step the pairs are those of the policy as it stands, and are data: an objective's gradient does not
pass through the samplers. Every sampler here is a mixture of independent draws, so that its sums over pairs
separate.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp
from jaxtyping import Array, ArrayLike, Float, Key, Real

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._registry import Registry
from didsim.information import LogProbs
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.mixture import Mixture
from didsim.preferences.problem import Problem, Summand


class Draw(NamedTuple):
    """Two independent samplers, and the logarithm of how often pairs come from them, up to a constant."""

    log_weight: Float[Array, "*batch"]
    first: LogProbs
    second: LogProbs


class Sampler(eqx.Module):
    """Where two sequences come from, given the policy that is trained."""

    @abstractmethod
    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """The mixture of independent draws that pairs come from."""


class Uniform(Sampler):
    """Both sequences uniform over the space."""

    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """One draw, from uniform samplers."""
        uniform = log_softmax(jnp.zeros_like(log_probs), axis=-1)
        return (Draw(jnp.zeros_like(log_probs[..., 0]), uniform, uniform),)


class OnPolicy(Sampler):
    """Both sequences from the policy, tempered: `∝ π^exponent`.

    Args:
        exponent: 1, the default, is the policy itself; between 0 and 1 flattens it. Batch axes are those of
            the problem.

    Raises:
        ValueError: `exponent` is negative or not finite.
    """

    exponent: Float[Array, "*batch"]

    def __init__(self, exponent: Real[ArrayLike, "*batch"] = 1.0) -> None:
        self.exponent = _checks.non_negative("exponent", exponent)

    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """One draw, from the tempered policy for both samplers."""
        tempered = _log_space.tilted(jnp.zeros_like(log_probs), log_probs, self.exponent)
        return (Draw(jnp.zeros_like(tempered[..., 0]), tempered, tempered),)


class RewardDifference(Sampler):
    """Pairs in proportion to `2 + e^d + e^−d`, with `d` the difference of their implicit rewards.

    That is the reciprocal of `σ'(d)`: a pair on which the policy is sure, where the logistic loss
    hardly has a gradient, is drawn the more often. It is the mixture of a uniform pair and of one from
    `∝ e^h` and `∝ e^−h`, with weights `2N²` and `2 Σ e^h Σ e^−h`, since a label does not depend on which of
    two sequences came first.

    Args:
        of: "policy" for differences of the implicit reward, "reward" for those of the labels' own.

    Raises:
        ValueError: `of` is neither.
    """

    of: str = eqx.field(static=True)

    def __init__(self, of: str = "policy") -> None:
        if of not in ("policy", "reward"):
            raise ValueError(f"`of` must be 'policy' or 'reward'; got {of!r}")
        self.of = of

    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """Two draws."""
        h = implicit_reward if self.of == "policy" else reward
        (uniform,) = Uniform()(reward, h, h)
        pairs = 2 * math.log(h.shape[-1])
        return (
            uniform._replace(log_weight=uniform.log_weight + pairs),
            Draw(
                logsumexp(h, axis=-1) + logsumexp(-h, axis=-1),
                log_softmax(h, axis=-1),
                log_softmax(-h, axis=-1),
            ),
        )


SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler", {"uniform": Uniform, "on_policy": OnPolicy, "reward_difference": RewardDifference}
)


class Online(Problem):
    """Labelled pairs whose samplers depend on the current policy.

    The loss of a policy is that of the pairs it gives rise to, `sampler(reward, π, h)`, which are held fixed
    when it is differentiated. What a pair or an expectation is can be asked of `at(log_probs, h)`. Sums
    over pairs are taken as those of `Labelled`, in near-linear time if the mean of `p (1 − p)` over uniform
    pairs is 0.01 or more; a sampler that draws pairs whose labels are nearly sure then loses accuracy,
    relative to the loss, by as much as they are surer.

    Args:
        reward: finite, in nats; labels are drawn from Bradley–Terry with it.
        sampler: where the two sequences come from.

    Raises:
        ValueError: `reward` is not finite, or `sampler` no `Sampler`.

    >>> p = jnp.log(jnp.array([0.9, 0.1]))
    >>> problem = Online(reward=jnp.log(jnp.array([3.0, 1.0])), sampler=OnPolicy())
    >>> jnp.exp(problem.at(p, p).chosen_marginal(2)).round(4).tolist()  # 0.81 + 0.18 · 3/4
    [0.945, 0.055]
    """

    online: ClassVar[bool] = True

    reward: Float[Array, "*batch sequences"]
    sampler: Sampler
    separable: bool = eqx.field(static=True)

    def __init__(self, reward: Float[ArrayLike, "*batch sequences"], sampler: Sampler) -> None:
        self.reward = _checks.finite("reward", reward)
        self.sampler = sampler
        _checks.instance("sampler", sampler, Sampler, "a Sampler, as OnPolicy()")
        self.separable = self.uniform().separable

    def uniform(self) -> Labelled:
        """Pairs with the same labels from uniform samplers."""
        uniform = log_softmax(jnp.zeros_like(self.reward), axis=-1)
        return Labelled(self.reward, uniform, uniform, getattr(self, "separable", None))

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the reward and of the sampler's parameters."""
        shapes = {f"sampler[{k}]": jnp.shape(leaf) for k, leaf in enumerate(jax.tree.leaves(self.sampler))}
        return _checks.broadcast(reward=self.reward.shape[:-1], **shapes)

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Online":
        """The problem with `spread(array, event axes)` for each of its arrays."""
        sampler = jax.tree.map(lambda leaf: spread(leaf, 0), self.sampler)
        return eqx.tree_at(lambda one: (one.reward, one.sampler), self, (spread(self.reward, 1), sampler))

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the reward is one of `size` sequences."""
        if self.reward.shape[-1] != size:
            raise ValueError(
                f"`problem` is over {self.reward.shape[-1]} sequences; it was asked about {size}"
            )

    def encoded_reward(self) -> Float[Array, "*batch sequences"]:
        """The reward of the labels, whatever the sampler."""
        return self.reward

    def offline(self) -> Labelled:
        """Pairs with the same labels from uniform samplers."""
        return self.uniform()

    def at(self, log_probs: Array, implicit_reward: Array) -> Problem:
        """The pairs of a policy with these log-probabilities and this implicit reward."""
        draws = self.sampler(self.reward, log_probs, implicit_reward)
        problems = [Labelled(self.reward, one.first, one.second, self.separable) for one in draws]
        if len(problems) == 1:
            return problems[0]
        log_weights = jnp.stack(jnp.broadcast_arrays(*(one.log_weight for one in draws)), axis=-1)
        return Mixture(tuple(problems), log_softmax(log_weights, axis=-1))

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(r(i) − r(j))`, whatever the sampler."""
        return self.uniform().preference(i, j)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        """Raises `ValueError`."""
        raise _needs_policy()

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """Raises `ValueError`."""
        raise _needs_policy()

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """Raises `ValueError`."""
        raise _needs_policy()

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """Raises `ValueError`."""
        raise _needs_policy()

    def joint(self, size: int) -> Joint:
        """Raises `ValueError`."""
        raise _needs_policy()

    def chosen_marginal(self, size: int) -> LogProbs:
        """Raises `ValueError`."""
        raise _needs_policy()

    def rejected_marginal(self, size: int) -> LogProbs:
        """Raises `ValueError`."""
        raise _needs_policy()


def _needs_policy() -> ValueError:
    return ValueError("`problem` depends on the policy: ask problem.at(log_probs, implicit_reward)")
