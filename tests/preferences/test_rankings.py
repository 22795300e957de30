"""Rankings and choices: how they are stored, broken into pairs, and refused."""

from itertools import combinations
from typing import Any

import pytest

from didsim import Rankings


def _named_pairs(data: Rankings) -> list[tuple[Any, Any, int]]:
    named = data.pairs()
    assert named.prompt is not None
    return sorted(
        (named.items[i], named.items[j], int(k))
        for i, j, k in zip(named.pairs.winners, named.pairs.losers, named.prompt, strict=True)
    )


def test_a_ranking_has_a_pair_of_every_two() -> None:
    rankings = [["d", "a", "c"], ["b", "a"], ["c", "b", "a", "d"]]
    expected = [(i, j, k) for k, one in enumerate(rankings) for i, j in combinations(one, 2)]
    assert _named_pairs(Rankings.from_rankings(rankings)) == sorted(expected)


def test_a_choice_has_a_pair_with_each_that_was_left() -> None:
    data = Rankings.from_choices([2, [3, 1]], [[1, 2, 3], [1, 2, 3, 4]])
    assert _named_pairs(data) == sorted(
        [(2, 1, 0), (2, 3, 0), (3, 1, 1), (3, 2, 1), (3, 4, 1), (1, 2, 1), (1, 4, 1)]
    )


def test_pairs_keep_the_weights() -> None:
    weights = Rankings.from_rankings([["a", "b", "c"], ["b", "a"]], [0.5, 3.0]).pairs().pairs.weights
    assert weights is not None
    assert weights.tolist() == [0.5, 0.5, 0.5, 3.0]


@pytest.mark.parametrize(
    ("rankings", "weights", "message"),
    [
        ([], None, "`rankings` must be at least one"),
        ("ab", None, "`rankings` must be a list"),
        (3, None, "`rankings` must be a list"),
        (["ab"], None, "lists of names; got 'ab' in row 1"),
        ([["a", "b"], ["a"]], None, r"two items or more; got \['a'\] in row 2"),
        ([["a", "b"], ["b", "a", "b"]], None, "item twice; got 'b' twice in row 2"),
        ([["a", "b"], ["b", 3]], None, "all words or all integers; got 3 in row 2"),
        ([[1, 2], [True, 2]], None, "all words or all integers; got True in row 2"),
        ([[1.5, 2]], None, "all words or all integers; got 1.5 in row 1"),
        ([["a", "b"]], [-1.0], "`weights` must be zero or more and finite; got -1.0 in row 1"),
        ([["a", "b"]], [float("nan")], "`weights` must be zero or more"),
        ([["a", "b"]], [0.0], "`weights` must not all be zero"),
        ([["a", "b"]], [1.0, 1.0], "`weights` must be one for each of 1"),
        ([["a", "b"]], "x", "`weights` must be an array of real numbers"),
    ],
)
def test_wrong_rankings(rankings: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rankings.from_rankings(rankings, weights)


@pytest.mark.parametrize(
    ("chosen", "sets", "message"),
    [
        (["a"], [["a"]], "`chosen` must leave something over"),
        ([["a", "b"]], [["b", "a"]], "`chosen` must leave something over"),
        ([[]], [["b", "a"]], "`chosen` must leave something over of its set, and choose something"),
        (["a", "b"], [["a", "b"]], "`chosen` and `sets` must be as many; got 2 choices and 1 sets"),
        (["a"], [["b", "b"]], "item twice; got 'b' twice in row 1"),
        ([["a", "a"]], [["b"]], "item twice; got 'a' twice in row 1"),
    ],
)
def test_wrong_choices(chosen: Any, sets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rankings.from_choices(chosen, sets)
