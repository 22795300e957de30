"""The synthetic figures of the paper and beyond, one file each.

An experiment is a module with a `Config` of defaults, `run(config, progress) -> Dataset` and
`plot(dataset) -> Figure`. `python -m experiments NAME` runs one and writes its data and picture.
"""
