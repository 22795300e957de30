"""Settings of the whole suite: float64 on, so that float32 is what a test asks for by dtype."""

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)

# Each new shape compiles, which is slow once and no fault of the test.
settings.register_profile(
    "didsim",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("didsim")
