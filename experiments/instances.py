"""What the experiments that train share: the space, the policies and the optimiser."""

import jax
import optax
from jaxtyping import Array, Float, Key

import didsim
from experiments.configs import SpaceConfig, TrainingConfig


def make_space(config: SpaceConfig) -> didsim.SequenceSpace:
    """The space of a config."""
    return didsim.SequenceSpace(config.vocab_size, config.max_length, config.eos)


def seed_keys(config: TrainingConfig, number: int) -> Key[Array, "number seeds"]:
    """Independent random keys, a row of `config.seeds` for each of `number` uses."""
    return jax.random.split(jax.random.key(config.seed), (number, config.seeds))


def make_policy(
    config: TrainingConfig, start: Float[Array, "*batch sequences"], space: didsim.SequenceSpace
) -> didsim.Policy:
    """A policy of the config's kind that starts at a given distribution."""
    if config.policy == "autoregressive":
        return didsim.Autoregressive.from_log_probs(start, space)
    return didsim.EnergyBased(start)


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam with a cosine schedule.

    Population gradients have no noise to average out, so the second moment is forgotten quickly
    (`b2 = 0.95`): small probabilities, whose gradients shrink, then keep their pace.
    """
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps), b2=0.95, eps=1e-16)
