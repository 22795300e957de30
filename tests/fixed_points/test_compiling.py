"""How solver programs are compiled."""

import os

import pytest

from didsim.fixed_points import compiling


@pytest.mark.core
def test_a_level_of_optimisation_that_the_environment_names_is_kept() -> None:
    """The slow lane names one, and the lane of what users compile names none."""
    level = "xla_backend_optimization_level"
    is_named = level in os.environ.get("XLA_FLAGS", "")
    for options in (compiling._FOR_SHORT, compiling._FOR_ONE_RUN):
        assert (level in options) is not is_named
    assert level not in compiling._FOR_LONG
