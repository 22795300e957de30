"""Valid calls of the functions that diagnose real runs."""

import json
import tempfile
from pathlib import Path
from typing import Any

from didsim import diagnostics
from tests.arguments.calls import call
from tests.arguments.kinds import Argument, flag, host_number, integer, only, path

_FOLDER = Path(tempfile.mkdtemp(prefix="didsim-"))
_LOG = _FOLDER / "log"
_LOG.write_text(
    json.dumps([{"step": k, "rewards/chosen": 0.1 * k, "rewards/rejected": 0.0} for k in range(9)])
)


def _is_mapping(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


CALLS = {
    "diagnostics.diagnose": call(
        diagnostics.diagnose,
        files=only(_LOG),
        pairs=only(None).or_none(),
        ref_samples=only(None).or_none(),
        policy_samples=only(None).or_none(),
        beta=host_number(0.1, 0, above=True).or_none(),
        loss_type=only(None).or_none(),
        names=Argument(None, _is_mapping),
        drop_bad=flag(),
        seed=integer(0, 0),
    ),
    "diagnostics.read_log": call(diagnostics.read_log, path=only(_LOG), names=Argument(None, _is_mapping)),
    "diagnostics.write_report": call(
        diagnostics.write_report, diagnosis=only(diagnostics.diagnose(_LOG)), out=path(_FOLDER / "report")
    ),
}
