"""What a summand over pairs can be: the forms whose sums are taken in near-linear time."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from didsim.pairwise.moments import horner
from didsim.pairwise.sorting import Piece


@dataclass(frozen=True)
class Analytic:
    """A smooth kernel, known by how far from the real line it stays analytic.

    Args:
        function: elementwise function of a difference, made of JAX operations. Its parameters are constants:
            to scale or shift the difference by an array, scale `x` or pass an `offset`.
        strip: it is analytic for `|Im d| < strip`: `π` for the sigmoid and the softplus. The larger, the
            fewer nodes are needed. A strip that is too large costs time, as errors are checked
            against the coefficients that are found.
        odd_slope: the `s` for which `k(d) − k(−d) = s·d`, if there is one: 1 for the softplus. It is
            what lets sums over labelled pairs be taken in near-linear time.

    Raises:
        ValueError: `function` is not a function, `strip` is not positive and finite, or `odd_slope` not
            finite.
    """

    function: Callable[[Array], Array]
    strip: float
    odd_slope: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"`function` must be a function of a difference; got {self.function!r}")
        if not (isinstance(self.strip, numbers.Real) and 0 < self.strip < math.inf):
            raise ValueError(f"`strip` must be positive and finite; got {self.strip!r}")
        if not (self.odd_slope is None or math.isfinite(self.odd_slope)):
            raise ValueError(f"`odd_slope` must be finite or None; got {self.odd_slope!r}")

    def __call__(self, d: Array) -> Array:
        """The kernel, elementwise."""
        return self.function(d)

    def derivative(self) -> "Analytic":
        """The first derivative, analytic in the same strip."""
        return Analytic(_Derivative(self.function), self.strip)

    def skew(self, offset: Array | None) -> float | None:
        """The `s` for which `k(d − offset) − k(−d − offset) = s·d`, or None."""
        return self.odd_slope if offset is None else None


@dataclass(frozen=True)
class _Derivative:
    function: Callable[[Array], Array]

    def __call__(self, d: Array) -> Array:
        return jax.jvp(self.function, (d,), (jnp.ones_like(d),))[1]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial kernel, `Σ_n coefficients[n] d^n`.

    Raises:
        ValueError: there is no coefficient, or one is not finite.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _finite_numbers("coefficients", self.coefficients))

    def __call__(self, d: Array) -> Array:
        """The polynomial, elementwise."""
        return horner(self.coefficients, d)

    def derivative(self) -> "Polynomial":
        """The first derivative."""
        return Polynomial(tuple(n * a for n, a in enumerate(self.coefficients))[1:] or (0.0,))

    def skew(self, offset: Array | None) -> Array | float | None:
        """The `s` for which `k(d − offset) − k(−d − offset) = s·d`, or None: `2 (a_1 − 2 a_2 offset)`."""
        if len(self.coefficients) > 3:
            return None
        _, linear, quadratic = (*self.coefficients, 0.0, 0.0)[:3]
        return 2 * (linear - 2 * quadratic * (0.0 if offset is None else offset))


@dataclass(frozen=True)
class PiecewiseLinear:
    """A kernel of lines between knots, with or without jumps: a sum of functions of one knot each.

    A function with knot `t` is `below[t] + left[t] · (t − d)` for `d < t`, `at[t]` for `d = t`, and
    `above[t] + right[t] · (d − t)` for `d > t`. The hinge `max(0, 1 − d)` is
    `PiecewiseLinear(knots=(1,), left=(1,))`. A share of wins with ties counted half is
    `PiecewiseLinear(knots=(0,), above=(1,))`.

    At a corner the derivative is the number nearest to 0 between the slopes on either side: 0 for a hinge, as
    trainers have it. Jumps count for nothing in the derivative.

    Args:
        knots: where the kernel bends or jumps.
        below: the value just below each knot; 0 by default.
        left: the growth with the distance from the knot, below it; 0 by default.
        above: the value just above.
        right: the growth with the distance, above.
        at: the value at each knot; by default the mean of `below` and `above`.

    Raises:
        ValueError: there is no knot, a number is not finite, or lengths differ.
    """

    knots: tuple[float, ...]
    below: tuple[float, ...] = ()
    left: tuple[float, ...] = ()
    above: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        knots = _finite_numbers("knots", self.knots)
        object.__setattr__(self, "knots", knots)
        for name in ("below", "left", "above", "right", "at"):
            values = getattr(self, name)
            if values != ():
                values = _finite_numbers(name, values)
            elif name == "at":
                values = tuple(
                    (below + above) / 2 for below, above in zip(self.below, self.above, strict=True)
                )
            else:
                values = (0.0,) * len(knots)
            if len(values) != len(knots):
                raise ValueError(
                    f"`{name}` must have one number for each of {len(knots)} knots; got {len(values)}"
                )
            object.__setattr__(self, name, values)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The functions of one knot that add up to the kernel."""
        return tuple(map(Piece, self.knots, self.below, self.left, self.above, self.right, self.at))

    def __call__(self, d: Array) -> Array:
        """The kernel, elementwise."""
        return sum((piece(d) for piece in self.pieces), jnp.zeros_like(d))

    def derivative(self) -> "PiecewiseLinear":
        """The slope, between knots."""
        return PiecewiseLinear(*zip(*(piece.derivative() for piece in self.pieces), strict=True))

    def skew(self, offset: Array | None) -> None:
        """None: it is not looked for."""


Form = Analytic | Polynomial | PiecewiseLinear


def _finite_numbers(name: str, values: Any) -> tuple[float, ...]:
    expected = f"`{name}` must be a sequence of at least one finite number; got {values!r}"
    try:
        numbers_given = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if not numbers_given or not all(map(math.isfinite, numbers_given)):
        raise ValueError(expected)
    return numbers_given
