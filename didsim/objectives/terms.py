"""The terms that an objective is a sum of: losses of a pair, and losses of one of its two sequences.

    Pair      kernel(h(y_w) − h(y_l))
    Single    kernel(h(y) − b) or kernel(b − h(y)), for y the chosen or the rejected sequence

`h` is an implicit reward (`didsim.objectives.rewards`). `kernel` is a loss of a difference of rewards
(`didsim.objectives.kernels`). `b` is a baseline. It can depend on the policy, but it is held fixed when the
loss is differentiated.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim import _checks
from didsim.information import expectation
from didsim.objectives.kernels import Kernel
from didsim.objectives.rewards import Reward, Scalar
from didsim.preferences.problem import Marginals, Problem


class Sequences(NamedTuple):
    """The arguments of an implicit reward, for some sequences or for a whole space.

    Attributes:
        logps: log-probabilities under the policy.
        ref_logps: log-probabilities under the reference, or None.
        lengths: numbers of tokens, or None.
    """

    logps: Array
    ref_logps: Array | None
    lengths: Array | None


@dataclass(frozen=True)
class Population:
    """The population of pairs that an expected loss is taken over.

    Attributes:
        problem: the source of pairs.
        held: all sequences, with the policy that baselines are computed from. No gradient passes through it.
        given_marginals: the distributions of the chosen and of the rejected sequence, if already computed.
    """

    problem: Problem
    held: Sequences
    given_marginals: Marginals | None = None

    @cached_property
    def marginals(self) -> Marginals:
        """The distributions of the chosen and of the rejected sequence. Computed once, by the problem."""
        if self.given_marginals is not None:
            return self.given_marginals
        size = self.held.logps.shape[-1]
        return self.problem.chosen_marginal(size), self.problem.rejected_marginal(size)


class Term(eqx.Module):
    """One part of an objective.

    Attributes:
        reward: the implicit reward `h`.
        kernel: the loss of a difference of rewards.
        weight: the factor of the term in the objective; None stands for 1.
    """

    reward: Reward
    kernel: Kernel
    weight: Scalar | None = eqx.field(default=None, converter=partial(_checks.optional_number, "weight"))

    @property
    def needs_reference(self) -> bool:
        """Whether the term depends on the reference."""
        return self.reward.needs_reference

    @property
    def needs_lengths(self) -> bool:
        """Whether the term depends on numbers of tokens."""
        return self.reward.needs_lengths

    @property
    def has_baseline(self) -> bool:
        """Whether the term compares a reward with a baseline, which depends on the policy."""
        return False

    @property
    def is_of_differences(self) -> bool:
        """Whether the term is a loss of differences of one implicit reward, and the reward has an inverse.

        The minimiser of the term is then the policy whose reward minimises the expected kernel.
        """
        return False

    @property
    def is_likelihood(self) -> bool:
        """Whether the term is, up to a factor and a constant, minus the log-likelihood of the chosen."""
        return False

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the term is proven to be convex in the logits of a policy."""
        return False

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether the term is proven to be convex in a free vector of log-probabilities."""
        return False

    @abstractmethod
    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The loss of each pair, without the weight of the term."""

    @abstractmethod
    def expected(self, space: Sequences, over: Population) -> Array:
        """The expected loss over the pairs of a population, without the weight of the term."""

    def weighted(self, loss: Array) -> Array:
        return loss if self.weight is None else self.weight * loss


def _check_parts(term: Term) -> None:
    _checks.instance("reward", term.reward, Reward, "a Reward, as LogRatio(beta)")
    _checks.instance("kernel", term.kernel, Kernel, "a Kernel, as Logistic()")


