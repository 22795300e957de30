"""Time and memory of a diagnosis, in a fresh process, with the import.

`python -m benchmarks.diagnosing KIND ROWS FOLDER` prints one case. KIND is "log" (lines of a console log) or
"pairs" (rows of a table in Parquet, as 20 checkpoints, with 1,000 resamples). The file is made by another
process before, `python -m benchmarks.diagnosing make-KIND ROWS FOLDER`. Nothing is imported above that a
diagnosis would have to import itself.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import peak_of_this_process
from benchmarks.processes import in_fresh_process

_CHECKPOINTS = 20


@dataclass(frozen=True)
class Diagnosing:
    """What one diagnosis takes.

    Attributes:
        kind: "log" or "pairs".
        rows: lines of the log, or rows of the table.
        seconds: with the import of the library.
        mib: peak memory of the process.
        mib_of_file: size of the file.
    """

    kind: str
    rows: int
    seconds: float
    mib: float
    mib_of_file: float


def diagnoses(cases: Sequence[tuple[str, int]]) -> list[Diagnosing]:
    """The cases, each in a process of its own."""
    found = []
    for kind, rows in cases:
        with tempfile.TemporaryDirectory(prefix="didsim-benchmark-") as folder:
            in_fresh_process("benchmarks.diagnosing", f"make-{kind}", rows, folder)
            found.append(Diagnosing(**in_fresh_process("benchmarks.diagnosing", kind, rows, folder)))
    return found


def _make_log(path: Path, rows: int) -> None:
    """TRL's console output: a dictionary a line."""
    import numpy as np

    draw = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("DPOConfig(beta=0.1, loss_type='sigmoid')\n")
        for step in range(rows):
            done = step / rows
            chosen, rejected = -done + draw.normal(0, 0.1), -3 * done + draw.normal(0, 0.1)
            record = {
                "loss": np.logaddexp(0, rejected - chosen) + 0.05,
                "grad_norm": draw.gamma(4),
                "learning_rate": 5e-7 * (1 - done),
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/accuracies": 0.5 + 0.3 * done,
                "rewards/margins": chosen - rejected,
                "logps/chosen": -300 + 10 * chosen,
                "logps/rejected": -280 + 10 * rejected,
                "epoch": 3 * done,
            }
            file.write(f"{ {name: float(f'{value:.8g}') for name, value in record.items()} }\n")


def _make_pairs(path: Path, rows: int) -> None:
    """A table of pairs, a checkpoint at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    draw = np.random.default_rng(0)
    pairs = max(20, rows // _CHECKPOINTS)
    references = -draw.uniform(50, 400, (2, pairs))
    margin = draw.normal(1, 1.5, pairs)
    names = [f"{of}{response}_logps" for of in ("", "ref_") for response in ("chosen", "rejected")]
    own = {
        "prompt_id": np.arange(pairs) // 2,
        "split": np.where(np.arange(pairs) % 10 == 0, "test", "train"),
        "chosen_length": draw.integers(10, 300, pairs),
        "rejected_length": draw.integers(10, 300, pairs),
    }
    writer = None
    for step in range(1, _CHECKPOINTS + 1):
        done = step / _CHECKPOINTS
        chosen = -30 * done + draw.normal(0, 3, pairs) * done**0.5
        moved = references + np.stack([chosen, chosen - 10 * margin * done])
        columns = dict(zip(names, [*np.minimum(moved, 0), *references], strict=True))
        table = pa.table({"step": np.full(pairs, 100 * step), **columns, **own})
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


_MAKERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "log": ("log.txt", _make_log),
    "pairs": ("pairs.parquet", _make_pairs),
}


def _main(kind: str, rows: int, folder: Path) -> None:
    name, make = _MAKERS[kind.removeprefix("make-")]
    path = folder / name
    if kind.startswith("make-"):
        make(path, rows)
        print("{}")
        return
    began = time.perf_counter()
    import didsim

    diagnosis = didsim.diagnose(path, beta=0.1)
    seconds = time.perf_counter() - began
    read, size = diagnosis.inputs[0].rows, path.stat().st_size / 2**20
    print(
        json.dumps(
            {
                "kind": kind,
                "rows": read,
                "seconds": seconds,
                "mib": peak_of_this_process(),
                "mib_of_file": size,
            }
        )
    )


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
