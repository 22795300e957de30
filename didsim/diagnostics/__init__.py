"""The theory's questions, asked of a real training run.

findings      what a diagnosis says: numbers with intervals, findings with a grade
diagnose      from files to a diagnosis
arguments     what may be asked of it
recognise     whether a file is a table of pairs or a log
names         the names under which trainers log what is needed
formats       files of logs, read into records
tensorboard   the same for TensorBoard's event files
logs          a log as columns, for training pairs and for held-out ones
evidence      what the checks of a log share
beginnings    checks of the first rows, and of logs on which nothing moves
losses        checks of the loss
movement      checks of rewards: displacement, collapse, separable data
of_logs       all checks of a log, in order
log_pictures  the picture of a log
pairs         a table of pairs, from file to findings; it lists the files that do so
samples       the DID entropy and the fall to be expected, from samples
sample_table  a table of samples, from file to findings
demo          a simulated run whose truth is known
terminal      a diagnosis on a terminal
report        a diagnosis as files

Names are imported when they are first used, so that a log is diagnosed without JAX. The list of names is
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
