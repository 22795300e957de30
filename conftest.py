"""Settings of the whole suite, doctests too: float64, so that float32 is what a test asks for by dtype."""

import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

# Most of the time goes into compiling thousands of small programs that run for a millisecond. Without XLA's
# optimiser a program computes the same formulas, and compiles in a quarter of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)
# A program names the source of each operation, by up to a hundred frames, most of them pytest's and
# Hypothesis's. One is enough, and takes less time to write.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "1")
# What one module, worker or subprocess compiled, no other has to. JAX reads this when it is imported.
_CACHE = Path(__file__).parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from tests import signatures  # noqa: E402

# Doctests import every module, and these take an extra.
_TAKE_PYTORCH = ["didsim/lm", "experiments/shared/language.py"]
collect_ignore = [] if find_spec("torch") and find_spec("transformers") else _TAKE_PYTORCH

jax.config.update("jax_enable_x64", True)
signatures.enforce()

# Each new shape compiles, which is slow once and no fault of the test.
settings.register_profile(
    "didsim",
    deadline=None,
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("didsim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first, so that at the end no worker is left alone with a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Thousands of programs in one process run into the system's limit on memory maps, and crash it."""
    yield
    jax.clear_caches()
