"""What the page shows, as one struct. A link holds it, and every question of the page is about one."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

VERSION = 1
INFINITE = 0
COUNTS = (20, 30, 60, 100, 200, 500, 1000, 3000, 10_000, INFINITE)
"""The numbers of pairs that can be chosen. Zero stands for infinitely many: the population."""

LARGEST_SPACE = 256

Name = Annotated[str, Meta(pattern=r"^[^,]{1,16}$", description="1 to 16 characters without a comma")]
Share = Annotated[float, Meta(ge=1e-6, le=1)]
Shares = Annotated[list[Share], Meta(min_length=4, max_length=8)]


class State(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a link can say. Shares are normalised where they are used.

    Attributes:
        version: of this struct. A link of another version is refused.
        tab: which of the two tabs is open.
        preset: the preset whose sentence is shown; empty for none.
        names: of the responses.
        reference: the share of each response under the reference.
        chosen: the share of each response among chosen responses.
        rejected: the share of each response among rejected responses.
        target: the share of each response in the target, which is only drawn; empty for none.
        beta: of the objective.
        objective: a name in `didsim.OBJECTIVES`.
        pairs: how many pairs are drawn, one of `COUNTS`.
        seed: of the pairs, and of the families of the second tab.
        optimizer: what trains.
        rate: its learning rate.
        predict: whether the limit is hidden until the reader has guessed.
        projector: whether type is large.
        vocabulary: number of tokens, on the second tab.
        length: number of tokens of a sequence, on the second tab.
        family: where the reference of the second tab comes from, a name in `didsim.sweeps.REFERENCES`.
        update: where the target of the second tab comes from, a name in `didsim.sweeps.TARGETS`.
        sampler: the rejected-sampling distribution of the second tab, a name in `didsim.REJECTED`.

    Raises:
        ValueError: lists have different lengths, or the space is too large.
    """

    version: Literal[1] = 1
    tab: Literal["responses", "sequences"] = "responses"
    preset: Annotated[str, Meta(max_length=32)] = ""
    names: Annotated[list[Name], Meta(min_length=4, max_length=8)]
    reference: Shares
    chosen: Shares
    rejected: Shares
    target: Annotated[list[Share], Meta(max_length=8)] = []
    beta: Annotated[float, Meta(ge=0.01, le=10)] = 0.1
    objective: str = "dpo"
    pairs: Literal[20, 30, 60, 100, 200, 500, 1000, 3000, 10_000, 0] = 0
    seed: Annotated[int, Meta(ge=0, le=9999)] = 0
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    rate: Annotated[float, Meta(ge=1e-4, le=100)] = 0.03
    predict: bool = False
    projector: bool = False
    vocabulary: Annotated[int, Meta(ge=2, le=16)] = 4
    length: Annotated[int, Meta(ge=1, le=8)] = 3
    family: str = "markov"
    update: str = "drifted"
    sampler: str = "optimal"

    def __post_init__(self) -> None:
        size = len(self.names)
        if len(set(self.names)) < size:
            raise ValueError("`names` must be different from each other")
        for name in ("reference", "chosen", "rejected", "target"):
            given = len(getattr(self, name))
            if given != size and not (name == "target" and given == 0):
                raise ValueError(f"`{name}` must have a share for each of {size} names; got {given}")
        if self.vocabulary**self.length > LARGEST_SPACE:
            raise ValueError(
                f"`vocabulary` and `length` must make at most {LARGEST_SPACE} sequences; got "
                f"{self.vocabulary}^{self.length} = {self.vocabulary**self.length:,}"
            )


def schema(choices: dict[str, list[str]]) -> dict[str, Any]:
    """The fields of a state with their ranges, as JSON Schema, by which the page checks a link.

    Args:
        choices: for fields that name an entry of a registry, the names.
    """
    fields = msgspec.json.schema(State)["$defs"]["State"]["properties"]
    for field, names in choices.items():
        fields[field]["enum"] = names
    found: dict[str, Any] = fields
    return found


def read_state(data: bytes) -> State:
    """A state from JSON.

    Raises:
        ValueError: it is no JSON, or a field is wrong. The message names the field.
    """
    try:
        return msgspec.json.decode(data, type=State)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        raise ValueError(f"{place.strip('`').removeprefix('$.') or 'state'}: {reason}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"state: {error}") from None
