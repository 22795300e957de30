import contextlib
import io
import re
from pathlib import Path

import jax
import matplotlib as mpl

from didsim.theory import check_all
from experiments.__main__ import EXPERIMENTS
from experiments.shared.findings import read_findings

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_run_and_print_what_stands_below_them() -> None:
    mpl.use("agg")
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    printed = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    assert len(examples[0].strip().splitlines()) <= 12
    out = io.StringIO()
    names: dict[str, object] = {}
    # A reader has JAX's default precision.
    with jax.enable_x64(False), contextlib.redirect_stdout(out):
        for example in examples:
            exec(example, names)
    assert out.getvalue() == "".join(printed)


def test_the_share_of_the_claim_is_what_the_report_says() -> None:
    (share, low, high), *others = re.findall(
        r"(\d+)% of 10,000 instances,\s+from (\d+)% to (\d+)% by", README
    )
    assert not others
    report = check_all(10_000, only=["low_entropy_reinforces"], counterexamples=False)
    (row,) = report.rows
    assert row.shares is not None
    assert row.share is not None
    found = (row.share, min(row.shares.values()), max(row.shares.values()))
    assert (share, low, high) == tuple(f"{100 * one:.0f}" for one in found)


def test_every_figure_shown_is_there_and_comes_from_an_experiment() -> None:
    root = Path(__file__).parent.parent
    shown = re.findall(r"\(figures/(\w+)\.png\)", README)
    # Further pictures of an experiment stand in the gallery alone.
    further = [
        Path(one).stem for found in read_findings(root / "figures").values() for one in found.pictures[1:]
    ]
    assert sorted([*shown, *further]) == sorted(path.stem for path in (root / "figures").glob("*.png"))
    for name in shown:
        if name == "benchmarks":
            assert "`make bench`" in README
            continue
        if (root / "studies" / f"{name}.toml").exists():
            assert f"didsim run studies/{name}.toml" in README
            continue
        assert name in EXPERIMENTS
        assert f"`python -m experiments {name}`" in README


def test_the_study_shown_is_that_of_its_file() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    study = (Path(__file__).parent.parent / "studies" / "rejected_distributions.toml").read_text()
    for part in shown.strip().split("\n\n"):
        assert part in study
