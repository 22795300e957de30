"""A loss of pairs that can end in a tie: the Rao–Kupper model of paired comparisons."""

from abc import abstractmethod
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from didsim import _checks
from didsim.objectives.curvature import OfRewards, of_table
from didsim.objectives.kernels import Kernel, Logistic
from didsim.objectives.rewards import Scalar
from didsim.preferences.explicit import Joint
from didsim.preferences.problem import Problem
from didsim.preferences.table import log_tie_factor


class TieKernel(Kernel):
    """A kernel that also has a loss for a tie."""

    @abstractmethod
    def of_tie(self, difference: Array) -> Array:
        """The loss of a tie, elementwise. It is even, as the two sequences of a tie have no order."""


class RaoKupper(TieKernel):
    """Minus the log-likelihood of an outcome in the model of Rao and Kupper, `PreferenceTable.rao_kupper`.

        win:  −log σ(d − log θ)
        tie:  −log(θ² − 1) − log σ(d − log θ) − log σ(−d − log θ)

    So a tie is as good as a win for both sequences, up to a constant. The loss of wins alone never increases
    with `d`, and has its infimum at infinity. It is convex, and so is the loss of ties.
    """

    convex: ClassVar[bool] = True

    theta: Scalar = eqx.field(converter=partial(_checks.within, "theta", low=1 + 1e-6, high=1e6))

    @property
    def _win(self) -> Logistic:
        # Set afterwards, since the constructor would check inside compiled programs what `theta` has shown.
        return eqx.tree_at(lambda kernel: kernel.margin, Logistic(margin=jnp.zeros(())), jnp.log(self.theta))

    @property
    def falling(self) -> bool:
        return True

    @property
    def falls_for_ever(self) -> Bool[np.ndarray, "*batch"]:
        return self._win.falls_for_ever

    def __call__(self, difference: Array) -> Array:
        return self._win(difference)

    def of_tie(self, difference: Array) -> Array:
        return self(difference) + self(-difference) - log_tie_factor(jnp.log(self.theta))

    def expect(self, problem: Problem, h: Array) -> Array:
        """`E kernel(h_chosen − h_rejected)`, with the loss of a tie where a pair is tied."""
        # The problem counts a tie as half a win for either sequence, which is half of a tie's loss.
        return self._win.expect(problem, h) + problem.expect_ties(self._beyond_half_wins, h)

    def own_curvature(self, problem: Problem, h: Array) -> Array:
        """That of wins, of which a tie counts as half a one for either sequence: at least half the truth."""
        return self._win.own_curvature(problem, h)

    def curvature(self, table: Joint, x: Array, y: Array) -> OfRewards:
        wins = super().curvature(table, x, y)
        if table.log_ties is None:
            return wins
        return jax.tree.map(jnp.add, wins, of_table(table.log_ties, self._beyond_half_wins, x, y))

    def _beyond_half_wins(self, difference: Array) -> Array:
        return (self(difference) + self(-difference)) / 2 - log_tie_factor(jnp.log(self.theta))
