"""Which rewards comparisons identify, by name.

The maximum-likelihood rewards exist, and are unique up to a constant, if and only if each item can be
reached from each other one along wins: the graph of wins is strongly connected. A tie counts as a win both
ways. (Ford, "Solution of a ranking problem from binary comparisons", American Mathematical Monthly 64, 1957;
for rankings Hunter, "MM algorithms for generalized Bradley–Terry models", Annals of Statistics 32, 2004.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from didsim.fixed_points.win_graph import compare
from didsim.preferences.explicit import Pairs
from didsim.preferences.outcomes import Name
from didsim.preferences.rankings import Rankings

_NAMED = 5


class Identification(NamedTuple):
    """Which rewards the data identify.

    Attributes:
        component: a number for each item. The data identify the difference of two rewards if and only if they
            share it.
        groups: the names of the items of each component, the largest component first.
        only_win: the names of items that never lose: the more their reward, the better the fit.
        only_lose: the names of items that never win.
        unseen: the names of items that are in no comparison.
    """

    component: Int[np.ndarray, " items"]
    groups: tuple[tuple[Name, ...], ...]
    only_win: tuple[Name, ...]
    only_lose: tuple[Name, ...]
    unseen: tuple[Name, ...]

    @property
    def complete(self) -> bool:
        """Whether all differences of rewards are identified."""
        return len(self.groups) == 1

    def gaps(self) -> str:
        """What is not identified, in words."""
        said = [
            f"{verb}: {_few(names)}"
            for verb, names in (
                ("never lose", self.only_win),
                ("never win", self.only_lose),
                ("are in no comparison", self.unseen),
            )
            if names
        ]
        alone = {*self.only_win, *self.only_lose, *self.unseen}
        rest = [group for group in self.groups if not alone.issuperset(group)]
        if len(rest) > 1:
            parts = "; ".join(_few(group) for group in rest[:_NAMED])
            said.append(f"are {len(rest)} groups that wins do not connect both ways: {parts}")
        return "; ".join(said)


def identify(data: Pairs | Rankings, items: tuple[Name, ...]) -> Identification:
    """Which rewards of some items the data identify. O(items + comparisons)."""
    pairs = data if isinstance(data, Pairs) else _chain(data)
    size = len(items)
    found = compare(jax.tree.map(lambda leaf: leaf[None], pairs), size, 1, both_ways=True)
    component = found.component[0]
    winners, losers, _ = pairs.wins(size)
    wins, losses = (np.bincount(one, minlength=size) > 0 for one in (winners, losers))

    def named(which: np.ndarray) -> tuple[Name, ...]:
        return tuple(items[place] for place in np.flatnonzero(which))

    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    groups = tuple(tuple(items[place] for place in part) for part in sorted(parts, key=len, reverse=True))
    return Identification(
        component, groups, named(wins & ~losses), named(losses & ~wins), named(~wins & ~losses)
    )


def _chain(rankings: Rankings) -> Pairs:
    """Wins that reach as far as all wins of the rankings: over the next item, and over all that is left."""
    sizes = np.diff(rankings.starts)
    ranking = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(rankings.order)) - rankings.starts[:-1][ranking]
    first, last = rankings.starts[:-1], rankings.stages - 1
    # The item before: the one that was chosen just before, or last of all.
    before = first[ranking] + np.minimum(place - 1, last[ranking])
    keep = (place > 0) & (rankings.weights[ranking] > 0)
    order = rankings.order
    return Pairs(jnp.asarray(order[before[keep]]), jnp.asarray(order[keep]))


def _few(names: Any) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"
