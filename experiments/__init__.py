"""Figures on simulated data, of the paper and others, one file each.

An experiment is a module of this package with a `Config` of defaults, `run(config, progress) -> Dataset` and
`plot(dataset) -> Figure`. A new file is found without being listed. `python -m experiments NAME` runs an
experiment and writes its data and picture. `experiments.shared` holds what several experiments use.
"""
