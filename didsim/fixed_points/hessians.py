"""What Newton's method asks of a Hessian, in whatever form it is."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

FEW = 64
"""So few numbers take steps from eigenvalues even far from the end; see `newton.minimise`."""


class Decomposed(NamedTuple):
    """A Hessian, decomposed.

    Attributes:
        step: Newton's step for the gradient that was given.
        step_for: Newton's step for any gradient.
        flat: the number of directions along which the Hessian does not curve, without the idle ones.
        lowest: the smallest eigenvalue of the scaled Hessian; 0 if all are known to be positive.
        is_safe: whether the Hessian is positive, and far from singular, so that steps are its own.
    """

    step: Float[Array, " n"]
    step_for: Callable[[Array], Array]
    flat: Int[Array, ""]
    lowest: Float[Array, ""]
    is_safe: Bool[Array, ""]


class Hessian(Protocol):
    """A Hessian, in a form that Newton's method takes steps from."""

    def product(self, step: Array) -> Array:
        """The product with a vector."""

    def diagonal(self) -> Array:
        """The diagonal."""

    def decomposed(
        self,
        g: Array,
        idle: Array,
        size: Array | None,
        positive: Callable[[], Self] | None,
        is_far: Bool[Array, ""],
        was_safe: Bool[Array, ""],
    ) -> Decomposed:
        """Decomposed for a step.

        Args:
            g: the gradient.
            idle: directions along which the loss is known not to change, one in each row.
            size: for each number, the size of the terms that add up to its curvature, if that is known.
            positive: a function that returns a positive Hessian of about the same curvatures.
            is_far: whether the end is far, so that the positive one may take the place of one that is not.
            was_safe: whether the Hessian of the step before was safe. If it was not, and the end is far, the
                positive one may be taken at once: this one is seldom safe either.
        """

    def level_directions(self, last: Self, size: Array | None) -> tuple[Array, Array]:
        """The number of directions along which neither of two Hessians curves, and a mixture of them.

        The largest entry of the mixture is 1. The idle directions count, too.
        """


class Curvature(NamedTuple):
    """The derivatives of a loss at some numbers.

    Attributes:
        gradient: the gradient.
        hessian: the Hessian.
        by_magnitude: a function that returns a positive Hessian of about the same curvatures; None if there
            is none that is cheap. It takes the share of its magnitude with which a negative curvature counts.
    """

    gradient: Float[Array, " numbers"]
    hessian: Hessian
    by_magnitude: Callable[[Array], Hessian] | None = None


def flat_share(like: Array) -> float:
    """The share of the largest curvature below which a curvature counts as zero."""
    return 5e3 * float(jnp.finfo(like.dtype).eps)


def is_rounding(number: Array, size: Array) -> Array:
    """Whether a number is no more than the rounding of terms of some size."""
    return jnp.abs(number) <= 64 * jnp.finfo(size.dtype).eps * size
