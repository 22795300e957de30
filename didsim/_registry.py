"""Things chosen by name, with an error that says which names exist."""

from collections.abc import Mapping
from typing import Never, TypeVar

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """A dictionary that answers an unknown name with `ValueError` and the names that it knows."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> Never:
        raise ValueError(f"unknown {self.kind} {name!r}; there are {', '.join(sorted(self))}")
