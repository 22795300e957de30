"""What a test reads off the page."""

import re
from typing import Any


def settled(page: Any) -> None:
    """Wait until every panel shows what the library answered."""
    page.wait_for_timeout(100)
    page.wait_for_selector(".waiting", state="detached", timeout=60_000)


def bar(page: Any, row: str, name: str) -> Any:
    return page.locator(f'svg.bars [role=slider][aria-label="{row}, {name}"]')


def counter(page: Any) -> float:
    """The number of nats in the counter."""
    text = page.inner_text("#counter").replace("\u2212", "-")
    found = re.search(r"(-?\d+\.\d\d) nats", text)
    assert found, text
    return float(found[1])
