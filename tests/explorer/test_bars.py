"""The widget of notebooks, by its attributes; its drawing is that of the page."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from didsim.explorer import Bars


def test_its_limit_is_that_of_what_was_dragged() -> None:
    bars = Bars(names=["A", "B", "C", "D"], reference=[0.4, 0.3, 0.2, 0.1], beta=0.5)
    bars.chosen, bars.rejected = [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]
    limit = np.array([0.4, 0.3, 0.2, 0.1]) * (np.array([0.1, 0.2, 0.3, 0.4]) / 0.25) ** 2
    np.testing.assert_allclose(jnp.exp(bars.limit()), limit / limit.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"beta": 0.0}, "beta"),
        ({"names": ["A"]}, "names"),
        ({"chosen": [0.5, 0.5, 0.0, 0.0]}, "chosen"),
        ({"reference": [0.2] * 5}, "reference"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Bars(**given)
