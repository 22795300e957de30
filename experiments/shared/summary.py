"""The table of objectives from `objective_zoo`'s data, whose numbers `figures/objective_zoo.json` keeps."""

from typing import Any

import numpy as np
import xarray as xr

ZERO = 1e-12
"""A divergence below it, in nats, is rounding."""

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


def _number(value: float) -> float | str | None:
    if np.isnan(value):
        return None
    return float(f"{value:.4g}") if np.isfinite(value) else str(value)


def _small(value: float | str | None) -> str:
    if value is None:
        return "–"
    return "0" if float(value) < ZERO else f"{float(value):.2g}"


def _fixed(value: float | str | None) -> str:
    if value is None:
        return "–"
    value = float(value)
    # A zero has no sign.
    text = f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else f"{value:.0f}".replace("inf", "∞")
    return text.replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g}%"
