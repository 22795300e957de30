"""Rewards estimated from finite data, judged on held-out data, and the policy that is best for a reward.

reward_model    the call: maximum likelihood, or with a Gaussian prior
kl_optimum      the policy of the highest reward less its divergence from a reference
held_out        splits of data, and how a policy does on what was held out
cross_validate  minimisers along a parameter, judged on folds
bootstrap       refits to resamples of the data
fitted          what was fitted, with standard errors
estimates       numbers with standard errors
identification  which rewards the data identify, by name
model           what is minimised: likelihood, features and prior
newton          the minimiser
likelihood      the interface of a likelihood
of_pairs        the likelihood of pairs
of_rankings     the likelihood of rankings and choices
tie_models      how a pair can end
"""

from didsim.estimation.bootstrap import BootstrapFit, bootstrap
from didsim.estimation.cross_validate import CrossValidation, cross_validate
from didsim.estimation.estimates import Estimates
from didsim.estimation.fitted import FitCertificate, RewardFit
from didsim.estimation.held_out import HeldOut, held_out, split
from didsim.estimation.identification import Identification
from didsim.estimation.kl_optimum import kl_optimum
from didsim.estimation.reward_model import reward_model
from didsim.estimation.tie_models import TIE_MODELS

__all__ = [
    "TIE_MODELS",
    "BootstrapFit",
    "CrossValidation",
    "Estimates",
    "FitCertificate",
    "HeldOut",
    "Identification",
    "RewardFit",
    "bootstrap",
    "cross_validate",
    "held_out",
    "kl_optimum",
    "reward_model",
    "split",
]
