"""What an objective is a sum of: losses of a pair, and losses of one of its two sequences.

    Pair      kernel(h(y_w) − h(y_l))
    Single    kernel(h(y) − b) or kernel(b − h(y)), for y the chosen or the rejected sequence

`h` is an implicit reward (`didsim.objectives.rewards`), `kernel` a loss of a difference of rewards
(`didsim.objectives.kernels`), and `b` a baseline. A baseline may depend on the policy, but is held fixed
when the loss is differentiated.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim.information import LogProbs, expectation
from didsim.objectives.kernels import Kernel
from didsim.objectives.rewards import Reward, Scalar
from didsim.preferences.problem import Problem


class Sequences(NamedTuple):
    """What implicit rewards are functions of: some sequences, or all of a space."""

    logps: Array
    ref_logps: Array | None
    lengths: Array | None


@dataclass(frozen=True)
class Population:
    """What an expected loss is taken over.

    Attributes:
        problem: where pairs come from.
        held: all sequences, with the policy as data: baselines are computed from these.
        given_marginals: the distributions of the chosen and of the rejected sequence, if they are at hand.
    """

    problem: Problem
    held: Sequences
    given_marginals: tuple[LogProbs, LogProbs] | None = None

    @cached_property
    def marginals(self) -> tuple[LogProbs, LogProbs]:
        """The distributions of the chosen and of the rejected sequence. Costs as the problem says."""
        if self.given_marginals is not None:
            return self.given_marginals
        size = self.held.logps.shape[-1]
        return self.problem.chosen_marginal(size), self.problem.rejected_marginal(size)


class Term(eqx.Module):
    """One part of an objective.

    Attributes:
        reward: the implicit reward `h`.
        kernel: the loss of a difference of rewards.
        weight: its factor; None is 1.
    """

    reward: Reward
    kernel: Kernel
    weight: Scalar | None = None

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
        """Whether the term is a loss of differences of one implicit reward, which has an inverse.

        Its minimiser is then the policy whose reward minimises the expected kernel.
        """
        return False

    @property
    def is_likelihood(self) -> bool:
        """Whether the term is the negative log-likelihood of the chosen, up to a factor and a constant."""
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
        """The loss of each pair, before it is weighted."""

    @abstractmethod
    def expected(self, space: Sequences, over: Population) -> Array:
        """The expectation over the pairs of a population, before it is weighted."""

    def weighted(self, loss: Array) -> Array:
        """The loss times the term's weight."""
        return loss if self.weight is None else self.weight * loss


class Pair(Term):
    """`weight · kernel(h(y_w) − h(y_l))`.

    Attributes:
        chosen_reward: the reward of the chosen sequence, if it is another one.
    """

    chosen_reward: Reward | None = None

    @property
    def is_of_differences(self) -> bool:
        return self.chosen_reward is None and self.reward.has_inverse

    @property
    def is_convex_in_logits(self) -> bool:
        """As `is_convex_in_log_probs`, for a reward of one slope.

        A difference of such rewards is linear in the logits, since the normaliser cancels. The penalty of a
        fall keeps the loss convex: minus a log-probability is convex in the logits.
        """
        return self.reward.has_one_slope and self._is_convex_in_reward

    @property
    def is_convex_in_log_probs(self) -> bool:
        """A convex kernel of a difference that is affine, or falls short of an affine one by a convex amount.

        The latter asks for a kernel that never rises.
        """
        return self.reward.affine and self._is_convex_in_reward

    @property
    def _is_convex_in_reward(self) -> bool:
        penalised = self.chosen_reward is not None
        keeps = not penalised or (self.chosen_reward.penalises_falls and self.kernel.falling)  # type: ignore[union-attr]
        return self.kernel.convex and keeps

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The kernel of the difference of rewards."""
        of_chosen = self.reward if self.chosen_reward is None else self.chosen_reward
        return self.kernel(of_chosen(*chosen) - self.reward(*rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        """The sum over all pairs, as the kernel has it."""
        h = self.reward.of_space(*space)
        if self.chosen_reward is None:
            return self.kernel.expect(over.problem, h)
        return self.kernel.expect_across(over.problem, self.chosen_reward.of_space(*space), h)


class Baseline(eqx.Module):
    """What the reward of one sequence is compared with."""

    @abstractmethod
    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The baseline that the rewards of a batch of pairs give."""

    @abstractmethod
    def of_policy(self, h: Array, log_probs: Array, marginals: tuple[LogProbs, LogProbs]) -> Array:
        """The baseline of a policy whose rewards are `h`."""


