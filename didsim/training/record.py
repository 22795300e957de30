"""When and what to record along a training run."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from didsim import _checks
from didsim.training.metrics import METRICS, Measure, Metric, metric_of


class Record:
    """When and what to record.

    Args:
        every: steps between records. The start and the last step are always recorded.
        metrics: functions of a `Snapshot` by name, each giving an array. By default the standard ones of
            `METRICS`, with two exceptions: `reward_accuracy` and `fraction_ordered` count pairs, which costs
            more than the training between two records. A standard metric that needs a target, or a rejected
            distribution without zeros, is left out of a run that has none. `Record(metrics={**METRICS,
            "peak": lambda s: s.log_probs.max()})` records one of your own with all of `METRICS`.
        also: names in `METRICS` to record beside the default ones: of the two exceptions, and of metrics that
            you added. Must be empty if `metrics` is given.

    Raises:
        ValueError: `also` has a name that is not in `METRICS` or is recorded anyway, or comes with `metrics`;
            `every` is below 1; a metric is not a function, or is named "step".
    """

    every: int
    metrics: Mapping[str, Measure] | None
    also: frozenset[str]

    def __init__(
        self, every: int = 10, metrics: Mapping[str, Measure] | None = None, also: Iterable[str] = ()
    ):
        self.every = _checks.positive_int("every", every)
        self.also = frozenset(also)
        others = not_by_default()
        if unknown := sorted(self.also - set(others)):
            raise ValueError(f"`also` must be some of {', '.join(sorted(others))}; got {unknown}")
        if metrics is not None:
            _checks.instance("metrics", metrics, Mapping, "functions of a Snapshot by name")
            if self.also:
                raise ValueError(
                    "`also` adds to the default metrics, and must be empty beside `metrics`; got "
                    f"{sorted(self.also)}"
                )
        for name, metric in [*(metrics or {}).items(), *((name, METRICS[name]) for name in self.also)]:
            if name == "step":
                raise ValueError("`metrics` must not use the name 'step', which is that of their axis")
            if not callable(metric):
                raise ValueError(
                    f"`metrics` must map names to functions of a Snapshot; got {metric!r} for {name!r}"
                )
        self.metrics = metrics

    def count(self, steps: int) -> int:
        """The number of records in so many steps."""
        return -(-steps // self.every) + 1

    def counts(self, steps: int) -> np.ndarray:
        """The numbers of steps after which something is recorded, in a run of so many steps."""
        return np.append(np.arange(0, steps, min(self.every, max(steps, 1))), steps)

    def resolve(self, *, has_target: bool, has_support: bool) -> dict[str, Metric]:
        """The metrics of a run.

        Args:
            has_target: whether the run has a target.
            has_support: whether its rejected distribution gives every sequence a positive probability.

        Raises:
            ValueError: a metric that was asked for by name needs a target or such a distribution, and the run
                has none.
        """

        def lacks(metric: Metric) -> dict[str, bool]:
            return {
                "target": metric.needs_target and not has_target,
                "problem": metric.needs_support and not has_support,
            }

        by_name = {name: METRICS[name] for name in self.also} if self.metrics is None else self.metrics
        asked = {name: metric_of(measure) for name, measure in by_name.items()}
        for name, metric in asked.items():
            for argument, is_lacking in lacks(metric).items():
                if is_lacking:
                    expected = "given" if argument == "target" else "one that can reject every sequence"
                    raise ValueError(f"`{argument}` must be {expected} for the metric {name!r}")
        if self.metrics is not None:
            return asked
        known = {name: metric_of(measure) for name, measure in METRICS.items()}
        return {
            name: metric
            for name, metric in known.items()
            if name in asked or (metric.by_default and not any(lacks(metric).values()))
        }


def not_by_default() -> list[str]:
    """The names in `METRICS` that are recorded only if they are asked for."""
    return [name for name, measure in METRICS.items() if not metric_of(measure).by_default]


def metric_attributes(name: str, measure: Measure) -> dict[str, Any]:
    """The long name of a metric and, where they are known, its units, for a labelled dataset."""
    metric = metric_of(measure)
    units = {} if metric.units is None else {"units": metric.units}
    return {"long_name": metric.long_name or name, **units}
