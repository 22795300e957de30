"""A bootstrap of a fit: refits to resampled clusters of observations, many at once."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8
from scipy import stats

from didsim import _checks
from didsim._intervals import FEWEST_CLUSTERS, tail
from didsim._memory import check_fits
from didsim.estimation.estimates import check_level
from didsim.estimation.fitted import RewardFit
from didsim.estimation.model import Model, fit

_AT_ONCE = 16
_BYTES = 1 << 29  # of counts and curvatures at a time
_DISTANCE = 1e-6
_MOST_FAILED = 0.05
# Poisson(1) counts have a probability of 2^−32, the resolution of the random bits, beyond 12.
_BELOW = np.floor(stats.poisson.cdf(np.arange(13), 1) * 2.0**32).clip(max=2**32 - 1).astype(np.uint32)


class BootstrapFit(NamedTuple):
    """Rewards of resamples. `didsim.bootstrap` makes them.

    Attributes:
        rewards: the rewards of each resample, with mean zero.
        coefficients: the coefficients of each resample, or None if the fit has no features.
        converged: whether each resample has a fit. One that leaves rewards open has none.
        clusters: the number of clusters that were drawn from.
    """

    rewards: Float[np.ndarray, "resamples items"]
    coefficients: Float[np.ndarray, "resamples features"] | None
    converged: Bool[np.ndarray, " resamples"]
    clusters: int

    @property
    def standard_error(self) -> Float[np.ndarray, " items"]:
        """The standard deviation of the rewards over the resamples that have a fit.

        Raises:
            ValueError: more than 5% of them have none.
        """
        return self._kept(self.rewards).std(axis=0, ddof=1)

    def interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
        """Percentile intervals of the rewards, widened for few clusters (Hesterberg, 2015).

        Raises:
            ValueError: `level` is not between 0 and 1, or more than 5% of the resamples have no fit.
        """
        return self._ends(self._kept(self.rewards), level)

    def coefficient_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
        """The same intervals of the coefficients.

        Raises:
            ValueError: the fit has no features, or as for `interval`.
        """
        if self.coefficients is None:
            raise ValueError("`fit` must have features to have coefficients; got a reward for each item")
        return self._ends(self._kept(self.coefficients), level)

    def _ends(self, draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        below = tail(self.clusters, check_level(level))
        low, high = np.quantile(draws, [below, 1 - below], axis=0, method="inverted_cdf")
        return low, high

    def _kept(self, draws: np.ndarray) -> np.ndarray:
        failed = 1 - self.converged.mean()
        if failed > _MOST_FAILED:
            raise ValueError(
                f"`fit` must have resamples with a fit; {failed:.0%} of them leave rewards open, and a "
                "`ridge` in the fit would hold these"
            )
        return draws[self.converged]


def bootstrap(
    fit: RewardFit,
    *,
    key: Key[Array, ""],
    by: str | Any = "observations",
    resamples: int = 200,
) -> BootstrapFit:
    """Refits to resamples of the data: intervals that hold if observations within a cluster depend.

    Each cluster gets a Poisson(1) count in each resample, in place of multinomial counts (Hanley and
    MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies", 2006). Each resample is
    fitted to within about 1e-6 nats from the fit as a start, all in one compiled program, some at a time.

    Args:
        fit: what `reward_model` found. Features, prior and model of ties stay the same.
        key: a random key.
        by: "observations" draws pairs or rankings one by one; "prompt" draws whole prompts, which must have
            been read with the data; or an integer for each observation, which says its cluster.
        resamples: the number of resamples, at least 2.

    Returns:
        A `BootstrapFit`. It takes some ten passes over the data for each resample.

    Raises:
        ValueError: `by` names prompts that the data lack, or has not one integer for each observation; there
            are fewer than 8 clusters; or an argument is wrong.

    Examples:
        >>> import didsim
        >>> games = {"winner": ["x", "x", "y"] * 20, "loser": ["y", "y", "x"] * 20}
        >>> found = didsim.reward_model(didsim.Pairs.from_table(games))
        >>> draws = didsim.bootstrap(found, key=jax.random.key(0))
        >>> low, high = draws.interval()
        >>> bool(low[0] < found.rewards[0] < high[0])
        True
    """
    _checks.instance("fit", fit, RewardFit, "a RewardFit, as didsim.reward_model gives")
    key = _checks.one_key("key", key)
    resamples = _checks.count("resamples", resamples, 2)
    check_fits(f"`resamples` = {resamples:,}", 8 * resamples * len(fit.items))
    model, clusters = _clustered(fit, by)
    each = 5 * clusters + 16 * model.likelihood.observations
    at_once = int(np.clip(_BYTES // each, 1, min(_AT_ONCE, resamples)))
    with jax.enable_x64(True):
        keys = jax.random.split(key, -(-resamples // at_once))
        found, converged = _refits(model, jnp.asarray(fit.numbers), keys, clusters, at_once)
        numbers = found[:resamples, : model.coefficients]
        rewards = np.asarray(model.rewards(numbers.T).T)
    return BootstrapFit(
        rewards - rewards.mean(axis=1, keepdims=True),
        None if model.features is None else np.asarray(numbers),
        np.asarray(converged)[:resamples],
        clusters,
    )


def _clustered(fit: RewardFit, by: Any) -> tuple[Model, int]:
    """The model with its observations in clusters, and the number of clusters."""
    likelihood = fit.model.likelihood
    cluster: Any = None
    if isinstance(by, str):
        _checks.one_of("by", by, ("observations", "prompt"))
        if by == "prompt":
            if fit.prompt is None:
                raise ValueError("`by` must not be 'prompt', as the data were read without prompts")
            cluster = fit.prompt
    else:
        cluster = np.asarray(_checks.indices("by", by, np.iinfo(np.int32).max))
        if cluster.shape != (likelihood.observations,):
            raise ValueError(
                f"`by` must have one integer for each of {likelihood.observations:,} observations; got shape "
                f"{cluster.shape}"
            )
    clusters = likelihood.observations
    if cluster is not None:
        names, cluster = np.unique(cluster, return_inverse=True)
        clusters = len(names)
        likelihood = likelihood.in_clusters(cluster)
    if clusters < FEWEST_CLUSTERS:
        raise ValueError(f"`by` must make at least {FEWEST_CLUSTERS} clusters; got {clusters}")
    return eqx.tree_at(lambda model: model.likelihood, fit.model, likelihood), clusters


@eqx.filter_jit
def _refits(
    model: Model, start: Array, keys: Array, clusters: int, at_once: int
) -> tuple[Float[Array, "resamples numbers"], Bool[Array, " resamples"]]:
    """The numbers of all resamples, and whether each has a fit."""
    first = jnp.broadcast_to(start[:, None], (len(start), at_once))

    def some(key: Array) -> tuple[Array, Array]:
        found = fit(model, first, poisson_counts(key, (clusters, at_once)), _DISTANCE)
        return found.z.T, found.converged

    numbers, converged = jax.lax.map(some, keys)
    return numbers.reshape(-1, numbers.shape[-1]), converged.reshape(-1)


def poisson_counts(key: Array, shape: tuple[int, int]) -> UInt8[Array, "clusters draws"]:
    """Poisson(1) counts, by inversion of their distribution at random bits."""
    bits = jax.random.bits(key, shape, jnp.uint32)
    counts = jnp.zeros(shape, jnp.uint8)
    for below in _BELOW:
        counts = counts + (bits >= below).astype(jnp.uint8)
    return counts
