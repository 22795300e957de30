"""The figures of the paper and others on simulated data, one file each.

An experiment is a module of this package with a `Config` of defaults, `run(config, progress) -> Dataset` and
`plot(dataset) -> Figure`. A new file is found by itself. `python -m experiments NAME` runs an experiment and
writes its data and picture. What experiments share is in `experiments.shared`.
"""
