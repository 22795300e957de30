"""A study and its axes: the cells of a sweep, and the blocks of cells that are computed together."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from didsim import _checks
from didsim._files import local_path
from didsim._memory import check_fits, machine_memory
from didsim.spaces import SequenceSpace
from didsim.sweeps.axes import (
    Axis,
    Range,
    as_toml,
    cell_name,
    dims_of,
    flat_axes,
    in_place_of,
    labels_of,
    listed,
    parsed,
    put,
    values_of,
)
from didsim.sweeps.completing import complete, metrics_of
from didsim.sweeps.memory import bytes_of
from didsim.sweeps.optimizers import compiled_in
from didsim.sweeps.study import Seed, Study
from didsim.sweeps.tables import leaves, real_numbers, with_values, without_numbers
from didsim.training.metrics import METRICS
from didsim.training.progress import tracked
from didsim.training.record import Record

MANY = 1_000_000
"""A grid of more cells is refused, unless `allow_many` says that it is meant."""

MOST = 2**24
"""A grid of more cells is refused: its cells would not fit in memory while they are checked."""

_LONG = 10_000  # cells, that take about a second to check

_BLOCK = 64  # more cells in a program are no faster, and more is lost when it is killed


Block = tuple[slice, ...]
"""Cells that are computed together: a box of the grid."""


class Sweep:
    """A grid of runs: a study, and axes over any of its keys.

    Cells that differ only in real numbers and in the seed are runs of one compiled program. The axes are the
    dimensions of the results, named by the last part of their keys: `beta` for `objective.beta`, and
    `rejected` for `problem.rejected` or `problem.rejected.name`.

    Args:
        study: the settings that all runs share: a `Study`, or nested tables as in TOML.
        axes: for each dotted key its values: a sequence, a `Range`, or a table with the fields of a `Range`.
            If the key holds a table, a value is a table or a name alone.
        allow_many: whether the grid may have more than a million cells; 16 million is the most.
        progress: whether to show a progress bar while the cells of a large grid are checked.

    Raises:
        ValueError: a key or a value of any cell is wrong. All cells are checked when the sweep is made; a
            million of them take about a minute.

    Examples:
        >>> sweep = Sweep(Study(steps=100), {"objective.beta": [0.1, 0.5], "seed": range(8)})
        >>> sweep.dims, sweep.shape, sweep.size
        (('beta', 'seed'), (2, 8), 16)
        >>> sweep.cell((1, 3))["objective"]
        {'name': 'dpo', 'beta': 0.5}
    """

    def __init__(
        self,
        study: Study | Mapping[str, Any],
        axes: Mapping[str, Any],
        *,
        allow_many: bool = False,
        progress: bool = False,
    ):
        if not isinstance(study, Study | Mapping):
            raise ValueError(f"`study` must be a Study, or tables as of TOML; got {study!r}")
        _checks.instance("axes", axes, Mapping, "a table of axes by key")
        _checks.flag("allow_many", allow_many)
        self.tables = as_toml(msgspec.structs.asdict(study) if isinstance(study, Study) else study, "study")
        given = {key: listed(key, one) for key, one in flat_axes(axes).items()}
        self.shape = tuple(one.count if isinstance(one, Range) else len(one) for one in given.values())
        self.size = math.prod(self.shape)
        if self.size > MANY and not allow_many:
            raise ValueError(
                f"`sweep` has {self.size:,} cells, more than {MANY:,}; `allow_many`, or `--yes` on the "
                "command line, runs it all the same"
            )
        if self.size > MOST:
            raise ValueError(f"`sweep` has {self.size:,} cells; a study has at most {MOST:,}")
        values = {key: values_of(key, one) for key, one in given.items()}
        dims = dims_of(list(values))
        self.axes = tuple(
            Axis(key, one, dim, labels_of(one)) for (key, one), dim in zip(values.items(), dims, strict=True)
        )
        self._programs = self._checked(progress)
        if clash := sorted({*self.dims} & {*self.metrics}):
            raise ValueError(
                f"`sweep` must not have an axis and a metric of one name; got {clash[0]!r} for both"
            )

    @classmethod
    def from_toml(
        cls,
        path: str | Path,
        settings: Sequence[str] = (),
        *,
        allow_many: bool = False,
        progress: bool = False,
    ) -> "Sweep":
        """The sweep of a file: a study's tables, and `[sweep]` with its axes.

        Args:
            path: a TOML file.
            settings: `key=value` each, in place of what the file says; `sweep.KEY=…` is an axis.
            allow_many: whether the grid may have more than a million cells.
            progress: whether to show a progress bar while the cells of a large grid are checked.

        Raises:
            ValueError: the file is not a TOML file, a key or a value in it is wrong, or a key has no effect
                beside an axis.
            OSError: the file cannot be read.
        """
        path, settings = local_path("path", path), _checks.words("settings", settings)
        _checks.flag("allow_many", allow_many)
        try:
            tables = msgspec.toml.decode(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a TOML file: {error}") from None
        axes = flat_axes(tables.pop("sweep", {}))
        for key, _ in leaves(tables):
            axis = in_place_of(key, axes)
            if axis not in (None, key):
                raise ValueError(f"`{key}` has no effect: the values of the axis `{axis}` are whole tables")
        changed = dict(map(parsed, settings))
        for key, value in changed.items():
            if key == "sweep":
                axes = flat_axes(value)
            elif key.startswith("sweep."):
                axes[key.removeprefix("sweep.")] = value
            else:
                put(tables, key, value)
        axes = flat_axes(axes)
        for key in changed:
            if axis := in_place_of(key, axes):
                raise ValueError(
                    f"--set {key}: `{axis}` is an axis; --set 'sweep.{axis}=[…]' changes its values"
                )
        return cls(tables, axes, allow_many=allow_many, progress=progress)

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the axes."""
        return tuple(axis.dim for axis in self.axes)

    def cell(self, index: Sequence[int]) -> dict[str, Any]:
        """The complete study of one cell.

        Raises:
            ValueError: `index` is not the place of a cell.
        """
        self._check_index(index)
        return complete(self._tables_of(index))

    def describe(self, index: Sequence[int]) -> str:
        """A cell by its place in the grid.

        Raises:
            ValueError: `index` is not the place of a cell.
        """
        self._check_index(index)
        return cell_name([(axis.dim, axis.labels) for axis in self.axes], index)

    def _check_index(self, index: Any) -> None:
        if not isinstance(index, list | tuple) or len(index) != len(self.shape):
            raise ValueError(f"`index` must have a place on each of {len(self.shape)} axes; got {index!r}")
        for place, length in zip(index, self.shape, strict=True):
            _checks.integer("index", place, 0, length - 1)

    def cells_of(self, block: Block) -> Iterator[tuple[int, ...]]:
        """The indices of a block's cells, in order."""
        is_block = isinstance(block, tuple) and all(isinstance(side, slice) for side in block)
        if not is_block or len(block) != len(self.shape):
            raise ValueError(f"`block` must be a slice of each axis, as `blocks` gives; got {block!r}")
        return itertools.product(*(range(side.start, side.stop) for side in block))

    def config(self) -> dict[str, Any]:
        """The study and its axes as plain data: two sweeps of the same results have the same.

        It holds the first cell, the dimensions in their order, and a digest of all cells.
        """
        first = self.cell((0,) * len(self.axes))
        axes = {axis.key: list(axis.values) for axis in self.axes}
        return {"study": first, "axes": axes, "dimensions": list(self.dims), "digest": self._digest}

    @cached_property
    def steps(self) -> np.ndarray:
        """All steps at which some cell has a record, in order."""
        return reduce(np.union1d, (record.counts(steps) for steps, record in self._records()))

    def count_steps(self) -> int:
        """The number of `steps`; they are not made if all cells have the same."""
        (steps, record), *others = self._records()
        return len(self.steps) if others else record.count(steps)

    def _records(self) -> list[tuple[int, Record]]:
        """The numbers of steps of the cells, with when each records."""
        kinds = sorted({(config["steps"], config["record"]["every"]) for config in self._samples})
        return [(steps, Record(every)) for steps, every in kinds]

    @cached_property
    def metrics(self) -> list[str]:
        """All metrics that some cell records, in their usual order."""
        names = [name for config in self._samples for name in metrics_of(config)]
        return sorted(set(names), key=list(METRICS).index)

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of sequences of the spaces."""
        return sorted({SequenceSpace(**config["space"]).size for config in self._samples})

    @cached_property
    def has_limits(self) -> bool:
        """Whether some cell asks for its exact limit."""
        return any(config["limit"] for config in self._samples)

    @cached_property
    def dtype(self) -> str:
        """The widest dtype of any cell."""
        return max(config["dtype"] for config in self._samples)

    @property
    def programs(self) -> int:
        """The number of programs that are compiled."""
        return len(self._by_program)

    def block_shape(self, cells: int) -> tuple[int, ...]:
        """The largest box of at most `cells` cells: as much of the last axes as share one program."""
        shape = [1] * len(self.axes)
        room = max(1, _checks.integer("cells", cells, 0))
        for k in reversed(range(len(self.axes))):
            length = self.shape[k]
            if self._is_one_program(k) and room > 1:
                parts = math.ceil(length / min(length, room))
                shape[k] = math.ceil(length / parts)
                room //= shape[k]
        return tuple(shape)

    def blocks(self, shape: Sequence[int]) -> list[Block]:
        """All blocks of a shape, in the order of the grid."""
        if not isinstance(shape, list | tuple) or len(shape) != len(self.shape):
            raise ValueError(f"`shape` must have a length on each of {len(self.shape)} axes; got {shape!r}")
        shape = [_checks.positive_int("shape", side) for side in shape]
        sides = [
            [slice(start, min(start + side, length)) for start in range(0, length, side)]
            for length, side in zip(self.shape, shape, strict=True)
        ]
        return list(itertools.product(*sides))

    def cell_bytes(self) -> int:
        """About how much memory the most demanding cell takes while it is computed."""
        return max(sum(bytes_of(config).values()) for config in self._samples)

    def check_fits(self, memory: int) -> None:
        """Raise unless this machine, or a budget of bytes, can hold the most demanding cell.

        Raises:
            ValueError: it cannot; the message names the key that takes most.
        """
        parts = max(map(bytes_of, self._samples), key=lambda one: sum(one.values()))
        key = max(parts, key=parts.__getitem__)
        check_fits(f"`{key}`: a cell", sum(parts.values()), max(memory, machine_memory()))

    def cells_within(self, memory: int) -> int:
        """How many cells a block has, at most, within a budget of bytes."""
        memory = _checks.positive_int("memory", memory)
        return max(1, min(_BLOCK, memory // self.cell_bytes()))

    def _tables_of(self, index: Sequence[int]) -> dict[str, Any]:
        tables = msgspec.to_builtins(self.tables)
        # Tables before what is in them, so that an axis over a name does not undo one over a setting.
        for axis, k in sorted(zip(self.axes, index, strict=True), key=lambda one: one[0].key.count(".")):
            put(tables, axis.key, axis.values[k])
        return tables

    def _checked(self, progress: bool) -> np.ndarray:
        """The program of every cell, over all axes but the seed's, once all cells are looked at."""
        seeds = next((axis for axis in self.axes if axis.key == "seed"), None)
        shape = [1 if axis is seeds else len(axis.values) for axis in self.axes]
        programs = np.empty(shape, object)
        self._by_program: dict[str, dict[str, Any]] = {}
        digests: dict[bytes, tuple[int, ...]] = {}
        shown = progress and programs.size > _LONG
        for index in tracked(np.ndindex(*shape), programs.size, "checking cells", shown):
            try:
                config = self.cell(index)
            except ValueError as error:
                where = f" (in the cell {self.describe(index)})" if self.axes else ""
                raise ValueError(f"{error}{where}") from None
            digest = sha256(msgspec.json.encode(config)).digest()
            if digest in digests:
                raise ValueError(
                    "`sweep` must have each value once; the same run is at "
                    f"{self.describe(digests[digest])} and at {self.describe(index)}"
                )
            digests[digest] = index
            program = program_of(config)
            self._by_program.setdefault(program, config)
            programs[index] = program
        self._digest = sha256(b"".join(digests)).hexdigest()
        if seeds is not None:
            try:
                msgspec.convert(seeds.values, tuple[Seed, ...])
            except msgspec.ValidationError as error:
                raise ValueError(f"`sweep.seed`: {error}") from None
        return programs

    @property
    def _samples(self) -> list[dict[str, Any]]:
        return list(self._by_program.values())

    def _is_one_program(self, axis: int) -> bool:
        first = np.take(self._programs, [0], axis)
        return bool((self._programs == first).all())


def program_of(config: Mapping[str, Any]) -> str:
    """What a program is compiled for: a complete study without its seed and the numbers that are given."""
    fixed = without_numbers({**config, "seed": None}, None)
    if own := compiled_in(config):
        fixed = with_values(fixed, {place: real_numbers(config)[place] for place in own})
    return msgspec.json.encode(fixed).decode()
