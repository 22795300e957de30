"""Executors on a Dask cluster."""

import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """An executor on a Dask cluster.

    Args:
        address: that of a scheduler, as "tcp://10.0.0.1:8786"; or "local:2", for a cluster of two worker
            processes on this machine, which ends with the context.

    Raises:
        ValueError: Dask is not installed, or "local:" is not followed by a number of workers.
        OSError: there is no scheduler at that address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("a Dask cluster needs Dask: pip install 'didsim[distributed]'") from None
    if not address.startswith("local:"):
        with Client(address) as client:
            yield client.get_executor()
        return
    number = address.removeprefix("local:")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"a local cluster is local:WORKERS, with a number of at least 1; got {address!r}")
    with (
        LocalCluster(n_workers=int(number), threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        # A terminal sends Ctrl-C to all of its processes, and these still have blocks in hand.
        client.register_worker_callbacks(_ignore_interrupts)
        yield client.get_executor()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
