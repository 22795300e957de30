"""When and what to record along a training run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from didsim import _checks
from didsim.training.metrics import METRICS, Measure, Metric, metric_of

Evaluate = Callable[[PyTree, PyTree], PyTree]
"""A function of an optimiser's state and of trained parameters that gives the parameters to evaluate."""


class Record:
    """When and what to record.

    Args:
        every: steps between records. The start and the last step are always recorded.
        metrics: functions of a `Snapshot` by name, each giving an array. By default the standard ones of
            `METRICS`, with two exceptions: `reward_accuracy` and `fraction_ordered` count pairs, which costs
            more than the training between two records. A standard metric that needs a target, or a rejected
            distribution without zeros, is left out of a run that has none: also here, if it stands under its
            own name beside metrics that are not standard, as in `{**METRICS, "peak": peak}`.
        also: what to record beside the default metrics: names in `METRICS` (of the two exceptions, and of
            metrics that you added), or functions by name, as in `Record(also={"peak": lambda s:
            s.log_probs.max()})`. A function takes the place of a default metric of the same name. Must be
            empty if `metrics` is given.
        evaluate: function of an optimiser's state and of the trained parameters that gives the parameters to
            record. By default these are the trained ones. Some optimisers train at one point and are
            evaluated at another: for `optax.contrib.schedule_free` this is the averaged policy, with
            `evaluate=optax.contrib.schedule_free_eval_params`. All metrics are then those of the averaged
            policy, and `Run.evaluated` holds it. A record costs one gradient more.

    Raises:
        ValueError: `also` has a name that is not in `METRICS` or is recorded anyway, or comes with `metrics`;
            `every` is below 1; a metric is not a function, or is named "step"; `evaluate` is no function.
    """

    every: int
    metrics: Mapping[str, Measure] | None
    also: Mapping[str, Measure]
    evaluate: Evaluate | None

    def __init__(
        self,
        every: int = 10,
        metrics: Mapping[str, Measure] | None = None,
        also: Iterable[str] | Mapping[str, Measure] = (),
        evaluate: Evaluate | None = None,
    ):
        self.every = _checks.positive_int("every", every)
        self.also = _functions("also", also if isinstance(also, Mapping) else _named(also))
        self.metrics = None if metrics is None else _functions("metrics", metrics)
        if self.metrics is not None and self.also:
            raise ValueError(
                "`also` adds to the default metrics, and must be empty beside `metrics`; got "
                f"{sorted(self.also)}"
            )
        if evaluate is not None:
            _checks.function("evaluate", evaluate, "a function of an optimiser's state and of parameters")
        self.evaluate = evaluate

    def count(self, steps: int) -> int:
        """The number of records in so many steps."""
        return -(-steps // self.every) + 1

    def counts(self, steps: int) -> np.ndarray:
        """The numbers of steps after which something is recorded, in a run of so many steps."""
        return np.append(np.arange(0, steps, min(self.every, max(steps, 1))), steps)

    def resolve(self, *, has_target: bool, has_support: bool, covers_all: bool = True) -> dict[str, Metric]:
        """The metrics of a run.

        Args:
            has_target: whether the run has a target.
            has_support: whether its rejected distribution gives every sequence a positive probability.
            covers_all: whether its reference does.

        Raises:
            ValueError: a metric that was asked for needs a target or such a distribution, and the run has
                none.
        """
        asked = self.also if self.metrics is None else self.metrics
        # All of METRICS, with others, asks for those that the run can have.
        if self.metrics is not None and all(self.metrics.get(name) is METRICS[name] for name in METRICS):
            asked = {name: one for name, one in asked.items() if METRICS.get(name) is not one}
            beside = dict(METRICS)
        else:
            beside = {} if self.metrics is not None else _by_default()

        def lacks(metric: Metric) -> str | None:
            if metric.needs_target and not has_target:
                return "`target` must be given"
            if metric.needs_support and not has_support:
                return "`problem` must be one that can reject every sequence"
            if metric.needs_cover and not covers_all:
                return "`reference` must be without zeros"
            return None

        found = {name: metric_of(one) for name, one in beside.items()}
        found = {name: metric for name, metric in found.items() if name in asked or lacks(metric) is None}
        for name, measure in asked.items():
            found[name] = metric_of(measure)
            if reason := lacks(found[name]):
                raise ValueError(f"{reason} for the metric {name!r}")
        return found


def _named(names: Iterable[str]) -> dict[str, Measure]:
    """Metrics of `METRICS` that are not recorded by default, by name."""
    others = not_by_default()
    wanted = _checks.words("also", names)
    if unknown := [name for name in wanted if name not in others]:
        raise ValueError(f"`also` must be some of {', '.join(sorted(others))}; got {unknown}")
    return {name: METRICS[name] for name in METRICS if name in wanted}


def _functions(argument: str, metrics: Mapping[str, Measure]) -> dict[str, Measure]:
    """The metrics, checked."""
    _checks.instance(argument, metrics, Mapping, "functions of a Snapshot by name")
    for name, metric in metrics.items():
        if not isinstance(name, str) or name == "step":
            raise ValueError(
                f"`{argument}` must not use the name 'step', which is that of their axis"
                if name == "step"
                else f"`{argument}` must have names that are strings; got {name!r}"
            )
        if not callable(metric):
            raise ValueError(
                f"`{argument}` must map names to functions of a Snapshot; got {metric!r} for {name!r}"
            )
    return dict(metrics)


def _by_default() -> dict[str, Measure]:
    return {name: one for name, one in METRICS.items() if metric_of(one).by_default}


def not_by_default() -> list[str]:
    """The names in `METRICS` that are recorded only if they are asked for."""
    return [name for name, measure in METRICS.items() if not metric_of(measure).by_default]


def metric_attributes(name: str, measure: Measure) -> dict[str, Any]:
    """The long name of a metric and, where they are known, its units, for a labelled dataset."""
    metric = metric_of(measure)
    units = {} if metric.units is None else {"units": metric.units}
    return {"long_name": metric.long_name or name, **units}
