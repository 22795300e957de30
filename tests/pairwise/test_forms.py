import math
from typing import Any

import jax.numpy as jnp
import pytest

from didsim.pairwise.forms import Analytic, PiecewiseLinear, Polynomial


def test_an_analytic_kernel_needs_a_function_and_a_strip() -> None:
    build: Any = Analytic
    with pytest.raises(TypeError, match="strip"):
        build(jnp.exp)
    for strip in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="`strip` must be positive and finite; got"):
            build(jnp.exp, strip)
    for wrong in ("wide", None, 1j, True):
        with pytest.raises(ValueError, match="`strip` must be a real number; got"):
            build(jnp.exp, wrong)
    with pytest.raises(ValueError, match="`function` must be a function of a difference; got 3"):
        build(3, 1.0)


def test_a_polynomial_needs_finite_coefficients() -> None:
    build: Any = Polynomial
    for coefficients in ((), (1.0, math.nan), (math.inf,), 3.0, ("one",), None):
        with pytest.raises(ValueError, match="`coefficients` must be a sequence of at least one finite"):
            build(coefficients)


def test_a_piecewise_linear_kernel_needs_numbers_for_each_knot() -> None:
    build: Any = PiecewiseLinear
    for knots in ((), (math.nan,), (math.inf,), 1.0):
        with pytest.raises(ValueError, match="`knots` must be a sequence of at least one finite number"):
            build(knots=knots)
    for name in ("below", "left", "above", "right"):
        with pytest.raises(ValueError, match=f"`{name}` must have one number for each of 2 knots; got 1"):
            build(knots=(0.0, 1.0), **{name: (1.0,)})
        with pytest.raises(ValueError, match=f"`{name}` must be a sequence of at least one finite number"):
            build(knots=(0.0,), **{name: (math.nan,)})
