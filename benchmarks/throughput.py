"""Training steps per second, of batches of runs in one program and of runs stepped from Python."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn import log_softmax, softplus
from jaxtyping import Array

import didsim
from benchmarks.timing import interleaved, seconds

_BETA = 0.1
_LONGEST = 20.0  # seconds that a cell may take
_TRIAL_STEPS = 2
# Evaluations of a loss and its gradient that a call of `train` with as many steps amounts to, at most: two
# records, and a factor for runs that together no longer fit in a processor's cache.
_TRIAL_COST = 2 * (_TRIAL_STEPS + 2)


@dataclass(frozen=True)
class Cell:
    """Throughput at one size and number of runs.

    Attributes:
        size: number of sequences N.
        runs: number of runs.
        dtype: of the policies.
        steps: number of steps that were timed; None where the cell was skipped.
        rate: steps × runs per second of `train`; None where skipped.
        skipped: why, or None.
        stepped_rate: steps per second of runs stepped one by one from Python; None where not measured.
        ratio: how many times faster `train` is; None where either is.
    """

    size: int
    runs: int
    dtype: str
    steps: int | None
    rate: float | None
    skipped: str | None
    stepped_rate: float | None
    ratio: float | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        ratio = self.rate / self.stepped_rate if self.rate and self.stepped_rate else None
        object.__setattr__(self, "ratio", ratio)


@dataclass(frozen=True)
class Recording:
    """What recording the default metrics every ten steps adds to a run.

    Attributes:
        size: number of sequences N.
        runs: number of runs.
        every: steps between records.
        bare_seconds: of a run without metrics.
        recorded_seconds: of the same run with them.
        share: what they add, as a share of the bare run.
    """

    size: int
    runs: int
    every: int
    bare_seconds: float
    recorded_seconds: float
    share: float


class Batch:
    """A batch of DPO runs, ready to train."""

    def __init__(self, size: int, runs: int, dtype: str = "float32"):
        keys = jax.random.split(jax.random.key(size), (2, runs))
        reference, target = didsim.normal_logits(keys, size).astype(dtype)
        rejected = didsim.optimal_rejected(reference, target, beta=_BETA)
        self._arguments = (
            didsim.EnergyBased(reference),
            reference,
            didsim.Contrastive(chosen=reference, rejected=rejected),
            didsim.dpo(beta=_BETA),
            optax.adam(0.03),
        )

    def train(self, steps: int, record: didsim.Record | None = None) -> Any:
        """Train for so many steps, by default without any metrics."""
        record = didsim.Record(every=steps, metrics={}) if record is None else record
        return didsim.train(*self._arguments, steps, record=record).policy


def throughput(sizes: Sequence[int], runs: Sequence[int], *, budget: float) -> list[Cell]:
    """Cells of all sizes and numbers of runs, in float32, with `budget` seconds for each."""
    cells = []
    for size in sizes:
        stepped = _stepped_rate(size, budget)
        known: Cell | None = None
        for number in runs:
            cell = _cell(size, number, "float32", budget, known, stepped)
            known = cell if cell.rate is not None else known
            cells.append(cell)
    return cells


def one_cell(size: int, runs: int, dtype: str, *, budget: float) -> Cell:
    """A cell by itself, without runs stepped from Python."""
    return _cell(size, runs, dtype, budget, None, None)


def recording(size: int, runs: int, *, budget: float, every: int = 10) -> Recording:
    """What recording the default metrics adds to a run of about `budget` seconds."""
    batch = Batch(size, runs)
    batch.train(_TRIAL_STEPS)
    steps = max(2 * every, every * round(_steps_for(batch, budget) / every))
    taken = interleaved(
        {
            "bare": lambda: batch.train(steps),
            "recorded": lambda: batch.train(steps, didsim.Record(every=every)),
        },
        budget=budget,
    )
    added = taken["recorded"] - taken["bare"]
    return Recording(size, runs, every, taken["bare"], taken["recorded"], added / taken["bare"])


def _cell(size: int, runs: int, dtype: str, budget: float, known: Cell | None, stepped: float | None) -> Cell:
    if known is not None and known.rate is not None:
        expected = _TRIAL_COST * runs / known.rate
        if expected > _LONGEST:
            why = f"would take more than {_LONGEST:.0f} s"
            return Cell(size, runs, dtype, None, None, why, stepped)
    batch = Batch(size, runs, dtype)
    batch.train(_TRIAL_STEPS)  # compiles
    steps = _steps_for(batch, budget)
    rate = steps * runs / seconds(lambda: batch.train(steps))
    return Cell(size, runs, dtype, steps, rate, None, stepped)


def _steps_for(batch: Batch, budget: float) -> int:
    """The number of steps that a compiled batch does in about so many seconds."""
    steps, taken = _TRIAL_STEPS, seconds(partial(batch.train, _TRIAL_STEPS))
    while 10 * taken < budget:
        steps *= 10
        taken = seconds(partial(batch.train, steps))
    return max(1, round(steps * min(10, budget / taken)))


def _stepped_rate(size: int, budget: float) -> float:
    """Steps per second of one run, each step one call of a compiled function: gradient, Adam and update.

    The loss is that of all N² pairs as a matrix. Many runs, one after the other, go at the same rate.
    """
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(size)), size).astype("float32")
    chosen = jnp.exp(reference)
    rejected = jnp.exp(didsim.optimal_rejected(reference, target, beta=_BETA))
    optimizer = optax.adam(0.03)

    def loss(theta: Array) -> Array:
        h = _BETA * (log_softmax(theta) - reference)
        return chosen @ softplus(h - h[:, None]) @ rejected

    @jax.jit
    def step(theta: Array, state: Any) -> tuple[Array, Any, Array]:
        value, gradient = jax.value_and_grad(loss)(theta)
        updates, state = optimizer.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state, value

    theta, state = reference, optimizer.init(reference)
    theta, state, _ = jax.block_until_ready(step(theta, state))
    done, began = 0, time.perf_counter()
    while done < 3 or time.perf_counter() - began < budget / 2:
        theta, state, _ = jax.block_until_ready(step(theta, state))
        done += 1
    return done / (time.perf_counter() - began)
