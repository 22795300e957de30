"""Sources of preference pairs. A pair is a chosen and a rejected sequence.

problem       the interface of every source
contrastive   chosen and rejected sequences are drawn independently
labelled      two sequences are drawn independently, then labelled by a reward
table         tables of preferences, with or without ties
by_table      two sequences are drawn independently, then labelled by a table
explicit      a finite dataset of pairs, or a table of all pairs
outcomes      the outcomes of comparisons, read from a table with names
rankings      rankings of several items, and choices of the best few
mixture       each pair comes from one of several sources
online        labelled pairs whose samplers depend on the policy
prompts       several prompts in one space
rejected      distributions to draw rejected sequences from
"""

from didsim.preferences.by_table import LabelledByTable
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Joint, NamedPairs, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.mixture import Mixture
from didsim.preferences.online import (
    SAMPLERS,
    CappedRewardDifference,
    Draw,
    DrawTable,
    Online,
    OnPolicy,
    PolicyAndUniform,
    RewardDifference,
    Sampler,
    Uniform,
)
from didsim.preferences.problem import Problem
from didsim.preferences.prompts import in_own_prompt
from didsim.preferences.rankings import Rankings
from didsim.preferences.rejected import REJECTED, optimal_rejected
from didsim.preferences.table import PreferenceTable

__all__ = [
    "REJECTED",
    "SAMPLERS",
    "CappedRewardDifference",
    "Contrastive",
    "Draw",
    "DrawTable",
    "Joint",
    "Labelled",
    "LabelledByTable",
    "Mixture",
    "NamedPairs",
    "OnPolicy",
    "Online",
    "Pairs",
    "PolicyAndUniform",
    "PreferenceTable",
    "Problem",
    "Rankings",
    "RewardDifference",
    "Sampler",
    "Uniform",
    "in_own_prompt",
    "optimal_rejected",
]
