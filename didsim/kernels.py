"""Kernels: the loss of a difference of implicit rewards, chosen less rejected."""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jaxtyping import Array

from didsim.pairwise import Analytic, PiecewiseLinear, Polynomial
from didsim.preferences import Problem
from didsim.rewards import Scalar


class Kernel(eqx.Module):
    """The loss of a difference of implicit rewards, chosen less rejected."""

    @abstractmethod
    def __call__(self, difference: Array) -> Array:
        """The loss, elementwise."""

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation over the pairs of a problem, for a reward of every sequence.

        As written here it is a sum over all pairs of a population, in O(N²) time. A kernel that says what
        kind of function it is (`didsim.pairwise`) is summed in near-linear time.
        """
        return problem.expect(self, h)


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    return softplus(x)


# One exponential, where the derivative of log(1 + e^x) as written takes three. Training does little else.
_softplus.defjvps(lambda tangent, _, x: tangent * sigmoid(x))


def _surprise(d: Array) -> Array:
    """`−log σ(d)`."""
    return _softplus(-d)


SURPRISE = Analytic(_surprise, strip=math.pi, odd_slope=-1.0)
_SQUARE = Polynomial((0.0, 0.0, 1.0))
_IDENTITY = Polynomial((0.0, 1.0))
_RAMP = PiecewiseLinear(knots=(0.0,), left=(1.0,))  # max(0, −d)


class Logistic(Kernel):
    """`−(1 − smoothing) log σ(d − margin) − smoothing log σ(margin − d)`; None for what is absent."""

    smoothing: Scalar | None = None
    margin: Scalar | None = None

    def __call__(self, difference: Array) -> Array:
        """The smoothed logistic loss."""
        d = difference if self.margin is None else difference - self.margin
        # log σ(−d) = log σ(d) − d makes the smoothed loss linear in the smoothing.
        return _surprise(d) if self.smoothing is None else _surprise(d) + self.smoothing * d

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in near-linear time; in O(N²) for labelled pairs if there is a margin."""
        loss = problem.expect(SURPRISE, h, self.margin)
        if self.smoothing is None:
            return loss
        return loss + self.smoothing * problem.expect(_IDENTITY, h, self.margin)


class Squared(Kernel):
    """`(d − centre)²`."""

    centre: Scalar

    def __call__(self, difference: Array) -> Array:
        """`(d − centre)²`."""
        return jnp.square(difference - self.centre)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, from moments."""
        return problem.expect(_SQUARE, h, self.centre)


class Hinge(Kernel):
    """`max(0, delta − d)`."""

    delta: Scalar

    def __call__(self, difference: Array) -> Array:
        """`max(0, delta − d)`."""
        return jnp.maximum(0, self.delta - difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, by a sort; in O(N²) for labelled pairs."""
        return problem.expect(_RAMP, h, self.delta)


class Exponential(Kernel):
    """`exp(−d)`."""

    def __call__(self, difference: Array) -> Array:
        """`exp(−d)`."""
        return jnp.exp(-difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in log space."""
        return problem.expect_exp(-h)
