"""Tests of `didsim.lm`, all of which are skipped without its extra."""

import pytest

for package in ("torch", "transformers", "accelerate"):
    pytest.importorskip(package, reason=f"{package} is not installed; it comes with didsim[lm]")
