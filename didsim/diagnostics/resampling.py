"""Intervals by a bootstrap that draws whole prompts, from sums over each prompt: one pass over the rows.

SciPy's bootstrap draws single rows, and takes them all at once for each resample. Rows of one prompt are not
independent, and ten million rows times a thousand resamples fit in no memory. So each prompt gets a
Poisson(1) count in each resample (Hanley and MacGibbon, 2006), in place of multinomial counts. A resampled
mean is then a ratio of two products: counts times sums over prompts. All statistics share the counts, so
differences of two checkpoints are resampled together.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from didsim._intervals import FEWEST_CLUSTERS, interval
from didsim.diagnostics.findings import Number

MOST_CLUSTERS = 4096
"""Prompts beyond this number are put together at random. Sums of independent prompts are independent, and the
width of an interval from 4,096 of them is known to one per cent."""


class Bootstrap(NamedTuple):
    """Counts of each cluster in each resample.

    Attributes:
        cluster: the cluster of each prompt.
        counts: `[clusters, 1 + resamples]`. Column 0 is all ones: the data themselves.
    """

    cluster: Int[np.ndarray, " prompts"]
    counts: Float[np.ndarray, "clusters draws"]

    def totals(
        self, cluster: Int[np.ndarray, " rows"], columns: Iterable[tuple[str, np.ndarray | None]]
    ) -> dict[str, np.ndarray]:
        """Sums over all rows, in the data and in each resample, `[1 + resamples]` for each column.

        Args:
            cluster: the cluster of each row.
            columns: names and values, one for each row; None for a count of rows. They are taken one by one,
                so
                that a generator need not hold them all.
        """
        sums = {name: np.bincount(cluster, values, len(self.counts)) for name, values in columns}
        # One product for all: a product for each would read the counts again each time.
        return dict(zip(sums, np.array(list(sums.values()), float) @ self.counts, strict=True))


def make_bootstrap(prompts: int, resamples: int, seed: int) -> Bootstrap:
    """The counts of a bootstrap over some number of prompts."""
    random = np.random.default_rng(seed)
    clusters = min(prompts, MOST_CLUSTERS)
    # At random, and not in turn: prompts in the order of a file may come source by source.
    cluster = np.arange(prompts) if prompts <= MOST_CLUSTERS else random.integers(clusters, size=prompts)
    counts = np.ones((clusters, 1 + resamples))
    counts[:, 1:] = random.poisson(1.0, (clusters, resamples))
    return Bootstrap(cluster, counts)


def ratio(above: Float[np.ndarray, " draws"], below: Float[np.ndarray, " draws"]) -> np.ndarray:
    """The ratio of two totals; NaN where nothing was drawn."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below == 0, np.nan, above / below)


def number(draws: Float[np.ndarray, " draws"], clusters: int, unit: str) -> Number:
    """An estimate with its 95% interval, or with the reason why there is none."""
    value = float(draws[0])
    if clusters < FEWEST_CLUSTERS:
        return Number(
            value=value, unit=unit, no_interval=f"it takes {FEWEST_CLUSTERS} prompts; got {clusters}"
        )
    if np.isnan(draws[1:]).mean() > 0.05 or np.isnan(value):
        return Number(value=value, unit=unit, no_interval="too few rows to estimate it from")
    low, high = interval(draws, clusters)
    if not np.isfinite([value, low, high]).all():
        return Number(value=value, unit=unit, no_interval="some resamples have no finite value")
    return Number(value=value, unit=unit, low=low, high=high)


def is_beyond(draws: Float[np.ndarray, " draws"], looks: int = 1) -> bool:
    """Whether an estimate is above zero beyond chance, if it is the largest of some number of looks."""
    spread = np.nanstd(draws[1:])
    return bool(draws[0] > spread * stats.norm.isf(0.025 / looks)) and bool(draws[0] > 0)
