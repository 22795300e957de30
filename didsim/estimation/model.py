"""What is minimised: a likelihood of rewards, with features and a Gaussian prior."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim._extremes import largest_magnitude
from didsim.estimation.likelihood import Likelihood, Point
from didsim.estimation.newton import EXACT, Convex, Minimum, minimise


class Model(eqx.Module):
    """Minus a log-likelihood plus `ridge/2 · ‖w‖²`, as a function of `[numbers, draws]`.

    The first numbers are the coefficients `w`: of the features, or one reward for each item if there are no
    features. A parameter for ties comes last, if the likelihood has one.

    Attributes:
        likelihood: minus the log-likelihood, in the rewards.
        features: the features of each item, or None.
        ridge: the precision of the prior.
    """

    likelihood: Likelihood
    features: Float[Array, "items features"] | None
    ridge: Float[Array, ""]

    @property
    def coefficients(self) -> int:
        """The number of coefficients."""
        return self.likelihood.size if self.features is None else self.features.shape[1]

    def rewards(self, weights: Float[Array, "coefficients draws"]) -> Float[Array, "items draws"]:
        """The rewards that coefficients give."""
        return weights if self.features is None else self.features @ weights

    def point(self, z: Float[Array, "numbers draws"]) -> Point:
        """The rewards, and the parameter for ties; also those of a direction."""
        rewards = self.rewards(z[: self.coefficients])
        return Point(rewards, z[-1] if self.likelihood.parameter else jnp.zeros_like(z[0]))

    def start(self, tie: float) -> Float[Array, "numbers one"]:
        """Rewards of zero, and a given parameter for ties."""
        z = jnp.zeros((self.coefficients, 1))
        return jnp.concatenate([z, jnp.full((1, 1), tie)]) if self.likelihood.parameter else z

    def convex(self, counts: Array | None) -> Convex:
        """The function, for some counts of the clusters in each draw."""

        def gradient(z: Array) -> tuple[Array, Array]:
            slope, own = self.likelihood.slope(self.point(z), counts)
            # The Hessian in rewards is at most twice its diagonal, for losses of differences.
            bend = own.rewards if self.features is None else (self.features**2).T @ own.rewards
            return self._pulled(slope, z[: self.coefficients]), self._stacked(bend + self.ridge, own.tie)

        def curvature(z: Array) -> Any:
            return self.likelihood.curvature(self.point(z), counts)

        def product(known: Any, u: Array) -> Array:
            return self._pulled(self.likelihood.product(known, self.point(u)), u[: self.coefficients])

        def length(u: Array) -> Array:
            along = self.point(u)
            centred = along.rewards - jnp.mean(along.rewards, axis=0)
            return jnp.maximum(largest_magnitude(centred, axis=0), jnp.abs(along.tie))

        return Convex(gradient, curvature, product, length)

    def _pulled(self, point: Point, weights: Array) -> Array:
        """A gradient in rewards as one in coefficients, with that of the prior."""
        if self.features is None:
            # Outcomes pull winners up as far as losers down; the rounding of this would be taken for a pull.
            pulled = point.rewards - jnp.mean(point.rewards, axis=0)
        else:
            pulled = self.features.T @ point.rewards
        return self._stacked(pulled + self.ridge * weights, point.tie)

    def _stacked(self, weights: Array, tie: Array) -> Array:
        return jnp.concatenate([weights, tie[None]]) if self.likelihood.parameter else weights


@eqx.filter_jit
def fit(model: Model, start: Array, counts: Array | None = None, enough: float = EXACT) -> Minimum:
    """The minimum for each draw, from a start for each."""
    return minimise(model.convex(counts), start, enough)
