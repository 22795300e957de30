"""A term of pairs that is anchored between the reference and the policy before the step."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from didsim import _checks
from didsim._differences import difference
from didsim.objectives.rewards import Scalar
from didsim.objectives.terms import Population, Sequences, Term, check_parts


class ProximalPair(Term):
    """`kernel(h(y_w) − h(y_l))`, with the implicit reward taken from an anchor in place of the reference.

    The anchor is `ref^share · q^(1 − share)`, up to normalisation. `q` is the policy before the step, and is
    held fixed. A loss of given pairs takes their policy for `q`.

    Attributes:
        share: the share of the reference, from 0 to 1.
    """

    share: Scalar = eqx.field(kw_only=True, converter=partial(_checks.number, "share"))

    def __post_init__(self) -> None:
        check_parts(self)
        _checks.within("share", self.share, 0, 1)

    @property
    def has_baseline(self) -> bool:
        return True

    def of_pairs(self, chosen: Any, rejected: Any, baseline: Array | None) -> Array:
        of_chosen, of_rejected = (self._reward(one, one.logps) for one in (chosen, rejected))
        return self.kernel(difference(of_chosen, of_rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        return self.kernel.expect(over.problem, self._reward(space, over.held.logps))

    def _reward(self, of: Sequences, held: Array) -> Array:
        assert of.ref_logps is not None, "the reward of a proximal pair uses the reference"
        anchor = self.share * of.ref_logps + (1 - self.share) * jax.lax.stop_gradient(held)
        return self.reward(of.logps, anchor, of.lengths)
