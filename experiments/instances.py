"""What the experiments that train share: the space, the keys, and how a run is made."""

from collections.abc import Mapping

import jax
import optax
import xarray as xr
from jaxtyping import Array, ArrayLike, Float, Key

import didsim
from didsim.recording import Metric
from experiments.configs import SpaceConfig, TrainingConfig


def make_space(config: SpaceConfig) -> didsim.SequenceSpace:
    """The space of a config."""
    return didsim.SequenceSpace(config.vocab_size, config.max_length, config.eos)


def seed_keys(config: TrainingConfig, number: int) -> Key[Array, "number seeds"]:
    """Independent random keys, a row of `config.seeds` for each of `number` uses."""
    return jax.random.split(jax.random.key(config.seed), (number, config.seeds))


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam with a cosine schedule.

    Population gradients have no noise to average out, so the second moment is forgotten quickly
    (`b2 = 0.95`): small probabilities, whose gradients shrink, then keep their pace.
    """
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps), b2=0.95, eps=1e-16)


def train(
    config: TrainingConfig,
    space: didsim.SequenceSpace,
    reference: Float[Array, "*batch sequences"],
    target: Float[Array, "*batch sequences"],
    problem: didsim.Problem,
    objective: didsim.Objective,
    metrics: Mapping[str, Metric],
    progress: str | bool,
) -> didsim.Run:
    """Train a policy of the config's kind from the reference, as the config says."""
    policy: didsim.Policy = didsim.EnergyBased(reference)
    if config.policy == "autoregressive":
        policy = didsim.Autoregressive.from_log_probs(reference, space)
    return didsim.train(
        policy,
        reference,
        problem,
        objective,
        make_optimizer(config),
        config.steps,
        record=didsim.Record(config.every, metrics),
        target=target,
        lengths=space.lengths,
        progress=progress,
    )


def with_limits(dataset: xr.Dataset, hue: str, js_limit: ArrayLike, js_to_limit: ArrayLike) -> xr.Dataset:
    """A dataset of `js_to_target` with its exact limits beside it, and how far from them runs ended."""
    dims = (hue, "seed")
    return dataset.assign(
        js_limit=(dims, js_limit, {"long_name": "JS(exact limit, target)", "units": "nats"}),
        js_to_limit=(
            dims,
            js_to_limit,
            {"long_name": "JS(learned at the end, exact limit)", "units": "nats"},
        ),
    )
