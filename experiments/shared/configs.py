"""Configs: the settings that experiments share, and how the command line changes them."""

import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec

import didsim
from didsim._memory import check_fits
from didsim.sweeps.axes import parsed

Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
PolicyName = Literal["energy_based", "autoregressive"]


class BaseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every experiment: the random seed.

    Raises:
        ValueError: a number is not finite, a tuple has an entry twice, or the arrays of the experiment are
            more than memory can hold.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{name}` must be finite; got {value}")
            if isinstance(value, tuple) and len(set(value)) < len(value):
                raise ValueError(f"`{name}` must have no entry twice; got {value}")
        parts = self.numbers()
        largest = max(parts, key=parts.__getitem__)
        check_fits(f"`{largest}`: the experiment", 8 * sum(parts.values()))

    def numbers(self) -> dict[str, int]:
        """About how many numbers are in memory at once, by the setting that decides on them."""
        raise NotImplementedError

    def facts(self) -> dict[str, int]:
        """How large the experiment is, in a few numbers, by what they count."""
        raise NotImplementedError


class SpaceConfig(BaseConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every experiment on tabular policies: also the space of sequences.

    Attributes:
        least: the fewest sequences that the experiment needs.

    Raises:
        ValueError: as `BaseConfig`, or there is no such space, or it is too small.
    """

    vocab_size: Count = 4
    max_length: Count = 4
    eos: bool = False
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        size = self.make_space().size
        if size < self.least:
            raise ValueError(
                f"`vocab_size` and `max_length` must make at least {self.least} sequences; got {size}"
            )
        super().__post_init__()

    def numbers(self) -> dict[str, int]:
        """About how many numbers are in memory at once, by the setting that decides on them."""
        return {"vocab_size": 200 * self.make_space().size}

    def make_space(self) -> didsim.SequenceSpace:
        """The space of sequences."""
        return didsim.SequenceSpace(self.vocab_size, self.max_length, self.eos)

    def facts(self) -> dict[str, int]:
        """The numbers of sequences, of seeds or instances, and of steps, as far as a config has them."""
        names = ("seeds", "instances", "steps")
        settings = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {"sequences": self.make_space().size, **settings}


class TrainingConfig(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every experiment that trains."""

    seeds: Count = 32
    policy: PolicyName = "energy_based"
    beta: Positive = 0.5
    steps: Count = 800
    every: Count = 10
    learning_rate: Positive = 0.1

    def numbers(self) -> dict[str, int]:
        """Vectors over the space, and records of ten metrics, for each seed."""
        records = self.steps // self.every + 2
        return {"seeds": 200 * self.seeds * self.make_space().size, "steps": 10 * self.seeds * records}


class LanguageConfig(BaseConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an experiment that trains a language model.

    Of each prompt `samples` responses of at most `length` tokens are drawn, and the last `blocks` blocks of
    the model are trained. Each run is measured at the start and at `looks` later steps. The tempered
    distribution is the reference to the power `exponent`, and the worst response is that of `worst_of`. A
    rejected distribution is refused if its weights leave fewer than `least_effective` samples.
    """

    seeds: Annotated[int, msgspec.Meta(ge=2, lt=100)] = 3
    samples: Annotated[int, msgspec.Meta(ge=2, lt=2**16)] = 32
    length: Annotated[int, msgspec.Meta(ge=1, lt=2**16)] = 12
    blocks: Count = 3
    steps: Count = 60
    batch_size: Count = 8
    learning_rate: Positive = 5e-5
    looks: Count = 1
    exponent: Positive = 0.9
    worst_of: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 4
    least_effective: Positive = 5.0

    def numbers(self) -> dict[str, int]:
        """The records of all runs. Other parts of the memory depend on the model."""
        return {"samples": 100 * self.seeds * self.samples * (self.looks + 1), "steps": self.steps}

    def facts(self) -> dict[str, int]:
        """How large the experiment is."""
        return {name: getattr(self, name) for name in ("samples", "seeds", "steps")}


Config = TypeVar("Config", bound=BaseConfig)


def override(config: type[Config], settings: list[str]) -> Config:
    """A config with its defaults changed by `key=value` settings. A value is TOML or a plain word.

    Raises:
        ValueError: a setting is not of that form, names no key of the config, or has a wrong value.
    """
    known = config.__struct_fields__
    changes: dict[str, Any] = {}
    for setting in settings:
        key, value = parsed(setting)
        if key not in known:
            raise ValueError(f"--set has an unknown key {key!r}; there are {', '.join(sorted(known))}")
        changes[key] = value
    try:
        return msgspec.convert(changes, config)
    except msgspec.ValidationError as error:
        raise ValueError(f"--set has a wrong value: {error}") from None
