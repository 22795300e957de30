"""One valid call of a function, with the kinds of its arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.arguments.kinds import Argument


@dataclass(frozen=True)
class Call:
    """A function, and an argument for each of its parameters."""

    function: Callable[..., Any]
    arguments: dict[str, Argument]

    def __call__(self, **changed: Any) -> Any:
        return self.function(**{name: one.value for name, one in self.arguments.items()} | changed)


def call(function: Callable[..., Any], /, **arguments: Argument) -> Call:
    return Call(function, arguments)
