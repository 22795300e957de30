"""Parts that several experiments use.

configs    settings, and how the command line changes them
training   random keys, the optimiser, runs and studies
limits     objectives at comparable settings, and the limit of each
names      readable names of objectives
results    the files of an experiment
findings   what every picture shows, in one file
gallery    the order of the gallery, and its page
running    which experiments are finished, and several side by side
wording    numbers in sentences
summary    the table of objectives
updates    random updates of six families
finite     what experiments on finite data share
language   training a language model towards a known target
chat_model a language model that answers in a chat, and its prompts as tokens
questions  questions for a small language model
parts      finished parts of a long experiment, kept in files
zeros      what each objective does to a sequence that is never chosen, or never rejected
"""