class PolicyMean(Baseline):
    """`max(0, E_π h)`: with the log-ratio reward, `beta · KL(π ‖ reference)`, the `z0` of KTO.

    A batch of pairs has no samples of the policy. The batch's own sequences are taken in their place; KTO's
    authors take those of other prompts, which a single prompt does not have.
    """

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The mean over both sequences of all pairs, or zero if that is larger."""
        return jnp.maximum(0, _mean_of_both(chosen, rejected))

    def of_policy(self, h: Array, log_probs: Array, marginals: tuple[LogProbs, LogProbs]) -> Array:
        """The expectation under the policy."""
        return jnp.maximum(0, expectation(log_probs, h))


class PairMean(Baseline):
    """`(E_w h + E_l h) / 2`, the mean over chosen and rejected sequences: the reward shift of BCO."""

    def of_pairs(self, chosen: Array, rejected: Array) -> Array:
        """The mean over both sequences of all pairs."""
        return _mean_of_both(chosen, rejected)

    def of_policy(self, h: Array, log_probs: Array, marginals: tuple[LogProbs, LogProbs]) -> Array:
        """The expectation under the marginals."""
        chosen, rejected = marginals
        return (expectation(chosen.astype(h.dtype), h) + expectation(rejected.astype(h.dtype), h)) / 2


def _mean_of_both(chosen: Array, rejected: Array) -> Array:
    return (jnp.mean(chosen) + jnp.mean(rejected)) / 2


class Single(Term):
    """`weight · kernel(h(y) − baseline)`, or of the negative, for one sequence of a pair.

    Attributes:
        sequence: "chosen" or "rejected": which of the two it is the loss of.
        push: "up" for `kernel(h(y) − baseline)`, "down" for `kernel(baseline − h(y))`.
        baseline: what the reward is compared with; None is 0.
    """

    sequence: Literal["chosen", "rejected"] = eqx.field(static=True, kw_only=True)
    push: Literal["up", "down"] = eqx.field(static=True, kw_only=True)
    baseline: Baseline | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.sequence not in ("chosen", "rejected"):
            raise ValueError(f"`sequence` must be 'chosen' or 'rejected'; got {self.sequence!r}")
        if self.push not in ("up", "down"):
            raise ValueError(f"`push` must be 'up' or 'down'; got {self.push!r}")

    @property
    def has_baseline(self) -> bool:
        return self.baseline is not None

    @property
    def is_likelihood(self) -> bool:
        lifts = self.sequence == "chosen" and self.push == "up" and self.baseline is None
        return lifts and self.kernel.linear and self.reward.has_one_slope

    @property
    def is_convex_in_logits(self) -> bool:
        """A convex kernel that never rises, of a log-probability pushed up: that is concave in logits."""
        lifts = self.push == "up" and self.baseline is None
        return lifts and self.kernel.convex and self.kernel.falling and self.reward.affine

    @property
    def is_convex_in_log_probs(self) -> bool:
        """A convex kernel of an affine reward."""
        return self.kernel.convex and self.reward.affine

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The kernel of the reward of one of them, with a baseline estimated from the pairs if not given."""
        if self.baseline is None:
            baseline = None
        elif baseline is None:
            estimate = self.baseline.of_pairs(self.reward(*chosen), self.reward(*rejected))
            baseline = jax.lax.stop_gradient(estimate)
        one = chosen if self.sequence == "chosen" else rejected
        return self._loss(self.reward(*one), baseline)

    def expected(self, space: Sequences, over: Population) -> Array:
        """The expectation under one marginal. O(N)."""
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
