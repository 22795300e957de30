"""Random instances for the checks of statements, ordinary and hostile."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float, Key

from didsim import _checks
from didsim.information import LogProbs


class Case(eqx.Module):
    """One instance: policies and numbers that a statement may be about. Many have a batch axis.

    Attributes:
        reference: a policy.
        target: a second policy.
        third: a third policy, for statements about three.
        reward: finite values, in nats.
        beta: a positive number.
        other_beta: another positive number.
        position: any number, from −2 to 2.
        key: a random key, for statements about samples.
    """

    reference: LogProbs
    target: LogProbs
    third: LogProbs
    reward: Float[Array, "*batch sequences"]
    beta: Float[Array, "*batch"]
    other_beta: Float[Array, "*batch"]
    position: Float[Array, "*batch"]
    key: Key[Array, "*batch"]

    @property
    def size(self) -> int:
        """The number of sequences."""
        return self.reference.shape[-1]


_Numbers = np.random.Generator
_Draw = Callable[[_Numbers, int, int], np.ndarray]
"""A function that draws the logits of `count` policies over `size` sequences."""


def _normal(numbers: _Numbers, count: int, size: int) -> np.ndarray:
    return numbers.normal(size=(count, size))


def _dirichlet(numbers: _Numbers, count: int, size: int) -> np.ndarray:
    # The logarithm of a gamma variate of shape 1/2. The variate itself may underflow.
    return np.log(numbers.gamma(1.5, size=(count, size))) + 2 * np.log(numbers.random((count, size)))


def _zipf(numbers: _Numbers, count: int, size: int) -> np.ndarray:
    ranks = np.broadcast_to(np.arange(1, size + 1), (count, size))
    return -1.2 * np.log(numbers.permuted(ranks, axis=1))


def _near_deterministic(numbers: _Numbers, count: int, size: int) -> np.ndarray:
    place = numbers.integers(size, size=(count, 1))
    return _normal(numbers, count, size) + 50.0 * (np.arange(size) == place)


def _extreme(numbers: _Numbers, count: int, size: int) -> np.ndarray:
    return numbers.uniform(-700, 700, size=(count, size))


def _independent(draw: _Draw, low: float = -2.0, high: float = 1.0) -> Callable[[int, int, int], Case]:
    """Instances of independent policies of one kind. `beta` is 10 to a random power from `low` to `high`."""

    def cases(seed: int, count: int, size: int) -> Case:
        numbers = np.random.default_rng(seed)
        reference, target, third = (log_softmax(draw(numbers, count, size)) for _ in range(3))
        beta, other = jnp.asarray(10.0 ** numbers.uniform(low, high, size=(2, count)))
        return Case(
            reference=reference,
            target=target,
            third=third,
            reward=jnp.asarray(2 * numbers.normal(size=(count, size))),
            beta=beta,
            other_beta=other,
            position=jnp.asarray(numbers.uniform(-2, 2, size=count)),
            key=jax.random.split(jax.random.key(seed), count),
        )

    return cases


def _equal(seed: int, count: int, size: int) -> Case:
    case = _independent(_normal)(seed, count, size)
    return eqx.tree_at(lambda one: (one.target, one.third), case, (case.reference, case.reference))


def _from_uniform(seed: int, count: int, size: int) -> Case:
    case = _independent(_normal)(seed, count, size)
    return eqx.tree_at(lambda one: one.reference, case, jnp.full((count, size), -jnp.log(size)))


CASE_FAMILIES: Mapping[str, Callable[[int, int, int], Case]] = MappingProxyType(
    {
        "normal": _independent(_normal),
        "dirichlet": _independent(_dirichlet),
        "zipf": _independent(_zipf),
        "near-deterministic": _independent(_near_deterministic),
        "logits of ±700": _independent(_extreme),
        "equal policies": _equal,
        "uniform reference": _from_uniform,
        "tiny beta": _independent(_normal, -6.0, -3.0),
        "huge beta": _independent(_normal, 2.0, 4.0),
    }
)
"""Families of instances by name. The first three are ordinary, the others hostile."""


def make_cases(family: str, seed: int, size: int, instances: int) -> Case:
    """Instances of one family of `CASE_FAMILIES`, over `size` sequences, with one batch axis.

    Raises:
        ValueError: there is no such family, `seed` is negative, or `size` or `instances` is below 1.
    """
    if not isinstance(family, str) or family not in CASE_FAMILIES:
        raise ValueError(f"`family`: unknown family {family!r}; there are {', '.join(CASE_FAMILIES)}")
    seed = _checks.integer("seed", seed, 0)
    size, instances = _checks.count("size", size), _checks.count("instances", instances)
    number = list(CASE_FAMILIES).index(family)
    own = int(np.random.SeedSequence((seed, number, size)).generate_state(1)[0])
    return CASE_FAMILIES[family](own, instances, size)
