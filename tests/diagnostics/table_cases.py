"""Tables of pairs made by hand, written in every format."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

FORMATS = {
    "JSONL": "jsonl",
    "CSV": "csv",
    "Parquet": "parquet",
    "Arrow file": "arrow",
    "Arrow stream": "arrows",
}


def write(folder: Path, columns: Mapping[str, Any], format: str = "Parquet", name: str = "pairs") -> Path:
    path = folder / f"{name}.{FORMATS[format]}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*map(_listed, columns.values()), strict=True)]
    if format == "JSONL":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif format == "CSV":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = pa.table({key: pa.array(_listed(values)) for key, values in columns.items()})
        if format == "Parquet":
            pa.parquet.write_table(table, path)
        elif format == "Arrow file":
            pa.feather.write_feather(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
    return path


def _listed(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def columns_of(chosen: np.ndarray, rejected: np.ndarray, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A pairs table in which responses moved by so much from the reference."""
    random = np.random.default_rng(seed)
    ref_chosen, ref_rejected = -random.uniform(400, 800, (2, len(chosen)))
    return {
        "chosen_logps": ref_chosen + chosen,
        "rejected_logps": ref_rejected + rejected,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
        **more,
    }
