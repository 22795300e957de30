"""What the tables of a study may name, in the registries of each table.

Every entry is a function, or a class. What a study has at hand (a random key, the space, the reference, …) is
passed to the functions that have a parameter of that name; the others are settings of the table
(`didsim.sweeps.settings`). An entry of your own is one line, `REFERENCES["spiky"] = spiky`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, Real

from didsim import _checks, families
from didsim._registry import Registry
from didsim.information import LogProbs, LogProbsLike, bayes_update
from didsim.objectives.catalogue import OBJECTIVES
from didsim.policies import Autoregressive, EnergyBased, LogLinear, Policy
from didsim.preferences.online import SAMPLERS
from didsim.preferences.rejected import REJECTED, tempered_rejected
from didsim.spaces import SequenceSpace
from didsim.sweeps.optimizers import OPTIMIZERS, SCHEDULES
from didsim.sweeps.settings import Maker


def drifted(
    key: Key[Array, ""],
    reference: LogProbsLike,
    strength: Real[ArrayLike, ""] = 0.0,
    noise: Real[ArrayLike, ""] = 0.5,
) -> LogProbs:
    """The reference, moved: `∝ reference · exp(strength · log reference + noise · z)`, `z_y ~ N(0, 1)`.

    A positive strength reinforces what the reference finds likely, a negative one smooths.
    """
    reference = jnp.asarray(reference)
    z = jax.random.normal(key, reference.shape, reference.dtype)
    return bayes_update(reference, strength * reference + noise * z)


def best_of_n(
    reference: LogProbsLike, score: Real[ArrayLike, " sequences"], n: Real[ArrayLike, ""] = 4
) -> LogProbs:
    """The highest-scoring of `n` draws from the reference. A study scores by `log(target/reference)`."""
    return families.best_of_n(reference, score, n)


def log_linear(space: SequenceSpace, features: int = 16) -> Policy:
    """Random normal features, the same for every run, with all weights zero: uniform at the start."""
    features = _checks.positive_int("features", features)
    shared = jax.random.normal(jax.random.key(0), (space.size, features))
    return LogLinear(shared, jnp.zeros(features, shared.dtype))


def energy_based(reference: LogProbs) -> Policy:
    """Free logits, at the reference."""
    return EnergyBased(reference)


def autoregressive(reference: LogProbs, space: SequenceSpace) -> Policy:
    """Next-token logits, at the reference."""
    return Autoregressive.from_log_probs(reference, space)


REFERENCES: Registry[Maker] = Registry(
    "family",
    {
        "normal_logits": families.normal_logits,
        "dirichlet": families.dirichlet,
        "zipf": families.zipf,
        "markov": families.markov,
    },
)
"""Where references come from: the families of random distributions."""

TARGETS: Registry[Maker] = Registry("target", {"drifted": drifted, "tempered": tempered_rejected}, REFERENCES)
"""Where targets come from: families, independent of the reference, and updates of it."""

DISTRIBUTIONS: Registry[Maker] = Registry("distribution", {"best_of_n": best_of_n}, REJECTED, REFERENCES)
"""Where the sequences of pairs come from: `REJECTED`, the families, and the best of several draws."""

POLICIES: Registry[Maker] = Registry(
    "policy",
    {"energy_based": energy_based, "autoregressive": autoregressive, "log_linear": log_linear},
)
"""Makers of the policies of all runs at once, from references `[runs, sequences]` and numbers `[runs, 1]`."""


class Role(NamedTuple):
    """The registry that a table of a study is about, and what an entry is passed beside its settings."""

    registry: Registry[Any]
    given: frozenset[str]


_DISTRIBUTION = Role(DISTRIBUTIONS, frozenset({"key", "size", "space", "reference", "target", "score"}))

ROLES: Mapping[str, Role] = {
    "policy": Role(POLICIES, frozenset({"reference", "space"})),
    "reference": Role(REFERENCES, frozenset({"key", "size", "space"})),
    "target": Role(TARGETS, frozenset({"key", "size", "space", "reference"})),
    "objective": Role(OBJECTIVES, frozenset({"space"})),
    "optimizer": Role(OPTIMIZERS, frozenset()),
    "schedule": Role(SCHEDULES, frozenset({"learning_rate", "steps"})),
    "problem.chosen": _DISTRIBUTION,
    "problem.rejected": _DISTRIBUTION,
    "problem.first": _DISTRIBUTION,
    "problem.second": _DISTRIBUTION,
    "problem.sampler": Role(SAMPLERS, frozenset()),
}
"""The role of each table that names an entry of a registry, by its place in a study."""


def maker_of(place: str, table: Mapping[str, Any]) -> Maker:
    """The function that a table at a place of a study names."""
    maker: Maker = ROLES[place].registry[table["name"]]
    return maker
