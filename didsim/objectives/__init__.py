"""Objectives: the catalogue of losses, and the parts that they are made of.

catalogue     one function for each objective, and `OBJECTIVES`, which holds them by name
objective     a sum of terms, with its loss on given pairs and over a population of pairs
terms         losses of a pair, and losses of one of its two sequences
rewards       implicit rewards of a sequence
divergences   implicit rewards of f-DPO, from f-divergences
kernels       losses of a difference of rewards
reference     references with zeros where no pair looks
ties          the loss of pairs that can end in a tie
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
from didsim.objectives.catalogue.log_ratios import dpo_rao_kupper
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
    SumOfForms,
)
from didsim.objectives.objective import KeepsChosen, Objective
from didsim.objectives.rewards import Guarded, LengthRegularised, LogOdds, LogProb, LogRatio, Reward
from didsim.objectives.terms import (
    Baseline,
    ClippedPairMean,
    LabelledSquare,
    Pair,
    PairMean,
    PairOrTie,
    PolicyMean,
    Single,
    Term,
)
from didsim.objectives.ties import RaoKupper, TieKernel

__all__ = [
    "OBJECTIVES",
    "Alpha",
    "Baseline",
    "ClippedPairMean",
    "Exponential",
    "ForwardKL",
    "Guarded",
    "Hinge",
    "JensenShannon",
    "KeepsChosen",
    "Kernel",
    "LabelledSquare",
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
    "PairOrTie",
    "PolicyMean",
    "RaoKupper",
    "ReverseCrossEntropy",
    "Reward",
    "Sigmoid",
    "Single",
    "Squared",
    "SumOfForms",
    "Term",
    "TieKernel",
    "apo_down",
    "apo_zero",
    "bco",
    "cdpo",
    "cpo",
    "discopop",
    "dpo",
    "dpo_pg",
    "dpo_rao_kupper",
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
