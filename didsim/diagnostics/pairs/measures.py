"""What is measured on each checkpoint of a pairs table, in the data and in each resample."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from didsim.diagnostics.pairs.calibration import Reliability, reliability, resampled_slopes
from didsim.diagnostics.pairs.table import ARGMAX, LENGTHS, REJECTED_POLICY, Pairs
from didsim.diagnostics.resampling import Bootstrap, make_bootstrap, ratio

QUADRANTS = ("chosen up, rejected up", "chosen up, rejected down", "both down", "chosen down, rejected up")
"""The directions in which the two log-probabilities of a pair can have moved. An equal one counts as up."""

_DRAWN = 4000
"""Pairs that a picture shows at most."""

_ROUNDING = 4 * float(np.finfo(np.float32).eps)

_SUMS = ("length", "x", "y", "xx", "xy")
"""Sums for a line of displacement on length."""


class Measured(NamedTuple):
    """Measurements of a pairs table.

    Attributes:
        steps: the step of each checkpoint, or its place in the order if the table does not say.
        has_steps: whether the table has steps.
        trained_on: statistics of the training pairs by name, `[checkpoints, 1 + resamples]`; column 0 is the
            estimate. Where no pair is known to be one, those of all pairs.
        judged: statistics of the held-out pairs. Where no pair is known to be one, those of all pairs.
        held_out: whether pairs are known to be held out.
        clusters: the number of clusters that intervals rest on.
        prompts_in_common: the share of the prompts of the first or last checkpoint that both have.
        beta: beta of the run; None if it is not known.
        curve: the reliability curve of the last checkpoint; of held-out pairs if the table has them.
        curve_beta: the beta of the curve: the one given, or else the one at which the slope is 1.
        chosen: displacement of the chosen response in some pairs of the last checkpoint, to draw.
        rejected: displacement of the rejected response in these pairs.
        chosen_length: length of the chosen response in these pairs; empty if not known.
        size: mean size of a log-probability by column.
        size_against_length: slope of log size on log length for `chosen_logps`; None without lengths.
        mean_length: mean length of the chosen response; None without lengths.
    """

    steps: np.ndarray
    has_steps: bool
    trained_on: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]
    held_out: bool
    clusters: int
    prompts_in_common: float
    beta: float | None
    curve: Reliability | None
    curve_beta: float
    chosen: np.ndarray
    rejected: np.ndarray
    chosen_length: np.ndarray
    size: dict[str, float]
    size_against_length: float | None
    mean_length: float | None


def measure(pairs: Pairs, *, beta: float | None, resamples: int, seed: int) -> Measured:
    """Measure every checkpoint of a pairs table."""
    bootstrap = make_bootstrap(pairs.prompts, resamples, seed)
    cluster = bootstrap.cluster[pairs.prompt]
    spans = list(pairs.checkpoints())

    def series(inside: np.ndarray | None, judged: bool = True) -> dict[str, np.ndarray]:
        found = []
        for span in spans:
            rows = span if inside is None else span.start + np.flatnonzero(inside[span])
            found.append(_statistics(pairs, rows, cluster[rows], bootstrap, beta, judged))
        return {name: np.array([one[name] for one in found]) for name in found[0]}

    held = pairs.held_out
    if held is None or held.all() or not held.any():
        trained_on = judged_on = series(None)
    else:
        trained_on, judged_on = series(~held, judged=False), series(held)
    has_held_out = held is not None and bool(held.any())
    last = spans[-1]
    judged = last if held is None or not has_held_out else last.start + np.flatnonzero(held[last])
    margin = _displacement(pairs, "chosen", judged) - _displacement(pairs, "rejected", judged)
    slope = judged_on["slope"][-1, 0]
    curve_beta = beta if beta is not None else float(slope)
    known = np.isfinite(curve_beta) and curve_beta > 0 and len(margin) > 0
    some = np.random.default_rng(seed).permutation(last.stop - last.start)[:_DRAWN] + last.start
    first_prompts, last_prompts = (np.unique(pairs.prompt[span]) for span in (spans[0], last))
    both = np.intersect1d(first_prompts, last_prompts).size
    lengths = pairs.numbers.get(LENGTHS[0])
    return Measured(
        steps=np.arange(len(spans)) if np.isnan(pairs.steps).any() else pairs.steps,
        has_steps=not np.isnan(pairs.steps).any(),
        trained_on=trained_on,
        judged=judged_on,
        held_out=has_held_out,
        clusters=min(len(bootstrap.counts), len(last_prompts)),
        prompts_in_common=both / (first_prompts.size + last_prompts.size - both),
        beta=beta,
        curve=reliability(curve_beta * margin, cluster[judged], bootstrap) if known else None,
        curve_beta=float(curve_beta),
        chosen=_displacement(pairs, "chosen", some),
        rejected=_displacement(pairs, "rejected", some),
        chosen_length=np.empty(0) if lengths is None else lengths[some],
        size={name: float(-values.mean()) for name, values in pairs.numbers.items() if name not in LENGTHS},
        size_against_length=None if lengths is None else _growth(-pairs.numbers["chosen_logps"], lengths),
        mean_length=None if lengths is None else float(lengths.mean()),
    )


def _displacement(pairs: Pairs, response: str, rows: slice | np.ndarray) -> np.ndarray:
    """`log π − log π_ref` of the chosen or the rejected response of some rows.

    A difference within the rounding of single precision, in which trainers compute, is none: the policy at
    the first step would otherwise seem to prefer one response to the other.
    """
    policy, reference = pairs.numbers[f"{response}_logps"][rows], pairs.numbers[f"ref_{response}_logps"][rows]
    difference = policy - reference
    difference[np.abs(difference) <= _ROUNDING * np.abs(reference)] = 0.0
    return difference


def _statistics(
    pairs: Pairs,
    rows: slice | np.ndarray,
    cluster: np.ndarray,
    bootstrap: Bootstrap,
    beta: float | None,
    judged: bool,
) -> dict[str, np.ndarray]:
    """The statistics of some rows, and their resamples. Slope and losses only if they are judged."""
    chosen, rejected = _displacement(pairs, "chosen", rows), _displacement(pairs, "rejected", rows)
    margin = chosen - rejected
    slopes = resampled_slopes(margin, cluster, bootstrap) if judged else None
    has_rejected_policy = all(name in pairs.numbers for name in REJECTED_POLICY)
    # Lengths and what is regressed on them, about some centre, so that no digits cancel.
    lengths = {
        response: (of, pairs.numbers[column][rows])
        for response, of, column in zip(("chosen", "rejected"), (chosen, rejected), LENGTHS, strict=True)
        if column in pairs.numbers
    }

    def columns() -> Iterator[tuple[str, np.ndarray | None]]:
        yield "pairs", None
        yield from (("chosen", chosen), ("rejected", rejected), ("margin", margin))
        yield "accuracy", np.where(margin == 0, 0.5, margin > 0)
        up, down = chosen >= 0, rejected < 0
        for name, inside in zip(QUADRANTS, (up & ~down, up & down, ~up & down, ~up & ~down), strict=True):
            yield name, inside.astype(float)
        if slopes is not None:
            yield "best loss", _loss_at(slopes[0], margin)
        if slopes is not None and beta is not None:
            yield "loss", _loss_at(beta, margin)
        for name in ("chosen_logps", "rejected_logps", ARGMAX, *pairs.others):
            if name in pairs.numbers:
                yield name, pairs.numbers[name][rows]
        for response, (of, length) in lengths.items():
            yield f"{response} length", length
            x, y = _centred(length), _centred(of)
            yield from ((f"{response} x", x), (f"{response} y", y))
            yield from ((f"{response} xx", x * x), (f"{response} xy", x * y))
        if has_rejected_policy:
            step = _margin_from_rejected_policy(pairs, rows)
            ordered = ((margin > 0) & (step > 0)) | ((margin == 0) & (step == 0))
            yield "ordered", ordered.astype(float)
            yield from (("mm", margin * margin), ("ms", margin * step), ("ss", step * step))

    totals = bootstrap.totals(cluster, columns())
    count = totals["pairs"]
    sums = {"pairs", "mm", "ms", "ss", *(f"{one} {of}" for one in lengths for of in _SUMS)}
    found = {} if slopes is None else {"slope": slopes}
    found |= {name: ratio(total, count) for name, total in totals.items() if name not in sums}
    for one in lengths:
        length, x, y, xx, xy = (totals[f"{one} {of}"] for of in _SUMS)
        found[f"{one} per token"] = ratio(totals[one], length)
        found[f"{one} for each further token"] = ratio(xy - ratio(x * y, count), xx - ratio(x * x, count))
    if has_rejected_policy:
        found["exponent"] = ratio(totals["ms"], totals["mm"])
        found["power law"] = ratio(totals["ms"] ** 2, totals["mm"] * totals["ss"])
    return found


def _loss_at(slope: float, margin: np.ndarray) -> np.ndarray:
    """The sigmoid loss at a slope. At that of maximum likelihood it is what the order of pairs allows."""
    if np.isinf(slope):
        return np.where(margin == 0, np.log(2), np.where(margin * slope > 0, 0.0, np.inf))
    return np.logaddexp(0, -(0.0 if np.isnan(slope) else slope) * margin)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.sum() / max(len(values), 1)


def _margin_from_rejected_policy(pairs: Pairs, rows: slice | np.ndarray) -> np.ndarray:
    """The margin of the reference less that of the rejected policy.

    With `x` the margin of the policy less that of the reference, and `y` this, a power law
    `π_ref/π_l ∝ (π/π_ref)^b` says `y = b x` on every pair.
    """
    of_reference = pairs.numbers["ref_chosen_logps"][rows] - pairs.numbers["ref_rejected_logps"][rows]
    return of_reference - (pairs.numbers[REJECTED_POLICY[0]][rows] - pairs.numbers[REJECTED_POLICY[1]][rows])


def _growth(size: np.ndarray, length: np.ndarray) -> float | None:
    """The exponent with which log-probabilities grow with length: 1 for sums over tokens, 0 for means."""
    kept = size > 0
    x, y = np.log(length[kept]), np.log(size[kept])
    if len(x) < 20 or x.std() < 0.1:
        return None
    return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))
