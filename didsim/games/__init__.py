"""Games: policies that no other is preferred to, and policies whose worst group is best off.

nash            Nash policies, regularised and not
regularised     the search for the regularised one
exploitability  by how much a policy can be beaten
worst_group     the policy whose worst group is best off
"""

from didsim.games.exploitability import exploitability
from didsim.games.nash import Equilibrium, nash
from didsim.games.worst_group import GroupSolution, group_losses, solve_worst_group

__all__ = [
    "Equilibrium",
    "GroupSolution",
    "exploitability",
    "group_losses",
    "nash",
    "solve_worst_group",
]
