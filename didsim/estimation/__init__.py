"""The two stages that DPO does without: a reward of the pairs, and the best policy for a reward.

kl_optimum   the policy of the highest reward less its divergence from a reference
"""

from didsim.estimation.kl_optimum import kl_optimum

__all__ = ["kl_optimum"]
