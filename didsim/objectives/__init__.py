"""Objectives: the catalogue of losses, and the parts that they are made of.

catalogue        one function for each objective, and `OBJECTIVES`, which holds them by name
objective        a sum of terms, with its loss on given pairs and over a population of pairs
terms            losses of a pair, and losses of one of its two sequences
baselines        numbers that losses of one sequence subtract from its reward
expected_reward  terms of the reward that a policy expects
prior            a term of the whole policy: its divergence from the reference
proximal         a term anchored between the reference and the policy before the step
worst_group      the worst of several groups
transport        terms that sort rewards before they compare them
tokens           terms that depend on the single tokens of a pair
rewards          implicit rewards of a sequence
divergences      implicit rewards that are no logarithms: of f-DPO, χPO and AlphaPO
kernels          losses of a difference of rewards
reference        references with zeros where no pair looks
ties             the loss of pairs that can end in a tie
curvature        Hessians of these losses in the logits, by their structure
"""

from didsim.objectives.baselines import Baseline, ClippedPairMean, PairMean, PolicyMean
from didsim.objectives.catalogue import (
    OBJECTIVES,
    alphapo,
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco,
    bdpo,
    cdpo,
    chi_po,
    cpo,
    discopop,
    dpo,
    dpo_pg,
    dpo_rao_kupper,
    dpo_shift,
    dpop,
    exo,
    exponential,
    fdpo_alpha,
    fdpo_forward_kl,
    fdpo_js,
    h_dpo,
    inpo,
    ipo,
    kl_to_reference,
    kto,
    ld_dpo,
    length_normalised_dpo,
    nca,
    npo,
    orpo,
    policy_gradient,
    ppo,
    rdpo,
    reference_free,
    robust,
    sft,
    simpo,
    slic,
    sppo,
    wpo,
)
from didsim.objectives.divergences import Alpha, ChiSquared, ForwardKL, JensenShannon, PowerProb
from didsim.objectives.expected_reward import ClippedReward, ExpectedReward
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
from didsim.objectives.prior import Divergence
from didsim.objectives.proximal import ProximalPair
from didsim.objectives.rewards import (
    Guarded,
    LengthRegularised,
    LogOdds,
    LogProb,
    LogRatio,
    MixedWithReference,
    Reward,
    Shrunk,
    WeightedEntropy,
)
from didsim.objectives.terms import LabelledSquare, Pair, PairOrTie, Single, Term
from didsim.objectives.ties import RaoKupper, TieKernel
from didsim.objectives.tokens import PolicyWeighted, SharedLength, TokenTerm
from didsim.objectives.transport import SortedMargins, SortedRewards
from didsim.objectives.worst_group import WorstGroup, worst_group

__all__ = [
    "OBJECTIVES",
    "Alpha",
    "Baseline",
    "ChiSquared",
    "ClippedPairMean",
    "ClippedReward",
    "Divergence",
    "ExpectedReward",
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
    "MixedWithReference",
    "Objective",
    "Pair",
    "PairMean",
    "PairOrTie",
    "PolicyMean",
    "PolicyWeighted",
    "PowerProb",
    "ProximalPair",
    "RaoKupper",
    "ReverseCrossEntropy",
    "Reward",
    "SharedLength",
    "Shrunk",
    "Sigmoid",
    "Single",
    "SortedMargins",
    "SortedRewards",
    "Squared",
    "SumOfForms",
    "Term",
    "TieKernel",
    "TokenTerm",
    "WeightedEntropy",
    "WorstGroup",
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "bco",
    "bdpo",
    "cdpo",
    "chi_po",
    "cpo",
    "discopop",
    "dpo",
    "dpo_pg",
    "dpo_rao_kupper",
    "dpo_shift",
    "dpop",
    "exo",
    "exponential",
    "fdpo_alpha",
    "fdpo_forward_kl",
    "fdpo_js",
    "h_dpo",
    "inpo",
    "ipo",
    "kl_to_reference",
    "kto",
    "ld_dpo",
    "length_normalised_dpo",
    "nca",
    "npo",
    "orpo",
    "policy_gradient",
    "ppo",
    "rdpo",
    "reference_free",
    "robust",
    "sft",
    "simpo",
    "slic",
    "sppo",
    "worst_group",
    "wpo",
]
