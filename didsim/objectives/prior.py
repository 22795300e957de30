"""A term of the whole policy: its divergence from the reference, as a prior beside a loss of pairs.

It depends on no pair. So an objective that has it needs the whole space, as `Objective.loss`, `didsim.train`
and `didsim.solve` have it. The loss of single logged pairs (`Objective.pair_loss`) is refused.
"""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from didsim import _checks
from didsim.objectives.curvature import OwnDerivatives
from didsim.objectives.rewards import given_reference
from didsim.objectives.terms import Population, Sequences, Term, check_parts


class Divergence(Term):
    """`weight · KL(reference ‖ π)` or `weight · KL(π ‖ reference)`.

    These are the mean of `−h` under the reference, and that of `h` under the policy. The reward is
    `h = log π/reference`, and the kernel `d → −d`.

    Attributes:
        direction: "forward" for `KL(reference ‖ π)`, "reverse" for `KL(π ‖ reference)`.
    """

    direction: Literal["forward", "reverse"] = eqx.field(static=True, kw_only=True)

    def __post_init__(self) -> None:
        check_parts(self)
        _checks.one_of("direction", self.direction, ("forward", "reverse"))

    @property
    def sees_policy(self) -> bool:
        return True

    @property
    def is_convex_in_logits(self) -> bool:
        """Whether it is `KL(reference ‖ π)`: `log Σ e^z` minus a linear function of the logits `z`."""
        return self.direction == "forward"

    @property
    def is_convex_in_log_probs(self) -> bool:
        """Whether it is `KL(reference ‖ π)`, which is linear in the log-probabilities."""
        return self.direction == "forward"

    def of_pairs(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        raise ValueError("`self` has a term of the whole policy, which pairs do not show; call its `loss`")

    def expected(self, space: Sequences, over: Population) -> Array:
        h = self.reward.of_space(*space)
        if self.direction == "reverse":
            return jnp.sum(jnp.exp(space.logps) * -self.kernel(h), axis=-1)
        return jnp.sum(jnp.exp(given_reference(space.ref_logps)) * self.kernel(h), axis=-1)

    @property
    def is_separate(self) -> bool:
        return self.reward.looks_at_one_sequence

    def own_derivatives(self, space: Sequences, over: Population) -> OwnDerivatives:
        """Derivatives of `expected` in each log-probability by itself. O(N).

        `KL(reference ‖ π)` is linear in them, with the gradient `−reference`. With `p` the policy and `r` the
        log-ratio `log π/reference`, `KL(π ‖ reference)` has the gradient `p (r + 1)` and the Hessian
        `diag(p (r + 2))`. (Derived here.)
        """
        if self.direction == "forward":
            reference = jnp.exp(given_reference(space.ref_logps))
            return OwnDerivatives(-reference, jnp.zeros_like(reference))
        p, ratio = jnp.exp(space.logps), self.reward.of_space(*space)
        return OwnDerivatives(p * (ratio + 1), p * (ratio + 2))
