"""Several prompts in one space: the responses to all of them, side by side."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from didsim import _checks
from didsim._memory import check_fits
from didsim.preferences.problem import Problem


def in_own_prompt(
    log_probs: Float[ArrayLike, "*batch prompts sequences"] | list[Any],
) -> Float[Array, "*batch prompts all"]:
    """Distributions of several prompts, each over the responses to all prompts.

    Row `k` gives the responses to prompt `k` their probabilities, and those to any other zero. Response `j`
    to prompt `k` has the number `k · sequences + j`. So `Contrastive(chosen[k], rejected[k])` and
    `Labelled(reward, first[k], second[k])` are pairs of one prompt, and a `Mixture` of them is the data of
    all prompts. A reference over the joint space is `reference.ravel() − log(prompts)`, and
    `LogLinear(features[prompts, sequences, features], weights)` a policy whose prompts share their weights.

    Args:
        log_probs: `[*batch, prompts, sequences]`.

    Returns:
        `[*batch, prompts, prompts · sequences]`. O(prompts² · sequences).

    Raises:
        ValueError: `log_probs` is not normalised, or has no axis of prompts.

    Examples:
        >>> jnp.exp(in_own_prompt(jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]])))).round(2).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.9, 0.1]]
    """
    array = _checks.distribution("log_probs", log_probs)
    if array.ndim < 2:
        raise ValueError(f"`log_probs` must be [*batch, prompts, sequences]; got shape {array.shape}")
    prompts, size = array.shape[-2:]
    check_fits(f"`log_probs` of {prompts:,} prompts", array.dtype.itemsize * prompts * array.size)
    own = jnp.eye(prompts, dtype=bool)[:, :, None]
    placed = jnp.where(own, array[..., :, None, :], -jnp.inf)
    return placed.reshape(*array.shape[:-1], prompts * size)


def stays_in_prompts(problem: Problem, prompts: int, size: int) -> bool:
    """Whether both sequences of every pair answer one prompt. O(size²) if there are several prompts."""
    if prompts == 1:
        return True
    if problem.online:
        return False
    drawn = np.isfinite(np.asarray(problem.joint(size).log_probs))
    prompt = np.arange(size) // (size // prompts)
    return not (drawn & (prompt[:, None] != prompt)).any()
