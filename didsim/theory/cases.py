"""Random instances that statements are checked on, ordinary and hostile."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, Float, Key

from didsim.families import dirichlet, normal_logits, zipf
from didsim.information import LogProbs


class Case(eqx.Module):
    """One instance: what a statement may be about. With a batch axis in front, many.

    Attributes:
        reference: a policy.
        target: another.
        third: another, for statements about three.
        reward: finite values, in nats.
        beta: a positive number.
        other_beta: another.
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


_Make = Callable[[Key[Array, ""], int], LogProbs]


def _near_deterministic(key: Array, size: int) -> LogProbs:
    place, noise = jax.random.split(key)
    spike = 50.0 * jax.nn.one_hot(jax.random.randint(place, (), 0, size), size)
    return log_softmax(spike + jax.random.normal(noise, (size,)))


def _extreme(key: Array, size: int) -> LogProbs:
    return log_softmax(jax.random.uniform(key, (size,), minval=-700.0, maxval=700.0))


def _uniform(_: Array, size: int) -> LogProbs:
    return jnp.full(size, -jnp.log(size))


_ORDINARY: dict[str, _Make] = {
    "normal": lambda key, size: normal_logits(key, size),
    "dirichlet": lambda key, size: dirichlet(key, size, 0.5),
    "zipf": lambda key, size: zipf(size, 1.2, key),
    "near-deterministic": _near_deterministic,
    "logits of ±700": _extreme,
}


def _independent(make: _Make, low: float = -2.0, high: float = 1.0) -> Callable[[Array, int], Case]:
    """Policies of one kind, independent, and powers of ten between two bounds for beta."""

    def case(key: Array, size: int) -> Case:
        one, two, three, rewards, betas, place, own = jax.random.split(key, 7)
        beta, other = 10.0 ** jax.random.uniform(betas, (2,), minval=low, maxval=high)
        return Case(
            reference=make(one, size),
            target=make(two, size),
            third=make(three, size),
            reward=2 * jax.random.normal(rewards, (size,)),
            beta=beta,
            other_beta=other,
            position=jax.random.uniform(place, minval=-2.0, maxval=2.0),
            key=own,
        )

    return case


def _equal(key: Array, size: int) -> Case:
    case = _independent(_ORDINARY["normal"])(key, size)
    return eqx.tree_at(lambda one: (one.target, one.third), case, (case.reference, case.reference))


def _from_uniform(key: Array, size: int) -> Case:
    case = _independent(_ORDINARY["normal"])(key, size)
    return eqx.tree_at(lambda one: one.reference, case, _uniform(key, size))


FAMILIES: Mapping[str, Callable[[Key[Array, ""], int], Case]] = MappingProxyType(
    {
        **{name: _independent(make) for name, make in _ORDINARY.items()},
        "equal policies": _equal,
        "uniform reference": _from_uniform,
        "tiny beta": _independent(_ORDINARY["normal"], -6.0, -3.0),
        "huge beta": _independent(_ORDINARY["normal"], 2.0, 4.0),
    }
)
"""Kinds of instances by name: the first three are ordinary, the others hostile."""


def make_cases(family: str, seed: int, size: int, instances: int) -> Case:
    """Instances of a family, over `size` sequences, with one batch axis.

    Raises:
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    number = list(FAMILIES).index(family)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), size)
    return jax.vmap(lambda key: FAMILIES[family](key, size))(jax.random.split(key, instances))
