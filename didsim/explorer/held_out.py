"""What pairs that no training saw say of a policy."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from didsim.explorer.problems import log_probs, objective_of, population
from didsim.explorer.state import State
from didsim.training.metrics import WIN


def held_out_accuracy(state: State, learned: Float[Array, "*batch sequences"]) -> Float[Array, "*batch"]:
    """The share of new pairs whose chosen response has the larger implicit reward; ties count half."""
    lengths = jnp.ones(learned.shape[-1], int)
    reward = objective_of(state).reward.of_space(learned, log_probs(state.reference), lengths)
    return population(state).expect(WIN, reward)
