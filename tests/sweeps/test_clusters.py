import errno
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import dask
import distributed
import pytest

import didsim
from didsim.sweeps.clusters import dask_executor

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


@pytest.mark.slow
def test_the_page_s_example_prints_what_stands_below_it(tmp_path: Path) -> None:
    ((code, printed),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == printed
    assert didsim.open_results(tmp_path / "two_workers.zarr").sizes["beta"] == 2


@pytest.mark.parametrize("address", ["local", "local:", "local:0", "local:two", "local:-1"])
def test_a_local_cluster_has_a_number_of_workers(address: str) -> None:
    message = f"a local cluster is local:WORKERS.*'{address}'"
    with pytest.raises(ValueError, match=message), dask_executor(address):
        pass


@pytest.mark.slow
def test_a_local_cluster_serves_no_web_page() -> None:
    with dask_executor("local:1"):
        client = distributed.default_client()
        address = ("127.0.0.1", client.cluster.scheduler.http_server.port)
        # The server is stopped in Dask's own thread.
        for _ in range(50):
            time.sleep(0.1)
            if socket.socket().connect_ex(address):
                break
        assert socket.socket().connect_ex(address) == errno.ECONNREFUSED
        (worker,) = client.scheduler_info()["workers"].values()
        port = worker["services"]["dashboard"]
        for page in ("", "status", "health", "metrics"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5)


def test_an_address_without_a_scheduler() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(OSError, match=r"tcp://127\.0\.0\.1:1"),
        dask_executor("tcp://127.0.0.1:1"),
    ):
        pass
