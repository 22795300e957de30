"""What the README says in numbers of the figures' data: `python -m experiments.shared.readme`.

It writes the table of objectives, from `objective_zoo`, and the sentences that `estimator_study` found.
`make figures` ends with it. The table's numbers are also kept in `figures/objective_zoo.json`.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

_ROOT = Path(__file__).parents[2]
_WIDTH = 126
_MEASURES = ("js", "entropy", "displacement", "margin")


def summarise(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Medians and shares for each objective, in order of the median divergence from the target.

    JSON has no infinite numbers; infinite medians are the strings "-inf" and "inf". Unknown values are None.
    """
    rows = []
    order = np.argsort(dataset["js"].median("seed").values)
    for name in dataset["objective"].values[order]:
        one = dataset.sel(objective=name)
        row: dict[str, Any] = {"objective": str(name), "method": str(one["method"].values)}
        for measure in _MEASURES:
            values = one[measure].values
            known = values[~np.isnan(values)]
            low, middle, high = (
                np.quantile(known, [0.05, 0.5, 0.95], method="nearest") if known.size else [np.nan] * 3
            )
            row[measure] = _number(middle)
            if measure == "js":
                row["js_low"], row["js_high"] = _number(low), _number(high)
        for fact in ("converged", "full_support", "unique", "agreed"):
            values = one[fact].values
            row[fact] = None if np.isnan(values).all() else round(float(np.nanmean(values)), 4)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        "| objective | JS to the target | 5–95% | entropy | chosen displacement | log-margin | found by "
        "| found | full support | proven unique | starts agree |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            f"`{row['objective']}`",
            _small(row["js"]),
            f"{_small(row['js_low'])}–{_small(row['js_high'])}",
            *(_fixed(row[measure]) for measure in _MEASURES[1:]),
            row["method"],
            *(_share(row[fact]) for fact in ("converged", "full_support", "unique", "agreed")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def update() -> None:
    """Write the zoo's summary to JSON, and what the last runs found between its marks in the README."""
    figures, readme = _ROOT / "figures", _ROOT / "README.md"
    with xr.open_dataset(figures / "objective_zoo.nc") as dataset:
        rows = summarise(dataset)
    (figures / "objective_zoo.json").write_text(json.dumps(rows, indent=1) + "\n")
    with xr.open_dataset(figures / "estimator_study.nc") as dataset:
        found = "\n".join(textwrap.wrap(dataset.attrs["finding"], _WIDTH))
    text = readme.read_text()
    for mark, told in (("zoo", table(rows)), ("estimator", found)):
        text = between_marks(text, mark, told)
    readme.write_text(text)


def between_marks(text: str, mark: str, told: str) -> str:
    """The text with what is told between `<!-- mark -->` and `<!-- /mark -->`."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{told}\n{end}{after}"


def _number(value: float) -> float | str | None:
    if np.isnan(value):
        return None
    return float(f"{value:.4g}") if np.isfinite(value) else str(value)


def _small(value: float | str | None) -> str:
    if value is None:
        return "–"
    return "0" if float(value) < 1e-12 else f"{float(value):.2g}"


def _fixed(value: float | str | None) -> str:
    if value is None:
        return "–"
    value = float(value)
    # A zero has no sign.
    text = f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else f"{value:.0f}".replace("inf", "∞")
    return text.replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}%"


if __name__ == "__main__":
    update()
