"""Settings of the whole suite: float64 on, so that float32 is what a test asks for by dtype."""

from collections.abc import Iterator

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)

# Each new shape compiles, which is slow once and no fault of the test.
settings.register_profile(
    "didsim",
    deadline=None,
    max_examples=35,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("didsim")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Thousands of programs in one process run into the system's limit on memory maps, and crash it."""
    yield
    jax.clear_caches()
