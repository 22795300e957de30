"""Kernels: losses of a difference of implicit rewards, with the facts that solvers need to know of them.

The difference is the reward of the chosen sequence minus the reward of the rejected one, or the reward of one
sequence minus a baseline (`didsim.objectives.terms`).
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial, reduce
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jaxtyping import Array, Bool

from didsim import _checks
from didsim.objectives.curvature import OfRewards, of_table
from didsim.objectives.rewards import Scalar
from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear, Polynomial
from didsim.preferences.explicit import Joint
from didsim.preferences.problem import Problem


class Kernel(eqx.Module):
    """A loss of a difference `d` of implicit rewards.

    A kernel states facts about itself, and `didsim.solve` chooses its method by these facts alone. So a
    kernel of your own is solved like the library's once it states the same facts. A fact that is not stated
    counts as unknown. A fact that is stated wrongly makes certificates wrong.

    Attributes:
        convex: the loss is convex in `d`.
        scores_labels: the loss is the negative log-likelihood of a label, of a noisy label, or of a label
            with a margin. For a log-ratio reward, `didsim.train` then takes as its default target the policy
            that the preferences encode.
        linear: the loss is `−d`.
        bounded: the loss is `1 − σ(d)`.
        kinked: the loss has a corner. Then `rounded` replaces the corner by a smooth curve.
    """

    convex: ClassVar[bool] = False
    scores_labels: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    kinked: ClassVar[bool] = False

    @property
    def falling(self) -> bool:
        """Whether the loss never increases with `d`."""
        return False

    @property
    def calibrated(self) -> bool:
        """Whether the expected loss of a pair is least at the `d` for which `σ(d)` is its preference."""
        return False

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        """Whether the loss comes to its infimum only as `d` grows without end, for each entry of a batch.

        If so, and one sequence of a pair wins every time, the loss drives the two rewards apart without end.
        """
        return np.asarray(False)

    @property
    def hinge_margin(self) -> Scalar | None:
        """The `delta` of a hinge loss `max(0, delta − d)`, which a linear program minimises; else None."""
        return None

    @abstractmethod
    def __call__(self, difference: Array) -> Array:
        """The loss, elementwise."""

    def expect(self, problem: Problem, h: Array) -> Array:
        """`E kernel(h_chosen − h_rejected)` over the pairs of a problem, for a reward `h` of every sequence.

        For a population, a `Kernel` sums over all pairs in O(N²) time. A `SumOfForms` takes near-linear time.
        """
        return problem.expect(self, h)

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        """`E kernel(x_chosen − y_rejected)` over the pairs of a problem. Costs as `expect`."""
        return problem.expect_across(self, x, y)

    def own_curvature(self, problem: Problem, h: Array) -> Array:
        """The second derivative of `expect` in each reward by itself; see `Problem.own_curvature`.

        Solvers of large problems scale their numbers by it. If it is off by a factor, they take longer.
        """
        return problem.own_curvature(self, h)

    def curvature(self, table: Joint, x: Array, y: Array) -> OfRewards:
        """The derivatives of `expect_across` over the pairs of a table. O(N²)."""
        return of_table(table.log_probs, self, x, y)

    def best_reward(self, problem: Problem) -> Array | None:
        """The reward that minimises `E kernel(h_chosen − h_rejected)`, up to a constant; None if not known.

        The problem must be one in which every sequence can be chosen and can be rejected.
        """
        return None

    def rounded(self, temperature: Array) -> "Kernel":
        """The kernel with every corner `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""
        return self


class SumOfForms(Kernel):
    """A kernel that is a constant plus a weighted sum of the forms of `didsim.pairwise`.

        kernel(d) = constant + Σ_k weight_k form_k(d − offset)

    The expectation of each form over the pairs of a problem costs as `Problem.expect` does.
    """

    @property
    def offset(self) -> Scalar | None:
        """The number subtracted from the difference; None stands for 0."""
        return None

    @property
    def constant(self) -> Scalar | None:
        """The number added to the sum; None stands for 0."""
        return None

    @abstractmethod
    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        """Pairs of a weight and a form. A weight None stands for 1."""

    def __call__(self, difference: Array) -> Array:
        d = difference if self.offset is None else difference - self.offset
        return self._sum(lambda form: form(d))

    def expect(self, problem: Problem, h: Array) -> Array:
        return self._sum(lambda form: problem.expect(form, h, self.offset))

    def expect_across(self, problem: Problem, x: Array, y: Array) -> Array:
        y = y if self.offset is None else y + self.offset
        return self._sum(lambda form: problem.expect_across(form, x, y))

    def own_curvature(self, problem: Problem, h: Array) -> Array:
        return reduce(jnp.add, self._parts(lambda form: problem.own_curvature(form, h, self.offset)))

    def _sum(self, of: Callable[[Form], Array]) -> Array:
        parts = self._parts(of)
        return reduce(jnp.add, parts if self.constant is None else [self.constant, *parts])

    def _parts(self, of: Callable[[Form], Array]) -> list[Array]:
        return [of(form) if weight is None else weight * of(form) for weight, form in self.forms()]


# The derivatives of these keep their digits in both tails. JAX's own lose all where `1 − σ` rounds to zero.


@jax.custom_jvp
def _sigmoid(x: Array) -> Array:
    return sigmoid(x)


_sigmoid.defjvps(lambda tangent, value, x: tangent * value * _sigmoid(-x))


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    # As `jax.nn.softplus`, which looks for NaN as well, and takes twice as long.
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, _, x: tangent * _sigmoid(x))


def _surprise(d: Array) -> Array:
    """`−log σ(d)`."""
    return _softplus(-d)


def _doubt(d: Array) -> Array:
    """`1 − σ(d)`."""
    return _sigmoid(-d)


@jax.custom_jvp
def _negative_entropy(d: Array) -> Array:
    """`σ(d) log σ(d) + σ(−d) log σ(−d)`, which is `−softplus(−|d|) − |d| σ(−|d|)`."""
    far = jnp.abs(d)
    return -_softplus(-far) - far * _sigmoid(-far)


_negative_entropy.defjvps(lambda tangent, _, d: tangent * d * _sigmoid(d) * _sigmoid(-d))


SURPRISE = Analytic(_surprise, strip=np.pi, odd_slope=-1.0)
_DOUBT = Analytic(_doubt, strip=np.pi)
_NEGATIVE_ENTROPY = Analytic(_negative_entropy, strip=np.pi, odd_slope=0.0)
_SQUARE = Polynomial((0.0, 0.0, 1.0))
_IDENTITY = Polynomial((0.0, 1.0))
_MINUS = Polynomial((0.0, -1.0))
_RAMP = PiecewiseLinear(knots=(0.0,), left=(1.0,))  # max(0, −d)


class Logistic(SumOfForms):
    """`−(1 − smoothing) log σ(d − margin) − smoothing log σ(margin − d)`.

    Since `log σ(−d) = log σ(d) − d`, this is `−log σ(d − margin) + smoothing · (d − margin)`. None means 0.
    """

    convex: ClassVar[bool] = True
    scores_labels: ClassVar[bool] = True

    smoothing: Scalar | None = eqx.field(
        default=None, converter=partial(_checks.optional_number, "smoothing")
    )
    margin: Scalar | None = eqx.field(default=None, converter=partial(_checks.optional_number, "margin"))

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
        """The reward `r` with preferences `σ(r_i − r_j)`, for the loss without smoothing and margin.

        The expected loss of a pair is minimal where `σ(h_i − h_j)` is its preference. Under a Bradley–Terry
        model `h = r` meets this condition on all pairs at once. For contrastive pairs `r = log(π_w/π_l)`.
        """
        return problem.encoded_reward() if self.calibrated else None


class Squared(SumOfForms):
    """`(d − centre)²`."""

    convex: ClassVar[bool] = True

    centre: Scalar = eqx.field(converter=partial(_checks.number, "centre"))

    @property
    def offset(self) -> Scalar | None:
        return self.centre

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        return ((None, _SQUARE),)

    def best_reward(self, problem: Problem) -> Array | None:
        """The reward of least expected squared loss, in closed form. O(N).

        None unless the two draws of a pair are known to be independent. Let them come from `A` and `B`. Let
        `g_i = [P(i is chosen) − P(i is rejected)] / (A_i + B_i)`. For `centre = 1`, setting the derivative in
        `h_i` to zero gives

            Σ_j (A_i B_j + B_i A_j)(h_i − h_j) = (A_i + B_i) g_i
            (A_i + B_i) h_i − A_i Σ_j B_j h_j − B_i Σ_j A_j h_j = (A_i + B_i) g_i.

        The loss does not change when a constant is added to `h`. Choose the constant so that
        `Σ_j A_j h_j = −Σ_j B_j h_j`, and call the second sum `c = Σ_j B_j h_j`. Then `h_i = g_i + c u_i` with
        `u = (A − B)/(A + B) = tanh((log A − log B)/2)`. Inserting this `h` into the definition of `c` gives
        `c = Σ_j B_j g_j / (1 + S/2)`, because `Σ_j B_j u_j = −S/2` with `S = Σ (A − B)²/(A + B)`. For another
        centre, this `h` is multiplied by it. (Derived here.)

        For contrastive pairs `g = u`. Then `h = centre · u / (1 + S/2)`, which is bounded.
        """
        draws = problem.independent_draws()
        if draws is None:
            return None
        best = jnp.vectorize(_best_for_unit_centre, signature="(n),(n),(n)->(n)")
        return self.centre[..., None] * best(*draws)


def _best_for_unit_centre(first: Array, second: Array, net_wins: Array) -> Array:
    u = jnp.tanh((first - second) / 2)
    half_s = jnp.sum((jnp.exp(first) - jnp.exp(second)) * u) / 2
    return net_wins + u * jnp.sum(jnp.exp(second) * net_wins) / (1 + half_s)


class Hinge(SumOfForms):
    """`max(0, delta − d)`."""

    convex: ClassVar[bool] = True
    kinked: ClassVar[bool] = True

    delta: Scalar = eqx.field(converter=partial(_checks.number, "delta"))

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

    Solvers use it in place of the hinge, so it states the facts of the hinge, even for `falls_for_ever`.
    """

    convex: ClassVar[bool] = True

    delta: Scalar
    temperature: Scalar

    @property
    def falling(self) -> bool:
        return True

    def __call__(self, difference: Array) -> Array:
        return self.temperature * _softplus((self.delta - difference) / self.temperature)


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
        return problem.expect_exp(-h)

    def curvature(self, table: Joint, x: Array, y: Array) -> OfRewards:
        """As logarithms, since the exponential overflows where the probability underflows."""
        terms = jnp.exp(table.log_probs - (x[:, None] - y))
        return OfRewards(-terms.sum(1), terms.sum(0), terms)

    def best_reward(self, problem: Problem) -> Array | None:
        """Half the reward of the preferences.

        For a preference `p`, the expected loss `p e^−d + (1 − p) e^d` is least at `d = log(p/(1 − p))/2`.
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
    """`σ(−d) = 1 − σ(d)`. The loss is bounded: its slope vanishes for a pair far from the right order."""

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
    """`KL(Bernoulli(σ(d)) ‖ Bernoulli(1 − ε))`, with `ε = smoothing`: the policy's label and a smoothed one.

    This is `σ(d) log[σ(d)/(1 − ε)] + σ(−d) log[σ(−d)/ε]`. It is bounded, and zero where `σ(d) = 1 − ε`.
    """

    smoothing: Scalar = eqx.field(converter=lambda value: _checks.within("smoothing", value, 1e-30, 1 - 1e-6))

    @property
    def constant(self) -> Scalar | None:
        return -jnp.log1p(-self.smoothing)

    def forms(self) -> tuple[tuple[Scalar | None, Form], ...]:
        against = -jnp.log(self.smoothing) + jnp.log1p(-self.smoothing)
        return ((None, _NEGATIVE_ENTROPY), (against, _DOUBT))


class _Modulated(NamedTuple):
    """The parts of `LogRatioModulated` at `d`, with `t = d / temperature`.

    Attributes:
        right: `σ(d)`.
        wrong: `σ(−d)`.
        surprise: `−log σ(d)`.
        far: `σ(t)`.
        near: `σ(−t)`.
        exponential: `e^−d σ(t)`.
    """

    right: Array
    wrong: Array
    surprise: Array
    far: Array
    near: Array
    exponential: Array


@jax.custom_jvp
def _modulated(d: Array, t: Array) -> _Modulated:
    e_d, e_t = jnp.exp(-jnp.abs(d)), jnp.exp(-jnp.abs(t))
    return _Modulated(
        jnp.where(d < 0, e_d, 1) / (1 + e_d),
        jnp.where(d < 0, 1, e_d) / (1 + e_d),
        jnp.maximum(-d, 0) + jnp.log1p(e_d),
        jnp.where(t < 0, e_t, 1) / (1 + e_t),
        jnp.where(t < 0, 1, e_t) / (1 + e_t),
        # `e^−d` may overflow where its factor vanishes.
        jnp.exp(-d + jnp.minimum(t, 0)) / (1 + e_t),
    )


@_modulated.defjvp
def _modulated_jvp(at: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[_Modulated, _Modulated]:
    """The derivatives are products of the parts, so that none of any order takes another exponential."""
    (d_dot, t_dot), of = tangents, _modulated(*at)
    turn, step = of.right * of.wrong * d_dot, of.far * of.near * t_dot
    moved = of.exponential * (of.near * t_dot - d_dot)
    return of, _Modulated(turn, -turn, -of.wrong * d_dot, step, -step, moved)


class LogRatioModulated(Kernel):
    """`−log σ(d) (1 − m) + e^−d m` with `m = σ(d / temperature)`.

    It is close to the logistic loss for `d < 0`, and to the exponential loss for `d > 0`. It is analytic only
    for `|Im d| < π · temperature`. This strip is too narrow for interpolation to save time.
    """

    temperature: Scalar = eqx.field(converter=partial(_checks.positive, "temperature"))

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return np.asarray(True)

    def __call__(self, difference: Array) -> Array:
        of = _modulated(difference, difference / self.temperature)
        return of.surprise * of.near + of.exponential
