"""The minimiser of fits: what it must not call an end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didsim._extremes import largest_magnitude
from didsim.estimation.newton import Convex, minimise


@pytest.mark.core
@pytest.mark.parametrize("size", [5, 5000])
def test_a_product_that_is_not_a_number_is_no_end(size: int) -> None:
    def product(_: None, step: jax.Array) -> jax.Array:
        return jnp.nan * step

    function = Convex(
        gradient=lambda z: (z + 1, jnp.ones_like(z)),
        curvature=lambda z: None,
        product=product,
        length=lambda step: largest_magnitude(step, axis=0),
    )
    found = minimise(function, jnp.zeros((size, 2)))
    assert not np.any(found.converged)
    assert np.all(found.stuck)