class Pair(Term):
    """`weight · kernel(h(y_w) − h(y_l))`.

    Attributes:
        chosen_reward: the reward of the chosen sequence, if it differs from that of the rejected one.
    """

    chosen_reward: Reward | None = None

    def __post_init__(self) -> None:
        _check_parts(self)
        if self.chosen_reward is not None:
            _checks.instance("chosen_reward", self.chosen_reward, Reward, "a Reward, or None")

    @property
    def is_of_differences(self) -> bool:
        return self.chosen_reward is None and self.reward.has_inverse

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the reward has one slope, and the loss is convex in the difference of rewards.

        With one slope the normaliser cancels, so the difference is linear in the logits. The penalty of a
        `Guarded` reward keeps the loss convex, since minus a log-probability is convex in the logits.
        """
        return self.reward.has_one_slope and self._is_convex_in_reward

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether the kernel is convex and the difference of rewards is affine in the log-probabilities.

        The difference can also be an affine function minus a convex one. The kernel must then never increase.
        """
        return self.reward.affine and self._is_convex_in_reward

    @property
    def _is_convex_in_reward(self) -> bool:
        penalised = self.chosen_reward is not None
        keeps = not penalised or (self.chosen_reward.penalises_falls and self.kernel.falling)  # type: ignore[union-attr]
        return self.kernel.convex and keeps

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        of_chosen = self.reward if self.chosen_reward is None else self.chosen_reward
        return self.kernel(of_chosen(*chosen) - self.reward(*rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        h = self.reward.of_space(*space)
        if self.chosen_reward is None:
            return self.kernel.expect(over.problem, h)
        return self.kernel.expect_across(over.problem, self.chosen_reward.of_space(*space), h)


class Baseline(eqx.Module):
    """A baseline: the number that is subtracted from the reward of one sequence."""

    @abstractmethod
    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The baseline, estimated from the rewards of a batch of pairs."""

    @abstractmethod
    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        """The exact baseline of a policy with log-probabilities `log_probs` and rewards `h`."""


class PolicyMean(Baseline):
    """`max(0, E_π h)`. With the log-ratio reward this is `beta · KL(π ‖ reference)`, the `z0` of KTO.

    A batch of pairs has no samples from the policy, so the mean is taken over the sequences of the batch
    itself. The authors of KTO take responses to other prompts. There are none here, since all sequences
    answer one prompt.
    """

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The mean reward over both sequences of all pairs, or zero if that is larger."""
        return jnp.maximum(0, _mean_of_both(chosen, rejected))

    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        return jnp.maximum(0, expectation(log_probs, h))


class PairMean(Baseline):
    """`(E_w h + E_l h) / 2`, the mean over chosen and rejected sequences: the reward shift of BCO."""

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        return _mean_of_both(chosen, rejected)

    def of_policy(self, h: Array, log_probs: Array, marginals: Marginals) -> Array:
        chosen, rejected = marginals
        return (expectation(chosen.astype(h.dtype), h) + expectation(rejected.astype(h.dtype), h)) / 2


def _mean_of_both(chosen: Array, rejected: Array) -> Array:
    return (jnp.mean(chosen) + jnp.mean(rejected)) / 2


class Single(Term):
    """`weight · kernel(h(y) − baseline)` or `weight · kernel(baseline − h(y))`, for one sequence of a pair.

    Attributes:
        sequence: which sequence is `y`: "chosen" or "rejected".
        push: "up" for `kernel(h(y) − baseline)`, "down" for `kernel(baseline − h(y))`.
        baseline: the baseline; None stands for 0.
    """

    sequence: Literal["chosen", "rejected"] = eqx.field(static=True, kw_only=True)
    push: Literal["up", "down"] = eqx.field(static=True, kw_only=True)
    baseline: Baseline | None = eqx.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_parts(self)
        if self.baseline is not None:
            _checks.instance("baseline", self.baseline, Baseline, "a Baseline, or None")
        _checks.one_of("sequence", self.sequence, ("chosen", "rejected"))
        _checks.one_of("push", self.push, ("up", "down"))

    @property
    def has_baseline(self) -> bool:
        return self.baseline is not None

    @property
    def is_likelihood(self) -> bool:
        lifts = self.sequence == "chosen" and self.push == "up" and self.baseline is None
        return lifts and self.kernel.linear and self.reward.has_one_slope

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the kernel is convex and never increases, and the reward is affine and pushed up.

        The log-probability of a sequence is concave in the logits. Such a kernel makes a convex loss of it.
        """
        lifts = self.push == "up" and self.baseline is None
        return lifts and self.kernel.convex and self.kernel.falling and self.reward.affine

    @property
    def is_convex_in_log_probs(self) -> bool:
        return self.kernel.convex and self.reward.affine

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The loss of each pair. A baseline that is not given is estimated from the pairs."""
        if self.baseline is None:
            baseline = None
        elif baseline is None:
            estimate = self.baseline.of_pairs(self.reward(*chosen), self.reward(*rejected))
            baseline = jax.lax.stop_gradient(estimate)
        one = chosen if self.sequence == "chosen" else rejected
        return self._loss(self.reward(*one), baseline)

    def expected(self, space: Sequences, over: Population) -> Array:
        """The expected loss. O(N), once the marginals are known."""
        baseline = None
        if self.baseline is not None:
            held = self.reward.of_space(*over.held)
            baseline = self.baseline.of_policy(held, over.held.logps, over.marginals)[..., None]
        chosen, rejected = over.marginals
        losses = self._loss(self.reward.of_space(*space), baseline)
        marginal = chosen if self.sequence == "chosen" else rejected
        return expectation(marginal.astype(losses.dtype), losses)

    def _loss(self, h: Float[Array, "..."], baseline: Array | None) -> Array:
        difference = h if baseline is None else h - baseline
        return self.kernel(difference if self.push == "up" else -difference)
