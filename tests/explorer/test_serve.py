"""The command: ports, extras, the export; and a log that is dropped on the page."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from didsim.cli import app
from didsim.explorer import serve
from didsim.explorer.dropped import curve_of
from didsim.explorer.export import export
from didsim.explorer.presets import PRESETS
from tests.explorer.conftest import Open
from tests.explorer.reading import SLOWED, bar, counter, settled
from tests.test_lm_is_extra import BLOCKED, output_of

RUNNER = CliRunner()


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = RUNNER.invoke(app, ["explore", "--port", str(port), "--no-browser"])
    assert result.exit_code == 2
    assert f"`port` {port} of 127.0.0.1 is in use" in result.output
    assert "--port 0" in result.output


def test_a_host_that_is_none_is_told() -> None:
    result = RUNNER.invoke(app, ["explore", "--host", "no.such.host.invalid", "--no-browser"])
    assert result.exit_code == 2
    assert "`host` no.such.host.invalid" in result.output


def test_it_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    with serve.listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", serve.address(listening))
    with serve.listen("0.0.0.0", 0) as listening:
        assert serve.address(listening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("name", ["uvicorn", "starlette"])
def test_without_the_extra_the_error_names_it(name: str) -> None:
    program = """
from typer.testing import CliRunner
from didsim.cli import app
print(CliRunner().invoke(app, ["explore", "--port", "0", "--no-browser"]).output)
"""
    assert "pip install 'didsim[explorer]'" in output_of(BLOCKED.format(name=name) + program)


def test_bars_without_anywidget_name_the_extra_and_nothing_else_needs_it() -> None:
    program = """
import sys, didsim.cli, didsim.explorer.answers
assert "anywidget" not in sys.modules
try:
    didsim.explorer.Bars
except ImportError as error:
    print(error)
"""
    told = output_of(BLOCKED.format(name="anywidget") + program)
    assert "anywidget is not installed; it comes with pip install 'didsim[explorer]'" in told


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "page"
    export(folder)
    return folder


@pytest.fixture
def hosted(exported: Path) -> Iterator[str]:
    """The export behind a server that knows nothing of Python's side."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(exported))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.slow
def test_the_export_holds_answers_for_every_preset_and_asks_nobody(exported: Path) -> None:
    settings = json.loads((exported / "settings.json").read_text())
    assert set(settings["answers"]) == set(PRESETS)
    for path in exported.iterdir():
        # Names of formats are no requests.
        text = path.read_text().replace("http://www.w3.org/", "")
        assert not re.search(r"https?://", text), path


@pytest.mark.slow
def test_an_export_goes_into_a_new_or_empty_folder(exported: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["explore", "--export", str(exported)])
    assert result.exit_code == 2
    assert "`export` must be a new or an empty folder" in result.output
    (tmp_path / "file").write_text("")
    assert RUNNER.invoke(app, ["explore", "--export", str(tmp_path / "file")]).exit_code == 2
    assert "URL" in RUNNER.invoke(app, ["explore", "--export", "s3://a/b"]).output


@pytest.mark.slow
def test_bars_and_presets_work_in_the_export_without_python(opened: Open, hosted: str) -> None:
    page = opened(url=hosted)
    for name in PRESETS:
        page.click(f"#presets button[data-preset={name}]")
        settled(page)
        assert "{" not in page.inner_text("#notice span")
        assert len(page.inner_text("#notice span")) > 60
        assert page.locator("#training-card .needs").is_hidden(), name
    assert "falls without end" in page.inner_text("#notice span")
    page.click("#presets button[data-preset=twelvefold]")
    page.click("#step")
    assert page.inner_text("#at") == "step 4"
    before = counter(page)
    bar(page, "chosen", "Best").focus()
    page.keyboard.press("PageUp")
    assert counter(page) != before
    page.wait_for_selector('#training-card .needs:has-text("didsim explore")')
    page.click("#tab-sequences")
    page.wait_for_selector('#space-card .needs:has-text("didsim explore")')


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "notes.txt is empty"),
        (b"milk\n", "notes.txt is not a training log"),
        (b"\x00\x01", "notes.txt is not a training log"),
        (b"step,loss\n1,0.6\n2,0.5\n", "notes.txt (CSV) holds no preference metric"),
        (b"step,rewards/chosen\n1,0.6\n", "notes.txt"),
        (b"step,rewards/margins\n1,0.6\n2,0.7\n", "has no curve of chosen responses"),
    ],
)
def test_a_file_that_is_no_log_is_named(data: bytes, told: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- `told` is looked for below
        curve_of(data, "../notes.txt")
    assert told in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_a_log_is_read_as_the_diagnosis_reads_it() -> None:
    log = b"step,logps/chosen,rewards/chosen\n10,-40,0.0\n20,-42.5,-0.25\n"
    found = curve_of(log, "log.csv")
    assert (found["at"], found["values"], found["unit"]) == ([10, 20], [0, -2.5], "step")
    rewards = curve_of(b"step,rewards/chosen\n10,0.1\n20,-0.25\n", "log.csv")
    assert (rewards["values"], rewards["label"]) == ([0.1, -0.25], "chosen reward")


def test_the_server_ends_on_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "didsim", "explore", "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    told = process.stdout.readline().partition(" at ")[2].partition(" (")[0]
    start = time.perf_counter()
    while time.perf_counter() < start + 20:  # until it answers
        with contextlib.suppress(OSError), urllib.request.urlopen(told.strip(), timeout=20) as page:
            assert page.status == 200
            break
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    # It does not wait for programs that are being compiled.
    assert process.wait(20) == 130
    assert time.perf_counter() - start < SLOWED * 3
