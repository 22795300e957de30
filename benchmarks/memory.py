"""Peak memory of one value and gradient, each in a fresh process.

`python -m benchmarks.memory METHOD N DTYPE` prints the peak of a process that makes the arrays of a loss and
evaluates it, or only makes them for METHOD `arrays`. On Linux the peak of a process starts at that of the
one that started it, so this is measured before anything large is made there.
"""

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import in_fresh_process

ARRAYS = "arrays"


@dataclass(frozen=True)
class Peak:
    """Peak memory of a process.

    Attributes:
        method: what it evaluated; "arrays" for one that only imports, and makes the arrays.
        size: number of sequences N.
        dtype: of the arrays.
        mib: its largest resident set.
    """

    method: str
    size: int
    dtype: str
    mib: float


def peaks(cases: Sequence[tuple[str, int, str]]) -> list[Peak]:
    """Peak memory by method, size and dtype."""
    return [Peak(*case, mib=in_fresh_process("benchmarks.memory", *case)["mib"]) for case in cases]


def peak_of_this_process() -> float:
    """The largest resident set so far, in MiB: the kernel counts KiB on Linux, bytes on macOS."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _main(method: str, size: int, dtype: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks.losses import LOSSES, evaluation, make_instance

    instance = jax.block_until_ready(make_instance(size, dtype=dtype))
    if method != ARRAYS:
        evaluate = evaluation(LOSSES[method])
        for _ in range(2):
            jax.block_until_ready(evaluate(instance))
    print(json.dumps({"mib": peak_of_this_process()}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
