"""The best policy for a reward: the second of two stages."""

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Real

from didsim import _checks, _log_space
from didsim.information import LogProbs, LogProbsLike


def kl_optimum(
    reward: Float[ArrayLike, "*#batch sequences"],
    reference: LogProbsLike,
    beta: Real[ArrayLike, "*#batch"] = 0.1,
) -> LogProbs:
    """The policy that maximises `E_π[r] − beta · KL(π ‖ reference)`: `reference · exp(r/beta)`, normalised.

    For any policy `π`, the value of this optimum `p` exceeds that of `π` by `beta · KL(π ‖ p)`. So it is the
    only maximiser. Where the reference has probability zero, so has the optimum, whatever the reward there.
    If the reward was fitted to pairs, this is the second of two stages ("RLHF"), done exactly. Sources:
    Ziegler et al., "Fine-tuning language models from human preferences" (arXiv 1909.08593), for the
    objective; Peters and Schaal, "Reinforcement learning by reward-weighted regression" (2007), for its
    solution.

    Args:
        reward: `r`, finite, in nats, `[*batch, sequences]`. Only its differences count.
        reference: log-probabilities of the reference policy, `[*batch, sequences]`; zeros are allowed.
        beta: weight of the divergence, positive, `[*batch]`.

    Returns:
        Log-probabilities, `[*batch, sequences]`. O(N).

    Raises:
        ValueError: `reward` is not finite, `reference` is not normalised, `beta <= 0`, or shapes do not fit.

    Examples:
        >>> reward, reference = jnp.log(jnp.array([3.0, 1.0, 9.0])), jnp.log(jnp.array([0.5, 0.5, 0.0]))
        >>> jnp.exp(kl_optimum(reward, reference, beta=1.0)).round(6).tolist()
        [0.75, 0.25, 0.0]
    """
    reward = _checks.finite("reward", reward)
    reference = _checks.distribution("reference", reference)
    beta = _checks.positive("beta", beta, beside=reference)
    batch = _checks.same_sequences(reward=reward, reference=reference)
    _checks.broadcast(arguments=batch, beta=beta.shape)
    # A reward that the reference never meets must not be the one that all others are compared with.
    lowest = jnp.min(reward, axis=-1, keepdims=True)
    met = jnp.where(jnp.isfinite(reference), reward, lowest)
    return _log_space.tilted(reference, met, 1 / beta)
