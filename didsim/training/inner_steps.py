"""Several steps of an optimiser for one policy that is held fixed."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from didsim import _checks


def inner_steps(optimizer: optax.GradientTransformation, times: int) -> optax.GradientTransformation:
    """An optimiser each of whose steps is several steps of another.

    A step of `didsim.train` holds fixed what an objective takes from the policy before the step: the old
    policy of `didsim.ppo` and `didsim.inpo`, the baseline of KTO, the pairs of an `Online` problem or of a
    minibatch. Here they stay fixed for `times` steps of `optimizer`. These are the epochs of PPO.

    Args:
        optimizer: an optax optimiser that needs the gradient alone; no line search.
        times: number of steps, at least 1. Each takes one gradient.

    Returns:
        The optimiser, for `didsim.train`, which tells it the gradient at other parameters. Its state is that
        of `optimizer`.

    Raises:
        ValueError: `optimizer` is no optax optimiser, or `times` is below 1.

    Examples:
        >>> import didsim, jax.numpy as jnp
        >>> reference, reward = jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0])
        >>> problem = didsim.Labelled(reward, reference, reference)
        >>> optimizer, policy = inner_steps(optax.sgd(0.5), 4), didsim.EnergyBased(reference)
        >>> run = didsim.train(policy, reference, problem, didsim.ppo(beta=1.0), optimizer, 200)
        >>> didsim.js(run.policy.log_probs(), didsim.kl_optimum(reward, reference, 1.0)) < 1e-10
        Array(True, dtype=bool)
    """
    _checks.instance("optimizer", optimizer, optax.GradientTransformation, "an optax optimiser")
    times = _checks.count("times", times)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        grad_fn: Callable[[PyTree], PyTree],
        **_: Any,
    ) -> tuple[PyTree, PyTree]:
        def one(gradient: PyTree, now: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
            step, state = optimizer.update(gradient, state, now)
            return optax.apply_updates(now, step), state

        # The gradient before the first step is known.
        end = jax.lax.fori_loop(1, times, lambda _, at: one(grad_fn(at[0]), *at), one(updates, params, state))
        return jax.tree.map(lambda new, old: new - old, end[0], params), end[1]

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
