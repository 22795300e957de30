"""References with zeros: which of them no loss on pairs sees."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from didsim import _checks, _log_space
from didsim.objectives.terms import Term
from didsim.preferences.problem import Problem


def visible_reference(
    reference: Float[Array, "*batch sequences"], problem: Problem, terms: tuple[Term, ...]
) -> Float[Array, "*batch sequences"]:
    """The reference that a loss sees, from one that may give probability zero where no pair looks.

    A loss of pairs depends on the log-ratios of the sequences that its pairs have. If `reference(y) = 0` and
    no pair has `y`, the log-ratio of `y` is not in the loss, which is therefore defined. Yet the divergence
    `KL(π ‖ reference)` of a policy that has `y` is infinite. The regularised reward that DPO stands for would
    give `y` nothing, and DPO may give it most. Take pairs in which 0 beats 1, and the reference
    (1/2, 1/2, 0). The policies (0.1, 0, 0.9) and (1, 0, 0) then have the same loss, the least one. (Derived
    here.)

    A number that no pair sees takes the place of the log-probability of such a `y`. A zero that a pair sees,
    or that the sampler of online pairs may draw, or a loss that itself has the divergence (KTO with its exact
    baseline), is refused. `reference` must be normalised. O(N) beyond what the problem's marginals cost.

    Raises:
        ValueError: the reference has a zero that the loss sees.
    """
    if not _checks.known((reference, problem)) or not (zero := np.isneginf(np.asarray(reference))).any():
        return reference
    if problem.online or any(term.sees_policy for term in terms):
        return _checks.distribution("reference", reference, full_support=True)
    size = reference.shape[-1]
    shown = _log_space.logaddexp(problem.chosen_marginal(size), problem.rejected_marginal(size))
    seen = zero & np.asarray(jnp.isfinite(shown) & problem.occurring())
    if seen.any():
        where = tuple(int(k) for k in np.argwhere(seen)[0])
        raise ValueError(
            "`reference` must give every sequence of a pair a positive probability; got zero at index "
            f"{where}"
        )
    return jnp.where(jnp.isneginf(reference), -jnp.log(size).astype(reference.dtype), reference)
