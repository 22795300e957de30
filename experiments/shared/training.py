"""Parts of experiments with training: random keys, the optimiser, one run, and a study."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

import didsim
from didsim.sweeps.study import ContrastiveData, Recorded, Space
from didsim.training.metrics import Measure
from experiments.shared.configs import TrainingConfig
from experiments.shared.wording import number


def seed_keys(config: TrainingConfig, number: int) -> Key[Array, "number seeds"]:
    """Independent random keys: one row of `config.seeds` keys for each of `number` uses."""
    return jax.random.split(jax.random.key(config.seed), (number, config.seeds))


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam with a cosine schedule.

    Population gradients have no noise to average out, so the second moment is forgotten quickly
    (`b2 = 0.95`). Small probabilities then keep their pace while their gradients shrink.
    """
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps), b2=0.95, eps=1e-16)


def train(
    config: TrainingConfig,
    space: didsim.SequenceSpace,
    reference: Float[Array, "*batch sequences"],
    target: Float[Array, "*batch sequences"],
    problem: didsim.Problem,
    objective: didsim.Objective,
    metrics: Mapping[str, Measure],
    progress: str | bool,
) -> didsim.Run:
    """Train a policy of the config's kind from the reference, with the config's settings."""
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


def run_study(config: TrainingConfig, axes: Mapping[str, Sequence[Any]], progress: bool) -> xr.Dataset:
    """Train every cell of a grid and solve for its exact limit.

    Unless an axis changes it, DPO is trained on pairs that encode the target.

    Args:
        config: the experiment's settings.
        axes: the axes of the grid, beside the seeds, as `didsim.Sweep` takes them.
        progress: whether to show progress bars.

    Returns:
        `js_to_target` over the axes, seeds and steps, and `js_limit` and `js_to_limit` over the axes and
        seeds, all in nats. The last two are NaN where the objective has no limit.

    Raises:
        FloatingPointError: a run diverged or failed.
    """
    first = config.seed * config.seeds % (2**31 - config.seeds)
    study = didsim.Study(
        space=Space(vocab_size=config.vocab_size, max_length=config.max_length, eos=config.eos),
        policy=config.policy,
        problem=ContrastiveData(rejected={"name": "optimal", "beta": config.beta}),
        objective={"name": "dpo", "beta": config.beta},
        optimizer={"name": "adam", "learning_rate": config.learning_rate, "b2": 0.95, "eps": 1e-16},
        schedule="cosine",
        steps=config.steps,
        record=Recorded(every=config.every, metrics=("js_to_target",)),
        limit=True,
    )
    sweep = didsim.Sweep(study, {**axes, "seed": range(first, first + config.seeds)})
    with tempfile.TemporaryDirectory() as folder:
        outcome = didsim.run_sweep(sweep, Path(folder) / "study.zarr", progress=progress)
        dataset = didsim.open_results(Path(folder) / "study.zarr").load()
    if outcome.done < sweep.size:
        raise FloatingPointError(f"{sweep.size - outcome.done} of {sweep.size} runs diverged or failed")
    return dataset.drop_vars(["status", "diverged_at"]).drop_attrs(deep=False)


def ends_in_words(dataset: xr.Dataset, dim: str, others: str) -> str:
    """Where the runs of `run_study` end, in sentences: how far from the target, and from their limits.

    Args:
        dataset: what `run_study` returns.
        dim: the dimension whose entries are compared.
        others: what the entries are called.
    """
    ends = dataset["js_to_target"].isel(step=-1).median("seed")
    ends = ends.sortby(ends)
    names, values = [f"`{name}`" for name in ends[dim].values], [number(float(end)) for end in ends]
    text = f"{names[0]} ends nearest to the target: the median divergence is {values[0]} nats."
    if len(names) > 1:
        among = f"from {values[1]} ({names[1]}) to {values[-1]} nats ({names[-1]})"
        text += f" For {len(names) - 1} other {others} it goes {among}."
    gaps = dataset["js_to_limit"].max("seed")
    if gaps.notnull().any():
        gap, worst = number(float(gaps.max())), gaps.idxmax(dim).item()
        text += f" Where there is an exact limit, no run ends further than {gap} nats from it (`{worst}`)."
    return text
