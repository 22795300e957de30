"""Section 4: log-margins `m_π(i, j) = log π(i) − log π(j)`, their order and the power law."""

import jax.numpy as jnp
from jaxtyping import Array

from didsim.information import expectation
from didsim.margins import check_order, fit_power_law, pair_exponent
from didsim.preferences.rejected import optimal_rejected
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, claim, exact, largest, off


def _three_steps(case: Case) -> tuple[Array, Array]:
    """Of all pairs, the steps from the reference's margin to the target's, and from the rejected's to it."""
    up, down = case.target - case.reference, case.reference - case.third
    return up[:, None] - up[None, :], down[:, None] - down[None, :]


@exact(
    4,
    PAPER,
    "A pair obeys the power law for some β > 0 iff its margins are ordered, strictly or equal in both steps",
)
def ordered_pair(case: Case) -> Array:
    """The exponent of every pair is positive where the steps have one sign, and then explains both."""
    up, down = _three_steps(case)
    i, j = jnp.indices(up.shape)
    exponent = pair_exponent(case.target, case.reference, case.third, i, j)
    # Steps within rounding have any sign.
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
    """Every pair's steps, and the regression's slope."""
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


@exact(4, PAPER, "Hence under the power law all pairs are log-margin ordered")
def ordering_is_necessary(case: Case) -> Array:
    """The share of pairs that are not."""
    rejected = optimal_rejected(case.reference, case.target, case.beta)
    return 1 - check_order(case.target, case.reference, rejected).fraction


@exact(4, OURS, "Under the power law expected margins are ordered: E m_* ≥ E m_ref ≥ E m_l, pairs as sampled")
def expected_margins_under_law(case: Case) -> Array:
    """By how much they are not. `E_{π_s} log q` grows with `s` along the geodesic that holds all three."""
    reference = case.reference
    rejected = optimal_rejected(reference, case.target, case.beta)
    one, two, three = _expected_margins(reference, rejected, (case.target, reference, rejected))
    size = 1 + jnp.max(jnp.abs(jnp.stack([case.target, reference, rejected])))
    return largest(jnp.maximum(0, two - one), jnp.maximum(0, three - two)) / size


@claim(4, PAPER, "E m_* ≥ E m_ref ≥ E m_l for any three policies (chosen from the reference)")
def expected_margins(case: Case) -> Array:
    """Whether both hold with the third policy for the rejected distribution."""
    policies = case.target, case.reference, case.third
    one, two, three = _expected_margins(case.reference, case.third, policies)
    return (one >= two) & (two >= three)


def _expected_margins(chosen: Array, rejected: Array, policies: tuple[Array, ...]) -> list[Array]:
    return [expectation(chosen, p) - expectation(rejected, p) for p in policies]
