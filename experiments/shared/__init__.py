"""Parts that several experiments use.

configs    settings, and how the command line changes them
training   random keys, the optimiser, runs and studies
limits     objectives at comparable settings, and the limit of each
results    the files of an experiment
readme     the README's table of objectives
"""
