"""The theory's questions, asked of a real training run.

findings    what a diagnosis says: numbers with intervals, findings with a grade
diagnose    from files to a diagnosis
arguments   what may be asked of it
wording     how numbers are put into words
names       the names under which trainers log what is needed
recognise   whether a file is a table of pairs or a log
logs/       what a trainer's log shows
tables      files of tables, read column by column
resampling  intervals, by a bootstrap that draws whole prompts
pairs/      what a table of pairs shows
samples/    what a table of samples shows
report/     a diagnosis on a terminal, and as files
demo        a simulated run whose truth is known

Names are imported when they are first used, so that a log is diagnosed without JAX. The list of names is
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
