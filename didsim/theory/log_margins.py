"""Section 4: log-margins `m_π(i, j) = log π(i) − log π(j)`, their order and the power law."""

import jax.numpy as jnp
from jaxtyping import Array

from didsim.information import expectation
from didsim.margins import check_order, fit_power_law, pair_exponent
from didsim.preferences.rejected import optimal_rejected
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, claim, exact, largest, off


def _steps(case: Case) -> tuple[Array, Array]:
    """For all pairs, the step of the margin up to the target and the step down to the rejected distribution.

    The first is `m_* − m_ref`, the second `m_ref − m_l`.
    """
    up, down = case.target - case.reference, case.reference - case.third
    return up[:, None] - up[None, :], down[:, None] - down[None, :]


@exact(
    4,
    PAPER,
    "A pair obeys the power law for some β > 0 iff its margins are ordered, both steps strict or both zero",
)
def ordered_pair(case: Case) -> Array:
    """A pair's exponent must be positive iff both steps have one sign, and must turn one into the other."""
    up, down = _steps(case)
    i, j = jnp.indices(up.shape)
    exponent = pair_exponent(case.target, case.reference, case.third, i, j)
    # A step of the size of rounding may have either sign.
    rounding = 1e-13 * (1 + jnp.max(jnp.abs(jnp.stack([case.target, case.reference, case.third]))))
    clear = (jnp.abs(up) > rounding) & (jnp.abs(down) > rounding)
    ordered = up * down > 0
    usable = jnp.isfinite(exponent) & (exponent > 0)
    wrong = jnp.any(clear & (ordered != usable))
    explained = jnp.where(clear & usable, exponent * up, down)
    return largest(off(explained, down, case.target, case.reference, case.third), wrong.astype(down.dtype))


@exact(
    4,
    PAPER,
    "The exponent of a pair is (m_ref − m_l)/(m_* − m_ref); under the power law it is β for all pairs",
)
def same_exponent(case: Case) -> Array:
    """The steps of every pair, and the slope of the regression."""
    rejected = optimal_rejected(case.reference, case.target, case.beta)
    up = case.target - case.reference
    down = case.reference - rejected
    law = fit_power_law(case.target, case.reference, rejected)
    spread = jnp.max(up) - jnp.min(up)
    sizes = case.reference, case.target, rejected, case.beta * up
    differences = down[:, None] - down[None, :]
    expected = case.beta * (up[:, None] - up[None, :])
    slope = jnp.where(jnp.isnan(law.exponent), case.beta, law.exponent)
    return largest(
        off(differences, expected, *sizes),
        off(slope * spread, case.beta * spread, *sizes),
        off(law.residual, jnp.zeros(()), *sizes),
    )


@exact(4, PAPER, "Under the power law, all pairs are log-margin ordered")
def ordering_is_necessary(case: Case) -> Array:
    """The share of pairs that are not ordered."""
    rejected = optimal_rejected(case.reference, case.target, case.beta)
    return 1 - check_order(case.target, case.reference, rejected).fraction


@exact(4, OURS, "Under the power law, expected margins of sampled pairs are ordered: E m_* ≥ E m_ref ≥ E m_l")
def expected_margins_under_law(case: Case) -> Array:
    """By how much they are out of order.

    All three policies lie on one geodesic, and `E_{π_s} log q` grows with `s` along it.
    """
    reference = case.reference
    rejected = optimal_rejected(reference, case.target, case.beta)
    one, two, three = _expected_margins(reference, rejected, (case.target, reference, rejected))
    size = 1 + jnp.max(jnp.abs(jnp.stack([case.target, reference, rejected])))
    return largest(jnp.maximum(0, two - one), jnp.maximum(0, three - two)) / size


@claim(4, PAPER, "E m_* ≥ E m_ref ≥ E m_l for any three policies (chosen responses come from the reference)")
def expected_margins(case: Case) -> Array:
    """Whether both inequalities hold. The third policy is the rejected distribution."""
    policies = case.target, case.reference, case.third
    one, two, three = _expected_margins(case.reference, case.third, policies)
    return (one >= two) & (two >= three)


def _expected_margins(chosen: Array, rejected: Array, policies: tuple[Array, ...]) -> list[Array]:
    return [expectation(chosen, p) - expectation(rejected, p) for p in policies]
