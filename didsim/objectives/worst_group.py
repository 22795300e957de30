"""The worst of several groups: prompts or raters, each with pairs of its own."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim import _checks
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import Scalar, ScalarLike
from didsim.objectives.terms import Population, Sequences, Term, check_parts
from didsim.preferences.mixture import Mixture
from didsim.preferences.problem import Problem


class WorstGroup(Term):
    """`T log Σ_g w_g exp(L_g / T)`, with `L_g` the loss of an objective on the pairs of group `g`.

    `didsim.worst_group` makes it. The reward and the kernel are those of the objective's first term.

    Attributes:
        of: the objective whose losses of groups are compared.
        temperature: `T`, positive.
    """

    of: Objective = eqx.field(kw_only=True)
    temperature: Scalar = eqx.field(kw_only=True, converter=partial(_checks.positive, "temperature"))

    def __post_init__(self) -> None:
        check_parts(self)
        _checks.instance("of", self.of, Objective, "an Objective, as didsim.dpo() makes")

    @property
    def needs_reference(self) -> bool:
        return any(term.needs_reference for term in self.of.terms)

    @property
    def needs_lengths(self) -> bool:
        return self.of.needs_lengths

    @property
    def has_baseline(self) -> bool:
        return self.of.has_baseline

    @property
    def sees_policy(self) -> bool:
        return any(term.sees_policy for term in self.of.terms)

    @property
    def reads_problem(self) -> bool:
        return True

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether the losses are: the log of a sum of exponentials is convex, and rises with each of them."""
        return self.of.is_convex_in_logits

    def of_pairs(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        raise ValueError("`self` has no loss of a pair: it compares the losses of whole groups")

    def expected(self, space: Sequences, over: Population) -> Array:
        problem = _groups_of(over.problem)
        losses = self.losses(space, problem, over.held.logps) / self.temperature
        return self.temperature * jax.nn.logsumexp(problem.log_weights + losses, axis=-1)

    def losses(self, space: Sequences, problem: Mixture, held: Array) -> Float[Array, "*batch groups"]:
        """The loss of the objective on the pairs of each group."""
        assert space.ref_logps is not None, "the reference of a whole space is always given"
        return jnp.stack(
            [
                self.of.population_loss(space.logps, space.ref_logps, one, space.lengths, held=held)
                for one in problem.problems
            ],
            axis=-1,
        )


def worst_group(objective: Objective, temperature: ScalarLike = 0.01) -> Objective:
    """Group-robust training: an objective on the pairs of the group whose loss is the largest.

        T log Σ_g w_g exp(L_g/T) = max_α [Σ_g α_g L_g − T KL(α ‖ w)],    α_g ∝ w_g exp(L_g/T)

    `L_g` is the loss on group `g`, which is one problem of a `Mixture`, and `w_g` its weight there. Groups
    can be raters with tables of their own, or prompts (`didsim.in_own_prompt`). The gradient is
    `Σ_g α_g ∇L_g`: each group counts by its weight `α_g` at the current policy. The loss lies at most
    `T log(1/w_g)` below that of the worst group `g`, and never above it. For the limit `T → 0`, with a
    certificate, see `didsim.solve_worst_group`. `OBJECTIVES` does not list it, as it is made of another
    objective.

    Source: Ramesh et al., "Group robust preference optimization in reward-free RLHF" (arXiv 2405.20304). Its
    weights are a running product `α ← α · exp(η L)`, which tends to the same as `T → 0`; these are the exact
    answer of an adversary who pays for leaving `w`.

    Args:
        objective: what is compared; no gradient rule.
        temperature: `T`, positive, in the unit of the loss.

    Raises:
        ValueError: `objective` is no objective or a gradient rule, or `temperature <= 0`.
    """
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    if objective.is_gradient_rule:
        raise ValueError("`objective` must be a loss; got a gradient rule, whose loss it does not minimise")
    first = objective.terms[0]
    temperature = _checks.positive("temperature", temperature)
    return Objective(WorstGroup(first.reward, first.kernel, of=objective, temperature=temperature))


def _groups_of(problem: Problem) -> Mixture:
    if not isinstance(problem, Mixture):
        raise ValueError(f"`problem` must be a Mixture, with one problem for each group; got {problem!r}")
    return problem
