"""What pages say: their code runs, and their numbers are those of the data."""

import contextlib
import io
import itertools
import json
import re
from pathlib import Path

import jax
import matplotlib as mpl
import msgspec
import pytest

from benchmarks.page import tables
from didsim.theory import CHECKS, COUNTEREXAMPLES, Report, check_all
from experiments.shared.findings import read_findings
from tests.experiment_cases import DRAWN

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"clusters", "diagnose", "language-models"}  # their own tests, in tests/sweeps and tests/lm
WITH_CODE = [
    page.stem
    for page in sorted((ROOT / "docs").glob("*.md"))
    if "```python" in page.read_text() and page.stem not in ELSEWHERE
]


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_runs_and_prints_what_stands_below_it(name: str) -> None:
    mpl.use("agg")
    page = (ROOT / "docs" / f"{name}.md").read_text()
    out = io.StringIO()
    names: dict[str, object] = {}
    with jax.enable_x64(False), contextlib.redirect_stdout(out):
        for example in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
            exec(example, names)
    assert out.getvalue() == "".join(re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL))


def test_the_benchmarks_page_holds_the_tables_of_the_data() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert tables(results) in (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_benchmarks_page_compares_each_minimiser_with_training() -> None:
    solves = json.loads((ROOT / "benchmarks" / "results.json").read_text())["solves"]
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    row = r"^\| `(\w+)`, N = ([\d,]+?)(?:, ([^|]+))? \| .* \| ([\d.]+) \|$"
    rows = re.findall(row, page, flags=re.MULTILINE)
    more = {"contrastive": "", "batch": "256 problems at once", "pairs": "1,000,000 pairs"}
    assert [(name, int(size.replace(",", "")), of) for name, size, of, _ in rows] == [
        (one["objective"], one["size"], "float32" if one["dtype"] == "float32" else more[one["problem"]])
        for one in solves
    ]
    ratios = [one["median"] / one["training"] for one in solves]
    assert [float(ratio) for *_, ratio in rows] == pytest.approx(ratios, rel=0.051)


def test_the_report_is_of_todays_statements() -> None:
    report = msgspec.json.decode((ROOT / "figures" / "checks.json").read_bytes(), type=Report)
    assert report.passed
    assert {row.name: row.statement for row in report.rows} == {
        name: one.statement for name, one in CHECKS.items()
    }
    assert [one.name for one in report.counterexamples] == [one.name for one in COUNTEREXAMPLES]
    again = check_all(report.instances, report.seed, only=["low_entropy_reinforces"], counterexamples=False)
    assert again.rows == [row for row in report.rows if row.name == "low_entropy_reinforces"]


def test_the_gallery_has_every_experiment() -> None:
    assert set(read_findings(ROOT / "figures")) == set(DRAWN)


def test_every_picture_is_shown_on_a_page() -> None:
    of_experiments = (one.pictures for one in read_findings(ROOT / "figures").values())
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    shown = {*itertools.chain(*of_experiments), *re.findall(r"\(figures/(\w+\.png)\)", pages)}
    assert {path.name for path in (ROOT / "figures").glob("*.png")} == shown
