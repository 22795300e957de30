"""One MLIR context for the programs of a thread, in place of one for each program.

JAX makes a new context, with all its dialects, whenever it lowers a program. That takes 5 ms, half of
what a program of one operation takes in all. A context may hold any number of programs.
"""

import threading

from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir

_make = mlir.make_ir_context
_of_thread = threading.local()


def share() -> None:
    """Have JAX take the context of the thread wherever it would make one."""
    mlir.make_ir_context = _context


def _context() -> ir.Context:
    # A program that is lowered while another one is must not become a part of it.
    if ir.Context.current is not None:
        return _make()
    if not hasattr(_of_thread, "context"):
        _of_thread.context = _make()
    return _of_thread.context
