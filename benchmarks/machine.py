"""On what machine, and with which versions, numbers were measured."""

import datetime
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from didsim._versions import versions


@dataclass(frozen=True)
class Machine:
    """A machine and its software.

    Attributes:
        cpu: the processor's name.
        cores: logical cores that this process may use.
        memory_gib: physical memory.
        os: the operating system.
        python: version of Python.
        jax: version of JAX.
        jaxlib: version of its compiled part.
        device: what JAX computes on.
        date: today, as ISO 8601.
    """

    cpu: str
    cores: int
    memory_gib: float
    os: str
    python: str
    jax: str
    jaxlib: str
    device: str
    date: str


def this_machine() -> Machine:
    """The machine that this runs on."""
    import jax

    software = versions(("jax", "jaxlib"))
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        os=platform.system(),
        python=software["python"],
        jax=software["jax"],
        jaxlib=software["jaxlib"],
        device=jax.default_backend(),
        date=datetime.date.today().isoformat(),
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
