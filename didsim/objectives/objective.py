"""An objective: a sum of terms. Its expectation over pairs is computed exactly."""

import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from didsim import _checks
from didsim.information import LogProbsLike
from didsim.objectives.curvature import Expansion, InLogProbs, OwnDerivatives, expanded
from didsim.objectives.reference import visible_reference
from didsim.objectives.rewards import Reward, ScalarLike
from didsim.objectives.terms import Population, Sequences, Single, Term, WithTokens
from didsim.preferences.problem import Marginals, Problem, check_over


class Objective(eqx.Module):
    """A loss on preference pairs: the sum of its terms.

    Objectives can be added, and multiplied by positive numbers: `dpo(0.1) + 0.5 * sft()`.

    Args:
        terms: the terms of the sum. The reward of the first term is the reward of the objective. Metrics of
            rewards and samplers of online pairs use it.

    Attributes:
        is_gradient_rule: whether the optimiser gets a direction other than the gradient of the loss. If so,
            training does not converge to a minimiser of the loss.

    Raises:
        ValueError: there is no term, or one of them is not a `Term`.

    Examples:
        >>> from didsim.objectives.kernels import Logistic, Squared
        >>> from didsim.objectives.rewards import LogRatio
        >>> from didsim.objectives.terms import Pair
        >>> loss = Objective(Pair(LogRatio(jnp.array(0.1)), Logistic()))
        >>> round(float(loss.pair_loss(-10.0, -12.0, -11.0, -11.0)), 6)  # the loss of DPO
        0.598139
    """

    is_gradient_rule: ClassVar[bool] = False

    terms: tuple[Term, ...]

    def __init__(self, *terms: Term) -> None:
        if not terms:
            raise ValueError("`terms` must be at least one Term; got none")
        for term in terms:
            _checks.instance("terms", term, Term, "terms, as Pair or Single")
            _checks.numeric_fields("terms", term)
        self.terms = terms

    def __add__(self, other: "Objective") -> "Objective":
        if not isinstance(other, Objective):
            return NotImplemented
        if self.is_gradient_rule or other.is_gradient_rule:
            raise ValueError("a gradient rule is not a loss, and cannot be added to another")
        return Objective(*self.terms, *other.terms)

    def __rmul__(self, factor: ScalarLike) -> "Objective":
        if not isinstance(factor, numbers.Real | jax.Array | np.ndarray | np.number):
            return NotImplemented
        factor = _checks.positive("factor", factor)

        def scaled(term: Term) -> Term:
            weight = factor if term.weight is None else factor * term.weight
            return eqx.tree_at(lambda one: one.weight, term, weight, is_leaf=lambda leaf: leaf is None)

        return eqx.tree_at(lambda one: one.terms, self, tuple(map(scaled, self.terms)))

    __mul__ = __rmul__

    @property
    def reward(self) -> Reward:
        """The implicit reward of the first term."""
        return self.terms[0].reward

    def pair_loss(
        self,
        chosen_logps: Float[ArrayLike, "*#pairs"],
        rejected_logps: Float[ArrayLike, "*#pairs"],
        ref_chosen_logps: Float[ArrayLike, "*#pairs"] | None = None,
        ref_rejected_logps: Float[ArrayLike, "*#pairs"] | None = None,
        chosen_lengths: Int[ArrayLike, "*#pairs"] | None = None,
        rejected_lengths: Int[ArrayLike, "*#pairs"] | None = None,
        *,
        baseline: Real[ArrayLike, ""] | None = None,
        win_probs: Real[ArrayLike, "*#pairs"] | None = None,
        tied: Bool[ArrayLike, "*#pairs"] | None = None,
        chosen_tokens: Float[ArrayLike, "*#pairs"] | None = None,
        rejected_tokens: Float[ArrayLike, "*#pairs"] | None = None,
    ) -> Float[Array, "*pairs"]:
        """The loss of each pair, from the quantities that a training run logs.

        Args:
            chosen_logps: `log π(y_w)` of the chosen sequence, summed over tokens, in nats.
            rejected_logps: `log π(y_l)` of the rejected sequence.
            ref_chosen_logps: `log reference(y_w)`; needed if a reward uses the reference.
            ref_rejected_logps: `log reference(y_l)`; needed if a reward uses the reference.
            chosen_lengths: `|y_w|` in tokens; needed if the loss depends on the length.
            rejected_lengths: `|y_l|` in tokens; needed if the loss depends on the length.
            baseline: the number that is subtracted from rewards, in losses that have one (KTO's `z0`, BCO's
                shift). By default it is estimated from all given pairs together, as one batch.
            win_probs: soft labels: the probability that the chosen sequence wins, from 0 to 1. The loss is
                its mean over the label, without constants in SPPO. By default the chosen one wins.
            tied: whether a pair ended in a tie; its soft label is then not used. An objective without a loss
                of ties takes one for half a win of either sequence. By default there are no ties.
            chosen_tokens: a number that the loss takes from the single tokens of `y_w`; needed by `ld_dpo`
                and `wpo`, which say what it is.
            rejected_tokens: the same of `y_l`.

        Returns:
            One loss for each pair.

        Raises:
            ValueError: an argument that this objective needs is missing, a log-probability is NaN or
                above zero, a length is not positive, a soft label is not in [0, 1], or shapes do not
                broadcast.

        Examples:
            >>> import didsim
            >>> loss = didsim.dpo(beta=0.1).pair_loss(-10.0, -12.0, -11.0, -11.0)
            >>> round(float(loss), 6)  # log(1 + exp(−0.1 · 2))
            0.598139
        """
        self._check_single()
        logps = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
        ref_logps = {
            "ref_chosen_logps": ref_chosen_logps,
            "ref_rejected_logps": ref_rejected_logps,
        }
        lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
        if any(term.needs_reference for term in self.terms):
            logps |= _needed(ref_logps, "its implicit reward uses the reference policy")
        arrays = {name: _logps(name, value) for name, value in logps.items()}
        _checks.parameters("self", self, jnp.result_type(*arrays.values()))
        if self.needs_lengths:
            needed = _needed(lengths, "it depends on the number of tokens")
            arrays |= {name: _checks.lengths(name, value) for name, value in needed.items()}
        if any(term.needs_tokens for term in self.terms):
            tokens = {"chosen_tokens": chosen_tokens, "rejected_tokens": rejected_tokens}
            needed = _needed(tokens, "it depends on single tokens")
            arrays |= {name: _checks.finite(name, value, min_ndim=0) for name, value in needed.items()}
        outcomes = _outcomes(win_probs, tied)
        pairs = _checks.broadcast(**{name: array.shape for name, array in (arrays | outcomes).items()})
        chosen, rejected = (
            Sequences(arrays[f"{side}_logps"], arrays.get(f"ref_{side}_logps"), arrays.get(f"{side}_lengths"))
            for side in ("chosen", "rejected")
        )
        if baseline is not None:
            baseline = _checks.single("baseline", _checks.number("baseline", baseline))

        def of_outcome(term: Term) -> Array:
            sides: tuple[Any, Any] = chosen, rejected
            if term.needs_tokens:
                sides = (
                    WithTokens(*chosen, arrays["chosen_tokens"]),
                    WithTokens(*rejected, arrays["rejected_tokens"]),
                )
            if "win_probs" in outcomes:
                loss = term.of_labels(*sides, baseline, outcomes["win_probs"])
            else:
                loss = term.of_pairs(*sides, baseline)
            if "tied" in outcomes:
                loss = jnp.where(outcomes["tied"], term.of_ties(*sides, baseline), loss)
            return term.weighted(loss)

        return jnp.broadcast_to(sum_of([of_outcome(term) for term in self.terms]), pairs)

    def loss(
        self,
        policy_logps: LogProbsLike,
        reference: LogProbsLike,
        problem: Problem,
        lengths: Int[ArrayLike, " sequences"] | None = None,
    ) -> Float[Array, "*batch"]:
        """The exact expectation of `pair_loss` over the pairs of a problem.

        A baseline is computed from the policy itself. Derivatives treat it as a constant, and they treat the
        samplers of online pairs as constants too.

        Time is near-linear for most objectives on a population, with O(N) memory (see `didsim.pair_sum`). It
        is O(N + pairs) for `Pairs`. It is O(N²) in these cases:

            every objective on a `Joint` problem
            DiscoPOP on every population
            on labelled pairs: a margin, a bounded loss of a difference, and DPO-positive
            on labelled pairs of few sequences (see `Labelled.expect`): a hinge
            on labelled pairs, below 4,096 sequences: the exponential loss, and losses of single sequences
            on labelled pairs with nearly certain labels (see `Labelled.expect`): every objective

        Args:
            policy_logps: log-probabilities of the policy over the whole space, `[*batch, sequences]`.
            reference: log-probabilities of the reference policy, of the same kind. It may have a zero where
                no pair looks; see `didsim.objectives.reference`.
            problem: the source of pairs.
            lengths: number of tokens of every sequence, `space.lengths`. By default every sequence counts as
                one token, so that dividing by the length has no effect.

        Returns:
            The loss, `[*batch]`.

        Raises:
            ValueError: a distribution is not normalised, the policy has a zero, or the reference one that the
                loss sees, shapes do not fit, a length is not positive, or the objective is itself a batch.

        Examples:
            >>> import didsim
            >>> p = jnp.log(jnp.array([0.5, 0.5]))
            >>> round(float(didsim.dpo(beta=0.1).loss(p, p, didsim.Contrastive(p, p))), 6)  # log 2
            0.693147
        """
        policy_logps = _checks.distribution("policy_logps", policy_logps, full_support=True)
        reference = _checks.distribution("reference", reference)
        batch = _checks.same_sequences(policy_logps=policy_logps, reference=reference)
        _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
        check_over(problem, "policy_logps", policy_logps)
        reference = visible_reference(reference, problem, self.terms)
        batch = _checks.broadcast(policy_logps=batch, problem=problem.batch_shape)
        self._check_single()
        lengths = check_lengths(lengths, policy_logps.shape[-1])
        _checks.parameters("self", self, policy_logps.dtype)
        loss = _compiled_loss(self, policy_logps, reference, problem, lengths)
        return jnp.broadcast_to(loss, batch)

    def population_loss(
        self,
        policy_logps: Array,
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        marginals: Marginals | None = None,
        held: Array | None = None,
    ) -> Array:
        """`loss` without its checks.

        A caller that evaluates the loss many times can pass marginals that it has computed once, and can hold
        baselines and samplers fixed.

        Args:
            policy_logps: log-probabilities of the policy.
            reference: log-probabilities of the reference policy.
            problem: the source of pairs.
            lengths: number of tokens of every sequence, or None.
            marginals: the problem's chosen and rejected marginals, if already computed.
            held: log-probabilities of the policy that sets baselines and samplers. No gradient passes through
                them. The default is `policy_logps`.
        """
        space = Sequences(policy_logps, reference, lengths)
        held = jax.lax.stop_gradient(policy_logps) if held is None else held
        over = self._population(held, reference, problem, lengths, marginals)
        return sum_of([term.weighted(term.expected(space, over)) for term in self.terms])

    def curvature(
        self,
        logits: Float[Array, " n"],
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        marginals: Marginals | None = None,
    ) -> Float[Array, "n n"]:
        """The Hessian of `population_loss` in the logits of the policy, without batch axes, `[n, n]`.

        `didsim.objectives.curvature` has the formula and its derivation. Arguments are not checked.
        Baselines and samplers are held fixed. O(N²) for losses of differences and of single sequences, plus
        a product of N × N matrices if the rewards of several sequences depend on the others. O(N³) for losses
        of single tokens and of sorted rewards.
        """
        found = self.in_log_probs(log_softmax(logits), reference, problem, lengths, marginals)
        return found.in_logits(logits)

    def in_log_probs(
        self,
        log_probs: Float[Array, " n"],
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        marginals: Marginals | None = None,
    ) -> InLogProbs:
        """Derivatives of `population_loss` in log-probabilities, as if these need not sum to one.

        Arguments, costs and what is held fixed are those of `curvature`. Arguments are not checked.
        """
        space = Sequences(log_probs, reference, lengths)
        over = self._population(log_probs, reference, problem, lengths, marginals)
        parts = [jax.tree.map(term.weighted, term.in_log_probs(space, over)) for term in self.terms]
        return InLogProbs(sum_of([one.gradient for one in parts]), sum_of([one.hessian for one in parts]))

    def own_derivatives(
        self,
        log_probs: Float[Array, " n"],
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        marginals: Marginals | None = None,
    ) -> OwnDerivatives:
        """Derivatives of `population_loss` in each log-probability by itself, for terms that are separate.

        Arguments and what is held fixed are those of `curvature`. Arguments are not checked. O(N), once the
        marginals are known.
        """
        space = Sequences(log_probs, reference, lengths)
        over = self._population(log_probs, reference, problem, lengths, marginals)
        parts = [jax.tree.map(term.weighted, term.own_derivatives(space, over)) for term in self.terms]
        return OwnDerivatives(sum_of([one.first for one in parts]), sum_of([one.second for one in parts]))

    def expansion(
        self,
        logits: Float[Array, " n"],
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        marginals: Marginals | None = None,
    ) -> Expansion:
        """The loss around some logits, to the second order, without a matrix.

        Arguments are those of `curvature`, and are not checked.

        Every term must know its own curvature. There, the pair of a sequence with itself counts as in
        `Problem.own_curvature`.

        Let `B` be the Hessian and `s` the gradient in the log-probabilities, as if these were free, and `p`
        the policy. The Hessian in the logits is `(I − p 1ᵀ) B (I − 1 pᵀ) − (Σ_j s_j) (diag(p) − p pᵀ)`. So
        its diagonal is

            B_ii − 2 p_i (B 1)_i + p_i² (1ᵀ B 1) − (Σ_j s_j) p_i (1 − p_i)

        (Derived here.) The diagonal costs as much as `Problem.own_curvature`, beside a product with `B`.
        """
        log_probs = log_softmax(logits)
        p = jnp.exp(log_probs)

        def loss(logps: Array) -> Array:
            return self.population_loss(logps, reference, problem, lengths, marginals, log_probs)

        def own() -> Array:
            space = Sequences(log_probs, reference, lengths)
            over = self._population(log_probs, reference, problem, lengths, marginals)
            return sum_of([term.weighted(term.own_curvature(space, over)) for term in self.terms])

        free = expanded(loss, log_probs, own)
        total = jnp.sum(free.gradient)

        def product(step: Array) -> Array:
            step = step - jnp.vdot(p, step)
            pull = free.product(step)
            return pull - p * jnp.sum(pull) - total * p * step

        def diagonal() -> Array:
            shifted = free.product(jnp.ones_like(p))
            return free.diagonal() - 2 * p * shifted + p**2 * jnp.sum(shifted) - total * p * (1 - p)

        return Expansion(free.value, free.gradient - p * total, diagonal, product)

    def _population(
        self, held: Array, reference: Array, problem: Problem, lengths: Array | None, marginals: Any
    ) -> Population:
        """The pairs of a problem, with baselines and samplers of the policy that is held fixed."""
        as_data = Sequences(held, reference, lengths)
        return Population(problem.at(held, self.reward.of_space(*as_data)), as_data, marginals)

    def direction(self, gradient: PyTree, chosen_gradient: Callable[[], PyTree]) -> PyTree:
        """The direction that the optimiser gets in place of the gradient of the loss.

        It is the gradient itself, unless the objective is a gradient rule.

        Args:
            gradient: the gradient of the loss.
            chosen_gradient: function that returns the gradient of the expected log-likelihood of the chosen
                sequence.
        """
        return gradient

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes of the parameters."""
        return jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in jax.tree.leaves(self)))

    @property
    def needs_lengths(self) -> bool:
        """Whether the loss depends on numbers of tokens."""
        return any(term.needs_lengths for term in self.terms)

    @property
    def has_baseline(self) -> bool:
        """Whether a term depends on the policy through numbers that are held fixed, as a baseline."""
        return any(term.has_baseline for term in self.terms)

    @property
    def has_baselines_alone(self) -> bool:
        """Whether all numbers that are held fixed are baselines of single sequences, and there is one."""
        holds = [term for term in self.terms if term.has_baseline]
        return bool(holds) and all(term.holds_baseline_alone for term in holds)

    def tabulated(self, problem: Problem, size: int) -> Problem:
        """A problem as the table of its pairs, over which a step costs less.

        It stays as it is for a term that reads more of a problem than its pairs, which a table does not hold.
        Arguments are not checked.
        """
        return problem if any(term.reads_problem for term in self.terms) else problem.joint(size)

    @property
    def is_separate(self) -> bool:
        """Whether the loss is a sum of functions of one log-probability each, as every term is."""
        return all(term.is_separate for term in self.terms)

    @property
    def knows_own_curvature(self) -> bool:
        """Whether the loss has an `own_curvature`, as every term has one."""
        return all(term.knows_own_curvature for term in self.terms)

    @property
    def difference_term(self) -> Term | None:
        """The only term, if it is a loss of differences of one reward with an inverse; else None."""
        (term, *more) = self.terms
        return term if not more and term.is_of_differences else None

    @property
    def bounded_terms(self) -> tuple[Single, ...] | None:
        """The terms, if each is a loss `1 − σ(±(h(y) − b))` of one sequence; else None."""
        bounded = tuple(term for term in self.terms if isinstance(term, Single) and term.kernel.bounded)
        return bounded if len(bounded) == len(self.terms) else None

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the loss is proven to be convex in the logits of a policy, because every term is."""
        return all(term.is_convex_in_logits for term in self.terms)

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether the loss is proven to be convex in a free vector of log-probabilities, as every term is."""
        return all(term.is_convex_in_log_probs for term in self.terms)

    def _check_single(self) -> None:
        if self.batch_shape:
            raise ValueError(
                f"`self` must be one objective; got a batch of shape {self.batch_shape}. Map its loss over "
                "the batch with jax.vmap"
            )


class KeepsChosen(Objective):
    """A loss whose descent direction is projected so that the likelihood of chosen sequences does not fall.

    This is a rule for gradients, not a loss of its own. Let `d` be the descent direction, which is minus the
    gradient of the loss. Let `g` be the gradient of the expected `log π(y_w)`. Both are over the pairs of a
    step. If `⟨d, g⟩ < 0`, then `d` becomes `d − g ⟨d, g⟩ / ⟨g, g⟩`.
    """

    is_gradient_rule: ClassVar[bool] = True

    def __init__(self, *terms: Term) -> None:
        super().__init__(*terms)

    def direction(self, gradient: PyTree, chosen_gradient: Callable[[], PyTree]) -> PyTree:
        """The gradient, without its component that would lower the likelihood of chosen sequences."""
        pull = chosen_gradient()
        overlap = jnp.maximum(0, optax.tree.vdot(gradient, pull))
        share = jnp.where(overlap > 0, overlap / optax.tree.vdot(pull, pull), 0)
        return jax.tree.map(lambda g, p: g - share * p, gradient, pull)


@eqx.filter_jit
def _compiled_loss(
    objective: Objective, policy_logps: Array, reference: Array, problem: Problem, lengths: Array | None
) -> Array:
    return objective.population_loss(policy_logps, reference, problem, lengths)


def sum_of(parts: list[Array]) -> Array:
    """The sum of one or more arrays."""
    total, *rest = parts
    for part in rest:
        total = total + part
    return total


def check_lengths(lengths: Any, size: int) -> Array | None:
    """The number of tokens of each of `size` sequences, or None."""
    if lengths is None:
        return None
    array = _checks.lengths("lengths", lengths)
    if array.shape != (size,):
        raise ValueError(
            f"`lengths` must have one entry for each of {size} sequences; got shape {array.shape}"
        )
    return array


def _needed(values: dict[str, Any], reason: str) -> dict[str, Any]:
    for name, value in values.items():
        if value is None:
            raise ValueError(f"`{name}` must be given to this objective: {reason}; got None")
    return values


def _outcomes(win_probs: Any, tied: Any) -> dict[str, Array]:
    """The soft labels and ties that are given, by name."""
    given: dict[str, Array] = {}
    if win_probs is not None:
        given["win_probs"] = _checks.within("win_probs", win_probs, 0, 1)
    if tied is not None:
        given["tied"] = _checks.booleans("tied", tied)
    return given


def _logps(name: str, value: Any) -> Array:
    # A plain number stays weakly typed.
    array = _checks.finite(name, _checks.python_number(value), min_ndim=0)
    if _checks.known(value) and (largest := np.asarray(value).max()) > 0:
        raise ValueError(f"`{name}` must be log-probabilities, at most 0; got {largest}")
    return array
