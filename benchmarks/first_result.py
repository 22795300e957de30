"""How long one waits for a first result, in a fresh process.

`python -m benchmarks.first_result` prints the seconds that importing the library takes, a first call of
`train` (N = 256, 100 steps), compilation included, and a second.
"""

import json
import statistics
import time
from dataclasses import dataclass

from benchmarks.processes import in_fresh_process

_SIZE, _STEPS = 256, 100


@dataclass(frozen=True)
class FirstResult:
    """Seconds until a first result, medians over processes.

    Attributes:
        size: number of sequences N.
        steps: number of steps of each call.
        import_library: `import didsim`.
        first_call: compiles and runs.
        second_call: runs.
    """

    size: int
    steps: int
    import_library: float
    first_call: float
    second_call: float


def first_result(processes: int) -> FirstResult:
    """Medians over so many fresh processes."""
    samples = [in_fresh_process("benchmarks.first_result") for _ in range(processes)]
    return FirstResult(
        size=_SIZE,
        steps=_STEPS,
        **{
            name: statistics.median(sample[name] for sample in samples)
            for name in ("import_library", "first_call", "second_call")
        },
    )


def _main() -> None:
    began = time.perf_counter()
    import didsim

    imported = time.perf_counter()

    import jax
    import optax

    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0)), _SIZE)
    rejected = didsim.optimal_rejected(reference, target, beta=0.1)
    problem, objective = didsim.Contrastive(chosen=reference, rejected=rejected), didsim.dpo(beta=0.1)
    optimizer = optax.adam(0.03)
    policy = didsim.EnergyBased(reference)
    calls = []
    for _ in range(2):
        start = time.perf_counter()
        didsim.train(policy, reference, problem, objective, optimizer, _STEPS)
        calls.append(time.perf_counter() - start)
    print(json.dumps({"import_library": imported - began, "first_call": calls[0], "second_call": calls[1]}))


if __name__ == "__main__":
    _main()
