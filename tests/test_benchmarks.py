import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import solving

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_benchmarks_write_data_and_pictures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "benchmarks.png", "benchmarks.pdf"}
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "benchmarks.pdf").read_bytes().startswith(b"%PDF")

    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {
        "machine",
        "seconds",
        "evaluations",
        "half_ranges",
        "slope",
        "slope_float32",
        "errors",
        "peaks",
        "cells",
        "double",
        "recordings",
        "solves",
        "diagnoses",
        "first_result",
        "targets",
    }
    assert {"cpu", "cores", "memory_gib", "os", "python", "jax", "date"} <= set(results["machine"])
    methods = {"engine", "engine_float32", "exact", "dense", "floor", "floor_float32"}
    for evaluation in results["evaluations"]:
        assert set(evaluation["seconds"]) == methods
        assert all(seconds > 0 for seconds in evaluation["seconds"].values())
        assert evaluation["to_dense"]["dense"] == evaluation["to_floor"]["floor"] == 1
    assert all(error["value"] < 1e-12 and error["gradient"] < 1e-10 for error in results["errors"])
    assert all(cell["rate"] > 0 for cell in results["cells"])
    assert {peak["method"] for peak in results["peaks"]} == {"arrays", "engine"}
    assert all(peak["mib"] > 0 for peak in results["peaks"])
    assert all(0 < one["fastest"] <= one["median"] for one in results["solves"])
    assert {one["verdict"] for one in results["solves"]} == {"MINIMISER"}
    assert [(one["kind"], one["rows"]) for one in results["diagnoses"]] == [("log", 100), ("pairs", 400)]
    assert all(one["seconds"] > 0 and one["mib"] > 0 for one in results["diagnoses"])
    assert "diagnosis of a log of 10⁵ lines" in {target["name"] for target in results["targets"]}
    for title in (
        "Machine",
        "Diagnoses",
        "Minimisers",
        "Peak memory",
        "Loss and gradient",
        "Training",
        "Recording",
        "Targets",
    ):
        assert title in done.stdout


def test_times_of_a_minimiser_are_those_of_the_fastest_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*numbers: float) -> dict[str, object]:
        known = {"problem": "contrastive", "objective": "dpo", "dtype": "float64", "method": "newton"}
        names = ("first", "fastest", "median", "training", "mib")
        return (
            known | {"size": 20, "verdict": "MINIMISER", "steps": 7} | dict(zip(names, numbers, strict=True))
        )

    found = [measured(3, 0.4, 0.5, 8, 90), measured(2, 0.3, 0.8, 7, 80), measured(9, 0.6, 0.6, 6, 95)]
    monkeypatch.setattr(solving, "in_fresh_process", lambda *command: found.pop(0))
    (one,) = solving.solves([("contrastive", "dpo", 20, "float64")], processes=3)
    assert (one.first, one.fastest, one.median, one.training, one.mib) == (2, 0.4, 0.5, 8, 90)
    assert (one.processes, one.spread) == (3, 0.8 / 0.5)

    found = [measured(3, 0.4, 0.5, 8, 90)]
    (large,) = solving.solves([("contrastive", "dpo", 10**5, "float64")], processes=3)
    assert (large.processes, large.spread, found) == (1, 1, [])
