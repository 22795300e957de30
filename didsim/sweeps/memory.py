"""How much memory a cell takes while it is computed, estimated before anything is allocated."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
import msgspec
import optax

from didsim._memory import PAIR
from didsim.spaces import SequenceSpace
from didsim.sweeps.completing import metrics_of
from didsim.sweeps.makers import maker_of
from didsim.sweeps.settings import Maker, count_numbers, make

# Vectors over the space that are alive at once in a step or a record.
_VECTORS = 200


def bytes_of(config: Mapping[str, Any]) -> dict[str, int]:
    """About how many bytes a cell takes, by the key of the study that sets them.

    Args:
        config: a complete study.
    """
    size = SequenceSpace(**config["space"]).size
    records = config["steps"] // config["record"]["every"] + 2
    policy = _numbers_of_policy(maker_of("policy", config["policy"]), _encoded(config["policy"]))
    state = _numbers_of_state(maker_of("optimizer", config["optimizer"]), _encoded(config["optimizer"]))
    numbers = {
        "space": _VECTORS * size,
        "problem.pairs": PAIR // 8 * (config["problem"].get("pairs") or 0),
        "batch_size": PAIR // 8 * (config["batch_size"] or 0),
        "record.every": records * len(metrics_of(config)),
        "policy": policy * size,
        "optimizer": state * policy * size,
    }
    itemsize = jnp.dtype(config["dtype"]).itemsize
    return {key: number * itemsize for key, number in numbers.items()}


def _encoded(table: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(table)


@cache
def _numbers_of_policy(maker: Maker, table: bytes) -> int:
    """The numbers of a policy for each sequence of its space, from its shapes on a space of two."""
    at_hand = {"reference": jnp.log(jnp.full(2, 0.5)), "space": SequenceSpace(2, 1)}
    return -(-count_numbers(lambda: make(maker, msgspec.json.decode(table), **at_hand)) // 2)


@cache
def _numbers_of_state(maker: Maker, table: bytes) -> int:
    """The numbers that an optimiser keeps for each parameter, from its state for 64 of them."""

    def state() -> Any:
        made: optax.GradientTransformation = make(maker, msgspec.json.decode(table))
        return made.init(jnp.zeros(64))

    return count_numbers(state) // 64
