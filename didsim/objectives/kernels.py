"""Kernels: the loss of a difference of implicit rewards, and the facts that solvers ask of it.

The difference is that of the chosen sequence's reward and the rejected one's, or of one sequence's reward and
a baseline (`didsim.objectives.terms`).
"""

import functools
import math
import operator
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, softplus
from jaxtyping import Array, Bool

from didsim.objectives.rewards import Scalar
from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear, Polynomial
from didsim.preferences.problem import Problem


class Kernel(eqx.Module):
    """The loss of a difference `d` of implicit rewards.

    A kernel states what is known of it, and `didsim.solve` chooses its way by these facts alone. So a kernel
    of your own is solved like the library's once it states the same facts. A fact that is not stated counts
    as unknown. A fact that is stated wrongly makes certificates wrong.

    Attributes:
        convex: the loss is convex in `d`.
        scores_labels: the loss is the negative log-likelihood of a label, which may be noisy or shifted.
            Training then compares with the policy that the preferences encode.
        linear: the loss is `−d`.
        bounded: the loss is `1 − σ(d)`.
        kinked: the loss has a corner; `rounded` then rounds it off.
    """

    convex: ClassVar[bool] = False
    scores_labels: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    kinked: ClassVar[bool] = False

    @property
    def falling(self) -> bool:
        """Whether the loss never rises with `d`."""
        return False

    @property
    def calibrated(self) -> bool:
        """Whether the expected loss of a pair is least where `σ(d)` is the preference of the pair."""
        return False

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        """Whether every step to a larger `d` lowers the loss, for each entry of a batch of kernels.

        A pair that is won one way only then drives its two rewards apart without end.
        """
        return np.asarray(False)

    @property
    def hinge_margin(self) -> Scalar | None:
        """The `delta` of a loss `max(0, delta − d)`, which a linear program minimises; else None."""
        return None

    @abstractmethod
    def __call__(self, difference: Array) -> Array:
        """The loss, elementwise."""

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation over the pairs of a problem, for a reward `h` of every sequence.

        Here it is a sum over all pairs of a population, in O(N²) time. A `SumOfForms` takes near-linear time.
        """
        return problem.expect(self, h)

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        """The expectation where chosen sequences have rewards `x`, rejected ones `y`. Costs as `expect`."""
        return problem.expect_across(self, x, y)

    def best_reward(self, problem: Problem) -> Array | None:
        """The reward that minimises `E kernel(h_chosen − h_rejected)`, up to a constant; None if not known.

        It is asked only of problems in which every sequence can be chosen and rejected.
        """
        return None

    def rounded(self, temperature: Array) -> "Kernel":
        """The kernel with every corner `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""
        return self


class SumOfForms(Kernel):
    """A kernel that is written as a weighted sum of forms (`didsim.pairwise`), and perhaps a constant.

        kernel(d) = constant + Σ_k weight_k form_k(d − offset)

    The expectation of each form over all pairs of a population takes near-linear time.
    """

    @property
    def offset(self) -> Scalar | None:
        """What is taken off the difference; None is 0."""
        return None

    @property
    def constant(self) -> Scalar | None:
        """What is added to the sum; None is 0."""
        return None

    @abstractmethod
    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        """Weights and forms; a weight None is 1."""

    def __call__(self, difference: Array) -> Array:
        d = difference if self.offset is None else difference - self.offset
        return self._sum(lambda form: form(d))

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation over pairs, form by form. Costs as `Problem.expect` does for each form."""
        return self._sum(lambda form: problem.expect(form, h, self.offset))

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        """The expectation for two rewards. Costs as `Problem.expect_across` does for each form."""
        y = y if self.offset is None else y + self.offset
        return self._sum(lambda form: problem.expect_across(form, x, y))

    def _sum(self, of: Callable[[Form], Array]) -> Array:
        parts = [of(form) if weight is None else weight * of(form) for weight, form in self.forms()]
        return functools.reduce(operator.add, parts if self.constant is None else [self.constant, *parts])


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    return softplus(x)


# One exponential, where the derivative of log(1 + e^x) as written takes three. Training does little else.
_softplus.defjvps(lambda tangent, _, x: tangent * sigmoid(x))


def _surprise(d: Array) -> Array:
    """`−log σ(d)`."""
    return _softplus(-d)


def _doubt(d: Array) -> Array:
    """`1 − σ(d)`."""
    return sigmoid(-d)


def _negative_entropy(d: Array) -> Array:
    """`σ(d) log σ(d) + σ(−d) log σ(−d)`."""
    return -sigmoid(d) * _softplus(-d) - sigmoid(-d) * _softplus(d)


SURPRISE = Analytic(_surprise, strip=math.pi, odd_slope=-1.0)
_DOUBT = Analytic(_doubt, strip=math.pi)
_NEGATIVE_ENTROPY = Analytic(_negative_entropy, strip=math.pi, odd_slope=0.0)
_SQUARE = Polynomial((0.0, 0.0, 1.0))
_IDENTITY = Polynomial((0.0, 1.0))
_MINUS = Polynomial((0.0, -1.0))
_RAMP = PiecewiseLinear(knots=(0.0,), left=(1.0,))  # max(0, −d)


class Logistic(SumOfForms):
    """`−(1 − smoothing) log σ(d − margin) − smoothing log σ(margin − d)`; None leaves a part out.

    Since `log σ(−d) = log σ(d) − d`, this is `−log σ(d − margin) + smoothing · (d − margin)`.
    """

    convex: ClassVar[bool] = True
    scores_labels: ClassVar[bool] = True

    smoothing: Scalar | None = None
    margin: Scalar | None = None

    @property
    def falling(self) -> bool:
        return self.smoothing is None

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(self.smoothing is None or np.asarray(self.smoothing) <= 0)

    @property
    def calibrated(self) -> bool:
        return self.smoothing is None and self.margin is None

    @property
    def offset(self) -> Scalar | None:
        return self.margin

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        surprise = (None, SURPRISE)
        return (surprise,) if self.smoothing is None else (surprise, (self.smoothing, _IDENTITY))

    def best_reward(self, problem: Problem) -> Array | None:
        """The reward `r` of the preferences, `σ(r_i − r_j)`, for the plain loss.

        The loss of a pair is minimal where `σ(h_i − h_j)` is its preference, and Bradley–Terry makes all
        pairs agree. For contrastive pairs the reward is `log(π_w/π_l)`.
        """
        return problem.encoded_reward() if self.calibrated else None


class Squared(SumOfForms):
    """`(d − centre)²`."""

    convex: ClassVar[bool] = True

    centre: Scalar

    @property
    def offset(self) -> Scalar | None:
        return self.centre

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        return ((None, _SQUARE),)

    def best_reward(self, problem: Problem) -> Array | None:
        """The reward of least expected squared loss over independent draws, in closed form. O(N).

        Let `A`, `B` be the probabilities of the two sequences that are drawn, and `g_i` the difference of the
        probabilities of choosing and rejecting `i`, over `A_i + B_i`. For `centre = 1`, setting the
        derivative in `h_i` to zero gives

            Σ_j (A_i B_j + B_i A_j)(h_i − h_j) = (A_i + B_i) g_i
            (A_i + B_i) h_i − A_i Σ_j B_j h_j − B_i Σ_j A_j h_j = (A_i + B_i) g_i.

        The constant of `h` is free: take the one for which the sums are `c = Σ_j B_j h_j` and
        `Σ_j A_j h_j = −c`. Then `h_i = g_i + c u_i` with `u = (A − B)/(A + B) = tanh((log A − log B)/2)`. As
        `Σ_j B_j u_j = −S/2` with `S = Σ (A − B)²/(A + B)`, putting `h` into its own sum gives
        `c = Σ_j B_j g_j / (1 + S/2)`. Another centre scales `h`. (Derived here.)

        For contrastive pairs `g = u`, so that `h = centre · u / (1 + S/2)`: bounded.
        """
        draws = problem.independent_draws()
        if draws is None:
            return None
        return self.centre[..., None] * jnp.vectorize(_best_for_unit_centre, signature="(n),(n),(n)->(n)")(
            *draws
        )


def _best_for_unit_centre(first: Array, second: Array, net_wins: Array) -> Array:
    u = jnp.tanh((first - second) / 2)
    half_s = jnp.sum((jnp.exp(first) - jnp.exp(second)) * u) / 2
    return net_wins + u * jnp.sum(jnp.exp(second) * net_wins) / (1 + half_s)


class Hinge(SumOfForms):
    """`max(0, delta − d)`."""

    convex: ClassVar[bool] = True
    kinked: ClassVar[bool] = True

    delta: Scalar

    @property
    def falling(self) -> bool:
        return True

    @property
    def hinge_margin(self) -> Scalar | None:
        return self.delta

    @property
    def offset(self) -> Scalar | None:
        return self.delta

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        return ((None, _RAMP),)

    def rounded(self, temperature: Array) -> Kernel:
        return RoundedHinge(self.delta, temperature)


class RoundedHinge(Kernel):
    """`temperature · log(1 + exp((delta − d) / temperature))`: the hinge with its corner rounded off.

    It stands for the hinge, whose facts it states: it does not count as falling for ever.
    """

    convex: ClassVar[bool] = True

    delta: Scalar
    temperature: Scalar

    @property
    def falling(self) -> bool:
        return True

    def __call__(self, difference: Array) -> Array:
        return self.temperature * softplus((self.delta - difference) / self.temperature)


class Exponential(Kernel):
    """`exp(−d)`."""

    convex: ClassVar[bool] = True

    @property
    def falling(self) -> bool:
        return True

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(True)

    def __call__(self, difference: Array) -> Array:
        return jnp.exp(-difference)

    def expect(self, problem: Problem, h: Array) -> Array:
        """The expectation, in log space."""
        return problem.expect_exp(-h)

    def best_reward(self, problem: Problem) -> Array | None:
        """Half the reward of the preferences: `p e^−d + (1 − p) e^d` is minimal at `log(p/(1 − p))/2`.

        (Derived here.)
        """
        reward = problem.encoded_reward()
        return None if reward is None else reward / 2


class Linear(SumOfForms):
    """`−d`."""

    convex: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    @property
    def falling(self) -> bool:
        return True

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(True)

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        return ((None, _MINUS),)


class Sigmoid(SumOfForms):
    """`σ(−d) = 1 − σ(d)`: bounded, so that a hopeless pair hardly counts."""

    bounded: ClassVar[bool] = True

    @property
    def falling(self) -> bool:
        return True

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(True)

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        return ((None, _DOUBT),)


class ReverseCrossEntropy(SumOfForms):
    """`KL(Bernoulli(σ(d)) ‖ Bernoulli(1 − smoothing))`, the policy's label against a smoothed one.

    That is `σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]`: zero where `σ(d) = 1 − ε`, and bounded.
    """

    smoothing: Scalar

    @property
    def constant(self) -> Scalar | None:
        return -jnp.log1p(-self.smoothing)

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        against = -jnp.log(self.smoothing) + jnp.log1p(-self.smoothing)
        return ((None, _NEGATIVE_ENTROPY), (against, _DOUBT))


class LogRatioModulated(Kernel):
    """`−log σ(d) (1 − m) + e^−d m` with `m = σ(d / temperature)`.

    The logistic loss where a pair is in the wrong order, the exponential one where it is in the right one.
    It is analytic only in a strip of width `π · temperature`, too narrow for interpolation to pay.
    """

    temperature: Scalar

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(True)

    def __call__(self, difference: Array) -> Array:
        t = difference / self.temperature
        # One exponential, since e^−d may overflow where its factor vanishes.
        return _surprise(difference) * sigmoid(-t) + jnp.exp(-difference - _softplus(-t))
