"""The terms that an objective is a sum of: losses of a pair, and losses of one of its two sequences.

    Pair              kernel(h(y_w) − h(y_l))
    PairOrTie         the same, with a loss of its own for a pair that is tied
    Single            kernel(h(y) − b) or kernel(b − h(y)), for y the chosen or the rejected sequence
    LabelledSquare    (h(y) − c (2p − 1))² or (h(y) + c (2p − 1))², with p the soft label of the pair

`h` is an implicit reward (`didsim.objectives.rewards`). `kernel` is a loss of a difference of rewards
(`didsim.objectives.kernels`). `b` is a baseline. It can depend on the policy, but it is held fixed when the
loss is differentiated.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim import _checks
from didsim._differences import difference
from didsim.information import expectation
from didsim.objectives.baselines import Baseline
from didsim.objectives.curvature import (
    InLogProbs,
    OwnDerivatives,
    RewardMap,
    derivatives,
    in_log_probs,
    of_function,
)
from didsim.objectives.kernels import Kernel, Squared
from didsim.objectives.rewards import Reward, Scalar
from didsim.objectives.ties import TieKernel
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


class WithTokens(NamedTuple):
    """`Sequences`, with a number for each that a loss takes from its single tokens.

    Attributes:
        tokens: the number; `didsim.objectives.tokens` says what it is.
    """

    logps: Array
    ref_logps: Array | None
    lengths: Array | None
    tokens: Array

    @property
    def sequences(self) -> Sequences:
        """The arguments of an implicit reward."""
        return Sequences(self.logps, self.ref_logps, self.lengths)


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
        """Whether the loss depends on the policy through numbers that are held fixed, as a baseline."""
        return False

    @property
    def holds_baseline_alone(self) -> bool:
        """Whether a baseline, which is a single number, is all that is held fixed."""
        return False

    @property
    def needs_tokens(self) -> bool:
        """Whether the loss of a pair depends on its single tokens (`didsim.objectives.tokens`)."""
        return False

    @property
    def sees_policy(self) -> bool:
        """Whether the term depends on the rewards of sequences that no pair has."""
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
    def is_expected_reward(self) -> bool:
        """Whether the term is minus a policy's expected reward, less its divergence from the reference."""
        return False

    @property
    def reads_problem(self) -> bool:
        """Whether the term reads more of a problem than its pairs: the reward of their labels, or groups."""
        return self.is_expected_reward

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the term is proven to be convex in the logits of a policy."""
        return False

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether the term is proven to be convex in a free vector of log-probabilities."""
        return False

    @abstractmethod
    def of_pairs(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        """The loss of each pair, without the weight of the term.

        `chosen` and `rejected` are `Sequences`, or `WithTokens` for a term that needs tokens.
        """

    def of_labels(self, chosen: Any, rejected: Any, baseline: Array | None, win_probs: Array) -> Array:
        """The loss of each pair with a soft label: the mean loss over a label that is right that often."""
        lost = 1 - win_probs
        # An order that has no probability gives way to the other, since its loss may be infinite.
        won_loss, lost_loss = (
            self.of_pairs(_where(use, chosen, rejected), _where(use, rejected, chosen), baseline)
            for use in (win_probs > 0, lost <= 0)
        )
        return win_probs * won_loss + lost * lost_loss

    def of_ties(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        """The loss of each pair if it is tied: half a win for either sequence."""
        return self.of_labels(chosen, rejected, baseline, jnp.asarray(0.5))

    @abstractmethod
    def expected(self, space: Sequences, over: Population) -> Array:
        """The expected loss over the pairs of a population, without the weight of the term."""

    def in_log_probs(self, space: Sequences, over: Population) -> InLogProbs:
        """Derivatives of `expected` in the log-probabilities of `space`, without the weight of the term.

        They are as if log-probabilities need not sum to one. By default the Hessian is differentiated column
        by column: N times the cost of a gradient. That of a term that `is_separate` is a diagonal, O(N²).
        """
        if self.is_separate:
            return self.own_derivatives(space, over).in_log_probs()
        return of_function(
            lambda log_probs: self.expected(space._replace(logps=log_probs), over), space.logps
        )

    @property
    def is_separate(self) -> bool:
        """Whether `expected` is a sum of functions of the log-probability of one sequence each."""
        return False

    def own_derivatives(self, space: Sequences, over: Population) -> OwnDerivatives:
        """Derivatives of `expected` in each log-probability by itself, if the term `is_separate`. O(N)."""
        raise NotImplementedError(f"`{type(self).__name__}` is not a sum over single sequences")

    @property
    def knows_own_curvature(self) -> bool:
        """Whether the term has an `own_curvature`."""
        return self.is_separate

    def own_curvature(self, space: Sequences, over: Population) -> Array:
        """The second derivative of `expected` in each log-probability of `space` by itself.

        Other log-probabilities are held fixed, as if they need not sum to one. The pair of a sequence with
        itself counts as in `Problem.own_curvature`. Asked only of a term that `knows_own_curvature`.
        """
        return self.own_derivatives(space, over).second

    def weighted(self, loss: Array) -> Array:
        return loss if self.weight is None else self.weight * loss


def check_parts(term: Term) -> None:
    """Raise `ValueError` unless the parts of a term are a reward and a kernel."""
    _checks.instance("reward", term.reward, Reward, "a Reward, as LogRatio(beta)")
    _checks.instance("kernel", term.kernel, Kernel, "a Kernel, as Logistic()")


class Pair(Term):
    """`weight · kernel(h(y_w) − h(y_l))`.

    Attributes:
        chosen_reward: the reward of the chosen sequence, if it differs from `reward`.
        rejected_reward: the reward of the rejected sequence, if it differs from `reward`.
    """

    chosen_reward: Reward | None = None
    rejected_reward: Reward | None = None

    @property
    def needs_reference(self) -> bool:
        return any(reward.needs_reference for reward in self._rewards)

    @property
    def needs_lengths(self) -> bool:
        return any(reward.needs_lengths for reward in self._rewards)

    def __post_init__(self) -> None:
        check_parts(self)
        for name in ("chosen_reward", "rejected_reward"):
            if (reward := getattr(self, name)) is not None:
                _checks.instance(name, reward, Reward, "a Reward, or None")

    @property
    def is_of_differences(self) -> bool:
        return self._has_one_reward and self.reward.has_inverse

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the reward has one slope, and the loss is convex in the difference of rewards.

        With one slope the normaliser cancels, so the difference is linear in the logits. The penalty of a
        `Guarded` reward keeps the loss convex, since minus a log-probability is convex in the logits.

        A rejected reward `g(t)` that rises slower than `beta · t` keeps it convex as well. Such a `g` is the
        largest of lines `s·t + c` with slopes `s` from 0 to `beta`. So `beta · t_w − g(t_l)` is the smallest
        of `beta · t_w − s·t_l − c`. Each of these has the normaliser with the factor `−(beta − s)`, and is
        concave in the logits. (Derived here.)
        """
        return self.reward.has_one_slope and self._is_convex_in_reward

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether the kernel is convex and the difference of rewards is affine in the log-probabilities.

        The difference can also be an affine function minus a convex one. The kernel must then never increase.
        """
        return self.reward.affine and self._is_convex_in_reward

    @property
    def _has_one_reward(self) -> bool:
        return self.chosen_reward is None and self.rejected_reward is None

    @property
    def _rewards(self) -> tuple[Reward, Reward]:
        """The rewards of the chosen and of the rejected sequence."""
        chosen = self.reward if self.chosen_reward is None else self.chosen_reward
        return chosen, self.reward if self.rejected_reward is None else self.rejected_reward

    @property
    def _is_convex_in_reward(self) -> bool:
        chosen, rejected = self._rewards
        bends_down = (self.chosen_reward is None or chosen.penalises_falls) and (
            self.rejected_reward is None or (rejected.rises_slower and self.reward.is_log_ratio)
        )
        return self.kernel.convex and (self._has_one_reward or (bends_down and self.kernel.falling))

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        of_chosen, of_rejected = self._rewards
        return self.kernel(difference(of_chosen(*chosen), of_rejected(*rejected)))

    def expected(self, space: Sequences, over: Population) -> Array:
        if self._has_one_reward:
            return self.kernel.expect(over.problem, self.reward.of_space(*space))
        of_chosen, of_rejected = self._rewards
        return self.kernel.expect_across(
            over.problem, of_chosen.of_space(*space), of_rejected.of_space(*space)
        )

    def in_log_probs(self, space: Sequences, over: Population) -> InLogProbs:
        """Derivatives of `expected` in the log-probabilities. O(N²); see `didsim.objectives.curvature`."""
        of_chosen, of_rejected = self._rewards
        chosen = RewardMap(of_chosen, *space)
        rejected = chosen if self._has_one_reward else RewardMap(of_rejected, *space)
        table = over.problem.joint(space.logps.shape[-1])
        of_rewards = self.kernel.curvature(table, chosen.values(), rejected.values())
        return in_log_probs(chosen, rejected, of_rewards)

    @property
    def knows_own_curvature(self) -> bool:
        return self._has_one_reward and self.reward.looks_at_one_sequence

    def own_curvature(self, space: Sequences, over: Population) -> Array:
        h = self.reward.of_space(*space)
        slope, bend = derivatives(lambda logps: self.reward(logps, *space[1:]), space.logps)
        own = self.kernel.own_curvature(over.problem, h) * slope**2
        if self.reward.affine:
            return own
        return own + bend * jax.grad(lambda h: self.kernel.expect(over.problem, h))(h)


def _where(use: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(use, a, b), one, other)


class PairOrTie(Pair):
    """A `Pair` whose kernel has a loss of its own for a tie (`didsim.objectives.ties`)."""

    kernel: TieKernel

    def of_ties(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        return self.kernel.of_tie(difference(self.reward(*chosen), self.reward(*rejected)))


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
        check_parts(self)
        if self.baseline is not None:
            _checks.instance("baseline", self.baseline, Baseline, "a Baseline, or None")
        _checks.one_of("sequence", self.sequence, ("chosen", "rejected"))
        _checks.one_of("push", self.push, ("up", "down"))

    @property
    def has_baseline(self) -> bool:
        return self.baseline is not None

    @property
    def holds_baseline_alone(self) -> bool:
        return self.has_baseline

    @property
    def sees_policy(self) -> bool:
        return self.baseline is not None and not self.baseline.is_of_pairs

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
        losses = self._loss(self.reward.of_space(*space), self._baseline(over))
        return expectation(self._marginal(over).astype(losses.dtype), losses)

    @property
    def is_separate(self) -> bool:
        return self.reward.looks_at_one_sequence

    def own_derivatives(self, space: Sequences, over: Population) -> OwnDerivatives:
        baseline, weights = self._baseline(over), jnp.exp(self._marginal(over))

        def losses(logps: Array) -> Array:
            return self._loss(self.reward(logps, *space[1:]), baseline)

        # A sequence that the policy never has, on a support that leaves it out, is not moved.
        is_moved = jnp.isfinite(space.logps) & (weights > 0)
        first, second = derivatives(losses, space.logps)
        return OwnDerivatives(*(jnp.where(is_moved, weights * one, 0) for one in (first, second)))

    def in_log_probs(self, space: Sequences, over: Population) -> InLogProbs:
        """Derivatives of `expected` in the log-probabilities. O(N²); see `didsim.objectives.curvature`."""
        if self.is_separate:
            return super().in_log_probs(space, over)
        reward, baseline = RewardMap(self.reward, *space), self._baseline(over)
        h, weights = reward.values(), jnp.exp(self._marginal(over))
        first, second = (
            jnp.where(jnp.isfinite(h) & (weights > 0), weights * one, 0)
            for one in derivatives(lambda h: self._loss(h, baseline), h)
        )
        return reward.derivatives(first, jnp.diag(second))

    def _baseline(self, over: Population) -> Array | None:
        if self.baseline is None:
            return None
        held = self.reward.of_space(*over.held)
        return self.baseline.of_policy(held, over.held.logps, over.marginals)[..., None]

    def _marginal(self, over: Population) -> Array:
        """The distribution of the sequence that the term is a loss of."""
        chosen, rejected = over.marginals
        return chosen if self.sequence == "chosen" else rejected

    def _loss(self, h: Float[Array, "..."], baseline: Array | None) -> Array:
        excess = h if baseline is None else difference(h, baseline)
        return self.kernel(excess if self.push == "up" else -excess)


class LabelledSquare(Single):
    """`(h(y_w) − c (2p − 1))²` or `(h(y_l) + c (2p − 1))²`, with `p` the label of the pair.

    `p` is the probability that the chosen sequence wins, and `c` the centre of the kernel. A label `p = 1`
    makes it the `Single` loss with the kernel `(d − c)²`. The mean of that loss over labels of 0 and 1, right
    with probability `p`, is larger by `4 c² p (1 − p)`:

        p (h − c)² + (1 − p) (h + c)² = (h − c (2p − 1))² + 4 c² p (1 − p)

    No gradient sees the difference. (Derived here.)
    """

    kernel: Squared

    def of_labels(
        self, chosen: Sequences, rejected: Sequences, baseline: Array | None, win_probs: Array
    ) -> Array:
        label = 2 * win_probs - 1
        centre = self.kernel.centre * label
        one = chosen if self.sequence == "chosen" else rejected
        h = self.reward(*one)
        return jnp.square((h if self.push == "up" else -h) - centre)

    def expected(self, space: Sequences, over: Population) -> Array:
        loss = super().expected(space, over)
        return loss - 4 * self.kernel.centre**2 * over.problem.label_doubt().astype(loss.dtype)
