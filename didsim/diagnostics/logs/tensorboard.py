"""TensorBoard event files, read by TensorBoard itself: the extra `tensorboard`."""

from pathlib import Path
from typing import Any


def read_events(path: Path) -> list[dict[str, Any]]:
    """The scalars of an event file: a record for each run of events with the same step, in the file's order.

    Raises:
        ValueError: TensorBoard is not installed, or the file is damaged.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise ValueError(
            f"{path} is a TensorBoard event file, which takes an extra: pip install 'didsim[tensorboard]'"
        ) from None
    records: list[dict[str, Any]] = []
    try:
        for event in LegacyEventFileLoader(str(path)).Load():
            scalars = {}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars[value.tag] = value.simple_value
                elif value.HasField("tensor") and make_ndarray(value.tensor).size == 1:
                    scalars[value.tag] = float(make_ndarray(value.tensor))
            if not scalars:
                continue
            if not records or records[-1]["step"] != event.step:
                records.append({"step": event.step})
            records[-1] |= scalars
    except Exception as error:  # of many kinds: TensorBoard's, protobuf's, NumPy's
        raise ValueError(f"{path} is a damaged TensorBoard event file: {error}") from None
    return records
