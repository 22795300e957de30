"""Terms that sort rewards before they compare them: alignment via optimal transport (AOT).

In a batch, the smallest reward on one side is compared with the smallest on the other, the next with the
next, and so on. In a population, quantiles take the place of ranks. The quantile function `Q(u)` of a
distribution is its smallest value that at least a share `u` of the distribution does not exceed.

Of all ways to match the two sides, sorting both gives the least mean of a convex kernel. So each term is the
smallest of many losses of pairs, one for each way to match. It need not be convex. It has corners where two
of the sorted values tie. A minimum is never at a corner unless all matches that tie there are stationary: a
step that lowers one of them lowers the term. (Derived here.) Derivatives are those of one of these matches.
"""

import jax.numpy as jnp
from jaxtyping import Array

from didsim import _checks
from didsim._differences import difference
from didsim.objectives.kernels import Kernel
from didsim.objectives.rewards import LogRatio, given_reference
from didsim.objectives.terms import Population, Sequences, Term, check_parts
from didsim.preferences.problem import at_indices


class SortedTerm(Term):
    """A loss of the ranks of a batch, not of single pairs."""

    def __post_init__(self) -> None:
        check_parts(self)

    def of_labels(
        self, chosen: Sequences, rejected: Sequences, baseline: Array | None, win_probs: Array
    ) -> Array:
        """Refused: no rank belongs to one pair.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "`win_probs` and `tied` must not be given for a loss that sorts the batch: it has no loss of "
            "single pairs. `loss` takes Pairs with soft labels and ties"
        )


class SortedRewards(SortedTerm):
    """`weight · E_u kernel(Q_w(u) − Q_l(u))`, with quantiles `Q_w` of `h(y_w)` and `Q_l` of `h(y_l)`."""

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The loss of each rank: entry `k` has the `k`-th smallest chosen and rejected reward."""
        return _of_ranks(self.kernel, self.reward(*chosen), self.reward(*rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        """The integral over `u`. O(N log N), once the marginals are known."""
        h = self.reward.of_space(*space)
        weights = (jnp.exp(marginal).astype(h.dtype) for marginal in over.marginals)
        return _of_quantiles(self.kernel, h, h, *weights)


class SortedMargins(SortedTerm):
    """`weight · E_u kernel(Q(u) − Q_ref(u))`, with quantiles of margins over pairs.

    `Q` belongs to `beta · [log π(y_w) − log π(y_l)]`, and `Q_ref` to the same margin of the reference.
    """

    reward: LogRatio

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.instance("reward", self.reward, LogRatio, "a LogRatio")

    def of_pairs(self, chosen: Sequences, rejected: Sequences, baseline: Array | None) -> Array:
        """The loss of each rank: entry `k` has the `k`-th smallest margins of policy and reference."""
        beta = self.reward.beta
        margins = beta * (chosen.logps - rejected.logps)
        of_reference = given_reference(chosen.ref_logps) - given_reference(rejected.ref_logps)
        return _of_ranks(self.kernel, margins, beta * of_reference)

    def expected(self, space: Sequences, over: Population) -> Array:
        """The integral over `u`. O(N² log N) time, O(N²) memory; for P pairs O(P log P) time."""
        pairs = over.problem.listed(space.logps.shape[-1])
        margins, of_reference = (
            self.reward.beta * (at_indices(logps, pairs.winners) - at_indices(logps, pairs.losers))
            for logps in (space.logps, given_reference(space.ref_logps))
        )
        weights = pairs.weights.astype(margins.dtype)
        return _of_quantiles(self.kernel, margins, of_reference, weights, weights)


def _of_ranks(kernel: Kernel, x: Array, y: Array) -> Array:
    """The kernel of sorted differences, in the shape that `x` and `y` broadcast to."""
    x, y = jnp.broadcast_arrays(x, y)
    return kernel(difference(jnp.sort(x, axis=None), jnp.sort(y, axis=None))).reshape(x.shape)


def _of_quantiles(kernel: Kernel, x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
    """`∫ kernel(Q_x(u) − Q_y(u)) du` from 0 to 1, for weights that sum to one.

    Both quantile functions are constant between the sums of sorted weights, where one of them jumps.
    """

    def one(x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
        order_x, order_y = jnp.argsort(x), jnp.argsort(y)
        jumps = jnp.concatenate([jnp.cumsum(weights_x[order_x]), jnp.cumsum(weights_y[order_y])])
        order = jnp.argsort(jumps)
        widths = jnp.diff(jumps[order], prepend=0)
        of_x = order < len(x)
        # How many jumps of each lie before an interval. The sums may end an eps apart.
        before_x = jnp.minimum(jnp.cumsum(of_x) - of_x, len(x) - 1)
        before_y = jnp.minimum(jnp.cumsum(~of_x) - ~of_x, len(y) - 1)
        return jnp.sum(widths * kernel(difference(x[order_x][before_x], y[order_y][before_y])))

    return jnp.vectorize(one, signature="(n),(m),(n),(m)->()")(x, y, weights_x, weights_y)
