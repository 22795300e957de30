"""The checks of `didsim check` by hypothesis, which shrinks an instance that fails to a readable one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import didsim
from didsim.theory import CASE_FAMILIES, CHECKS, Case, Check, make_cases
from didsim.theory.checks import largest, off
from tests.strategies import betas, policies

BATCHED = [check for check in CHECKS.values() if check.most is None]
EXACT = [check.name for check in BATCHED if check.kind == "exact"]
COMPILED: dict[str, Callable[[Case], Any]] = {check.name: jax.jit(check.measure) for check in BATCHED}

SIZES = (1, 2, 5)


@st.composite
def cases(draw: st.DrawFn, sizes: tuple[int, ...] = SIZES) -> Case:
    size = draw(st.sampled_from(sizes))
    reference, target, third = (jnp.asarray(draw(policies(size))) for _ in range(3))
    reward = draw(hnp.arrays(np.float64, size, elements=st.floats(-5, 5, width=32)))
    return Case(
        reference=reference,
        target=target,
        third=third,
        reward=jnp.asarray(reward),
        beta=jnp.asarray(draw(betas)),
        other_beta=jnp.asarray(draw(betas)),
        position=jnp.asarray(draw(st.floats(-2, 2, width=32)), float),
        key=jax.random.key(draw(st.integers(0, 2**31 - 1))),
    )


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=40)
@given(data=st.data())
def test_exact_statements_hold(name: str, data: st.DataObject) -> None:
    check = CHECKS[name]
    case = data.draw(cases(SIZES if check.sizes is None else check.sizes[:1]))
    assert float(COMPILED[name](case)) <= check.tolerance


def a_case(family: str = "normal", size: int = 3, number: int = 0) -> Case:
    return jax.tree.map(lambda leaf: leaf[number], make_cases(family, 0, size, number + 1))


BREAKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "bayes": lambda patch: patch.setattr(
        didsim.theory.differential_information, "did", lambda a, b: didsim.did(b, a)
    ),
    "power_law_preferences": lambda patch: patch.setattr(
        didsim.theory.preference_data,
        "optimal_rejected",
        lambda r, t, b: didsim.optimal_rejected(r, t, 2 * b),
    ),
    "dpo_limit": lambda patch: patch.setattr(didsim.theory.objective_limits, "dpo", didsim.exponential),
    "exponential_limit": lambda patch: patch.setattr(
        didsim.theory.objective_limits, "exponential", didsim.dpo
    ),
    "ipo_limit": lambda patch: patch.setattr(didsim.theory.objective_limits, "ipo", didsim.dpo),
    "simpo_limit": lambda patch: patch.setattr(
        didsim.theory.objective_limits, "simpo", lambda beta, gamma: didsim.dpo(beta)
    ),
    "symmetric_selection": lambda patch: patch.setattr(
        didsim.theory.objective_limits, "dpo", didsim.exponential
    ),
    "best_and_worst_pairs": lambda patch: patch.setattr(
        didsim.theory.objective_limits, "worst_of_n", lambda p, score, n: p
    ),
    "simpo_per_token_limit": lambda patch: patch.setattr(
        didsim.theory.objective_limits,
        "simpo",
        lambda beta, gamma, length_normalised: didsim.simpo(beta, gamma, length_normalised=False),
    ),
    "labelled_limit": lambda patch: patch.setattr(didsim.theory.objective_limits, "dpo", didsim.exponential),
    "same_exponent": lambda patch: patch.setattr(
        didsim.theory.log_margins, "optimal_rejected", lambda r, t, b: didsim.optimal_rejected(r, t, 2 * b)
    ),
    "expected_margins_under_law": lambda patch: patch.setattr(
        didsim.theory.log_margins, "optimal_rejected", lambda r, t, b: t
    ),
    "chosen_displacement": lambda patch: patch.setattr(
        didsim.theory.dynamics, "kl", lambda p, q: didsim.kl(q, p)
    ),
    "displacement_is_concave": lambda patch: patch.setattr(
        didsim.theory.dynamics, "kl", lambda p, q: didsim.kl(q, p)
    ),
    "refinement_contracts": lambda patch: patch.setattr(didsim.theory.dynamics, "dpo", didsim.exponential),
    "unseen_keep_their_ratios": lambda patch: patch.setattr(didsim.theory.dynamics, "dpo", didsim.npo),
    "one_pair_moves_on_a_line": lambda patch: patch.setattr(didsim.theory.dynamics, "dpo", didsim.ipo),
    "rejected_falls_faster": lambda patch: patch.setattr(didsim.theory.dynamics, "dpo", didsim.orpo),
    "displacement_at_first": lambda patch: patch.setattr(
        didsim.theory.dynamics, "dpo", lambda beta: didsim.dpo(2 * beta)
    ),
    "did_by_tokens": lambda patch: patch.setattr(didsim.theory.tokens, "did", lambda a, b: didsim.did(b, a)),
    "displacement_by_tokens": lambda patch: patch.setattr(
        didsim.theory.tokens, "kl", lambda p, q: didsim.kl(q, p)
    ),
    "power_law_by_tokens": lambda patch: patch.setattr(didsim.theory.tokens, "dpo", didsim.exponential),
    "mass_slope": lambda patch: patch.setattr(
        didsim.theory.dynamics, "geodesic", lambda r, q, s: didsim.geodesic(r, q, s / 2)
    ),
    "projection_keeps_chosen": lambda patch: patch.setattr(didsim.theory.dynamics, "dpo_pg", didsim.dpo),
    "kl_optimum_is_best": lambda patch: patch.setattr(
        didsim.theory.two_stages, "kl_optimum", lambda r, q, b: didsim.kl_optimum(r, q, 2 * b)
    ),
    "two_stages_meet": lambda patch: patch.setattr(didsim.theory.two_stages, "dpo", didsim.exponential),
    "unseen_response": lambda patch: patch.setattr(
        didsim.theory.two_stages, "kl_optimum", lambda r, q, b: jax.nn.log_softmax(r)
    ),
    "unbounded_divergence": lambda patch: patch.setattr(
        didsim.theory.two_stages, "kl", lambda p, q: didsim.kl(q, p)
    ),
    "misspecified_reversal": lambda patch: patch.setattr(didsim.theory.two_stages, "dpo", didsim.exponential),
    "ipo_of_win_rates": lambda patch: patch.setattr(
        didsim.theory.two_stages, "ipo", lambda tau: didsim.ipo(2 * tau)
    ),
    "dpo_of_sure_labels": lambda patch: patch.setattr(didsim.theory.two_stages, "dpo", didsim.ipo),
    "dpo_on_a_cycle": lambda patch: patch.setattr(
        didsim.theory.general_preferences, "dpo", lambda beta: didsim.simpo(beta, gamma=0)
    ),
    "exploitability_is_a_divergence": lambda patch: patch.setattr(
        didsim.theory.general_preferences, "exploitability", lambda p, *game: didsim.kl(p, game[1])
    ),
    "regularised_nash": lambda patch: patch.setattr(
        didsim.theory.general_preferences, "nash", lambda table, r, b: didsim.nash(table, r, 2 * b)
    ),
    "self_play_rests_at_nash": lambda patch: patch.setattr(
        didsim.theory.general_preferences, "sppo", lambda beta: didsim.sppo(2 * beta)
    ),
    "unregularised_nash": lambda patch: patch.setattr(
        didsim.theory.general_preferences, "nash", lambda table: didsim.nash(table, beta=1.0)
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_check_fails_where_the_code_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = CHECKS[name]
    size = max(3, min(check.sizes or (3,)))
    some = [a_case(size=size, number=number) for number in range(4)]
    assert max(float(check.measure(case)) for case in some) <= check.tolerance
    BREAKS[name](monkeypatch)
    assert max(float(check.measure(case)) for case in some) > 1e-4


@pytest.mark.parametrize(
    "check", [one for one in CHECKS.values() if one.most is not None], ids=lambda c: c.name
)
def test_checks_that_run_one_by_one(check: Check) -> None:
    assert check.sizes is not None
    values = [check.measure(a_case(family, check.sizes[0])) for family in ("normal", "dirichlet")]
    if check.kind == "exact":
        assert max(values) <= check.tolerance
    else:
        assert all(isinstance(value, bool) for value in values)


def test_the_rate_of_finite_data_needs_preferences_that_data_can_show() -> None:
    check = CHECKS["finite_data_rate"]
    assert check.measure(a_case("normal"))
    assert not check.measure(a_case("near-deterministic"))


@pytest.mark.parametrize("family", CASE_FAMILIES)
def test_cases_are_normalised_and_their_own(family: str) -> None:
    one, same = make_cases(family, 3, 4, 5), make_cases(family, 3, 4, 5)
    other = make_cases(family, 4, 4, 5)
    for policy in (one.reference, one.target, one.third):
        np.testing.assert_allclose(np.exp(policy).sum(-1), 1, rtol=1e-12)
    assert (one.beta > 0).all()
    assert (one.other_beta > 0).all()
    assert one.size == 4
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, same))
    assert not (one.beta == other.beta).any()


def test_families_are_what_they_are_called() -> None:
    assert (make_cases("near-deterministic", 0, 4, 9).target.max(-1) > -1e-6).all()
    assert (np.ptp(make_cases("logits of ±700", 0, 4, 9).target, axis=-1) > 100).all()
    assert (make_cases("tiny beta", 0, 4, 9).beta < 1e-3).all()
    assert (make_cases("huge beta", 0, 4, 9).beta > 1e2).all()
    equal = make_cases("equal policies", 0, 4, 9)
    assert (equal.reference == equal.target).all()
    uniform = make_cases("uniform reference", 0, 4, 9)
    np.testing.assert_allclose(np.exp(uniform.reference), 0.25)


def test_an_unknown_family_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="unknown family 'huge'; there are normal"):
        make_cases("huge", 0, 2, 1)


def test_deviations_are_relative_to_what_is_compared() -> None:
    assert float(off(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.5]))) == pytest.approx(0.5 / 3.5)
    assert float(off(jnp.array(1.0), jnp.array(0.0), jnp.array([-99.0]))) == pytest.approx(0.01)
    assert float(largest(jnp.array(0.1), jnp.array(0.3))) == pytest.approx(0.3)
    assert np.isnan(float(off(jnp.array(jnp.nan), jnp.array(0.0))))
