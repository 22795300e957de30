"""Where preference pairs come from.

problem       what every source of pairs can be asked
contrastive   chosen and rejected sequences drawn independently
labelled      two sequences drawn independently, then labelled by a reward
explicit      a finite dataset of pairs, or a table of all pairs
mixture       one of several sources at a time
online        labelled pairs whose samplers depend on the policy
rejected      distributions that rejected sequences may be drawn from
"""

from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.mixture import Mixture
from didsim.preferences.online import SAMPLERS, Online, OnPolicy, RewardDifference, Sampler, Uniform
from didsim.preferences.problem import Problem
from didsim.preferences.rejected import REJECTED, optimal_rejected

__all__ = [
    "REJECTED",
    "SAMPLERS",
    "Contrastive",
    "Joint",
    "Labelled",
    "Mixture",
    "OnPolicy",
    "Online",
    "Pairs",
    "Problem",
    "RewardDifference",
    "Sampler",
    "Uniform",
    "optimal_rejected",
]
