"""When and what to record along a training run."""

from collections.abc import Iterable, Mapping
from typing import Any

from didsim import _checks
from didsim.training.metrics import _UNITLESS, COUNTS_PAIRS, METRICS, NEEDS_SUPPORT, NEEDS_TARGET, Metric


class Record:
    """When and what to record.

    Args:
        every: steps between records. The start and the last step are always recorded.
        metrics: functions of a `Snapshot` by name, each giving an array. By default the standard ones,
            `METRICS`, but for two: `reward_accuracy` and `fraction_ordered` count pairs, which costs more
            than the training between two records does. Those that need a target, or a rejected
            distribution without zeros, are left out where there is none. To record one of one's own and
            all others: `Record(metrics={**METRICS, "peak": lambda s: s.log_probs.max()})`.
        also: which of those two to record beside the default ones. With `metrics` they stand there.

    Raises:
        ValueError: `also` names another metric or comes with `metrics`, `every` is below 1, a metric is not a
            function, or one is named "step".
    """

    every: int
    metrics: Mapping[str, Metric] | None
    also: frozenset[str]

    def __init__(
        self, every: int = 10, metrics: Mapping[str, Metric] | None = None, also: Iterable[str] = ()
    ):
        self.every = _checks.positive_int("every", every)
        self.also = frozenset(also)
        if unknown := sorted(self.also - COUNTS_PAIRS):
            raise ValueError(f"`also` must be some of {', '.join(sorted(COUNTS_PAIRS))}; got {unknown}")
        if metrics is not None:
            _checks.instance("metrics", metrics, Mapping, "functions of a Snapshot by name")
            if self.also:
                raise ValueError(
                    "`also` adds to the default metrics, and must be empty beside `metrics`; got "
                    f"{sorted(self.also)}"
                )
        for name, metric in (metrics or {}).items():
            if name == "step":
                raise ValueError("`metrics` must not use the name 'step', which is that of their axis")
            if not callable(metric):
                raise ValueError(
                    f"`metrics` must map names to functions of a Snapshot; got {metric!r} for {name!r}"
                )
        self.metrics = metrics

    def resolve(self, *, has_target: bool, has_support: bool) -> dict[str, Metric]:
        """The metrics of a run, which may have a target, and a rejected distribution without zeros.

        Raises:
            ValueError: a standard metric was asked for by name that needs what there is not.
        """
        needs = {
            "target": frozenset() if has_target else NEEDS_TARGET,
            "problem": frozenset() if has_support else NEEDS_SUPPORT,
        }
        if self.metrics is None:
            lacking = (COUNTS_PAIRS - self.also).union(*needs.values())
            return {name: metric for name, metric in METRICS.items() if name not in lacking}
        for name, metric in self.metrics.items():
            for argument, names in needs.items():
                if metric in [METRICS[one] for one in names]:
                    expected = "given" if argument == "target" else "one that can reject every sequence"
                    raise ValueError(f"`{argument}` must be {expected} for the metric {name!r}")
        return dict(self.metrics)


def metric_attributes(name: str) -> dict[str, Any]:
    """The long name and units of a metric, for a labelled dataset."""
    if name not in METRICS:
        return {"long_name": name}
    text = METRICS[name].__doc__ or name
    return {
        "long_name": text.rstrip("."),
        "units": "1" if name in _UNITLESS else "nats",
    }
