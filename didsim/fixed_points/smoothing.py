"""Objectives with their corners rounded off, so that Newton's method can follow them."""

from typing import Any

import jax
from jaxtyping import Array

from didsim.objectives.kernels import Kernel
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import Reward

# Each a solution for the next to start from. The last moves log-probabilities by about its own size.
TEMPERATURES = tuple(10.0**-k for k in range(0, 11, 2))


def has_kinks(objective: Objective) -> bool:
    """Whether a kernel or a reward of the objective has a corner."""
    return any(_is_part(part) and part.kinked for part in jax.tree.leaves(objective, is_leaf=_is_part))


def smoothed(objective: Objective, temperature: Array) -> Objective:
    """The objective with `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""

    def rounded(part: Any) -> Any:
        return part.rounded(temperature) if _is_part(part) else part

    return jax.tree.map(rounded, objective, is_leaf=_is_part)


def _is_part(node: Any) -> bool:
    return isinstance(node, Kernel | Reward)
