from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from didsim.plotting import describe, labelled


def test_an_array_keeps_its_values_and_gets_names() -> None:
    values = jnp.arange(6.0).reshape(2, 3)
    array = labelled(values, ("seed", "step"), {"step": [0, 10, 20]}, label="Entropy", units="nats")
    assert array.dims == ("seed", "step")
    np.testing.assert_array_equal(array.values, values)
    np.testing.assert_array_equal(array.sel(step=20), [2, 5])
    assert "seed" not in array.coords
    assert describe(array) == "Entropy (nats)"


def test_a_table_is_stacked_and_broadcast() -> None:
    array = labelled({"DPO": [[1.0, 2.0]], "IPO": [[3.0], [4.0]]}, ("objective", "seed", "t"))
    assert array.shape == (2, 2, 2)
    np.testing.assert_array_equal(array.sel(objective="DPO"), [[1, 2], [1, 2]])
    np.testing.assert_array_equal(array.sel(objective="IPO"), [[3, 3], [4, 4]])
    assert describe(array) == "None"


def test_names_of_a_table_can_be_given_other_coordinates() -> None:
    array = labelled({"a": 1.0, "b": 2.0}, ["of"], {"of": ["first", "second"]})
    assert float(array.sel(of="second")) == 2


@pytest.mark.parametrize(
    ("values", "dims", "coordinates", "message"),
    [
        ([1.0, 2.0], (), {}, "`values` must have an axis for each"),
        ([[1.0, 2.0]], ("a", "a"), {}, "`dims` must be different names"),
        ({"a": [1.0]}, ("of",), {}, "`values` must have an axis for each"),
        ({}, ("of",), {}, "`values` must have at least one array"),
        (
            {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]},
            ("of", "t"),
            {},
            "`values` must have shapes that broadcast",
        ),
        ([1.0, 2.0], ("t",), {"t": [0, 1, 2]}, "`coordinates` must be a number or word for each"),
        ([1.0, 2.0], ("t",), {"s": [0, 1]}, "`coordinates` must be a number or word for each"),
        (["a"], ("t",), {}, "`values` must be"),
    ],
)
def test_what_does_not_fit_is_refused(values: Any, dims: Any, coordinates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labelled(values, dims, coordinates)
