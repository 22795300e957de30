"""Signatures, enforced: a function of didsim that returns had arguments and a result that fit its signature.

Arguments are judged when the function has returned. One that refuses a wrong argument does so with an error
of its own, which tests ask for, and that argument need not fit.
"""

from collections.abc import Callable
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

_SETTINGS = BeartypeConf(
    is_pep484_tower=True,  # an int is a float, as for mypy
    is_random=False,  # of a list the first entry is checked, not a random one
    hint_overrides=FrozenDict({Self: Any}),  # jaxtyping has methods checked apart from their class
)


def enforce() -> None:
    """Check every function of didsim, which must not have been imported.

    Those of `didsim._checks` take anything, so that there is nothing to check; and they are called most.
    """
    folder = Path(__file__).parent.parent / "didsim"
    names = [f"didsim.{module.name}" for module in iter_modules([str(folder)]) if module.name != "_checks"]
    install_import_hook(names, "tests.signatures.once_returned")


def once_returned(function: Callable[..., Any]) -> Callable[..., Any]:
    """The checker that jaxtyping's hook asks for each function.

    jaxtyping calls it twice: for the arguments alone, which it declares `-> Any`, and for the arguments
    together with the result.
    """
    if function.__annotations__.get("return", Any) is Any:
        return function
    return beartype(conf=_SETTINGS)(function)
