"""The theory's questions, asked of a real training run.

Names are imported when they are first used, so that a log is diagnosed without JAX. The list of names is
`__init__.pyi`.

findings          what a diagnosis says: numbers with intervals, findings with a grade
pairs             a table of pairs, from file to findings; it lists the files that do so
samples           the DID entropy and the fall to be expected, from samples
sample_table      a table of samples, from file to findings
demo              a simulated run whose truth is known
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
