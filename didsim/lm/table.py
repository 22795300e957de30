"""The pairs table of `didsim diagnose`, written one checkpoint at a time. A killed run leaves it whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from didsim import _checks
from didsim._files import local_path, written_whole
from didsim._tables import arrow
from didsim.lm.logps import Scores, score_checked
from didsim.lm.pairs import Keep, Rows, TokenPairs, token_pairs

SUFFIXES = (".parquet", ".jsonl")

_SAME_RELATIVE, _SAME = 5e-3, 0.05
"""How near log-probabilities of one model are, in nats, if they are computed twice in low precision."""


class PairsTable:
    """The pairs table of a training run: a row for each preference pair and checkpoint.

    Columns are `step`, `split`, `prompt_id`, `chosen_logps`, `rejected_logps`, `ref_chosen_logps`,
    `ref_rejected_logps`, `chosen_length`, `rejected_length` and `argmax_logps`.

    Each checkpoint is written with all before it into a new file, which takes the old one's place when it is
    on the disk. So a run that is killed leaves every finished checkpoint, and a file is never cut off. A run
    that goes on finds the file and adds to it. No step is written twice: checkpoints of the step that is
    written and of later ones, which a run left that went on from before them, are replaced.

    Args:
        path: the file, ending in `.parquet` or `.jsonl`. One that is there must be the table of these pairs.
        pairs: rows by the name of their split: `{"train": some, "held out": others}`. A split whose name does
            not begin with "train" is taken for held out. A row has lists of tokens under `prompt_ids`,
            `chosen_ids` and `rejected_ids`, as the data sets of a TRL trainer have. A few hundred pairs of
            each split are enough for intervals.
        reference: the reference model. By default it is the policy at step 0.
        max_length: number of tokens of prompt and response together that training keeps; None for all.
        keep: "keep_start" or "keep_end", which of them it keeps.
        batch_size: number of sequences in a forward pass.

    Raises:
        ValueError: an argument is wrong; nothing of a response is left; or the file is damaged, or is not the
            table of these pairs.
        ImportError: pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        pairs: Mapping[str, Rows],
        reference: Any = None,
        *,
        max_length: int | None = None,
        keep: Keep = "keep_start",
        batch_size: int = 8,
    ) -> None:
        arrow()
        self.path = local_path("path", path)
        if self.path.suffix not in SUFFIXES or self.path.is_dir():
            raise ValueError(f"`path` must be a file ending in {' or '.join(SUFFIXES)}; got {str(path)!r}")
        if not self.path.parent.is_dir():
            raise ValueError(f"`path` must be in a folder that is there; {self.path.parent} is not")
        if reference is not None and not (callable(reference) and hasattr(reference, "parameters")):
            raise ValueError(f"`reference` must be a model or None; got {type(reference).__name__}")
        self._batch_size = _checks.integer("batch_size", batch_size, 1)
        self._pairs = token_pairs(pairs, max_length, keep)
        self._reference_model = reference
        self._is_initial_policy = reference is None
        self._reference: np.ndarray | None = None
        self._written = read_table(self.path) if self.path.exists() else None
        if self._written is not None:
            self._reference = _check_is_of(self.path, self._written, self._pairs)

    @property
    def steps(self) -> list[int]:
        """The steps that the table holds, in order."""
        return [] if self._written is None else sorted(set(self._written["step"].to_pylist()))

    def write(self, step: int, model: Any) -> None:
        """Add a checkpoint: all pairs under the model as it is now. Later steps are taken out.

        Args:
            step: the training step.
            model: the policy.

        Raises:
            ValueError: `step` is no integer of at least 0; the file is of another reference; or there is
                neither a reference nor a step 0 yet.
            FloatingPointError: a log-probability is not finite. Nothing is written.
            OSError: the file cannot be written. It stays as it was.

        Cost:
            A forward pass of every response, once also under the reference; and the file, anew.
        """
        import pyarrow as pa

        step = _checks.integer("step", step, 0)
        if step and self._reference is None and self._reference_model is None:
            raise ValueError(
                f"`reference` must be given: by default it is the policy at step 0, and the table begins at "
                f"step {step}"
            )
        scores = self._scores(model, f"step {step}")
        reference = self._reference_logps(scores, step)
        new = _rows(step, self._pairs, scores, reference)
        before = None if self._written is None else self._written.filter(pa.compute.field("step") < step)
        whole = new if before is None else pa.concat_tables([before, new]).combine_chunks()
        with written_whole(self.path) as (draft,):
            write_table(draft, whole)
        self._written, self._reference = whole, reference

    def _scores(self, model: Any, what: str) -> Scores:
        scores = score_checked(model, self._pairs.prompts, self._pairs.responses, self._batch_size)
        if bad := int((~np.isfinite(scores.logps)).sum()):
            raise FloatingPointError(
                f"{what}: {bad:,} of {len(scores.logps):,} log-probabilities are not finite; nothing was "
                f"written to {self.path}"
            )
        return scores

    def _reference_logps(self, policy: Scores, step: int) -> np.ndarray:
        """Log-probabilities under the reference. They are computed once, and those of a file must agree."""
        known = self._reference
        if self._reference_model is not None:
            now = self._scores(self._reference_model, "the reference").logps
        elif known is None or (step == 0 and self._is_initial_policy):
            now = policy.logps
        else:
            return known
        if known is not None and not np.allclose(now, known, _SAME_RELATIVE, _SAME):
            raise ValueError(
                f"{self.path} is of another reference: log-probabilities differ by up to "
                f"{np.abs(now - known).max():.3g} nats. Give the table of this run another path"
            )
        self._reference_model = None
        return now if known is None else known


