"""Rewards that were fitted to comparisons: what they are, how sure, and what the data do not say."""

import difflib
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax

from didsim import _checks
from didsim._memory import check_fits
from didsim.estimation.estimates import Estimates
from didsim.estimation.identification import Identification
from didsim.estimation.model import Model
from didsim.information import LogProbsLike
from didsim.preferences.outcomes import Name


class FitCertificate(NamedTuple):
    """How good a fit is.

    Attributes:
        gradient: the largest derivative of the penalised log-likelihood, by magnitude, divided by the total
            weight of the data.
        distance: about how far the maximum is, in nats of reward, as Newton's last step says. It is below
            1e-11, unless weights differ so much that rounding stops the search before. Not counted is the
            rounding of the gradient: where a prior alone holds rewards together, it moves them by up to about
            1e-16 times the total weight divided by `ridge`.
        steps: the number of Newton steps.
        identified: which rewards the data identify, by name. With a prior, all other differences of rewards
            are what the prior says.
    """

    gradient: float
    distance: float
    steps: int
    identified: Identification


@dataclass(frozen=True)
class RewardFit:
    """Rewards that maximise a likelihood, with or without a Gaussian prior. `didsim.reward_model` makes them.

    Standard errors are those of the observed information: the inverse of the Hessian of minus the penalised
    log-likelihood. With a prior this is the posterior covariance in Laplace's approximation. They take the
    observations as independent; where those of one prompt are not, `didsim.bootstrap` draws whole prompts.

    Attributes:
        items: the name of each item.
        rewards: the reward of each item, in nats, with mean zero.
        coefficients: the coefficients of the features, or None.
        tie: the parameter for ties (`log ν` or `log θ`), or None.
        log_likelihood: the log-likelihood, without the prior, with weights as given.
        ridge: the precision of the prior.
        certificate: how good the fit is, and what the data identify.
    """

    items: tuple[Name, ...]
    rewards: Float[np.ndarray, " items"]
    coefficients: Float[np.ndarray, " features"] | None
    tie: float | None
    log_likelihood: float
    ridge: float
    certificate: FitCertificate
    model: Model = field(repr=False)
    numbers: Float[np.ndarray, " numbers"] = field(repr=False)
    prompt: Int[np.ndarray, " observations"] | None = field(repr=False)

    def index(self, name: Name) -> int:
        """The index of an item.

        Raises:
            ValueError: there is no item of this name.
        """
        return self._index("name", name)

    def _index(self, argument: str, name: Any) -> int:
        place = self._places.get(name) if isinstance(name, Hashable) else None
        if place is None:
            near = difflib.get_close_matches(str(name), map(str, self.items), 1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"`{argument}` must be one of {len(self.items)} items; got {name!r}{hint}")
        return place

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {name: place for place, name in enumerate(self.items)}

    @cached_property
    def _covariance_of_numbers(self) -> Float[np.ndarray, "numbers numbers"]:
        """The covariance of coefficients and of the parameter for ties, with shifts of all rewards held."""
        size = len(self.items)
        check_fits(f"the covariance of {size:,} items", 4 * 8 * size**2)
        with jax.enable_x64(True):
            point = self.model.point(jnp.asarray(self.numbers[:, None]))
            matrix = self.model.likelihood.information(point)
        count = self.model.coefficients
        if self.model.features is not None:
            to_rewards = np.zeros((len(matrix), count + len(matrix) - size))
            to_rewards[:size, :count] = np.asarray(self.model.features)
            to_rewards[size:, count:] = np.eye(len(matrix) - size)
            matrix = to_rewards.T @ matrix @ to_rewards
        matrix[np.arange(count), np.arange(count)] += self.ridge
        if self.model.features is None:
            # A shift of all rewards changes nothing in the data; any curvature there will do.
            matrix[:count, :count] += np.trace(matrix[:count, :count]) / count**2
        scale = 1 / np.sqrt(np.diag(matrix))
        try:
            factor = cho_factor(matrix * scale * scale[:, None], lower=True, overwrite_a=True)
        except np.linalg.LinAlgError:
            raise ValueError(
                "`fit` has no covariance: its information matrix is singular to within rounding"
            ) from None
        inverse: np.ndarray = cho_solve(factor, np.eye(len(matrix)), overwrite_b=True)
        return inverse * scale * scale[:, None]

    @cached_property
    def covariance(self) -> Float[np.ndarray, "items items"]:
        """The covariance of the rewards, which have mean zero. O(items³), and O(items²) memory.

        Raises:
            ValueError: it does not fit into memory, or the information is singular to within rounding.
        """
        count = self.model.coefficients
        matrix = self._covariance_of_numbers[:count, :count]
        if self.model.features is not None:
            features = np.asarray(self.model.features)
            matrix = features @ matrix @ features.T
        means = matrix.mean(axis=0)
        return matrix - means - means[:, None] + means.mean()

    def estimates(self) -> Estimates:
        """The rewards, which have mean zero, with their standard errors."""
        return Estimates(self.rewards, np.sqrt(np.maximum(np.diag(self.covariance), 0)))

    def coefficient_estimates(self) -> Estimates:
        """The coefficients of the features, with their standard errors.

        Raises:
            ValueError: the fit has no features.
        """
        if self.coefficients is None:
            raise ValueError("`fit` must have features to have coefficients; got a reward for each item")
        variances = np.diag(self._covariance_of_numbers)[: len(self.coefficients)]
        return Estimates(self.coefficients, np.sqrt(variances))

    def contrast(self, name: Name, other: Name) -> Estimates:
        """The reward of one item minus that of another, with its standard error: one number each.

        Raises:
            ValueError: there is no item of a name.
        """
        i, j = self._index("name", name), self._index("other", other)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return Estimates(self.rewards[[i]] - self.rewards[[j]], np.sqrt(np.maximum(variance, 0))[None])

    def log_ratios(self, reference: LogProbsLike, beta: float) -> Estimates:
        """`log π/reference` of the policy `π ∝ reference · exp(reward/beta)`, by the delta method.

        The derivative of `log π_k` in the rewards is `(e_k − π)/beta`. So with the covariance `C` of rewards
        the variance of `log π_k` is `(C_kk − 2 (C π)_k + πᵀ C π)/beta²`. The reference is taken as known.
        (Derived here.)

        Args:
            reference: log-probabilities of the reference over the items, in their order.
            beta: inverse temperature, positive.

        Raises:
            ValueError: `reference` is not normalised, has a zero, or is not of these items; `beta <= 0`.
        """
        checked = np.asarray(_checks.distribution("reference", reference, full_support=True), float)
        if checked.shape != self.rewards.shape:
            raise ValueError(
                f"`reference` must have one entry for each of {len(self.items)} items; got shape "
                f"{checked.shape}"
            )
        inverse = 1 / _checks.real("beta", beta, _checks.positive)
        log_probs = log_softmax(checked + inverse * self.rewards)
        probs = np.exp(log_probs)
        beside = self.covariance @ probs
        variances = np.diag(self.covariance) - 2 * beside + probs @ beside
        return Estimates(log_probs - checked, inverse * np.sqrt(np.maximum(variances, 0)))
