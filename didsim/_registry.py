"""Things chosen by name, to which a user may add."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeVar

Entry = TypeVar("Entry")


class UnknownNameError(KeyError, ValueError):
    """A name that a registry does not have; the message lists the names that it has."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would put quotes around it


class Registry(MutableMapping[str, Entry]):
    """Entries by name: its own, and those that other registries have at the moment.

    `registry[name] = entry` adds an entry or replaces one. An entry that is added to one of the `others`
    later can be looked up here, too.

    Args:
        kind: what an entry is called in messages.
        entries: its own entries.
        others: registries that are searched for a name that this one lacks.

    Raises:
        UnknownNameError: no registry has the name. It is a `ValueError` and a `KeyError`.

    Examples:
        >>> fruit = Registry("fruit", {"pear": 1})
        >>> food = Registry("food", {"bread": 2}, fruit)
        >>> fruit["plum"] = 3
        >>> list(food), food["plum"]
        (['pear', 'plum', 'bread'], 3)
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry], *others: "Registry[Entry]"):
        self.kind = kind
        self._entries: ChainMap[str, Entry] = ChainMap(dict(entries), *(other._entries for other in others))

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}; there are {', '.join(sorted(self))}"
            ) from None

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