def _rows(step: int, pairs: TokenPairs, policy: Scores, reference: np.ndarray) -> Any:
    """A checkpoint as a table."""
    import pyarrow as pa

    count = len(pairs)
    chosen, rejected = slice(None, count), slice(count, None)
    columns: dict[str, Any] = {
        "step": np.full(count, step),
        "split": pairs.split,
        "prompt_id": pairs.prompt_id,
        "chosen_logps": policy.logps[chosen],
        "rejected_logps": policy.logps[rejected],
        "ref_chosen_logps": reference[chosen],
        "ref_rejected_logps": reference[rejected],
        "chosen_length": policy.lengths[chosen],
        "rejected_length": policy.lengths[rejected],
        "argmax_logps": policy.argmax_logps[chosen],
    }
    return pa.table(columns, schema=_schema())


def _schema() -> Any:
    import pyarrow as pa

    words, counts = ("split", "prompt_id"), ("step", "chosen_length", "rejected_length")
    names = (
        *("step", "split", "prompt_id", "chosen_logps", "rejected_logps", "ref_chosen_logps"),
        *("ref_rejected_logps", "chosen_length", "rejected_length", "argmax_logps"),
    )
    kinds = dict.fromkeys(names, pa.float64())
    kinds |= dict.fromkeys(words, pa.string()) | dict.fromkeys(counts, pa.int64())
    return pa.schema(list(kinds.items()))


def write_table(path: Path, table: Any) -> None:
    """Write a pairs table as Parquet or JSON lines, by the end of its name."""
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, write_page_checksum=True)
    else:
        path.write_bytes(msgspec.json.Encoder().encode_lines(table.to_pylist()))


def read_table(path: Path) -> Any:
    """Read a pairs table that `write_table` wrote.

    Raises:
        ValueError: the file cannot be read, is damaged, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet

    mend = "Move it away, or give the table of this run another path"
    try:
        if path.suffix == ".parquet":
            table = pa.parquet.read_table(path, page_checksum_verification=True)
        else:
            rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
            table = pa.Table.from_pylist(rows, _schema()) if rows else None
            names = set(_schema().names)
            if any(row.keys() != names for row in rows):
                raise ValueError("a row has other columns")
        if table is None or table.schema != _schema() or not len(table):
            raise ValueError("it has other columns, or no rows")
    except (OSError, pa.ArrowException, msgspec.DecodeError, ValueError) as error:
        raise ValueError(
            f"{path} is there and is no whole pairs table of ours: {str(error).partition(chr(10))[0]}. {mend}"
        ) from None
    return table


def _check_is_of(path: Path, table: Any, pairs: TokenPairs) -> np.ndarray:
    """The reference's log-probabilities in a table, which must be of these pairs at every step."""
    count, steps = len(pairs), table["step"].to_numpy()
    own: dict[str, list[Any]] = {"split": pairs.split, "prompt_id": pairs.prompt_id}
    own |= {
        name: [len(one) for one in pairs.responses[half]]
        for name, half in (("chosen_length", slice(count)), ("rejected_length", slice(count, None)))
    }
    fits = len(table) % count == 0 and (steps.reshape(-1, count) == steps[::count, None]).all()
    fits = fits and (np.diff(steps[::count]) > 0).all()
    for name, expected in own.items():
        fits = fits and table[name].to_pylist() == expected * (len(table) // count)
    if not fits:
        raise ValueError(
            f"{path} is there and is the table of other pairs: splits, prompts or lengths differ from the "
            f"{count:,} that were given. Move it away, or give the table of this run another path"
        )
    both = [table[name].to_numpy()[:count] for name in ("ref_chosen_logps", "ref_rejected_logps")]
    return np.concatenate(both)
