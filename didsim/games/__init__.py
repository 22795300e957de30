"""Games: policies that no other policy is preferred to, when no reward explains the preferences.

nash            Nash policies, regularised and not
regularised     the search for the regularised one
exploitability  by how much a policy can be beaten
"""

from didsim.games.exploitability import exploitability
from didsim.games.nash import Equilibrium, nash

__all__ = ["Equilibrium", "exploitability", "nash"]
