"""What preference optimisation teaches a policy, computed exactly on tabular policies."""

from didsim.families import (
    best_of_n,
    dirichlet,
    markov,
    mixture,
    normal_logits,
    temper,
    worst_of_n,
    zipf,
)
from didsim.fixed_points import fixed_point
from didsim.information import (
    bayes_update,
    did,
    did_entropy,
    entropy,
    expectation,
    geodesic,
    js,
    kl,
    total_variation,
)
from didsim.margins import (
    OrderReport,
    PowerLaw,
    check_order,
    fit_power_law,
    log_margin,
    pair_exponent,
)
from didsim.objectives import (
    OBJECTIVES,
    Objective,
    cdpo,
    cpo,
    dpo,
    exponential,
    ipo,
    orpo,
    reference_free,
    simpo,
    slic,
)
from didsim.online import SAMPLERS, Mixture, Online, OnPolicy, RewardDifference, Sampler, Uniform
from didsim.pairwise import Analytic, PiecewiseLinear, Polynomial, pair_sum, tiled_pair_sum
from didsim.policies import Autoregressive, EnergyBased, LogLinear, Policy
from didsim.preferences import Contrastive, Labelled, Pairs, Problem
from didsim.recording import METRICS, Record, Snapshot
from didsim.rejected import REJECTED, optimal_rejected
from didsim.spaces import SequenceSpace
from didsim.training import DivergenceError, Run, train

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "OBJECTIVES",
    "REJECTED",
    "SAMPLERS",
    "Analytic",
    "Autoregressive",
    "Contrastive",
    "DivergenceError",
    "EnergyBased",
    "Labelled",
    "LogLinear",
    "Mixture",
    "Objective",
    "OnPolicy",
    "Online",
    "OrderReport",
    "Pairs",
    "PiecewiseLinear",
    "Policy",
    "Polynomial",
    "PowerLaw",
    "Problem",
    "Record",
    "RewardDifference",
    "Run",
    "Sampler",
    "SequenceSpace",
    "Snapshot",
    "Uniform",
    "bayes_update",
    "best_of_n",
    "cdpo",
    "check_order",
    "cpo",
    "did",
    "did_entropy",
    "dirichlet",
    "dpo",
    "entropy",
    "expectation",
    "exponential",
    "fit_power_law",
    "fixed_point",
    "geodesic",
    "ipo",
    "js",
    "kl",
    "log_margin",
    "markov",
    "mixture",
    "normal_logits",
    "optimal_rejected",
    "orpo",
    "pair_exponent",
    "pair_sum",
    "reference_free",
    "simpo",
    "slic",
    "temper",
    "tiled_pair_sum",
    "total_variation",
    "train",
    "worst_of_n",
    "zipf",
]
