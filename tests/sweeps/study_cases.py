"""What several test files of this folder share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A rejected distribution that needs no beta, for objectives that have none.
UNIFORM: dict[str, Any] = {"rejected": "uniform"}


@contextmanager
def entry(registry: Any, name: str, made: Any) -> Iterator[None]:
    """An entry of a registry for as long as the context lasts."""
    assert name not in registry
    registry[name] = made
    try:
        yield
    finally:
        del registry[name]
