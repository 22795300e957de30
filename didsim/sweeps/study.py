"""A study without axes: one run, described by plain tables whose types are checked."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from didsim.sweeps.axes import as_toml

# Numbers of steps and pairs are 32-bit integers in a compiled program.
Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Named = dict[str, Any] | str
"""A table with a `name` and settings, or the name alone."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        # A table that Python code makes is checked as one that a file holds.
        fields = msgspec.structs.fields(self)
        tables = {field.name: as_toml(getattr(self, field.name), field.name) for field in fields}
        if "problem" in tables:
            tables = with_problem_named(tables)
        for field in fields:
            try:
                msgspec.convert(tables[field.name], field.type)
            except msgspec.ValidationError as error:
                raise ValueError(f"`{field.name}`: {error}") from None


class Space(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The space of sequences; see `didsim.SequenceSpace`.

    Attributes:
        vocab_size: number of tokens.
        max_length: largest number of tokens in a sequence; without `eos` all have that many.
        eos: whether a token ends the sequence, so that there are shorter ones.
    """

    vocab_size: Count = 4
    max_length: Count = 4
    eos: bool = False


class ContrastiveData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="contrastive"
):
    """Chosen and rejected sequences, each from its own distribution of `didsim.sweeps.DISTRIBUTIONS`.

    Attributes:
        chosen: where chosen sequences come from.
        rejected: where rejected sequences come from.
        pairs: if given, the data are that many pairs, drawn once for each seed, in place of a population.
    """

    chosen: Named = "reference"
    rejected: Named = "optimal"
    pairs: Count | None = None


class LabelledData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="labelled"
):
    """Sequences from two distributions, labelled by the reward `beta · log(target/reference)`.

    Attributes:
        first: where the first sequences of all pairs come from.
        second: where the second sequences come from.
        beta: the factor in the reward; the objective's by default.
        pairs: if given, the data are that many pairs, drawn once for each seed, in place of a population.
    """

    first: Named = "reference"
    second: Named = "reference"
    beta: float | None = None
    pairs: Count | None = None


class OnlineData(
    _Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="online"
):
    """Pairs from a sampler of `SAMPLERS`, which depends on the policy, labelled by the same reward.

    Attributes:
        sampler: the sampler.
        beta: the factor in the reward `beta · log(target/reference)`; the objective's by default.
    """

    sampler: Named = "on_policy"
    beta: float | None = None


class Recorded(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and what is recorded; see `didsim.Record`.

    Attributes:
        every: number of steps from one record to the next.
        metrics: names in `METRICS`; by default all that cost one pass over the sequences.
        also: names of more metrics, beside these.
    """

    every: Count = 10
    metrics: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()


class Study(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of training, as plain data.

    A table that names something (`reference`, `objective`, `problem.rejected`, …) has a `name` and the
    settings of what it names, or is the name alone. The names are those of registries, to which you can add:
    `OBJECTIVES`, `REJECTED`, and those of `didsim.sweeps`; `didsim.sweeps.makers.ROLES` lists them by place.

    Attributes:
        space: the space of sequences.
        policy: "energy_based", "autoregressive" or "log_linear".
        reference: the family of the reference policy.
        target: the family of the target, or an update of the reference, "drifted" or "tempered".
        problem: where pairs come from: `name` is "contrastive", "labelled" or "online". A `beta` that is
            needed there and not given is the objective's.
        objective: the objective that is minimised.
        optimizer: "adam", "sgd", "rmsprop", or any optimiser of optax by its name there, with its numbers.
        schedule: how the learning rate changes: "constant", "cosine", which falls to zero, or any schedule of
            optax by its name there. Its `peak_value` (else its `init_value` or `value`) is the optimiser's
            learning rate unless it is given, and its `decay_steps` or `transition_steps` are `steps`.
        steps: number of steps.
        record: when and what is recorded.
        batch_size: pairs drawn for each step's gradient; None is the exact gradient.
        limit: whether to solve for the exact limit among all distributions, too. Then `js_limit` is the JS
            divergence from the limit to the target, and `js_to_limit` that from the learned policy to the
            limit. Both are NaN if there is no limit, or more than one. Takes up to 1 GiB of memory more.
        seed: the seed of all random draws.
        dtype: the dtype of all numbers.
    """

    space: Space = Space()
    policy: Named = "energy_based"
    reference: Named = "normal_logits"
    target: Named = "normal_logits"
    problem: ContrastiveData | LabelledData | OnlineData = ContrastiveData()
    objective: Named = "dpo"
    optimizer: Named = msgspec.field(default_factory=lambda: {"name": "adam", "learning_rate": 0.1})
    schedule: Named = "constant"
    steps: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 500
    record: Recorded = Recorded()
    batch_size: Count | None = None
    limit: bool = False
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float64"


PROBLEMS = {"contrastive": ContrastiveData, "labelled": LabelledData, "online": OnlineData}
"""The tables that `problem` may hold, by its name."""


def with_problem_named(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables whose problem is a table with a name."""
    tables = dict(tables)
    problem = tables.get("problem")
    if isinstance(problem, str):
        problem = {"name": problem}
    if isinstance(problem, Mapping):
        name = problem.get("name", "contrastive")
        if not isinstance(name, str) or name not in PROBLEMS:
            raise ValueError(f"`problem.name` is unknown: {name!r}; {nearest(str(name), list(PROBLEMS))}")
        tables["problem"] = {**problem, "name": name}
    return tables


def nearest(key: str, known: list[str]) -> str:
    """The end of a message on an unknown key: the known key that is nearest, or all of them."""
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
