"""How a comparison of two items ends, as a function of the difference `d` of their rewards.

    half          P(win) = σ(d).  A tie counts as half a win for either item.
    davidson      P(win) ∝ e^(d/2),  P(tie) ∝ ν,  P(loss) ∝ e^(−d/2)
    rao_kupper    P(win) = σ(d − log θ),  P(loss) = σ(−d − log θ),  P(tie) = the rest

The second and third have a parameter for ties that is estimated with the rewards: `log ν`, any number, and
`log θ`, positive. In each the negative log-likelihood is convex in `d` and this parameter together: it is a
log-sum-exp of affine functions for Davidson, and for Rao–Kupper the sum of two such functions of `log θ ± d`
and of `−log(θ² − 1)`, which is convex in `log θ`. (Derived here.) Sources: Davidson, "On extending the
Bradley–Terry model to accommodate ties" (JASA 65, 1970); Rao and Kupper (JASA 62, 1967). The latter is also
the model of `didsim.dpo_rao_kupper`, which takes `θ` as given.
"""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from didsim.preferences.table import log_tie_factor


class Derivatives(NamedTuple):
    """A loss of `d` and of the parameter `s` for ties, with its derivatives, elementwise."""

    loss: Array
    d: Array
    s: Array
    dd: Array
    ds: Array
    ss: Array


class TieModel(eqx.Module):
    """A model of the outcome of a comparison.

    Attributes:
        parameter: the name of its parameter, or None if it has none.
    """

    parameter: ClassVar[str | None]

    @abstractmethod
    def start(self, share: float) -> float:
        """The parameter at which two equal items tie with a given probability, from 0 to 1."""

    @abstractmethod
    def derivatives(self, d: Array, s: Array, label: Array, tied: Array) -> Derivatives:
        """Minus the log-likelihood of outcomes.

        Args:
            d: reward of the winner minus that of the loser.
            s: the parameter.
            label: the soft label, the probability that the winner won.
            tied: 1 for a tie, else 0. The soft label of a tie is a half.
        """


class Half(TieModel):
    """A tie is half a win for either item."""

    parameter: ClassVar[str | None] = None

    def start(self, share: float) -> float:
        return 0.0

    def derivatives(self, d: Array, s: Array, label: Array, tied: Array) -> Derivatives:
        lost = 1 - label
        e = jnp.exp(-jnp.abs(d))
        nothing = jnp.zeros_like(d)
        loss = jnp.maximum(-d, 0) + jnp.log1p(e) + lost * d
        slope = lost - jnp.where(d > 0, e, 1) / (1 + e)
        return Derivatives(loss, slope, nothing, e / (1 + e) ** 2, nothing, nothing)


class Davidson(TieModel):
    """A tie is an outcome of its own, as probable as if a third item won. The parameter is `log ν`."""

    parameter: ClassVar[str | None] = "log nu"

    def start(self, share: float) -> float:
        return float(np.log(2 * share / (1 - share)))

    def derivatives(self, d: Array, s: Array, label: Array, tied: Array) -> Derivatives:
        most = jnp.maximum(jnp.abs(d) / 2, s)
        win, loss, tie = jnp.exp(d / 2 - most), jnp.exp(-d / 2 - most), jnp.exp(s - most)
        total = win + loss + tie
        win, loss, tie = win / total, loss / total, tie / total
        # A soft label shares a win out; of a tie there is nothing to share.
        pull = label - 0.5
        return Derivatives(
            most + jnp.log(total) - pull * d - tied * s,
            (win - loss) / 2 - pull,
            tie - tied,
            (win * loss + tie * (win + loss) / 4),
            -tie * (win - loss) / 2,
            tie * (1 - tie),
        )


class RaoKupper(TieModel):
    """A tie is a difference too small to tell. The parameter is `log θ`, positive."""

    parameter: ClassVar[str | None] = "log theta"

    def start(self, share: float) -> float:
        return float(np.log((1 + share) / (1 - share)))

    def derivatives(self, d: Array, s: Array, label: Array, tied: Array) -> Derivatives:
        won, lost = jnp.where(tied > 0, 1, label), jnp.where(tied > 0, 1, 1 - label)
        up, down = _softplus(s - d), _softplus(s + d)
        # log(θ² − 1) and its derivatives in log θ.
        rise = 2 / -jnp.expm1(-2 * s)
        bend = -4 / (jnp.expm1(2 * s) * -jnp.expm1(-2 * s))
        return Derivatives(
            won * up.value + lost * down.value - tied * log_tie_factor(s),
            -won * up.slope + lost * down.slope,
            won * up.slope + lost * down.slope - tied * rise,
            won * up.bend + lost * down.bend,
            -won * up.bend + lost * down.bend,
            won * up.bend + lost * down.bend - tied * bend,
        )


class _Softplus(NamedTuple):
    value: Array
    slope: Array
    bend: Array


def _softplus(x: Array) -> _Softplus:
    """`log(1 + e^x)` with its first and second derivative."""
    e = jnp.exp(-jnp.abs(x))
    return _Softplus(jnp.maximum(x, 0) + jnp.log1p(e), jnp.where(x > 0, 1, e) / (1 + e), e / (1 + e) ** 2)


TIE_MODELS: dict[str, TieModel] = {"half": Half(), "davidson": Davidson(), "rao_kupper": RaoKupper()}
"""The models of ties, by name."""
