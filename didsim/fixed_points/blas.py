"""LAPACK on one thread, while a solver runs.

The threads of LAPACK wait for work by spinning. So they hold the cores that the compiled program needs
between two decompositions. With one thread, minimisers over 256 to 1,024 sequences take half to two thirds
as long.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator

import scipy.linalg  # noqa: F401  # the library that must be loaded to be found
from threadpoolctl import ThreadpoolController

_is_limited = threading.Lock()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """A context in which LAPACK has one thread, in the whole process.

    Only the first of contexts that overlap sets the number of threads, and sets it back when it ends. The
    others leave it as it is. So none can set it back to what another one has set.
    """
    if not _is_limited.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _is_limited.release()
