"""A mixture of problems: each pair comes from one of them, drawn at random."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import PAIR, fitting_int
from didsim.information import LogProbs
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.problem import Problem, Summand, Wins


class Mixture(Problem):
    """A mixture of problems. Each pair comes from one problem, drawn with probability `exp(log_weights)`.

    Args:
        problems: the problems, none of them online.
        log_weights: log-probabilities of the problems, `[*batch, problems]`.

    Raises:
        ValueError: there is no problem, one of them is not a `Problem` or is online, `log_weights` is not
            normalised, or its last axis does not have one entry for each problem.
    """

    problems: tuple[Problem, ...]
    log_weights: Float[Array, "*batch problems"]

    def __init__(
        self, problems: tuple[Problem, ...], log_weights: Float[ArrayLike, "*batch problems"]
    ) -> None:
        if not isinstance(problems, list | tuple) or not problems:
            raise ValueError(f"`problems` must be a tuple of at least one problem; got {problems!r}")
        self.problems = tuple(problems)
        for problem in self.problems:
            _checks.instance("problems", problem, Problem, "a tuple of problems")
            if problem.online:
                raise ValueError("`problems` must not depend on the policy; got an Online one")
        self.log_weights = _checks.distribution("log_weights", log_weights)
        if self.log_weights.shape[-1] != len(self.problems):
            raise ValueError(
                f"`log_weights` must have one entry for each of {len(self.problems)} problems; got shape "
                f"{self.log_weights.shape}"
            )

    @property
    def batch_shape(self) -> Shape:
        shapes = {f"problems[{k}]": problem.batch_shape for k, problem in enumerate(self.problems)}
        return _checks.broadcast(log_weights=self.log_weights.shape[:-1], **shapes)

    @property
    def has_full_support(self) -> bool:
        """Whether some problem of positive weight has full support."""
        drawn = jnp.isfinite(self.log_weights).all(axis=tuple(range(self.log_weights.ndim - 1)))
        return any(
            bool(weighted) and problem.has_full_support
            for weighted, problem in zip(drawn, self.problems, strict=True)
        )

    def over_runs(self, spread: Callable[[Array, int], Array]) -> "Mixture":
        problems = tuple(problem.over_runs(spread) for problem in self.problems)
        return Mixture(problems, spread(self.log_weights, 1))

    def check_size(self, size: int) -> None:
        for problem in self.problems:
            problem.check_size(size)

    def preference(self, i: Any, j: Any) -> Float[Array, "..."]:
        """The preference that all problems share, if they are labelled by one reward, or by one table.

        Raises:
            ValueError: the problems are not all labelled by one reward array or one `PreferenceTable`.
        """
        first = self.problems[0]
        if first.labels is None or any(problem.labels is not first.labels for problem in self.problems):
            raise ValueError("`problems` must be labelled by one reward array; their preferences may differ")
        return first.preference(i, j)

    def sample(self, key: Key[Array, ""], num_pairs: int) -> Pairs:
        """`num_pairs` independent pairs for each entry of the batch, each from a problem drawn at random.

        Raises:
            ValueError: `key` is not a random key, or `num_pairs` is below 1 or more than memory can hold.
        """
        num_pairs = fitting_int("num_pairs", num_pairs, PAIR)
        which_key, *keys = jax.random.split(_checks.one_key("key", key), len(self.problems) + 1)
        batch = self.batch_shape
        log_weights = jnp.broadcast_to(self.log_weights, (*batch, len(self.problems)))
        which = jax.random.categorical(which_key, log_weights[..., None, :], shape=(*batch, num_pairs))
        drawn = [problem.sample(k, num_pairs) for problem, k in zip(self.problems, keys, strict=True)]

        def chosen(values: list[Any]) -> Array:
            stacked = jnp.stack([jnp.broadcast_to(jnp.asarray(value), which.shape) for value in values])
            return jnp.take_along_axis(stacked, which[None], axis=0)[0]

        def chosen_label(values: list[Any], default: Any) -> Array | None:
            if all(value is None for value in values):
                return None
            return chosen([default if value is None else value for value in values])

        return Pairs(
            chosen([one.winners for one in drawn]),
            chosen([one.losers for one in drawn]),
            win_probs=chosen_label([one.win_probs for one in drawn], 1.0),
            tied=chosen_label([one.tied for one in drawn], False),
        )

    def expect(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch"]:
        """The weighted mean of the problems' expectations."""
        return self._mean([problem.expect(kernel, x, offset) for problem in self.problems])

    def expect_across(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], y: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "*batch"]:
        """The weighted mean of the problems' expectations."""
        return self._mean([problem.expect_across(kernel, x, y) for problem in self.problems])

    def own_curvature(
        self, kernel: Summand, x: Float[Array, "*#batch sequences"], offset: Array | None = None
    ) -> Float[Array, "*batch sequences"]:
        """The weighted mean of the problems' curvatures."""
        parts = [problem.own_curvature(kernel, x, offset) for problem in self.problems]
        return jnp.moveaxis(self._mean([jnp.moveaxis(part, -1, 0) for part in parts]), 0, -1)

    def expect_exp(self, x: Float[Array, "*#batch sequences"]) -> Float[Array, "*batch"]:
        """The weighted mean of the problems' expectations."""
        return self._mean([problem.expect_exp(x) for problem in self.problems])

    def expect_ties(
        self, kernel: Callable[[Array], Array], x: Float[Array, "*#batch sequences"]
    ) -> Float[Array, "..."]:
        """The weighted mean of the problems' expectations."""
        return self._mean([problem.expect_ties(kernel, x) for problem in self.problems])

    def label_doubt(self) -> Float[Array, "..."]:
        return self._mean([problem.label_doubt() for problem in self.problems])

    def _mean(self, values: list[Array]) -> Array:
        stacked = jnp.stack(jnp.broadcast_arrays(*values), axis=-1)
        # A problem of weight zero counts as zero, even if its expectation is infinite.
        counted = jnp.where(jnp.isneginf(self.log_weights), 0, stacked)
        return jnp.sum(jnp.exp(self.log_weights) * counted, axis=-1)

    def prepared(self) -> "Mixture":
        return Mixture(tuple(problem.prepared() for problem in self.problems), self.log_weights)

    def wins(self, size: int) -> Wins:
        """The union of the graphs of all problems of positive weight."""
        total = Wins(np.zeros(0, int), np.zeros(0, int), size)
        for problem, weight in zip(self.problems, np.asarray(self.log_weights), strict=True):
            if np.isfinite(weight):
                total = total.joined(problem.wins(size), size)
        return total

    def joint(self, size: int) -> Joint:
        weights = jnp.moveaxis(self.log_weights, -1, 0)[..., None, None]
        tables = [problem.joint(size) for problem in self.problems]

        def mixed(parts: list[tuple[Array, Array]]) -> Array:
            terms = jnp.broadcast_arrays(*(weight + table for weight, table in parts))
            return _log_space.logsumexp(jnp.stack(terms), axis=0)

        log_probs = mixed([(weight, one.log_probs) for weight, one in zip(weights, tables, strict=True)])
        tied = [(w, one.log_ties) for w, one in zip(weights, tables, strict=True) if one.log_ties is not None]
        return Joint(log_probs, jnp.broadcast_to(mixed(tied), log_probs.shape) if tied else None)

    def chosen_marginal(self, size: int) -> LogProbs:
        return self._mixed([problem.chosen_marginal(size) for problem in self.problems])

    def rejected_marginal(self, size: int) -> LogProbs:
        return self._mixed([problem.rejected_marginal(size) for problem in self.problems])

    def _mixed(self, marginals: list[Array]) -> Array:
        weights = jnp.moveaxis(self.log_weights, -1, 0)[..., None]
        terms = [weight + marginal for weight, marginal in zip(weights, marginals, strict=True)]
        return _log_space.logsumexp(jnp.stack(jnp.broadcast_arrays(*terms)), axis=0)
