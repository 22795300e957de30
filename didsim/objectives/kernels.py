"""Kernels: the loss of a difference of implicit rewards.

The difference is that of the chosen sequence's reward and the rejected one's, or of one sequence's reward and
a baseline (`didsim.objectives.terms`).
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jaxtyping import Array

from didsim.objectives.rewards import Scalar
from didsim.pairwise.forms import Analytic, PiecewiseLinear, Polynomial
from didsim.preferences.problem import Problem


class Kernel(eqx.Module):
    """The loss of a difference of implicit rewards."""

    @abstractmethod
    def __call__(self, difference: Array) -> Array:
        """The loss, elementwise."""

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation over the pairs of a problem, for a reward of every sequence.

        As written here it is a sum over all pairs of a population, in O(N²) time. A kernel that says what
        kind of function it is (`didsim.pairwise`) is summed in near-linear time.
        """
        return problem.expect(self, h)

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        """The expectation where chosen sequences have the rewards `x` and rejected ones `y`; as `expect`."""
        return problem.expect_across(self, x, y)


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
_SIGMOID = Analytic(sigmoid, strip=math.pi)
_RAMP = PiecewiseLinear(knots=(0.0,), left=(1.0,))  # max(0, −d)


def _negative_entropy(d: Array) -> Array:
    """`σ(d) log σ(d) + σ(−d) log σ(−d)`."""
    return -sigmoid(d) * _softplus(-d) - sigmoid(-d) * _softplus(d)


_NEGATIVE_ENTROPY = Analytic(_negative_entropy, strip=math.pi, odd_slope=0.0)


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

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        """The expectation, in near-linear time; in O(N²) for labelled pairs."""
        y = y if self.margin is None else y + self.margin
        loss = problem.expect_across(SURPRISE, x, y)
        if self.smoothing is None:
            return loss
        return loss + self.smoothing * problem.expect_across(_IDENTITY, x, y)


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


class Linear(Kernel):
    """`−d`."""

    def __call__(self, difference: Array) -> Array:
        """`−d`."""
        return -difference

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, from moments."""
        return -problem.expect(_IDENTITY, h)


class Sigmoid(Kernel):
    """`σ(−d) = 1 − σ(d)`: bounded, so that a pair that is hopeless hardly counts."""

    def __call__(self, difference: Array) -> Array:
        """`σ(−d)`."""
        return sigmoid(-difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in near-linear time; in O(N²) for labelled pairs."""
        return problem.expect(_SIGMOID, -h)


class ReverseCrossEntropy(Kernel):
    """`KL(Bernoulli(σ(d)) ‖ Bernoulli(1 − smoothing))`, the policy's label against a smoothed one.

    That is `σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]`: zero where `σ(d) = 1 − ε`, and bounded.
    """

    smoothing: Scalar

    def __call__(self, difference: Array) -> Array:
        """The divergence of the labels."""
        against = -jnp.log(self.smoothing) + jnp.log1p(-self.smoothing)
        return _negative_entropy(difference) - jnp.log1p(-self.smoothing) + against * sigmoid(-difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in near-linear time; in O(N²) for labelled pairs."""
        against = -jnp.log(self.smoothing) + jnp.log1p(-self.smoothing)
        entropy = problem.expect(_NEGATIVE_ENTROPY, h)
        return entropy - jnp.log1p(-self.smoothing) + against * problem.expect(_SIGMOID, -h)


class LogRatioModulated(Kernel):
    """`−log σ(d) (1 − m) + e^−d m` with `m = σ(d / temperature)`.

    The logistic loss where a pair is in the wrong order, the exponential one where it is in the right one.
    It is analytic only in a strip of width `π · temperature`, too narrow for interpolation to pay.
    """

    temperature: Scalar

    def __call__(self, difference: Array) -> Array:
        """The blend of the two losses."""
        t = difference / self.temperature
        # One exponential, since e^−d may overflow where its factor vanishes.
        return _surprise(difference) * sigmoid(-t) + jnp.exp(-difference - _softplus(-t))
