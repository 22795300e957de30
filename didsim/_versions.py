"""The versions of the software that numbers were computed with."""

import importlib.metadata
import platform
from collections.abc import Iterable

NUMERICAL = ("didsim", "equinox", "jax", "jaxlib", "numpy", "optax", "scipy")
"""The packages that numbers depend on."""


def versions(packages: Iterable[str] = NUMERICAL) -> dict[str, str]:
    """The versions of Python and of packages, by name."""
    return {"python": platform.python_version()} | {one: importlib.metadata.version(one) for one in packages}
