"""The forms of kernel whose sums over all pairs are taken in near-linear time.

A kernel is the function `k` in `Σ_ij A_i B_j k(x_i − x_j − offset)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from didsim import _checks
from didsim.pairwise.moments import horner
from didsim.pairwise.sorting import Piece


@dataclass(frozen=True)
class Analytic:
    """A smooth kernel that is analytic in a strip around the real line.

    Args:
        function: elementwise function of a difference, made of JAX operations. Its parameters are constants:
            to scale or shift the difference by an array, scale `x` or pass an `offset`.
        strip: half the width of the strip. The function is analytic for `|Im d| < strip`; for the sigmoid
            and the softplus, `strip` is `π`. A wider strip needs fewer nodes. Too large a value costs time
            but no accuracy: every error is checked, and a failed attempt is repeated with more nodes.
        odd_slope: the number `s` with `k(d) − k(−d) = s·d` for all `d`, if there is one; it is 1 for the
            softplus. `Labelled.expect` needs `s` to take its sums in near-linear time.

    Raises:
        ValueError: `function` is not callable, `strip` is not positive and finite, or `odd_slope` is not
            finite.
    """

    function: Callable[[Array], Array]
    strip: float
    odd_slope: float | None = None

    def __post_init__(self) -> None:
        _checks.function("function", self.function, "a function of a difference")
        object.__setattr__(self, "strip", _checks.real("strip", self.strip, _checks.positive))
        if self.odd_slope is not None:
            slope = _checks.real("odd_slope", self.odd_slope, _checks.number)
            object.__setattr__(self, "odd_slope", slope)

    def __call__(self, d: Array) -> Array:
        return self.function(d)

    def derivative(self) -> "Analytic":
        """The first derivative. It is analytic in the same strip."""
        return Analytic(_Derivative(self.function), self.strip)

    def skew(self, offset: Array | None) -> float | None:
        """The number `s` with `k(d − offset) − k(−d − offset) = s·d` for all `d`; None if not known."""
        return self.odd_slope if offset is None else None


@dataclass(frozen=True)
class _Derivative:
    function: Callable[[Array], Array]

    def __call__(self, d: Array) -> Array:
        return jax.jvp(self.function, (d,), (jnp.ones_like(d),))[1]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial kernel, `k(d) = Σ_n coefficients[n] d^n`.

    Raises:
        ValueError: `coefficients` is empty, or one of them is not finite.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _finite_numbers("coefficients", self.coefficients))

    def __call__(self, d: Array) -> Array:
        return horner(self.coefficients, d)

    def derivative(self) -> "Polynomial":
        return Polynomial(tuple(n * a for n, a in enumerate(self.coefficients))[1:] or (0.0,))

    def skew(self, offset: Array | None) -> Array | float | None:
        """The number `s` with `k(d − offset) − k(−d − offset) = s·d` for all `d`; None above degree 2.

        For `k(d) = a_0 + a_1 d + a_2 d²`, `s = 2 (a_1 − 2 a_2 offset)`.
        """
        if len(self.coefficients) > 3:
            return None
        _, linear, quadratic = (*self.coefficients, 0.0, 0.0)[:3]
        return 2 * (linear - 2 * quadratic * (0.0 if offset is None else offset))


@dataclass(frozen=True)
class PiecewiseLinear:
    """A kernel that is linear between its knots. It may jump at a knot.

    The kernel is a sum of functions, one for each knot. With `t = knots[n]`, the function of knot `n` is

        below[n] + left[n] · (t − d)      for d < t
        at[n]                             for d = t
        above[n] + right[n] · (d − t)     for d > t.

    For example, the hinge `max(0, 1 − d)` is `PiecewiseLinear(knots=(1,), left=(1,))`. For a share of wins
    `d > 0`, with ties counted half, the kernel is `PiecewiseLinear(knots=(0,), above=(1,))`. At a
    corner the derivative is the number nearest to 0 between the slopes on its two sides: 0 for a hinge, as in
    trainers. Jumps add nothing to the derivative.

    Args:
        knots: where the kernel bends or jumps.
        below: the value just below each knot; 0 by default.
        left: below each knot, the growth per unit of distance from it; 0 by default.
        above: the value just above each knot; 0 by default.
        right: above each knot, the growth per unit of distance from it; 0 by default.
        at: the value at each knot; by default the mean of `below` and `above`.

    Raises:
        ValueError: `knots` is empty, a number is not finite, or another argument has not one number for each
            knot.
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
            if not isinstance(values, tuple) or values:
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
        return sum((piece(d) for piece in self.pieces), jnp.zeros_like(d))

    def derivative(self) -> "PiecewiseLinear":
        """The slope. At a knot it is the mean of the slopes on the two sides."""
        return PiecewiseLinear(*zip(*(piece.derivative() for piece in self.pieces), strict=True))

    def skew(self, offset: Array | None) -> None:
        """None. The number `s` of `Polynomial.skew` is not computed here, even if there is one."""


Form = Analytic | Polynomial | PiecewiseLinear


def _finite_numbers(name: str, values: Any) -> tuple[float, ...]:
    expected = f"`{name}` must be a sequence of at least one finite number; got {values!r}"
    if isinstance(values, bytes) or not isinstance(values, Sequence | np.ndarray | Array):
        raise ValueError(expected)
    try:
        found = tuple(_checks.real(name, value, _checks.number) for value in values)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if not found:
        raise ValueError(expected)
    return found
