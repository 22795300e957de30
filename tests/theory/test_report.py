import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from didsim.theory import CASE_FAMILIES, CHECKS, COUNTEREXAMPLES, Case, Check, check_all
from didsim.theory.report import Report, draw_cases, measure

CASES = draw_cases(360, 0)


def check_of(measured: object, kind: str = "exact", **settings: object) -> Check:
    return Check("mine", 3, "what is said", "here", kind, measured, **settings)  # type: ignore[arg-type]


def test_every_section_of_the_theory_has_checks() -> None:
    assert {check.section for check in CHECKS.values()} == set(range(1, 10))
    assert len({check.statement for check in CHECKS.values()}) == len(CHECKS)


def test_a_row_has_the_worst_of_all_instances() -> None:
    row = measure(check_of(lambda case: 1e-11 * jnp.sum(case.target < -100)), 360, CASES)
    assert (row.instances, row.verdict, row.worst_family) == (360, "holds", "logits of ±700")
    assert row.worst == pytest.approx(7e-11, rel=0.3)
    row = measure(check_of(lambda case: jnp.max(-case.target)), 360, CASES)
    assert (row.verdict, row.worst_family) == ("FAILS", "logits of ±700")


def test_what_is_not_a_number_fails() -> None:
    row = measure(check_of(lambda case: jnp.where(case.beta > 1e2, jnp.nan, 0.0)), 360, CASES)
    assert (row.verdict, row.worst_family) == ("FAILS", "huge beta")


def test_a_claim_has_its_share_by_family() -> None:
    row = measure(check_of(lambda case: case.beta > 1e2, "claim"), 360, CASES)
    assert row.shares == {family: float(family == "huge beta") for family in CASE_FAMILIES}
    assert row.share == pytest.approx(1 / 9)
    assert (row.verdict, row.worst) == ("measured", None)


def test_one_by_one_at_most() -> None:
    seen: list[int] = []

    def measured(case: Case) -> float:
        seen.append(case.size)
        return 0.0

    row = measure(check_of(measured, most=20, sizes=(2, 8)), 360, CASES)
    assert row.instances == len(seen) == 20
    assert set(seen) == {2, 8}


def test_the_number_of_instances_is_the_one_asked_for() -> None:
    for asked in (1, 7, 100):
        assert measure(check_of(lambda case: case.beta * 0), asked, CASES).instances == asked


def test_the_report_is_the_same_for_the_same_seed_and_reads_as_json() -> None:
    one, same = (check_all(50, 5, ["chain", "expected_margins"], counterexamples=False) for _ in range(2))
    assert one == same
    assert one.passed
    read = json.loads(one.to_json())
    assert [row["name"] for row in read["rows"]] == ["chain", "expected_margins"]
    assert read["rows"][0]["worst"] == one.rows[0].worst
    assert check_all(50, 6, ["chain"], counterexamples=False).rows != one.rows[:1]


def test_a_failing_statement_fails_the_report() -> None:
    row = measure(check_of(lambda case: case.beta), 36, CASES)
    assert not Report(0, 36, [row], []).passed


def test_tables_say_what_there_is() -> None:
    report = check_all(36, only=["dpo_learns_target", "expected_margins"])
    console = Console(width=110, file=io.StringIO())
    console.print(report.table())
    console.print(report.counterexample_table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("dpo_learns_target", "holds", "true of", "by family", "β_t = 2 β_d", "(1/3, 2/3)"):
        assert part in text


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="`instances`"):
        check_all(0)
    with pytest.raises(ValueError, match="unknown check 'dp'; there are bayes"):
        check_all(10, only=["dp"])


@pytest.mark.parametrize("example", COUNTEREXAMPLES, ids=lambda one: one.name)
def test_every_dropped_assumption_breaks_its_statement(example: object) -> None:
    found = example.find()  # type: ignore[attr-defined]
    assert found.of in CHECKS
    assert found.deviation is not None
    assert found.deviation > 0.01
    # Two sequences have one pair, which is ordered if and only if it obeys the power law.
    assert found.size == (3 if found.name == "ordered_but_no_law" else 2)


def test_counterexamples_by_hand() -> None:
    found = {one.name: one.find() for one in COUNTEREXAMPLES if one.name in ("other_beta", "log_prob_reward")}
    # (1/3, 2/3) to (2/3, 1/3) with half the exponent ends at (1/2, 1/2).
    p, q, m = np.array([1 / 2, 1 / 2]), np.array([2 / 3, 1 / 3]), np.array([7 / 12, 5 / 12])
    by_hand = np.sum(p * np.log(p / m) + q * np.log(q / m)) / 2
    assert found["other_beta"].instance == {"reference": "(1/3, 2/3)", "target": "(2/3, 1/3)"}
    assert found["other_beta"].deviation == pytest.approx(by_hand, rel=1e-12)
    # From (1/3, 2/3) to (1/2, 1/2) the DID is (2/3, 1/3).
    assert found["log_prob_reward"].deviation == pytest.approx(by_hand, rel=1e-12)
