"""Labelled pairs whose sequences are drawn by samplers that depend on the policy in training.

At each training step the pairs come from the current policy. The step treats them as data: no gradient
passes through the samplers. Most samplers draw from a mixture of `Draw`s. The two sequences of a `Draw` are
independent, which makes sums over pairs fast.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, log_softmax, logsumexp
from jaxtyping import Array, ArrayLike, Float, Key, Real

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._differences import difference
from didsim._registry import Registry
from didsim.information import LogProbs
from didsim.preferences.by_table import LabelledByTable
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.mixture import Mixture
from didsim.preferences.problem import Problem, Summand, check_same_size, values_over
from didsim.preferences.table import PreferenceTable, reward_of_labels


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


class DrawTable(NamedTuple):
    """Two sequences of any joint distribution. O(N²) memory.

    Attributes:
        log_weights: log-weight of each pair of sequences, up to a constant.
    """

    log_weights: Float[Array, "*batch sequences sequences"]


class Sampler(eqx.Module):
    """A rule that gives the distribution of the two sequences of a pair for the current policy.

    A subclass defines `__call__`. Its result lists the components of a mixture, or is a table of all pairs.
    """

    @property
    def needs_reward(self) -> bool:
        """Whether the sampler uses the reward of the labels, so that a table cannot label its pairs."""
        return False

    @abstractmethod
    def __call__(self, reward: Any, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...] | DrawTable:
        """The components of the mixture that the two sequences are drawn from, or a table of all pairs.

        Args:
            reward: the reward that labels the pairs, `[*batch, sequences]`; None if a table labels them.
            log_probs: log-probabilities of the current policy.
            implicit_reward: the objective's implicit reward of every sequence under this policy.
        """


class Uniform(Sampler):
    """Both sequences uniform over the space."""

    def __call__(self, reward: Any, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
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

    def __call__(self, reward: Any, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        """One draw, from the tempered policy for both samplers."""
        tempered = _log_space.tilted(jnp.zeros_like(log_probs), log_probs, self.exponent)
        return (Draw(jnp.zeros_like(tempered[..., 0]), tempered, tempered),)


class PolicyAndUniform(Sampler):
    """The first sequence from the tempered policy, `∝ π^exponent`, and the second uniform over the space.

    The label does not depend on the order of the two.

    Args:
        exponent: 1 (the default) gives the policy itself. A value between 0 and 1 flattens it. An array has
            the batch axes of the problem.

    Raises:
        ValueError: `exponent` is negative or not finite.
    """

    exponent: Float[Array, "*batch"]

    def __init__(self, exponent: Real[ArrayLike, "*batch"] = 1.0) -> None:
        self.exponent = _checks.non_negative("exponent", exponent)

    def __call__(self, reward: Array | None, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
        ((_, tempered, _),) = OnPolicy(self.exponent)(reward, log_probs, implicit_reward)
        ((log_weight, _, uniform),) = Uniform()(reward, log_probs, implicit_reward)
        return (Draw(log_weight, tempered, uniform),)


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

    @property
    def needs_reward(self) -> bool:
        return self.of == "reward"

    def __call__(self, reward: Any, log_probs: Array, implicit_reward: Array) -> tuple[Draw, ...]:
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


class CappedRewardDifference(Sampler):
    """`RewardDifference` of the implicit reward, with no pair drawn too often.

    A pair is drawn in proportion to the smaller of `2 + e^d + e^−d` and `2 + e^cap + e^−cap`, with `d` the
    difference of implicit rewards. This is the sampler DPO-Mix-P* of Shi et al., "The crucial role of
    samplers in online direct preference optimization" (arXiv 2409.19605). Their cap is the largest difference
    of the labels' rewards. With a cap the sampler is no mixture of a few pairs of independent sequences. So
    it costs O(N²) memory.

    Args:
        cap: in nats, zero or more. The default is `max r − min r`, for the reward `r` of the labels. An array
            has the batch axes of the problem.

    Raises:
        ValueError: `cap` is negative or not finite.
    """

    cap: Float[Array, "*batch"] | None

    def __init__(self, cap: Real[ArrayLike, "*batch"] | None = None) -> None:
        self.cap = None if cap is None else _checks.non_negative("cap", cap)

    @property
    def needs_reward(self) -> bool:
        return self.cap is None

    def __call__(self, reward: Any, log_probs: Array, implicit_reward: Array) -> DrawTable:
        h = implicit_reward
        cap = jnp.ptp(reward, axis=-1) if self.cap is None else self.cap
        d = jnp.minimum(jnp.abs(difference(h[..., :, None], h[..., None, :])), cap[..., None, None])
        # 2 + e^d + e^−d = (e^(d/2) + e^(−d/2))²
        return DrawTable(2 * jnp.logaddexp(d / 2, -d / 2))


SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    {
        "uniform": Uniform,
        "on_policy": OnPolicy,
        "policy_and_uniform": PolicyAndUniform,
        "reward_difference": RewardDifference,
        "capped_reward_difference": CappedRewardDifference,
    },
)
"""Samplers by name."""


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
            Or a `PreferenceTable`; pairs are then those of `LabelledByTable`, and their sums take O(N²) time.
        sampler: the rule that draws the two sequences.

    Raises:
        ValueError: `reward` is not finite, or is a bare table of preferences, `sampler` is not a `Sampler`,
            it uses the reward of labels that have none, or a field of it that is not static holds no array
            or number.

    Examples:
        >>> p = jnp.log(jnp.array([0.9, 0.1]))
        >>> problem = Online(reward=jnp.log(jnp.array([3.0, 1.0])), sampler=OnPolicy())
        >>> jnp.exp(problem.at(p, p).chosen_marginal(2)).round(4).tolist()  # 0.81 + 0.18 · 3/4
        [0.945, 0.055]
    """

    online: ClassVar[bool] = True

    reward: Float[Array, "*batch sequences"] | PreferenceTable
    sampler: Sampler
    separable: bool = eqx.field(static=True)

    def __init__(
        self, reward: Float[ArrayLike, "*batch sequences"] | PreferenceTable, sampler: Sampler
    ) -> None:
        self.reward = reward if isinstance(reward, PreferenceTable) else reward_of_labels(reward)
        self.sampler = sampler
        _checks.instance("sampler", sampler, Sampler, "a Sampler, as OnPolicy()")
        _checks.numeric_fields("sampler", sampler)
        if sampler.needs_reward and self._reward is None:
            raise ValueError(f"`sampler` must not use the reward of labels from a table; got {sampler!r}")
        uniform = self.uniform()
        self.separable = isinstance(uniform, Labelled) and uniform.separable

    @property
    def _reward(self) -> Array | None:
        return None if isinstance(self.reward, PreferenceTable) else self.reward

    def uniform(self) -> Problem:
        """The problem with the same labels, and both sequences uniform."""
        like = self.reward.log_wins[..., 0] if isinstance(self.reward, PreferenceTable) else self.reward
        uniform = log_softmax(jnp.zeros_like(like), axis=-1)
        return self._labelled(uniform, uniform)

    def _labelled(self, first: Array, second: Array) -> Problem:
        """Pairs of two draws, with the labels of this problem."""
        if isinstance(self.reward, PreferenceTable):
            return LabelledByTable(self.reward, first, second)
        return Labelled(self.reward, first, second, getattr(self, "separable", None))

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the labels and of the sampler's parameters."""
        shapes = {f"sampler[{k}]": jnp.shape(leaf) for k, leaf in enumerate(jax.tree.leaves(self.sampler))}
        return _checks.broadcast(reward=self.uniform().batch_shape, **shapes)

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Online":
        sampler = jax.tree.map(lambda leaf: spread(leaf, 0), self.sampler)
        event_ndim = 1 if self._reward is not None else 2
        labels = jax.tree.map(lambda leaf: spread(leaf, event_ndim), self.reward)
        return eqx.tree_at(lambda one: (one.reward, one.sampler), self, (labels, sampler))

    def check_size(self, size: int) -> None:
        reward = self.reward
        check_same_size(reward.size if isinstance(reward, PreferenceTable) else reward.shape[-1], size)

    @property
    def labels(self) -> Any:
        """The reward, or the table."""
        return self.reward

    def encoded_reward(self) -> Float[Array, "*batch sequences"] | None:
        """The reward of the labels, which does not depend on the sampler; None if a table labels them."""
        return self._reward

    def offline(self) -> Problem:
        """The problem with the same reward, and both sequences uniform.

        Under labels from a table even the minimiser of DPO depends on the sampler. Then no such problem
        stands for this one, and the result is the problem itself.
        """
        return self if self._reward is None else self.uniform()

    def at(self, log_probs: Array, implicit_reward: Array) -> Problem:
        """The problem whose pairs the sampler draws for a policy.

        Args:
            log_probs: log-probabilities of the policy.
            implicit_reward: the objective's implicit reward of every sequence under the policy.
        """
        log_probs = values_over(self, "log_probs", log_probs)
        implicit_reward = values_over(self, "implicit_reward", implicit_reward)
        draws = self.sampler(self._reward, log_probs, implicit_reward)
        if isinstance(draws, DrawTable):
            return self._labelled_table(draws)
        problems = [self._labelled(one.first, one.second) for one in draws]
        if len(problems) == 1:
            return problems[0]
        log_weights = jnp.stack(jnp.broadcast_arrays(*(one.log_weight for one in draws)), axis=-1)
        return Mixture(tuple(problems), log_softmax(log_weights, axis=-1))

    def _labelled_table(self, draws: DrawTable) -> Joint:
        """The table of the chosen and the rejected sequence."""
        table = draws.log_weights
        flat = table.reshape(*table.shape[:-2], -1)
        drawn = log_softmax(flat, axis=-1).reshape(table.shape)
        either_order = jnp.logaddexp(drawn, jnp.swapaxes(drawn, -1, -2))
        if isinstance(self.reward, PreferenceTable):
            ties = self.reward.log_ties
            tied = None if ties is None else either_order + ties - jnp.log(2.0).astype(ties.dtype)
            return Joint(either_order + self.reward.log_preferences(), tied)
        margins = self.reward[..., :, None] - self.reward[..., None, :]
        return Joint(either_order + log_sigmoid(margins))

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """`σ(r(i) − r(j))`, or as the table has it. It does not depend on the sampler."""
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
