"""A callback of a `transformers.Trainer`: it writes the pairs table, says the verdict, can stop the run."""

from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback

from didsim import _checks
from didsim.diagnostics import arguments
from didsim.diagnostics.diagnose import diagnose
from didsim.diagnostics.findings import Diagnosis, Grade
from didsim.diagnostics.pairs.findings import NAMES
from didsim.lm.table import PairsTable

NOT_FINITE = "not_finite"
"""The reason to stop for log-probabilities that are NaN or infinite. It counts as wrong, too."""

REASONS = (Grade.WRONG.value, Grade.LOOK.value, NOT_FINITE, *NAMES)
"""What a run can be stopped for: a grade, or the name of a finding."""


class DiagnoseCallback(TrainerCallback):
    """Writes the pairs table during training, diagnoses it each time, and can stop the run.

    A checkpoint is written before the first step, then at each evaluation or every so many steps, and at the
    end. From the second checkpoint on the table is diagnosed, and the verdict is said. Once a finding comes
    up that was named as a reason, training ends as after its last step: the trainer saves what it saves then.

    If the run goes on from a trainer's checkpoint, the table goes on from there, too (`PairsTable`).

    With several processes the first one writes, and needs all weights: data parallel training does, FSDP and
    DeepSpeed's third stage do not, and are refused.

    Args:
        table: the table to write.
        beta: beta of the run, for calibration; None if it is not known.
        every: write every so many steps; None for each evaluation.
        stop_on: reasons to stop, each a grade ("wrong"; "look", which "wrong" is reason enough for, too) or
            the name of a finding, such as "no_margin". By default nothing stops the run.
        say: a function that is given the verdict, a line of text.

    Attributes:
        diagnosis: the last diagnosis; None before the second checkpoint.
        stopped_for: why the run was stopped; empty if it was not.

    Raises:
        ValueError: an argument is wrong. A misspelt reason is told with the nearest one.
    """

    def __init__(
        self,
        table: PairsTable,
        beta: float | None = None,
        every: int | None = None,
        stop_on: Iterable[str] = (),
        say: Callable[[str], Any] = print,
    ) -> None:
        _checks.instance("table", table, PairsTable, "a PairsTable")
        self._table = table
        self._beta = None if beta is None else arguments.positive("beta", beta)
        self._every = None if every is None else _checks.integer("every", every, 1)
        self._stop_on = frozenset(_checks.words("stop_on", stop_on))
        for reason in self._stop_on:
            arguments.one_of("stop_on", reason, REASONS)
        _checks.function("say", say)
        self._say = say
        self._last: int | None = None
        self.diagnosis: Diagnosis | None = None
        self.stopped_for = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        if getattr(args, "fsdp", None) or _splits_weights(getattr(args, "deepspeed_plugin", None)):
            raise ValueError(
                "DiagnoseCallback needs all weights in one process, and FSDP and DeepSpeed's third stage "
                "split them. Write the table from saved checkpoints, with PairsTable"
            )
        # What was written up to here is of this run. A run from the start holds its policy against the table.
        self._last = (
            state.global_step if state.global_step and state.global_step in self._table.steps else None
        )
        self._checkpoint(state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        if self._every is not None and state.global_step % self._every == 0:
            self._checkpoint(state, control, model)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        if self._every is None:
            self._checkpoint(state, control, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        self._checkpoint(state, control, model)

    def _checkpoint(self, state: Any, control: Any, model: Any) -> None:
        """Write the step if it is a new one, say the verdict, and stop if there is a reason."""
        step = int(state.global_step)
        if step == self._last:
            return
        self._last = step
        reason = self._write(step, model) if state.is_world_process_zero else ""
        reason = _told_to_all(reason)
        if reason:
            self.stopped_for = reason
            control.should_training_stop = True

    def _write(self, step: int, model: Any) -> str:
        """Write the step and say the verdict. Returns the reason to stop, or nothing."""
        try:
            self._table.write(step, model)
        except FloatingPointError as error:
            self._say(f"didsim: {error}")
            return self._reason({NOT_FINITE: Grade.WRONG}, step)
        if len(self._table.steps) < 2:
            return ""
        self.diagnosis = diagnose(pairs=self._table.path, beta=self._beta)
        self._say(f"didsim, step {step}: {self.diagnosis.grade.value}. {self.diagnosis.verdict}")
        return self._reason({one.name: one.grade for one in self.diagnosis.findings}, step)

    def _reason(self, found: dict[str, Grade], step: int) -> str:
        grades = {grade.value for grade in found.values()}
        if Grade.WRONG in grades:
            grades.add(Grade.LOOK.value)
        reasons = sorted(self._stop_on & (grades | found.keys()))
        if reasons:
            self._say(f"didsim, step {step}: training stops, on {', '.join(reasons)}")
        return ", ".join(reasons)


def _splits_weights(plugin: Any) -> bool:
    return getattr(plugin, "zero_stage", 0) == 3


def _told_to_all(reason: str) -> str:
    """What the first process says, in each process: they must stop together."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return reason
    told = [reason]
    distributed.broadcast_object_list(told)
    return told[0]
