"""Figures on simulated data, of the paper and others, one file each.

An experiment is a module of this package with a `Config` of defaults, `run(config, progress) -> Dataset`,
`plot(dataset) -> Figure` and `finding(dataset) -> str`, which says in Markdown what the picture shows. It may
have `more_plots(dataset)`, with further figures by name, and `tables(dataset)`, with JSON by name. A new file
is found without being listed. `python -m experiments NAME` runs an experiment, writes its data and pictures,
and puts its finding into `findings.json`. `experiments.shared` holds what several experiments use.
"""
