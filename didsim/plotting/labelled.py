"""Labelled arrays, as the pictures take them, from plain ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from didsim import _checks


def labelled(
    values: Any,
    dims: Sequence[str],
    coordinates: Mapping[str, Any] | None = None,
    *,
    label: str | None = None,
    units: str = "1",
) -> xr.DataArray:
    """An array with names for its axes. `describe` makes an axis label of it.

    Args:
        values: an array; or several of broadcastable shapes by name, which are stacked along the first axis.
        dims: names of the axes. The first is that of the names, if there are names.
        coordinates: the places along axes, numbers or words, by the name of the axis.
        label: what the values are, in a few words.
        units: their units; "1" stands for none.

    Raises:
        ValueError: `values` is neither an array of numbers nor a table of such arrays, has not one axis for
            each of `dims`, or a coordinate does not fit.

    Examples:
        >>> values = {"DID": [2.0, 1.0], "policy": [1.0, 0.0]}
        >>> both = labelled(values, ("of", "t"), {"t": [0, 1]}, units="nats")
        >>> both.dims, float(both.sel(of="DID", t=1))
        (('of', 't'), 1.0)
    """
    names = _checks.words("dims", dims)
    if len(set(names)) != len(names):
        raise ValueError(f"`dims` must be different names; got {dims!r}")
    if label is not None:
        _checks.instance("label", label, str, "a few words, or None")
    _checks.instance("units", units, str, "the name of a unit")
    places = {} if coordinates is None else coordinates
    _checks.instance("coordinates", places, Mapping, "a table of places by the name of an axis")
    if isinstance(values, Mapping):
        array = _stacked(values)
        places = {**{name: list(values) for name in names[:1]}, **places}
    else:
        array = _checks.numbers_given("values", values)
    if array.ndim != len(names):
        raise ValueError(f"`values` must have an axis for each of `dims`, {names}; got shape {array.shape}")
    sizes = dict(zip(names, array.shape, strict=True))
    coords = {name: _places(name, one, sizes) for name, one in places.items()}
    attrs = {} if label is None else {"long_name": label}
    return xr.DataArray(array, dims=names, coords=coords, attrs={**attrs, "units": units})


def _stacked(values: Mapping[str, Any]) -> np.ndarray:
    arrays = [_checks.numbers_given("values", one) for one in values.values()]
    shapes = [one.shape for one in arrays]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"`values` must have shapes that broadcast; got shapes {shapes}") from error
    if not arrays:
        raise ValueError("`values` must have at least one array; got none")
    return np.stack([np.broadcast_to(one, shape) for one in arrays])


def _places(name: str, places: Any, sizes: dict[str, int]) -> np.ndarray:
    """Coordinates along one axis, which must be one number or word for each of its entries."""
    try:
        array = np.asarray(places)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if name not in sizes or array.dtype.kind not in "biufU" or array.shape != (sizes[name],):
        raise ValueError(
            f"`coordinates` must be a number or word for each entry along one of {sizes}; "
            f"got {name}: {places!r}"
        )
    return array
