"""`python -m tests.explorer.picture` draws the picture of the explorer: `figures/explorer.png`."""

import shutil
import socket
import threading
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from didsim.explorer.serve import address, listen
from didsim.explorer.server import application
from tests.explorer.reading import settled

OUT = Path(__file__).parents[2] / "figures" / "explorer.png"
STEP = "30"


def main() -> None:
    """Open the first preset, play a part of its training, and take a picture of its upper part."""
    listening: socket.socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(), log_level="warning"))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1160}, device_scale_factor=1.5)
        page.goto(address(listening))
        page.wait_for_selector("html[data-ready]")
        settled(page)
        page.locator("#scrub").fill(STEP)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=OUT)
        browser.close()
    # With 256 colours its file is about a third as large.
    Image.open(OUT).convert("RGB").quantize(256).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
