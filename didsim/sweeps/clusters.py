"""Executors on a Dask cluster."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

from didsim._imports import Source, run_sources


@contextmanager
def dask_executor(address: str, sources: Sequence[Source] = ()) -> Iterator[Executor]:
    """An executor on a Dask cluster.

    Args:
        address: that of a scheduler, as "tcp://10.0.0.1:8786"; or "local:2", for a cluster of two worker
            processes on this machine, which ends with the context and serves no web page.
        sources: Python files that every worker runs first, also one that joins later. Their text is sent, so
            that workers need no shared disk.

    Raises:
        ValueError: Dask is not installed, or "local:" is not followed by a number of workers.
        OSError: there is no scheduler at that address.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("a Dask cluster needs Dask: pip install 'didsim[distributed]'") from None
    if address != "local" and not address.startswith("local:"):
        with Client(address) as client:
            client.register_worker_callbacks(partial(run_sources, sources))
            yield client.get_executor()
        return
    number = address.removeprefix("local:")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"a local cluster is local:WORKERS, with at least 1 worker; got {address!r}")
    with (
        # Without pages: Dask would answer a browser even without its dashboard.
        dask.config.set({f"distributed.{one}.http.routes": [] for one in ("scheduler", "worker")}),
        LocalCluster(n_workers=int(number), threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        cluster.loop.add_callback(cluster.scheduler.http_server.stop)
        # A terminal sends Ctrl-C to these processes, too, which must still finish their blocks.
        client.register_worker_callbacks(_ignore_interrupts)
        client.register_worker_callbacks(partial(run_sources, sources))
        yield client.get_executor()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
