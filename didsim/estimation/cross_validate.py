"""Which value of a parameter does best on pairs that were held out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Int, Key, Real

from didsim import _checks
from didsim.estimation.held_out import HeldOut, PairsLike, folds_of, held_out, part_of
from didsim.fixed_points.path import SolutionPath, solve_path
from didsim.information import LogProbsLike
from didsim.objectives.objective import Objective
from didsim.preferences.explicit import NamedPairs, Pairs

if TYPE_CHECKING:
    import xarray

_MEASURES = {
    "log_loss": ("Log loss", "nats"),
    "accuracy": ("Accuracy", "1"),
    "slope": ("Calibration slope", "1"),
}


class CrossValidation(NamedTuple):
    """Minimisers along a parameter, each judged on the fold that it did not see.

    Attributes:
        path: the minimisers of all folds; the batch axis of its `log_probs` is that of folds.
        fitted: how each does on the pairs that it was fitted to, `[values, folds]`.
        held_out: how each does on the fold that was held out, `[values, folds]`. NaN where there is no
            minimiser.
    """

    path: SolutionPath
    fitted: HeldOut
    held_out: HeldOut

    @property
    def best(self) -> float:
        """The value with the lowest log loss on held-out pairs, in the mean over folds.

        Raises:
            ValueError: at every value some fold has no minimiser.
        """
        means = self.held_out.log_loss.mean(axis=1)
        if np.isnan(means).all():
            raise ValueError("`data` must have a minimiser in every fold at one value or more; got none")
        return float(self.path.values[np.nanargmin(means)])

    def to_dataset(self) -> "xarray.Dataset":
        """A labelled dataset with dimensions `(parameter, "fold")`."""
        import xarray  # here, as the import takes longer than many a run

        dims = (self.path.parameter, "fold")
        found = {"long_name": "Whether there is a minimiser", "units": "1"}
        variables: dict[str, Any] = {"found": (dims, ~np.isnan(self.path.log_probs).any(axis=-1), found)}
        for part, where in ((self.fitted, "fitted"), (self.held_out, "held-out")):
            for (name, (long_name, units)), values in zip(_MEASURES.items(), part, strict=True):
                about = {"long_name": f"{long_name} of {where} pairs", "units": units}
                variables[f"{where.replace('-', '_')}_{name}"] = (dims, values, about)
        return xarray.Dataset(variables, coords={self.path.parameter: self.path.values})


def cross_validate(
    objective: Objective | Callable[..., Objective],
    reference: LogProbsLike,
    data: PairsLike,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    over: Mapping[str, Real[ArrayLike, " values"] | Sequence[float]],
    key: Key[Any, ""],
    folds: int = 5,
    by: str | Int[ArrayLike, " pairs"] = "pair",
) -> CrossValidation:
    """Fit at each value of a parameter to all folds but one, and judge on that one.

    All folds are one batch of problems over the same pairs, in which held-out pairs weigh nothing. They are
    solved along the parameter by `solve_path`, each value from the one before. Wins that do not connect all
    sequences leave a loss of differences without a minimiser; it then needs a term such as
    `didsim.kl_to_reference`, whose weight can be the parameter.

    Args:
        objective: a function of the parameter that returns the objective, as `didsim.dpo` is one of `beta`.
        reference: the reference policy, `[sequences]`.
        data: the pairs, without batch axes.
        lengths: number of tokens of every sequence; by default all count as one token.
        over: the name of the parameter, with its values, in the order in which they are to be solved.
        key: random key, which decides the folds.
        folds: number of folds, 2 or more.
        by: what stays together, as in `didsim.split`.

    Returns:
        A `CrossValidation`. Costs as one `solve_path` of a batch of `folds` problems.

    Raises:
        ValueError: there are fewer clusters than folds, `folds` is below 2, or `solve_path` or `held_out`
            refuses an argument.

    Examples:
        >>> import didsim, jax
        >>> reference = jnp.log(jnp.full(2, 0.5))
        >>> pairs = Pairs(winners=[0, 0, 0, 1] * 25, losers=[1, 1, 1, 0] * 25)
        >>> found = cross_validate(
        ...     didsim.cdpo, reference, pairs, over={"label_smoothing": [0.0, 0.4]}, key=jax.random.key(0)
        ... )
        >>> found.best
        0.0
    """
    if _checks.positive_int("folds", folds) < 2:
        raise ValueError(f"`folds` must be 2 or more; got {folds}")
    fold = folds_of(data, by, key, folds)
    pairs = (data.pairs if isinstance(data, NamedPairs) else data).weighted()
    out = fold == np.arange(folds)[:, None]
    parts = [(part_of(pairs, ~one), part_of(pairs, one)) for one in out]
    path = solve_path(objective, reference, _batch(pairs, ~out), lengths, over=over)
    made = [
        objective if isinstance(objective, Objective) else objective(**{path.parameter: value})
        for value in path.values.tolist()
    ]

    def judged(side: int) -> HeldOut:
        rows = [
            [
                held_out(one, policy, reference, part[side], lengths)
                for policy, part in zip(row, parts, strict=True)
            ]
            for one, row in zip(made, np.asarray(path.log_probs), strict=True)
        ]
        return HeldOut(*np.moveaxis(np.array(rows), -1, 0))

    return CrossValidation(path, judged(0), judged(1))


def _batch(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """One dataset for each row of `kept`, over the same pairs, of which some have weight zero."""

    def repeated(values: Any) -> Any:
        return None if values is None else jnp.broadcast_to(values, kept.shape)

    weights = np.asarray(pairs.weights) * kept
    return Pairs(
        repeated(pairs.winners),
        repeated(pairs.losers),
        weights,
        win_probs=repeated(pairs.win_probs),
        tied=repeated(pairs.tied),
    )
