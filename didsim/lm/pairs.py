"""Preference pairs as tokens: read from rows of a data set, cut to length as in training, and checked."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from didsim import _checks
from didsim.lm import arguments

KEYS = {
    "prompt": ("prompt_ids", "prompt_input_ids"),
    "chosen": ("chosen_ids", "chosen_input_ids"),
    "rejected": ("rejected_ids", "rejected_input_ids"),
}
"""Where tokens stand in a row: the names of TRL, the newer one first."""

Keep = Literal["keep_start", "keep_end"]


@runtime_checkable
class Rows(Protocol):
    """Rows of a data set, each a mapping: a list of dictionaries, or a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Mapping[str, Any]: ...


class TokenPairs(NamedTuple):
    """Preference pairs of several splits, as tokens.

    Attributes:
        split: the split of each pair.
        prompt_id: a number for each distinct prompt, as a word.
        prompts: tokens before the response: of the chosen one of each pair, then of the rejected one.
        responses: tokens of the chosen response of each pair, then of the rejected one.
    """

    split: list[str]
    prompt_id: list[str]
    prompts: list[list[int]]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.split)


def token_pairs(
    pairs: Mapping[str, Rows], max_length: int | None = None, keep: Keep = "keep_start"
) -> TokenPairs:
    """Pairs of tokens from rows of data sets.

    Args:
        pairs: rows by the name of their split. A row has tokens under `prompt_ids`, `chosen_ids` and
            `rejected_ids`.
        max_length: the number of tokens of prompt and response that training keeps; None for all.
        keep: which of them it keeps, as TRL's `truncation_mode`: those at the start, or those at the end. If
            the start of a response is cut off, the first token that is left has nothing before it. It then
            only stands before the others, and does not count.

    Raises:
        ValueError: an argument is wrong, a row lacks tokens, or nothing of a response is left.
    """
    by_split = arguments.splits("pairs", pairs)
    if max_length is not None:
        max_length = _checks.integer("max_length", max_length, 2)
    if keep not in ("keep_start", "keep_end"):
        raise ValueError(f"`keep` must be 'keep_start' or 'keep_end'; got {keep!r}")
    split: list[str] = []
    prompt_id: list[str] = []
    sides: dict[str, list[tuple[list[int], list[int]]]] = {"chosen": [], "rejected": []}
    numbers: dict[tuple[int, ...], int] = {}
    for name, rows in by_split.items():
        for place in range(len(rows)):
            where = f"pairs[{name!r}][{place}]"
            prompt, chosen, rejected = (_tokens_of(where, rows[place], what) for what in KEYS)
            split.append(name)
            prompt_id.append(str(numbers.setdefault(tuple(prompt), len(numbers))))
            for side, response in (("chosen", chosen), ("rejected", rejected)):
                before, counted = _cut(prompt, response, max_length, keep)
                if not counted:
                    raise ValueError(
                        f"`{where}` must keep a token of its {side} response; prompt and response have "
                        f"{len(prompt)} and {len(response)} tokens, and `max_length` is {max_length}"
                    )
                sides[side].append((before, counted))
    if not split:
        raise ValueError("`pairs` must hold at least one pair; got none")
    both = [*sides["chosen"], *sides["rejected"]]
    return TokenPairs(split, prompt_id, [one for one, _ in both], [one for _, one in both])


def _tokens_of(where: str, row: Any, what: str) -> list[int]:
    names = KEYS[what]
    if not isinstance(row, Mapping) or not any(name in row for name in names):
        there = f"{', '.join(map(str, row))}" if isinstance(row, Mapping) else repr(row)[:60]
        raise ValueError(f"`{where}` must have tokens under {names[0]!r}; it has {there}")
    found = next(name for name in names if name in row)
    return arguments.tokens(f"{where}[{found!r}]", row[found])


def _cut(
    prompt: list[int], response: list[int], max_length: int | None, keep: Keep
) -> tuple[list[int], list[int]]:
    """What stands before the tokens that count, and these tokens."""
    excess = 0 if max_length is None else max(0, len(prompt) + len(response) - max_length)
    if keep == "keep_start":
        return prompt, response[: max(0, len(response) - excess)]
    if excess < len(prompt):
        return prompt[excess:], response
    rest = response[excess - len(prompt) :]
    return rest[:1], rest[1:]
