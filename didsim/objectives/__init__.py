"""Objectives: the catalogue of losses, and the parts that they are made of.

catalogue     one function for each objective, and `OBJECTIVES`, which holds them by name
objective     a sum of terms, with its loss on given pairs and over a population of pairs
terms         losses of a pair, and losses of one of its two sequences
rewards       implicit rewards of a sequence
divergences   implicit rewards of f-DPO, from f-divergences
kernels       losses of a difference of rewards
"""

from didsim.objectives.catalogue import (
    OBJECTIVES,
    apo_down,
    apo_zero,
    bco,
    cdpo,
    cpo,
    discopop,
    dpo,
    dpo_pg,
    dpop,
    exo,
    exponential,
    fdpo_alpha,
    fdpo_forward_kl,
    fdpo_js,
    ipo,
    kto,
    length_normalised_dpo,
    nca,
    orpo,
    rdpo,
    reference_free,
    robust,
    sft,
    simpo,
    slic,
    sppo,
)
from didsim.objectives.divergences import Alpha, ForwardKL, JensenShannon
from didsim.objectives.kernels import (
    Exponential,
    Hinge,
    Kernel,
    Linear,
    Logistic,
    LogRatioModulated,
    ReverseCrossEntropy,
    Sigmoid,
    Squared,
)
from didsim.objectives.objective import KeepsChosen, Objective
from didsim.objectives.rewards import Guarded, LengthRegularised, LogOdds, LogProb, LogRatio, Reward
from didsim.objectives.terms import Pair, PairMean, PolicyMean, Single, Term

__all__ = [
    "OBJECTIVES",
    "Alpha",
    "Exponential",
    "ForwardKL",
    "Guarded",
    "Hinge",
    "JensenShannon",
    "KeepsChosen",
    "Kernel",
    "LengthRegularised",
    "Linear",
    "LogOdds",
    "LogProb",
    "LogRatio",
    "LogRatioModulated",
    "Logistic",
    "Objective",
    "Pair",
    "PairMean",
    "PolicyMean",
    "ReverseCrossEntropy",
    "Reward",
    "Sigmoid",
    "Single",
    "Squared",
    "Term",
    "apo_down",
    "apo_zero",
    "bco",
    "cdpo",
    "cpo",
    "discopop",
    "dpo",
    "dpo_pg",
    "dpop",
    "exo",
    "exponential",
    "fdpo_alpha",
    "fdpo_forward_kl",
    "fdpo_js",
    "ipo",
    "kto",
    "length_normalised_dpo",
    "nca",
    "orpo",
    "rdpo",
    "reference_free",
    "robust",
    "sft",
    "simpo",
    "slic",
    "sppo",
]
