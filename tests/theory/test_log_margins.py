"""Section 4 of the theory: log-margin ordering and the power law."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import didsim
from tests.strategies import tuples


@given(tuples(3, hostile=False))
def test_order_on_a_pair_is_equivalent_to_a_power_law_on_it(triple: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = triple
    for i, j in itertools.combinations(range(len(target)), 2):
        up = (target[i] - target[j]) - (reference[i] - reference[j])
        down = (reference[i] - reference[j]) - (rejected[i] - rejected[j])
        # Whether signs agree is not decided by rounding.
        assume(all(step == 0 or abs(step) > 1e-12 for step in (up, down)))
        pair = np.array([i, j])
        on_pair = np.stack([p[pair] - np.logaddexp.reduce(p[pair]) for p in triple])
        ordered = bool(didsim.check_order(on_pair[0], on_pair[1], on_pair[2], atol=1e-13).ordered)
        exponent = float(didsim.pair_exponent(target, reference, rejected, i, j))
        if up == 0 and down == 0:
            assert ordered
        elif up == 0 or down == 0:
            assert not ordered
            assert not (np.isfinite(exponent) and exponent > 0)
        else:
            # The only candidate for beta is the ratio of the steps; the power law needs it above zero.
            assert exponent == pytest.approx(down / up, rel=1e-9)
            assert ordered == (exponent > 0)


@given(tuples(2), st.sampled_from((0.05, 0.5, 1.0, 4.0)))
def test_a_global_power_law_orders_all_pairs(pair: tuple[np.ndarray, ...], beta: float) -> None:
    reference, target = pair
    rejected = didsim.optimal_rejected(reference, target, beta)
    magnitude = 1 + (1 + beta) * (np.abs(reference).max() + np.abs(target).max())
    report = didsim.check_order(target, reference, rejected, atol=64 * np.finfo(float).eps * magnitude)
    # A pair whose target step is nearly zero may have one step within the tolerance and the other without;
    # no pair can be in the wrong order.
    assert float(report.worst_violation) == 0
    law = didsim.fit_power_law(target, reference, rejected)
    assert float(law.residual) <= 64 * np.finfo(float).eps * magnitude
    if np.ptp(target - reference) > 1e-6:
        assert float(law.exponent) == pytest.approx(beta, rel=1e-8)
        assert bool(law.holds)


@given(tuples(2, hostile=False), st.sampled_from((0.1, 0.5, 2.0)))
def test_the_per_pair_exponent_is_the_same_everywhere_under_a_power_law(
    pair: tuple[np.ndarray, ...], beta: float
) -> None:
    reference, target = pair
    rejected = didsim.optimal_rejected(reference, target, beta)
    i, j = np.triu_indices(len(reference), k=1)
    exponents = np.asarray(didsim.pair_exponent(target, reference, rejected, i, j))
    log_ratio = target - reference
    apart = np.abs(log_ratio[i] - log_ratio[j]) > 1e-3
    np.testing.assert_allclose(exponents[apart], beta, rtol=1e-10)


@given(tuples(3, hostile=False))
def test_a_breach_of_order_rules_out_a_global_power_law(triple: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = triple
    assume(len(target) > 1)
    report = didsim.check_order(target, reference, rejected)
    if float(report.worst_violation) > 1e-6:
        assert not bool(didsim.fit_power_law(target, reference, rejected).holds)
        assert not bool(report.ordered)


@given(tuples(3, hostile=False))
def test_expected_margins_by_a_double_loop(triple: tuple[np.ndarray, ...]) -> None:
    target, reference, rejected = triple
    report = didsim.check_order(target, reference, rejected)
    expected = dict.fromkeys(("target", "reference", "rejected"), 0.0)
    policies = {"target": target, "reference": reference, "rejected": rejected}
    for i, j in itertools.product(range(len(target)), repeat=2):
        weight = np.exp(reference[i] + rejected[j])
        for name, p in policies.items():
            expected[name] += weight * (p[i] - p[j])
    for name, value in expected.items():
        assert float(getattr(report, f"expected_{name}")) == pytest.approx(value, rel=1e-10, abs=1e-12)
