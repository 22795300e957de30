"""Objectives with their kinks rounded, so that Newton's method can follow them."""

from typing import Any, ClassVar

import jax
from jax.nn import softplus
from jaxtyping import Array

from didsim.objectives.kernels import Hinge, Kernel
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import Guarded, Reward, Scalar

# Each a solution for the next to start from. The last moves log-probabilities by about its own size.
TEMPERATURES = tuple(10.0**-k for k in range(0, 11, 2))


def has_kinks(objective: Objective) -> bool:
    """Whether a part of the objective has a corner."""
    return any(map(_is_kinked, jax.tree.leaves(objective, is_leaf=_is_kinked)))


def smoothed(objective: Objective, temperature: Array) -> Objective:
    """The objective with `max(0, x)` replaced by `temperature · softplus(x / temperature)`."""

    def replace(part: Any) -> Any:
        match part:
            case Hinge(delta=delta):
                return _SoftHinge(delta, temperature)
            case Guarded(beta=beta, weight=weight):
                return _SoftGuarded(beta, weight, temperature)
        return part

    return jax.tree.map(replace, objective, is_leaf=_is_kinked)


def _is_kinked(part: Any) -> bool:
    return isinstance(part, Hinge | Guarded)


class _SoftHinge(Kernel):
    delta: Scalar
    temperature: Scalar

    def __call__(self, difference: Array) -> Array:
        return _ramp(self.delta - difference, self.temperature)


class _SoftGuarded(Reward):
    beta: Scalar
    weight: Scalar
    temperature: Scalar
    needs_reference: ClassVar[bool] = True

    def __call__(self, logps: Array, ref_logps: Array | None, lengths: Array | None) -> Array:
        assert ref_logps is not None, "an objective checks that it has what its reward needs"
        t = logps - ref_logps
        return self.beta * (t - self.weight * _ramp(-t, self.temperature))


def _ramp(x: Array, temperature: Array) -> Array:
    return temperature * softplus(x / temperature)
