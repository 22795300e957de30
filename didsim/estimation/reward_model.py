"""Rewards of items, by maximum likelihood or with a Gaussian prior, from pairs, rankings or choices."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from didsim import _checks
from didsim._extremes import largest_magnitude
from didsim.estimation.fitted import FitCertificate, RewardFit
from didsim.estimation.identification import Identification, identify
from didsim.estimation.likelihood import Likelihood, Point
from didsim.estimation.model import Model, fit
from didsim.estimation.of_pairs import pair_likelihood
from didsim.estimation.of_rankings import ranking_likelihood
from didsim.estimation.tie_models import TIE_MODELS, TieModel
from didsim.preferences.explicit import NamedPairs, Pairs
from didsim.preferences.outcomes import Name
from didsim.preferences.rankings import Rankings

_SINGULAR = 1e-12


def reward_model(
    data: Pairs | NamedPairs | Rankings,
    *,
    features: Float[ArrayLike, "items features"] | None = None,
    ridge: float = 0.0,
    alpha: float | None = None,
    ties: str = "half",
) -> RewardFit:
    """The rewards that make comparisons most probable: the first stage of two-stage preference learning.

    Pairs follow the model of Bradley and Terry (Biometrika 39, 1952), `P(i beats j) = σ(r_i − r_j)`, or one
    of two models with ties (`didsim.estimation.tie_models`). Rankings and choices follow the Plackett–Luce
    model, with all their stages. Minimised is

        −log L(r) + ridge/2 · ‖w‖²

    `w` are the coefficients of the features if there are any, with `r = X w`, and else the rewards. A weight
    of 2 counts as two comparisons, so weights are not normalised. Without features the minimiser has mean
    zero, with or without a prior.

    Without a prior (`ridge = 0`), rewards that the data leave open are refused by name: they could grow for
    ever, or be shifted. With one, all rewards have a value, and `certificate.identified` says by name which
    differences come from the prior alone.

    Args:
        data: pairs without batch axes; pairs with names, as `Pairs.from_table` gives; or `Rankings`. Items of
            pairs without names are called by their index. There are as many as features have rows, or as the
            largest index says.
        features: a row of features for each item, in the order of the names.
        ridge: the precision of a Gaussian prior with mean zero on `w`, zero or more.
        alpha: the regularisation of `choix.opt_pairwise`, `opt_rankings` and `opt_top1`, whose penalty is
            `alpha · ‖r‖²`. So it is `ridge = 2 · alpha`. It is not the `alpha` of choix's spectral methods
            (`ilsr_pairwise` and so on). That adds `alpha · N · Σ_i (e^(r_i) − r_i)` to the loss, a gamma
            prior on `e^(r_i)`, whose mean is 1. (Derived here.)
        ties: "half" (a tie is half a win for either), "davidson" or "rao_kupper", whose parameter is then
            fitted too. Rankings have no ties.

    Returns:
        A `RewardFit`. A Newton step takes some products with the Hessian by conjugate gradients, of
        O(comparisons) each. A million pairs over 5,000 items take a few seconds.

    Raises:
        ValueError: an argument is wrong; the data do not identify the rewards, or with features the
            coefficients, and there is no prior; or `ties` has a parameter that the data cannot tell, as none
            or all of the pairs are tied.

    Examples:
        >>> games = Pairs.from_table({"winner": ["x", "x", "y"], "loser": ["y", "y", "x"]})
        >>> found = reward_model(games)
        >>> dict(zip(found.items, found.rewards.round(4).tolist()))  # ± log(2)/2
        {'x': 0.3466, 'y': -0.3466}
        >>> found.contrast("x", "y").standard_error.round(4).tolist()  # √(1/2 + 1)
        [1.2247]
    """
    array = None if features is None else _features(features)
    observed, items, prompt = _named(data, None if array is None else len(array))
    precision = _precision(ridge, alpha)
    _checks.one_of("ties", ties, TIE_MODELS)
    identified = identify(observed, items)
    if not precision and array is None and not identified.complete:
        raise ValueError(
            f"`data` must identify all rewards, unless there is a prior (`ridge`); of {len(items)} items, "
            f"these {identified.gaps()}"
        )
    with jax.enable_x64(True):
        likelihood, start = _likelihood(observed, len(items), ties)
        model = Model(
            likelihood, None if array is None else jnp.asarray(array), jnp.asarray(precision, jnp.float64)
        )
        if array is not None and not precision:
            _check_features(likelihood, array)
        return _fitted(model, start, items, prompt, identified)


def _fitted(
    model: Model, start: float, items: tuple[Name, ...], prompt: Any, identified: Identification
) -> RewardFit:
    found = fit(model, model.start(start))
    numbers = np.array(found.z[:, 0])
    count = model.coefficients
    if not bool(found.converged[0]):
        if bool(found.stuck[0]):
            raise ValueError(
                "`data` must have weights that double precision can tell apart, beside each other and beside "
                f"the prior; the search stopped about {float(found.length[0]):.1g} nats from the best fit"
            )
        moving = np.abs(numbers[:count]).argmax()
        what = f"feature {moving}" if model.features is not None else f"the reward of {items[moving]!r}"
        raise ValueError(
            f"`data` must have a best fit, which was not found in {int(found.steps)} steps: {what} grew to "
            f"{numbers[moving]:.3g}. A larger `ridge` holds it"
        )
    if model.features is None:
        numbers[:count] -= numbers[:count].mean()
    point = model.point(jnp.asarray(numbers[:, None]))
    rewards = np.array(point.rewards[:, 0])
    certificate = FitCertificate(
        float(largest_magnitude(found.gradient)) / model.likelihood.total(),
        float(found.length[0] if found.stuck[0] else found.left[0]),
        int(found.steps),
        identified,
    )
    return RewardFit(
        items,
        rewards - rewards.mean(),
        None if model.features is None else numbers[:count],
        float(numbers[-1]) if model.likelihood.parameter else None,
        -float(_loss(model.likelihood, point)[0]),
        float(model.ridge),
        certificate,
        model,
        numbers,
        prompt,
    )


@eqx.filter_jit
def _loss(likelihood: Likelihood, at: Point) -> Float[Array, " draws"]:
    return likelihood.value(at)


@eqx.filter_jit
def _product(likelihood: Likelihood, at: Point, along: Point) -> Point:
    return likelihood.product(likelihood.curvature(at, None), along)


def _named(data: Any, rows: int | None) -> tuple[Pairs | Rankings, tuple[Name, ...], Any]:
    """The comparisons, the names of the items, and the prompt of each comparison."""
    items: tuple[Name, ...]
    observed, prompt = (data.pairs, data.prompt) if isinstance(data, NamedPairs) else (data, None)
    if isinstance(observed, Rankings):
        items = observed.items
    elif isinstance(observed, Pairs):
        if observed.batch_shape:
            raise ValueError(f"`data` must be one dataset; got a batch of shape {observed.batch_shape}")
        same = np.asarray(observed.winners) == np.asarray(observed.losers)
        if same.any():
            raise ValueError(
                f"`data` must have pairs of two items; got item {int(observed.winners[same.argmax()])} "
                f"against itself in pair {int(same.argmax())}"
            )
        least = max(int(np.asarray(one).max()) for one in (observed.winners, observed.losers)) + 1
        items = data.items if isinstance(data, NamedPairs) else tuple(range(max(least, rows or 0)))
    else:
        raise ValueError(f"`data` must be Pairs, NamedPairs or Rankings; got {data!r}")
    if rows is not None and rows != len(items):
        raise ValueError(f"`features` must have a row for each of {len(items)} items; got {rows} rows")
    return observed, items, prompt


def _likelihood(data: Pairs | Rankings, size: int, ties: str) -> tuple[Likelihood, float]:
    """The likelihood, and where its parameter for ties starts."""
    if isinstance(data, Rankings):
        if ties != "half":
            raise ValueError(f"`ties` must be 'half' for rankings, which have no ties; got {ties!r}")
        return ranking_likelihood(data), 0.0
    model: TieModel = TIE_MODELS[ties]
    likelihood = pair_likelihood(data, size, model)
    share = float(jnp.sum(likelihood.weights * likelihood.tied) / jnp.sum(likelihood.weights))
    if model.parameter and not 0 < share < 1:
        raise ValueError(
            f"`ties` must be 'half' where {'all' if share else 'none'} of the pairs are tied, as these data "
            f"say nothing of {model.parameter}; got {ties!r}"
        )
    return likelihood, model.start(share) if model.parameter else 0.0


def _features(given: Any) -> np.ndarray:
    array = np.asarray(_checks.numbers_given("features", given), float)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"`features` must be a table [items, features]; got shape {array.shape}")
    if not np.isfinite(array).all():
        row, column = (int(one) for one in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"`features` must be finite; got {array[row, column]} at {(row, column)}")
    return array


def _precision(ridge: Any, alpha: Any) -> float:
    precision = _checks.real("ridge", ridge, _checks.non_negative)
    if alpha is None:
        return precision
    if precision:
        raise ValueError(f"`alpha` must be None if `ridge` is given, as it is half of it; got {alpha!r}")
    return 2 * _checks.real("alpha", alpha, _checks.non_negative)


def _check_features(likelihood: Likelihood, features: np.ndarray) -> None:
    """Raise `ValueError` if some combination of features is the same for all items that are compared."""
    at = Point(jnp.zeros((len(features), 1)), jnp.zeros(1))
    along = Point(jnp.asarray(features), jnp.zeros(features.shape[1]))
    gram = features.T @ np.asarray(_product(likelihood, at, along).rewards)
    size = np.sqrt(np.maximum(np.diag(gram), 0))
    level = size <= np.sqrt(_SINGULAR * np.maximum(np.sum(features**2, axis=0), 1e-300))
    if level.any():
        raise ValueError(
            "`features` must differ between items that are compared, unless there is a prior (`ridge`); "
            f"feature {int(np.argmax(level))} does not"
        )
    values, vectors = np.linalg.eigh(gram / size / size[:, None])
    if values[0] < _SINGULAR:
        strong = np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3).tolist()
        raise ValueError(
            "`features` must not depend on one another between items that are compared, unless there is a "
            f"prior (`ridge`); features {strong} do"
        )
