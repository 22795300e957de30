"""Kernels: the loss of a difference of implicit rewards, chosen less rejected."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jaxtyping import Array

from didsim.preferences import Problem
from didsim.rewards import Scalar


class Kernel(eqx.Module):
    """The loss of a difference of implicit rewards, chosen less rejected."""

    @abstractmethod
    def __call__(self, difference: Array) -> Array:
        """The loss, elementwise."""

    def expect(self, problem: Problem, h: Array) -> Array:
        """The exact expectation over the pairs of a problem, for a reward of every sequence."""
        return problem.expect(self, h)


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    return softplus(x)


# One exponential, where the derivative of log(1 + e^x) as written takes three. Training does little else.
_softplus.defjvps(lambda tangent, _, x: tangent * sigmoid(x))


class Logistic(Kernel):
    """`−(1 − smoothing) log σ(d − margin) − smoothing log σ(margin − d)`; None for what is absent."""

    smoothing: Scalar | None = None
    margin: Scalar | None = None

    def __call__(self, difference: Array) -> Array:
        """The smoothed logistic loss."""
        d = difference if self.margin is None else difference - self.margin
        # log σ(−d) = log σ(d) − d makes the smoothed loss linear in the smoothing.
        return _softplus(-d) if self.smoothing is None else _softplus(-d) + self.smoothing * d


class Squared(Kernel):
    """`(d − centre)²`."""

    centre: Scalar

    def __call__(self, difference: Array) -> Array:
        """`(d − centre)²`."""
        return jnp.square(difference - self.centre)


class Hinge(Kernel):
    """`max(0, delta − d)`."""

    delta: Scalar

    def __call__(self, difference: Array) -> Array:
        """`max(0, delta − d)`."""
        return jnp.maximum(0, self.delta - difference)


class Exponential(Kernel):
    """`exp(−d)`."""

    def __call__(self, difference: Array) -> Array:
        """`exp(−d)`."""
        return jnp.exp(-difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in log space."""
        return problem.expect_exp(-h)
