from typing import Any

import pytest
from jaxtyping import Array

from didsim.pairwise import primitive, sums


def nodes_seen(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The only number of nodes of each sum over pairs, or None. The list grows as sums are traced."""
    seen: list[int | None] = []

    def noted(*args: Any, **parameters: Any) -> list[Array]:
        seen.append(primitive._only_nodes.value)
        return primitive.bind(*args, **parameters)

    monkeypatch.setattr(sums, "bind", noted)
    return seen
