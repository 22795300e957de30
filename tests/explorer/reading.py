"""What a test reads off the page."""

import os
import re
from typing import Any

SLOWED = 1 if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else 4
"""What the targets for times are multiplied by while other workers of the suite take the processor. Run these
tests in one process to hold the targets themselves."""


def settled(page: Any) -> None:
    """Wait until every panel shows what the library answered."""
    page.wait_for_selector(".waiting", state="detached", timeout=60_000)


def bar(page: Any, row: str, name: str) -> Any:
    return page.locator(f'svg.bars [role=slider][aria-label="{row}, {name}"]')


def counter(page: Any) -> float:
    """The number of nats in the counter."""
    text = page.inner_text("#counter").replace("\u2212", "-")
    found = re.search(r"(-?\d+\.\d\d) nats", text)
    assert found, text
    return float(found[1])
