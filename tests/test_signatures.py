import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import didsim
from didsim.pairwise.interpolation import half_range


def test_a_function_that_returns_had_arguments_that_fit() -> None:
    assert float(half_range(jnp.array([1.0, 5.0]))) == 2
    with pytest.raises(TypeCheckError, match="half_range"):
        half_range(jnp.array([1, 5]))


def test_a_wrong_argument_is_refused_by_the_function_itself() -> None:
    with pytest.raises(ValueError, match="`p` must be a floating-point array"):
        didsim.entropy(np.array([1, 5]))
