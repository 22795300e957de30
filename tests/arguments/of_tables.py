"""Valid calls of the functions that read tables of pairs and of samples."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from didsim import diagnostics
from didsim.diagnostics.findings import Number
from tests.arguments.calls import call
from tests.arguments.kinds import Argument, flag, host_number, instance, integer, only, path

_FOLDER = Path(tempfile.mkdtemp(prefix="didsim-"))
_PAIRS, _SAMPLES = _FOLDER / "pairs", _FOLDER / "samples"
_PAIRS.write_text(
    json.dumps(
        {"chosen_logps": -9.0, "rejected_logps": -9.0, "ref_chosen_logps": -8.0, "ref_rejected_logps": -7.0}
    )
)
_SAMPLES.write_text(2 * (json.dumps({"policy_logp": -9.0, "ref_logp": -8.0}) + "\n"))


def _is_no_name(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _logps(value: Any) -> Argument:
    return Argument(value, lambda other: _are_numbers(other) and bool((np.asarray(other) <= 0).all()))


def _are_numbers(other: Any) -> bool:
    is_array = isinstance(other, np.ndarray) and other.dtype in (np.float64, np.uint32)
    return is_array and other.shape == (3,) and bool(np.isfinite(other).all())


_NAMES = Argument(None, _is_no_name)
_NUMBER = Number(value=-1.0, unit="nats", low=-2.0, high=0.0)

CALLS = {
    "diagnostics.diagnose_pairs": call(
        diagnostics.diagnose_pairs,
        path=path(_PAIRS),
        beta=host_number(0.1, 0, above=True).or_none(),
        names=_NAMES,
        drop_bad=flag(),
        seed=integer(0, 0),
        resamples=integer(100, 100, 100_000),
    ),
    "diagnostics.diagnose_samples": call(
        diagnostics.diagnose_samples,
        path=path(_SAMPLES),
        samples_of=only("policy"),
        names=_NAMES,
        drop_bad=flag(),
    ),
    "diagnostics.compare_with_expected_fall": call(
        diagnostics.compare_with_expected_fall,
        chosen=instance(_NUMBER, Number),
        expected_fall=instance(_NUMBER, Number),
        pairs=Argument("the pairs", lambda other: isinstance(other, str)),
    ),
    "diagnostics.estimate_did_entropy": call(
        diagnostics.estimate_did_entropy,
        policy_logps=_logps(np.array([-1.0, -2.0, -3.0])),
        ref_logps=_logps(np.array([-3.0, -2.0, -1.0])),
        samples_of=only("policy"),
        lengths=Argument(
            np.array([1.0, 2.0, 3.0]), lambda other: _are_numbers(other) and bool((other > 0).all())
        ).or_none(),
        prompts=only(np.array([0, 0, 1])).or_none(),
        least_effective=host_number(0.0, 0),
    ),
}
