"""Checks of what pictures are drawn from: axes, labelled arrays and their dimensions."""

from typing import Any

import xarray as xr
from matplotlib.axes import Axes

from didsim import _checks


def check_axes(ax: Any) -> None:
    _checks.instance("ax", ax, Axes, "axes of matplotlib")


def check_labelled(name: str, values: Any, *dims: str) -> None:
    """Raise `ValueError` unless the value is a labelled array of numbers with these dimensions."""
    _checks.instance(name, values, xr.DataArray, "an xarray.DataArray")
    for dim in dims:
        if dim not in values.dims:
            raise ValueError(f"`{name}` must have a dimension {dim!r}; got {values.dims}")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must be numbers; got dtype {values.dtype}")


def check_dim(name: str, dim: Any, values: xr.DataArray | xr.Dataset) -> None:
    """Raise `ValueError` unless the value is the name of a dimension of labelled values."""
    dims = [str(one) for one in values.dims]
    if not isinstance(dim, str) or dim not in dims:
        raise ValueError(f"`{name}` must be one of {', '.join(dims)}; got {dim!r}")
