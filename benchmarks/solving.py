"""Times of `solve`, each case in fresh processes, beside a training run of 1,000 steps in the same process.

`python -m benchmarks.solving PROBLEM OBJECTIVE N DTYPE` prints one case. PROBLEM is "contrastive" (a
population), "pairs" (a million finite pairs) or "batch" (256 populations in one call).
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import log_softmax

import didsim
from benchmarks.memory import peak_of_this_process
from benchmarks.processes import in_fresh_process

_OBJECTIVES: dict[str, Callable[[], didsim.Objective]] = {
    "dpo": lambda: didsim.dpo(1.0),
    "cdpo": lambda: didsim.cdpo(0.5, 0.2),
    "simpo": lambda: didsim.simpo(2.0, 0.5),
    "cpo": lambda: didsim.cpo(0.5),
    "orpo": lambda: didsim.orpo(0.5),
    "nca": lambda: didsim.nca(0.5),
    "kto": lambda: didsim.kto(0.5),
    "exo": lambda: didsim.exo(0.5),
    "bco": lambda: didsim.bco(0.5),
    "discopop": lambda: didsim.discopop(0.5),
}
_PAIRS, _BATCH = 10**6, 256
PROBLEMS = {"contrastive": "", "batch": f", {_BATCH} problems at once", "pairs": f", {_PAIRS:,} pairs"}
"""The kinds of problems, and what a table adds to the objective and N of each."""
_WARM = 3  # calls after the first; the fastest and the median of them are reported
_STEPS = 1000  # of the training run; fewer are timed if there are many sequences
_MOST = 2 * 10**7  # sequences × steps that are timed
_ONCE = 10**4  # sequences above which one process is measured: each takes long, and noise matters less


@dataclass(frozen=True)
class Solve:
    """What one case of `solve` takes.

    One process can be slower than another throughout, on the same code. So several are measured, and the
    fastest counts: noise only adds to a time.

    Attributes:
        problem: "contrastive", "pairs" or "batch".
        objective: the name of the objective.
        size: number of sequences N.
        dtype: of the arguments.
        method: how it was solved.
        verdict: what it came to.
        steps: the most steps that any start of any problem took.
        first: seconds of the first call, with compilation.
        fastest: seconds of the fastest of three more calls.
        median: the median of these.
        training: seconds of 1,000 steps of Adam on the same problem, in the same process.
        mib: peak memory of the process before it trained.
        processes: how many processes were measured.
        spread: the `median` of the slowest process over that of the fastest.
    """

    problem: str
    objective: str
    size: int
    dtype: str
    method: str
    verdict: str
    steps: int
    first: float
    fastest: float
    median: float
    training: float
    mib: float
    processes: int = 1
    spread: float = 1.0


def solves(cases: Sequence[tuple[str, str, int, str]], processes: int) -> list[Solve]:
    """The cases, each in that many processes of its own; in one if there are more than 10⁴ sequences."""
    return [_over_processes(case, processes if case[2] <= _ONCE else 1) for case in cases]


def _over_processes(case: tuple[str, str, int, str], processes: int) -> Solve:
    found = [Solve(**in_fresh_process("benchmarks.solving", *case)) for _ in range(processes)]
    fastest, slowest = (choose(found, key=lambda one: one.median) for choose in (min, max))
    return dataclasses.replace(
        fastest,
        first=min(one.first for one in found),
        processes=processes,
        spread=slowest.median / fastest.median,
    )


def _problem(problem: str, size: int, dtype: str) -> tuple[Any, didsim.Problem]:
    """The reference and the problem: normal logits; or pairs whose labels follow normal rewards."""
    draw = np.random.default_rng(0)
    if problem != "pairs":
        batch = (_BATCH,) if problem == "batch" else ()
        logits = jnp.asarray(draw.normal(size=(3, *batch, size)), dtype)
        reference, chosen, rejected = log_softmax(logits, axis=-1)
        return reference, didsim.Contrastive(chosen, rejected)
    reward, (one, other) = draw.normal(size=size), draw.integers(size, size=(2, _PAIRS))
    wins = draw.random(_PAIRS) < 1 / (1 + np.exp(reward[other] - reward[one]))
    pairs = didsim.Pairs(np.where(wins, one, other), np.where(wins, other, one))
    return jnp.full(size, -np.log(size), dtype), pairs


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _main(problem: str, name: str, size: int, dtype: str) -> None:
    jax.config.update("jax_enable_x64", True)
    reference, source = jax.block_until_ready(_problem(problem, size, dtype))
    objective = _OBJECTIVES[name]()

    def solution() -> didsim.Solution:
        return didsim.solve(objective, reference, source)

    first = _seconds(lambda: solution().log_probs)
    warm = sorted(_seconds(lambda: solution().log_probs) for _ in range(_WARM))
    mib = peak_of_this_process()
    steps = max(2, min(_STEPS, _MOST // reference.size))
    policy, record = didsim.EnergyBased(reference), didsim.Record(every=steps, metrics={})

    def train() -> Any:
        return didsim.train(
            policy, reference, source, objective, optax.adam(0.03), steps, record=record
        ).policy

    _seconds(train)  # compiles
    training = _seconds(train) * _STEPS / steps
    known = solution()
    found = Solve(
        problem,
        name,
        size,
        dtype,
        known.certificate.method,
        known.verdict.name,
        int(np.max(known.certificate.steps)),
        first,
        warm[0],
        warm[_WARM // 2],
        training,
        mib,
    )
    print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
