"""Labelled pairs whose sequences are drawn by samplers that depend on the policy in training.

At each training step the pairs come from the current policy. The step treats them as data: no gradient
passes through the samplers. Every sampler draws from a mixture of `Draw`s. The two sequences of a `Draw` are
independent, which makes sums over pairs fast.
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
from didsim.preferences.problem import Problem, Summand, check_same_size, values_over


class Draw(NamedTuple):
    """One component of a sampler's mixture: two independent sequences.

    Attributes:
        log_weight: log of the component's weight in the mixture, up to a constant that all components share.
        first: log-probabilities of the first sequence.
        second: log-probabilities of the second sequence.
    """

    log_weight: Float[Array, "*batch"]
    first: LogProbs
    second: LogProbs


class Sampler(eqx.Module):
    """A rule that gives the distribution of the two sequences of a pair for the current policy.

    A subclass defines `__call__`. Its result lists the components of a mixture.
    """

    @abstractmethod
    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """The components of the mixture that the two sequences are drawn from.

        Args:
            reward: the reward that labels the pairs, `[*batch, sequences]`.
            log_probs: log-probabilities of the current policy.
            implicit_reward: the objective's implicit reward of every sequence under this policy.
        """


class Uniform(Sampler):
    """Both sequences uniform over the space."""

    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        uniform = log_softmax(jnp.zeros_like(log_probs), axis=-1)
        return (Draw(jnp.zeros_like(log_probs[..., 0]), uniform, uniform),)


class OnPolicy(Sampler):
    """Both sequences from the tempered policy, `∝ π^exponent`.

    Args:
        exponent: 1 (the default) gives the policy itself. A value between 0 and 1 flattens it. An array has
            the batch axes of the problem.

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
    """Pairs drawn in proportion to `2 + e^d + e^−d`, with `d = h_i − h_j` the difference of rewards `h`.

    This weight is `1/σ'(d)`. Where the policy is sure of a pair, the logistic loss has almost no gradient,
    and the sampler draws the pair more often.

    The sampler is a mixture of two components. In the first, both sequences are uniform; its weight is `2N²`.
    In the second, the first sequence is drawn in proportion to `e^h` and the second to `e^−h`; its weight is
    `2 Σ e^h Σ e^−h`. It stands for the terms `e^d` and `e^−d` together, since these differ only in the order
    of the two sequences, and the order does not change the label.

    Args:
        of: which reward is `h`: "policy" for the implicit reward, "reward" for the reward of the labels.

    Raises:
        ValueError: `of` is neither "policy" nor "reward".
    """

    of: str = eqx.field(static=True)

    def __init__(self, of: str = "policy") -> None:
        _checks.one_of("of", of, ("policy", "reward"))
        self.of = of

    def __call__(self, reward: Array, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
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
    """Labelled pairs whose sequences are drawn by a sampler that depends on the current policy.

    The distribution of pairs is `sampler(reward, log π, h)`, with `π` the policy and `h` its implicit reward.
    The loss of a policy is its loss on these pairs. They are held fixed when the loss is differentiated.
    `at(log_probs, h)` gives the source of pairs for one policy. Samples, expectations and marginals must be
    asked of it; on an `Online` problem itself they raise `ValueError`.

    Sums over pairs are taken as in `Labelled.expect`: in two parts, in near-linear time, if the mean of
    `p (1 − p)` is 0.01 or more. Here this mean is over uniform pairs, not over those of the sampler. If the
    sampler's labels are much more certain than those of uniform pairs, the relative accuracy of the loss
    falls in proportion.

    Args:
        reward: finite, in nats, `[*batch, sequences]`; labels follow a Bradley–Terry model with this reward.
        sampler: the rule that draws the two sequences.

    Raises:
        ValueError: `reward` is not finite, `sampler` is not a `Sampler`, or a field of it that is not static
            holds no array or number.

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
        _checks.numeric_fields("sampler", sampler)
        self.separable = self.uniform().separable

    def uniform(self) -> Labelled:
        """The problem with the same reward, and both sequences uniform."""
        uniform = log_softmax(jnp.zeros_like(self.reward), axis=-1)
        return Labelled(self.reward, uniform, uniform, getattr(self, "separable", None))

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the reward and of the sampler's parameters."""
        shapes = {f"sampler[{k}]": jnp.shape(leaf) for k, leaf in enumerate(jax.tree.leaves(self.sampler))}
        return _checks.broadcast(reward=self.reward.shape[:-1], **shapes)

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Online":
        sampler = jax.tree.map(lambda leaf: spread(leaf, 0), self.sampler)
        return eqx.tree_at(lambda one: (one.reward, one.sampler), self, (spread(self.reward, 1), sampler))

    def check_size(self, size: int) -> None:
        check_same_size(self.reward.shape[-1], size)

    def encoded_reward(self) -> Float[Array, "*batch sequences"]:
        """The reward of the labels. It does not depend on the sampler."""
        return self.reward

    def offline(self) -> Labelled:
        """The problem with the same reward, and both sequences uniform."""
        return self.uniform()

    def at(self, log_probs: Array, implicit_reward: Array) -> Problem:
        """The problem whose pairs the sampler draws for a policy.

        Args:
            log_probs: log-probabilities of the policy.
            implicit_reward: the objective's implicit reward of every sequence under the policy.
        """
        log_probs = values_over(self, "log_probs", log_probs)
        implicit_reward = values_over(self, "implicit_reward", implicit_reward)
        draws = self.sampler(self.reward, log_probs, implicit_reward)
        problems = [Labelled(self.reward, one.first, one.second, self.separable) for one in draws]
        if len(problems) == 1:
            return problems[0]
        log_weights = jnp.stack(jnp.broadcast_arrays(*(one.log_weight for one in draws)), axis=-1)
        return Mixture(tuple(problems), log_softmax(log_weights, axis=-1))

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(r(i) − r(j))`. It does not depend on the sampler."""
        return self.uniform().preference(i, j)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        raise _needs_policy()

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        raise _needs_policy()

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        raise _needs_policy()

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        raise _needs_policy()

    def joint(self, size: int) -> Joint:
        raise _needs_policy()

    def chosen_marginal(self, size: int) -> LogProbs:
        raise _needs_policy()

    def rejected_marginal(self, size: int) -> LogProbs:
        raise _needs_policy()


def _needs_policy() -> ValueError:
    return ValueError(
        "`problem` must have fixed pairs here; got an Online one, which depends on the policy. "
        "problem.at(log_probs, implicit_reward) has the pairs of one policy"
    )
