"""What several experiments share.

configs    settings, and how the command line changes them
training   random keys, the optimiser, runs and studies
limits     objectives at comparable settings, and where each ends
results    the files of an experiment
readme     the README's table of objectives
"""
