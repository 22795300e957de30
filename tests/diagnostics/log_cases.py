"""Logs as trainers write them, made from rows of our own; and simulated runs whose state is known."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, float]

TRL = {
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_logps": "logps/chosen",
    "rejected_logps": "logps/rejected",
    "nll": "nll_loss",
}


def trl_name(name: str) -> str:
    """TRL's name of a column of ours; held-out columns start with `eval_`."""
    bare = name.removeprefix("eval_")
    return "eval_" * (bare != name) + TRL.get(bare, bare)


def trl_rows(rows: list[Row]) -> list[Row]:
    return [{trl_name(name): value for name, value in row.items()} for row in rows]


def trainer_state(rows: list[Row]) -> bytes:
    return json.dumps({"global_step": 9, "log_history": trl_rows(rows)}, indent=2).encode()


def json_lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in trl_rows(rows)).encode()


def console(rows: list[Row]) -> bytes:
    lines = ["Loading checkpoint shards: 100%|##########| 4/4 [00:02<00:00,  1.9it/s]", "{'model': 'a/b'}"]
    lines += [f"  1%|▏ | 10/1000 [00:10<16:40]{row!r}" for row in trl_rows(rows)]
    return ("\n".join(lines) + "\n{'train_runtime': 12.3, 'train_loss': 0.4, 'epoch': 1.0}\n").encode()


def quoted_console(rows: list[Row]) -> bytes:
    """Numbers as strings, as transformers 5 and the original DPO code print them."""
    return "\n".join(
        repr({name: repr(value) for name, value in row.items()}) for row in trl_rows(rows)
    ).encode()


def wandb_csv(rows: list[Row]) -> bytes:
    """A history: a column for each metric, cells empty where a row has none."""
    named = [
        {
            ("eval/" + one[5:]) if one.startswith("eval_") else "train/" + one: value
            for one, value in row.items()
        }
        for row in trl_rows(rows)
    ]
    named = [
        {one.replace("train/step", "train/global_step"): value for one, value in row.items()} for row in named
    ]
    columns = list(dict.fromkeys(one for row in named for one in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["_step", *columns])
    writer.writeheader()
    writer.writerows({"_step": number, **row} for number, row in enumerate(named))
    return text.getvalue().encode()


def tensorboard(rows: list[Row], path: Path) -> None:
    """An event file, written by TensorBoard's own writer."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        for row in trl_rows(rows):
            for name, value in row.items():
                if name != "step":
                    tag = "eval/" + name[5:] if name.startswith("eval_") else "train/" + name
                    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                    writer.write(Event(step=int(row["step"]), summary=summary).SerializeToString())


def model_card(rows: list[Row]) -> bytes:
    """The table of a card: rows of evaluations, with the training loss beside them."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "loss"))
    words = {name: trl_name(name).removeprefix("eval_").replace("_", " ").capitalize() for name in names}
    words |= {"eval_loss": "Validation Loss", "step": "Step"}
    lines = ["---", "license: mit", "---", "# a model", "| a | b |", "|---|---|", "| 1 | 2 |", ""]
    lines.append("| Training Loss | " + " | ".join(words[name] for name in names) + " |")
    lines.append("|:---:" * (1 + len(names)) + "|")
    for row in rows:
        cells = [str(row.get("loss", "No log")), *(str(row.get(name, "")) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return ("\n".join([*lines, "", "### Framework versions", ""])).encode()


TEXT: dict[str, Callable[[list[Row]], bytes]] = {
    "trainer_state.json": trainer_state,
    "JSON lines": json_lines,
    "console": console,
    "console, quoted": quoted_console,
    "CSV": wandb_csv,
}


def written(folder: Path, rows: list[Row], form: str = "trainer_state.json") -> Path:
    """A log in a file whose name says nothing."""
    path = folder / "log"
    path.write_bytes(TEXT[form](rows))
    return path


def simulated(
    steps: int = 60,
    *,
    chosen: float = -0.5,
    rejected: float = -3.0,
    spread: float = 3.0,
    held_out: bool = True,
    seed: int = 0,
    **extra: float,
) -> list[Row]:
    """A run whose mean rewards go linearly to `chosen` and `rejected`, of batches of 64 pairs.

    Evaluations are on the same 512 pairs each time.

    Losses are the means of softplus(−margin) over the very pairs whose mean margins are logged.
    """
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    held_out_pairs = random.normal(size=(2, 512))

    def means(share: float, prefix: str, pairs: np.ndarray) -> Row:
        first, second = (
            (mean + spread * noise / 2) * share for mean, noise in zip((chosen, rejected), pairs, strict=True)
        )
        margin = first - second
        return {
            f"{prefix}loss": round(float(np.mean(np.logaddexp(0, -margin))), 4),
            f"{prefix}chosen_reward": float(first.mean()),
            f"{prefix}rejected_reward": float(second.mean()),
            f"{prefix}margin": float(margin.mean()),
            f"{prefix}accuracy": float((margin > 0).mean()),
        }

    for number in range(steps):
        share = number / max(steps - 1, 1)
        rows.append(
            {
                "step": 1 + 10 * number,
                **means(share, "", random.normal(size=(2, 64))),
                "grad_norm": 2.5,
                **extra,
            }
        )
        if held_out and number % 20 == 19:
            rows.append({"step": 1 + 10 * number, **means(share, "eval_", held_out_pairs)})
    return rows


def names_of(diagnosis: Any) -> list[str]:
    return [finding.name for finding in diagnosis.findings]
