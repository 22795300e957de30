"""Examples with real data, run by `python -m examples.NAME`."""
