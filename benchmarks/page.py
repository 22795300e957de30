"""The tables of the page on benchmarks: `python -m benchmarks.page`, which `make bench` ends with."""

import json
from pathlib import Path
from typing import Any

from benchmarks.solving import PROBLEMS
from benchmarks.tables import time_text

_ROOT = Path(__file__).parent.parent
_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"


def tables(results: dict[str, Any]) -> str:
    """The tables in Markdown."""
    cases = [*results["evaluations"], *(case for case in results["half_ranges"] if case["half_range"] > 1)]
    lines = [
        "| loss and gradient, float64 | near-linear | all pairs, tiled | N × N | `log_softmax` alone |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        times = case["seconds"]
        floor = times["floor"]
        cells = [f"{time_text(times['engine'])} ({times['engine'] / floor:.3g} ×)"]
        cells += [time_text(times[name]) if name in times else "–" for name in ("exact", "dense")]
        lines.append(
            f"| N = {case['size']:,}, A = {case['half_range']:g} | {' | '.join([*cells, time_text(floor)])} |"
        )
    lines += [
        "",
        "| steps × runs per second, float32 | N × N, stepped from Python | 1 run | 32 runs | 256 runs |",
    ]
    lines.append("| --- | --- | --- | --- | --- |")
    for size in sorted({cell["size"] for cell in results["cells"]}):
        row = {cell["runs"]: cell for cell in results["cells"] if cell["size"] == size}
        rates = [row[1]["stepped_rate"], *(row[runs]["rate"] for runs in (1, 32, 256))]
        lines.append(f"| N = {size:,} | {' | '.join(_rate(rate) for rate in rates)} |")
    lines += ["", "| minimiser | first call | later calls | 1,000 steps of training | ratio |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for one in results["solves"]:
        times = [time_text(one[key]) for key in ("first", "median", "training")]
        ratio = one["median"] / one["training"]
        lines.append(f"| {_case(one)} | {' | '.join(times)} | {ratio:.2g} |")
    lines += ["", "| target | measured | |", "| --- | --- | --- |"]
    for target in results["targets"]:
        sign = "≤" if target["at_most"] else "≥"
        bound, measured = (f"{target[key]:.3g}{target['unit']}" for key in ("bound", "measured"))
        lines.append(f"| {target['name']}: {sign} {bound} | {measured} | {target['verdict']} |")
    machine, first = results["machine"], results["first_result"]
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}, JAX {machine['jax']}, "
        f"{machine['date']}. The number in brackets is the ratio to `log_softmax`. A first call of `train` "
        f"(N = {first['size']}, {first['steps']} steps) takes {time_text(first['first_call'])}, a second "
        f"{time_text(first['second_call'])}.",
    ]
    return "\n".join(lines)


def update() -> None:
    """Put the tables of the last run between the marks of the page."""
    data, page = _ROOT / "benchmarks" / "results.json", _ROOT / "docs" / "benchmarks.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    text = f"{before}{_BEGIN}\n{tables(json.loads(data.read_text()))}\n{_END}{after}"
    page.write_text(text)


def _case(solve: dict[str, Any]) -> str:
    dtype = "" if solve["dtype"] == "float64" else f", {solve['dtype']}"
    return f"`{solve['objective']}`, N = {solve['size']:,}{PROBLEMS[solve['problem']]}{dtype}"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{float(f'{rate:.3g}'):,.0f}"


if __name__ == "__main__":
    update()
