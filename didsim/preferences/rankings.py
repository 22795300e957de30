"""Rankings of several items, and choices of the best few: the data of the Plackett–Luce model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from didsim import _checks
from didsim.preferences.explicit import NamedPairs, Pairs


@dataclass(frozen=True)
class Rankings:
    """Rankings of sets of items, whole or only of the best few.

    A ranking is made in stages. At each stage one item is chosen from those that are left. In the
    Plackett–Luce model the item `i` is chosen from the set `A` with probability `e^(r_i) / Σ_{j∈A} e^(r_j)`.
    A choice of the single best is a ranking of one stage. (Luce, "Individual Choice Behavior", 1959;
    Plackett, "The analysis of permutations", Applied Statistics 24, 1975.)

    Make them by `from_rankings` or `from_choices`. All rankings stand in one flat array, one after another.

    Attributes:
        items: the name of each item, in sorted order.
        order: indices of the items of all rankings, each from the best on. Items that a ranking leaves
            unordered come last, in any order.
        starts: where each ranking starts in `order`, and where the last one ends.
        stages: the number of stages of each ranking: how many items were chosen, one after another.
        weights: how often each ranking counts.
    """

    items: tuple[str | int, ...]
    order: Int[np.ndarray, " entries"]
    starts: Int[np.ndarray, " ends"]
    stages: Int[np.ndarray, " rankings"]
    weights: Float[np.ndarray, " rankings"]

    @classmethod
    def from_rankings(
        cls,
        rankings: Iterable[Sequence[str | int]],
        weights: Float[ArrayLike, " rankings"] | list[Any] | None = None,
    ) -> "Rankings":
        """Orderings of names, the best first. Each may be of other items, and of another number of them.

        Only the items of a ranking are compared by it.

        Args:
            rankings: the names of each ranking, words or integers.
            weights: how often each ranking counts, zero or more; by default once.

        Raises:
            ValueError: there is no ranking, one has fewer than two items or an item twice, names are not all
                words or all integers, or weights are negative, not finite or all zero.

        Examples:
            >>> Rankings.from_rankings([["x", "y", "z"], ["y", "x"]]).stages.tolist()
            [2, 1]
        """
        lists = _lists("rankings", rankings)
        stages = [len(one) - 1 for one in lists]
        return cls(*_flat("rankings", lists), np.array(stages, np.int32), _weights(weights, len(lists)))

    @classmethod
    def from_choices(
        cls,
        chosen: Iterable[str | int | Sequence[str | int]],
        sets: Iterable[Sequence[str | int]],
        weights: Float[ArrayLike, " rankings"] | list[Any] | None = None,
    ) -> "Rankings":
        """Choices of the best from a set, or of the best few in order. The rest of a set stays unordered.

        Args:
            chosen: for each choice the name of the best, or the names of the best few, the best first.
            sets: for each choice the names to choose from. It makes no difference whether those that were
                chosen are listed again.
            weights: how often each choice counts, zero or more; by default once.

        Raises:
            ValueError: there is no choice, a choice left nothing over, an item occurs twice in a set, names
                are not all words or all integers, the numbers of choices and sets differ, or weights are
                negative, not finite or all zero.

        Examples:
            >>> data = Rankings.from_choices(["x", ["z", "x"]], [["x", "y"], ["x", "y", "z", "w"]])
            >>> data.stages.tolist(), [data.items[place] for place in data.order]
            ([1, 2], ['x', 'y', 'z', 'x', 'y', 'w'])
        """
        best = [
            [one] if isinstance(one, str | int | np.integer) else one for one in _iterated("chosen", chosen)
        ]
        best, lists = _lists("chosen", best), _lists("sets", sets)
        if len(best) != len(lists):
            raise ValueError(
                f"`chosen` and `sets` must be as many; got {len(best)} choices and {len(lists)} sets"
            )
        _check_names("chosen", best)
        _check_names("sets", lists)
        whole = []
        for row, (first, rest) in enumerate(zip(best, lists, strict=True)):
            taken = set(first)
            left = [name for name in rest if name not in taken]
            if not first or not left:
                raise ValueError(
                    f"`chosen` must leave something over of its set, and choose something; got {first!r} of "
                    f"{rest!r} in row {row + 1}"
                )
            whole.append([*first, *left])
        stages = np.array([len(one) for one in best], np.int32)
        return cls(*_flat("chosen` and `sets", whole), stages, _weights(weights, len(lists)))

    def pairs(self) -> NamedPairs:
        """The rankings broken into pairs: at each stage, the item that was chosen against each that was left.

        This is an approximation. The pairs of one ranking are not independent. A fit to them is consistent,
        but is not the maximum of the Plackett–Luce likelihood unless every set has two items, and its
        standard errors are too small. (Azari Soufiani et al., "Generalized method-of-moments for rank
        aggregation", 2013.) The index of the ranking stands in place of the prompt, so that a bootstrap can
        draw whole rankings. O(number of pairs).
        """
        sizes = np.diff(self.starts)
        ranking = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(self.order)) - self.starts[:-1][ranking]
        is_choice = place < self.stages[ranking]
        # An item that is chosen meets all after it in its ranking.
        meets = np.where(is_choice, sizes[ranking] - 1 - place, 0)
        winners = np.repeat(np.arange(len(self.order)), meets)
        losers = winners + 1 + np.arange(len(winners)) - np.repeat(np.cumsum(meets) - meets, meets)
        of = ranking[winners]
        pairs = Pairs(self.order[winners], self.order[losers], self.weights[of])
        return NamedPairs(pairs, self.items, of.astype(np.int32), tuple(range(len(sizes))))


def _iterated(name: str, given: Any) -> list[Any]:
    try:
        listed = list(given)
    except TypeError:
        raise ValueError(f"`{name}` must be a list; got {given!r}") from None
    if isinstance(given, str | bytes):
        raise ValueError(f"`{name}` must be a list; got {given!r}")
    return listed


def _lists(name: str, given: Any) -> list[list[Any]]:
    """The value as lists of names."""
    lists = []
    for row, one in enumerate(_iterated(name, given)):
        if isinstance(one, str | bytes) or not isinstance(one, Iterable):
            raise ValueError(f"`{name}` must be lists of names; got {one!r} in row {row + 1}")
        lists.append(one.tolist() if isinstance(one, np.ndarray) else list(one))
    if not lists:
        raise ValueError(f"`{name}` must be at least one; got none")
    return lists


def _flat(name: str, lists: list[list[Any]]) -> tuple[tuple[str | int, ...], np.ndarray, np.ndarray]:
    """The names of the items, and the rankings as one array of indices with the ends of each."""
    sizes = np.array([len(one) for one in lists])
    if (short := sizes < 2).any():
        row = int(np.argmax(short))
        raise ValueError(f"`{name}` must be of two items or more; got {lists[row]!r} in row {row + 1}")
    _check_names(name, lists)
    flat = list(chain.from_iterable(lists))
    ranking = np.repeat(np.arange(len(lists)), sizes)
    items = sorted({name if isinstance(name, str) else int(name) for name in flat})
    index = {name: place for place, name in enumerate(items)}
    order = np.fromiter((index[one] for one in flat), np.int32, len(flat))
    by_ranking = np.lexsort((order, ranking))
    twice = (np.diff(order[by_ranking]) == 0) & (np.diff(ranking[by_ranking]) == 0)
    if twice.any():
        at = by_ranking[int(np.argmax(twice))]
        raise ValueError(
            f"`{name}` must not have an item twice; got {flat[at]!r} twice in row {ranking[at] + 1}"
        )
    return tuple(items), order, np.concatenate([[0], np.cumsum(sizes)])


def _check_names(name: str, lists: list[list[Any]]) -> None:
    """Raise `ValueError` unless all names are words, or all are integers."""
    kinds = set()
    for row, one in enumerate(lists):
        for item in one:
            is_integer = isinstance(item, int | np.integer) and not isinstance(item, bool)
            kinds.add("integer" if is_integer else "word" if isinstance(item, str) else "neither")
            if len(kinds) > 1 or "neither" in kinds:
                raise ValueError(
                    f"`{name}` must hold names that are all words or all integers; got {item!r} in row "
                    f"{row + 1}"
                )


def _weights(given: Any, rows: int) -> np.ndarray:
    if given is None:
        return np.ones(rows)
    weights = np.asarray(_checks.numbers_given("weights", given), float)
    if weights.shape != (rows,):
        raise ValueError(f"`weights` must be one for each of {rows} rankings; got shape {weights.shape}")
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"`weights` must be zero or more and finite; got {weights[row]} in row {row + 1}")
    if not weights.any():
        raise ValueError("`weights` must not all be zero")
    return weights
