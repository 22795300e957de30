"""A server of the explorer and a real browser before it. Tests of the page are skipped without a browser."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]


@dataclass
class Served:
    """A server of its own process, as a user starts it, and the seconds until it told its address."""

    url: str
    process: subprocess.Popen[str]
    seconds: float


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "didsim", "explore", "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        # Every program is kept, as another worker of the suite may start the same server.
        env={**os.environ, "PYTHONUNBUFFERED": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    )
    assert process.stdout is not None
    told = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", told)
    assert found, told
    yield Served(found[0], process, time.perf_counter() - started)
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = shutil.which("chromium") or (own if Path(own).exists() else None)
        if path is None:
            pytest.skip("needs Chromium: make .venv/browser")
        # Without a sandbox, since a container's root has none.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens the page; errors on its console and requests to other machines fail the test."""
    wrong: list[str] = []
    contexts = []

    def open_page(
        query: str = "",
        width: int = 1280,
        scheme: str = "light",
        url: str | None = None,
        refusals: bool = False,
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()

        def told(message: Any) -> None:
            # The browser itself reports an answer that refuses a question.
            if message.type in ("error", "warning") and not (refusals and "400" in message.text):
                wrong.append(message.text)

        def asked(one: Any) -> None:
            if not re.match(r"http://127\.0\.0\.1:\d+/|data:|blob:", one.url):
                wrong.append(f"asked {one.url}")

        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(error.stack or str(error)))
        page.on("request", asked)
        # A server is started only for the tests that need one.
        address = url or request.getfixturevalue("served").url
        page.goto(f"{address}?{query}" if query else address)
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
